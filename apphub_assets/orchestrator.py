"""The one door by which AppHub's API talks to Dagster: a client of Dagster's webserver. It does not import Dagster."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from apphub_assets.errors import NotFound, Refused, Unavailable

Json = dict[str, Any]

LOCK_HEADER = "X-AppHub-Dagster-Secret"
LOCATION = "apphub"
REPOSITORY = "__repository__"
ASSET_JOB = "__ASSET_JOB"
LOG_PAGE = 500
START_PATIENCE = 10.0


class OrchestratorUnavailable(Unavailable):
    code, title = "orchestrator_unavailable", "Dagster is unavailable"


class OrchestratorRefused(Refused):
    code, title = "orchestrator_refused", "Dagster refused the request"


class RunNotFound(NotFound):
    code, title = "run_not_found", "No such run"


class RunStatus(StrEnum):
    """Dagster's own names."""

    NOT_STARTED = "NOT_STARTED"
    QUEUED = "QUEUED"
    STARTING = "STARTING"
    STARTED = "STARTED"
    SUSPENDED = "SUSPENDED"
    MANAGED = "MANAGED"
    CANCELING = "CANCELING"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    CANCELED = "CANCELED"

    @property
    def finished(self) -> bool:
        return self in {RunStatus.SUCCESS, RunStatus.FAILURE, RunStatus.CANCELED}


@dataclass(frozen=True)
class Run:
    """A run as Dagster reports it; `failure` says why it failed, when it did."""

    id: str
    status: RunStatus
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    failure: str | None


@dataclass(frozen=True)
class JobRun:
    """A run of a job, as a list of runs has it."""

    id: str
    job: str
    status: RunStatus
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    tags: dict[str, str]


@dataclass(frozen=True)
class LogLine:
    """One event of a run; `kind` is the name of its GraphQL type, such as ExecutionStepFailureEvent."""

    at: datetime
    level: str
    kind: str
    step: str | None
    message: str


@dataclass(frozen=True)
class LogPage:
    """Lines in order; `cursor` continues after the last one, `more` says that there are further ones already."""

    lines: list[LogLine]
    cursor: str
    more: bool


LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  result: launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on Error { message }
  }
}"""

RELAUNCH = """
mutation Relaunch($id: String!) {
  result: launchRunReexecution(reexecutionParams: {parentRunId: $id, strategy: ALL_STEPS}) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on Error { message }
  }
}"""

RUN_PARTS = "runId jobName status creationTime startTime endTime tags { key value }"

RUN = f"""
query Run($id: ID!) {{
  result: runOrError(runId: $id) {{
    __typename
    ... on Run {{ {RUN_PARTS} }}
    ... on Error {{ message }}
  }}
}}"""

RUNS = f"""
query Runs($filter: RunsFilter!, $limit: Int!) {{
  result: runsOrError(filter: $filter, limit: $limit) {{
    __typename
    ... on Runs {{ results {{ {RUN_PARTS} }} }}
    ... on Error {{ message }}
  }}
}}"""

TERMINATE = """
mutation Terminate($id: String!) {
  result: terminateRun(runId: $id) {
    __typename
    ... on TerminateRunFailure { message }
    ... on Error { message }
  }
}"""

STATUS = """
query Status($id: ID!) {
  result: runOrError(runId: $id) {
    __typename
    ... on Run { runId status creationTime startTime endTime }
    ... on Error { message }
  }
}"""

LOGS = """
query Logs($id: ID!, $after: String, $limit: Int) {
  result: logsForRun(runId: $id, afterCursor: $after, limit: $limit) {
    __typename
    ... on EventConnection {
      cursor
      hasMore
      events {
        __typename
        ... on MessageEvent { message timestamp level stepKey }
        ... on ErrorEvent { error { message causes { message } } }
      }
    }
    ... on Error { message }
  }
}"""

ADD_PARTITION = """
mutation Add($key: String!, $name: String!, $repository: RepositorySelector!) {
  result: addDynamicPartition(partitionKey: $key, partitionsDefName: $name, repositorySelector: $repository) {
    __typename
    ... on Error { message }
  }
}"""

DELETE_PARTITION = """
mutation Delete($keys: [String!]!, $name: String!, $repository: RepositorySelector!) {
  result: deleteDynamicPartitions(partitionKeys: $keys, partitionsDefName: $name, repositorySelector: $repository) {
    __typename
    ... on Error { message }
  }
}"""

READY = """
query Ready($location: String!) {
  result: workspaceLocationEntryOrError(name: $location) {
    __typename
    ... on WorkspaceLocationEntry {
      loadStatus
      locationOrLoadError { __typename ... on PythonError { message causes { message } } }
    }
    ... on Error { message }
  }
}"""


class Orchestrator:
    """Dagster, as far as AppHub's API needs it. Safe to share between threads; `close` when done.

    Every method raises OrchestratorUnavailable when the webserver or the code location does not answer, and
    OrchestratorRefused when Dagster turns the request down.

    Args:
        base_url: the webserver with its path prefix, e.g. `http://127.0.0.1:4001/dagster`.
        secret: what the webserver wants to be shown; None for one that is open.
        timeout: seconds to wait for an answer. Launching can take long: it waits for a fork server that restarts.
    """

    def __init__(self, base_url: str, secret: SecretStr | None = None, *, timeout: float = 30.0) -> None:
        self._base_url = base_url
        headers = {LOCK_HEADER: secret.get_secret_value()} if secret else {}
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=httpx.Timeout(timeout, connect=2.0))

    def close(self) -> None:
        self._http.close()

    def ready(self) -> float:
        """Seconds that Dagster takes to answer; raises OrchestratorUnavailable unless the definitions are loaded."""
        before = time.perf_counter()
        entry = self._query(READY, {"location": LOCATION}, "WorkspaceLocationEntry")
        location = entry["locationOrLoadError"]
        if location is None:
            raise OrchestratorUnavailable(f"the code location {LOCATION!r} is {entry['loadStatus'].lower()}")
        if location["__typename"] == "PythonError":
            raise OrchestratorUnavailable(f"the code location {LOCATION!r} does not load: {_innermost(location)}")
        return time.perf_counter() - before

    # Runs

    def submit(self, assets: list[str], partition: str, tags: dict[str, str] | None = None) -> str:
        """Submit a run that materialises a partition of assets, and return its id.

        Args:
            assets: asset keys, parts joined with `/`.
            partition: key of the partition of all of them.
            tags: run tags beside the partition's, e.g. a correlation id.
        """
        all_tags = {**(tags or {}), "dagster/partition": partition}
        selector = {
            "repositoryLocationName": LOCATION,
            "repositoryName": REPOSITORY,
            "jobName": ASSET_JOB,
            "assetSelection": [{"path": asset.split("/")} for asset in assets],
        }
        metadata = {"tags": [{"key": key, "value": value} for key, value in all_tags.items()]}
        params = {"selector": selector, "runConfigData": {}, "executionMetadata": metadata}
        return str(self._query(LAUNCH, {"params": params}, "LaunchRunSuccess")["run"]["runId"])

    def submit_job(self, job: str, config: Json, tags: dict[str, str]) -> str:
        """Submit a run of a job with this run configuration, and return its id."""
        selector = {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY, "jobName": job}
        metadata = {"tags": [{"key": key, "value": value} for key, value in tags.items()]}
        params = {"selector": selector, "runConfigData": config, "executionMetadata": metadata}
        return str(self._query(LAUNCH, {"params": params}, "LaunchRunSuccess")["run"]["runId"])

    def resubmit(self, run_id: str) -> str:
        """Submit a run of all that a run did, with its configuration, and return its id.

        Raises:
            RunNotFound: Dagster has no such run.
        """
        return str(self._query(RELAUNCH, {"id": run_id}, "LaunchRunSuccess")["run"]["runId"])

    def job_run(self, run_id: str) -> JobRun:
        """A run with its job and tags.

        Raises:
            RunNotFound: Dagster has no such run.
        """
        return _job_run(self._query(RUN, {"id": run_id}, "Run"))

    def job_runs(self, tags: dict[str, str], limit: int) -> list[JobRun]:
        """The newest runs that have all these tags."""
        wanted = {"tags": [{"key": key, "value": value} for key, value in tags.items()]}
        found = self._query(RUNS, {"filter": wanted, "limit": limit}, "Runs")
        return [_job_run(run) for run in found["results"]]

    def cancel(self, run_id: str) -> bool:
        """Ask for the end of a run; false when it was over already. It is CANCELING until its worker has ended.

        Dagster cancels no run that is just being started; such a run is waited for.

        Raises:
            RunNotFound: Dagster has no such run.
        """
        give_up = time.monotonic() + START_PATIENCE
        while not self._terminated(run_id):
            status = RunStatus(self._query(STATUS, {"id": run_id}, "Run")["status"])
            if status.finished or status is RunStatus.CANCELING:
                return not status.finished
            if time.monotonic() >= give_up:
                raise OrchestratorUnavailable(f"run {run_id} is {status} and can't be canceled yet; try again")
            time.sleep(0.05)
        return True

    def _terminated(self, run_id: str) -> bool:
        result = self._query(TERMINATE, {"id": run_id}, "TerminateRunSuccess", "TerminateRunFailure")
        return bool(result["__typename"] == "TerminateRunSuccess")

    def run_status(self, run_id: str) -> Run:
        """The state of a run; for a failed one also why, which takes a look through its log.

        Raises:
            RunNotFound: Dagster has no such run.
        """
        run = self._query(STATUS, {"id": run_id}, "Run")
        status = RunStatus(run["status"])
        return Run(
            id=run["runId"],
            status=status,
            created_at=datetime.fromtimestamp(run["creationTime"], UTC),
            started_at=_time(run["startTime"]),
            ended_at=_time(run["endTime"]),
            failure=self._failure(run_id) if status is RunStatus.FAILURE else None,
        )

    def run_logs(self, run_id: str, after: str | None = None) -> LogPage:
        """The next events of a run, at most LOG_PAGE, after a page's cursor or from the start.

        Raises:
            RunNotFound: Dagster has no such run.
        """
        page = self._query(LOGS, {"id": run_id, "after": after, "limit": LOG_PAGE}, "EventConnection")
        return LogPage([_line(event) for event in page["events"]], page["cursor"], page["hasMore"])

    def _failure(self, run_id: str) -> str | None:
        """The first failed step's error, else what the run itself says."""
        last, after, more = None, None, True
        while more:
            page = self.run_logs(run_id, after)
            for line in page.lines:
                if line.kind == "ExecutionStepFailureEvent":
                    return line.message
                if line.kind == "RunFailureEvent":
                    last = line.message
            after, more = page.cursor, page.more
        return last

    # Assets without a run, and partitions

    def report_materialization(self, asset: str, partition: str, data_version: str, metadata: Json) -> None:
        """Record that an asset's partition was made outside of a run."""
        self._report("materialization", asset, partition, data_version, metadata)

    def report_observation(self, asset: str, partition: str, data_version: str, metadata: Json) -> None:
        """Record that an asset's partition was seen in some version, outside of a run."""
        self._report("observation", asset, partition, data_version, metadata)

    def add_partition(self, name: str, key: str) -> None:
        """Add a key to the dynamic partitions called `name`; adding it again changes nothing."""
        variables = {"key": key, "name": name, "repository": _repository()}
        self._query(ADD_PARTITION, variables, "AddDynamicPartitionSuccess", "DuplicateDynamicPartitionError")

    def delete_partition(self, name: str, key: str) -> None:
        """Remove a key from the dynamic partitions called `name`; removing it again changes nothing."""
        variables = {"keys": [key], "name": name, "repository": _repository()}
        self._query(DELETE_PARTITION, variables, "DeleteDynamicPartitionsSuccess")

    def _report(self, event: str, asset: str, partition: str, data_version: str, metadata: Json) -> None:
        body = {"partition": partition, "data_version": data_version, "metadata": metadata}
        self._post(f"/report_asset_{event}/{quote(asset)}", body)

    # HTTP

    def _query(self, query: str, variables: Json, *expected: str) -> Json:
        """Send a query whose one field is called `result`; return it when its type is among the expected ones."""
        answer = self._post("/graphql", {"query": query, "variables": variables})
        if errors := answer.get("errors"):
            raise OrchestratorRefused(f"Dagster refused the query: {errors[0]['message']}")
        result: Json = answer["data"]["result"] or {"__typename": "PipelineNotFoundError"}
        if result["__typename"] not in expected:
            raise _error(result, variables)
        return result

    def _post(self, path: str, body: Json) -> Json:
        try:
            response = self._http.post(path, json=body)
        except httpx.TransportError as error:
            message = f"Dagster does not answer at {self._base_url}: {error}; is the stack up?"
            raise OrchestratorUnavailable(message) from error
        if response.status_code >= 500:
            raise OrchestratorUnavailable(f"Dagster answered {response.status_code} at {self._base_url}{path}")
        # GraphQL errors come with status 400 and the usual JSON body; other refusals say `error`.
        answer: Json = response.json()
        if "error" in answer:
            raise OrchestratorRefused(f"Dagster refused {path}: {answer['error']}")
        return answer


def _error(result: Json, variables: Json) -> Exception:
    """The error for a result of an unexpected type. Failures within Dagster pass; its refusals stay."""
    kind, message = result["__typename"], result.get("message")
    if kind == "RunNotFoundError":
        return RunNotFound(f"Dagster has no run {variables['id']!r}")
    if kind in {"PythonError", "PipelineNotFoundError"}:
        return OrchestratorUnavailable(f"Dagster could not do it: {message or f'{LOCATION!r} is not loaded'}")
    reasons = [error["message"] for error in result.get("errors", [])]
    return OrchestratorRefused(f"Dagster refused ({kind}): {message or '; '.join(reasons)}")


def _job_run(run: Json) -> JobRun:
    return JobRun(
        id=run["runId"],
        job=run["jobName"],
        status=RunStatus(run["status"]),
        created_at=datetime.fromtimestamp(run["creationTime"], UTC),
        started_at=_time(run["startTime"]),
        ended_at=_time(run["endTime"]),
        tags={tag["key"]: tag["value"] for tag in run["tags"]},
    )


def _line(event: Json) -> LogLine:
    message = event["message"]
    if error := event.get("error"):
        message = f"{message} {_innermost(error)}"
    return LogLine(
        at=datetime.fromtimestamp(float(event["timestamp"]) / 1000, UTC),
        level=event["level"],
        kind=event["__typename"],
        step=event["stepKey"],
        message=message,
    )


def _innermost(error: Json) -> str:
    """What went wrong in the first place."""
    return str([error, *error["causes"]][-1]["message"]).strip()


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _repository() -> Json:
    return {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY}
