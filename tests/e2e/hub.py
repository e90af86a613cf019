"""A running AppHub, as its clients, its Dagster and its engine see it."""

import json
import shlex
import subprocess
import sys
from contextlib import suppress
from functools import cached_property
from typing import Any

import httpx
import psutil

from apphub_assets.containers import OWNER_LABEL
from apphub_assets.containers.builds import network_name
from apphub_assets.settings import Settings
from tests.fixtures.launches import docker, eventually
from tests.fixtures.stack import Stack

Json = dict[str, Any]

# What has been disturbed comes to a final state of itself within this, in seconds.
RECOVERY = 60.0
FINAL = {"ready", "failed"}
BUILT = {"succeeded", "failed", "canceled"}
UNDER_WAY = {"REQUESTED", "CANCELING", "FAILING"}

# A step of a build that goes on when somebody opens the gate, see `Hub.finish_build`.
GATE = "RUN until rm /gate 2>/dev/null; do sleep 0.1; done"

RUNS = """
query Runs($tag: ExecutionTag!) {
  result: runsOrError(filter: { tags: [$tag] }) {
    ... on Runs { results { runId status tags { key value } assetSelection { path } } }
  }
}"""

EVENTS = """
query Events($run: ID!) {
  result: logsForRun(runId: $run) {
    ... on EventConnection {
      events {
        __typename
        ... on MessageEvent { message }
        ... on ErrorEvent { error { message stack cause { message } } }
      }
    }
  }
}"""

PARTITION = """
query Partition($asset: AssetKeyInput!, $partition: String!) {
  result: assetNodeOrError(assetKey: $asset) {
    ... on AssetNode {
      assetMaterializations(partitions: [$partition]) { runId tags { key value } }
    }
  }
}"""

CHECK = """
query Check($asset: AssetKeyInput!, $check: String!) {
  result: assetCheckExecutions(assetKey: $asset, checkName: $check, limit: 100) { evaluation { success } }
}"""

BACKFILL = """
mutation Backfill($params: LaunchBackfillParams!) {
  result: launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}"""

BACKFILL_STATUS = """
query Status($id: String!) {
  result: partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status error { message } } }
}"""


class Hub:
    """Asks the stack over HTTP, and looks behind it where only Dagster or the engine know."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.http = httpx.Client(base_url=stack.url, timeout=30)

    def close(self) -> None:
        self.http.close()

    @cached_property
    def exports(self) -> dict[str, str]:
        """The variables that `apphub env` prints."""
        words = shlex.split(self.stack.apphub("env").stdout)
        return dict(word.split("=", 1) for word in words if word != "export")

    # Through the API

    def register(self, app_id: str, url: str, **headers: str) -> Json:
        body = {"id": app_id, "name": app_id.replace("-", " ").title(), "repoUrl": url}
        return self.call("POST", "/apps", body, headers=headers)

    def call(self, method: str, path: str, body: Json | None = None, **values: Any) -> Any:
        """The `data` of an answer that must be a success."""
        response = self.http.request(method, path, json=body, **values)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json()["data"] if response.content else None

    def app(self, app_id: str) -> Json:
        return self.call("GET", f"/apps/{app_id}")

    def builds(self, app_id: str) -> list[Json]:
        return self.call("GET", f"/apps/{app_id}/builds")

    def history(self, app_id: str) -> list[str]:
        """States of an app's ingestion, oldest first."""
        return [event["status"] for event in reversed(self.call("GET", f"/apps/{app_id}/history"))]

    def messages(self, app_id: str) -> list[str]:
        """What the app's history says, oldest first."""
        return [event["message"] for event in reversed(self.call("GET", f"/apps/{app_id}/history"))]

    def until_status(self, app_id: str, *statuses: str) -> Json:
        """Wait for the app's ingestion to be in one of these states."""

        def there() -> Json | None:
            app = self.app(app_id)
            return app if app["ingestStatus"] in statuses else None

        return eventually(there, f"{app_id} {statuses}", RECOVERY)

    def until_build(self, app_id: str, *statuses: str) -> Json:
        """Wait for the app's newest build to be in one of these states."""

        def there() -> Json | None:
            build = self.app(app_id)["latestBuild"]
            return build if build and build["status"] in statuses else None

        return eventually(there, f"a build of {app_id} {statuses}", RECOVERY)

    def finish_build(self, app_id: str) -> Json:
        """Open the gate of the app's build as often as it comes to it, until the build is over."""
        on_its_network = ("--filter", f"network={network_name(f'{self.stack_id}.{app_id}')}")

        def over() -> Json | None:
            for step in docker("ps", "-q", *on_its_network).split():
                with suppress(subprocess.CalledProcessError):  # it has ended since
                    docker("exec", step, "touch", "/gate")
            build = self.app(app_id)["latestBuild"]
            return build if build["status"] in BUILT else None

        return eventually(over, f"the end of the build of {app_id}", RECOVERY)

    def until_built(self, app_id: str, commit: str) -> Json:
        """Wait for the image of a commit."""

        def there() -> Json | None:
            build = self.app(app_id)["latestBuild"]
            return build if build and build["commitSha"] == commit and build["status"] == "succeeded" else None

        return eventually(there, f"the image of {app_id} at {commit}", RECOVERY)

    def last_sequence(self) -> int:
        newest = self.call("GET", "/admin/events?limit=1")["events"]
        return newest[0]["sequence"] if newest else 0

    # Behind it

    @property
    def stack_id(self) -> str:
        return Settings(home=self.stack.home).stack_id

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes that execute runs now."""
        return self.stack.children()["runs"].children()

    def images(self, app_id: str) -> list[str]:
        return docker("images", "-q", "--filter", f"label={OWNER_LABEL}={self.stack_id}.{app_id}").split()

    def leftovers(self) -> list[str]:
        """Containers, networks and work folders that belong to this stack."""
        names = docker("ps", "-a", "--format", "{{.Names}}") + docker("network", "ls", "--format", "{{.Name}}")
        work = self.stack.home / "work"
        return [*(name for name in names.split() if self.stack_id in name), *map(str, work.iterdir())]

    def dagster(self, *arguments: str) -> None:
        """Run the `dagster` command as somebody would who has set the variables of `apphub env`."""
        command = [sys.executable, "-W", "ignore", "-m", "dagster", *arguments, "-m", "apphub_assets.definitions"]
        environment = self.stack.environment | self.exports
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def graphql(self, query: str, **variables: Any) -> Any:
        """The `result` of a query to Dagster."""
        answer = self.http.post("/dagster/graphql", json={"query": query, "variables": variables}).json()
        assert "errors" not in answer, json.dumps(answer["errors"])[:2000]
        return answer["data"]["result"]

    def runs(self, tag: str, value: str) -> list[Json]:
        """Runs that carry a tag, newest first, their tags as a mapping."""
        found = self.graphql(RUNS, tag={"key": tag, "value": value})["results"]
        return [run | {"tags": {one["key"]: one["value"] for one in run["tags"]}} for run in found]

    def materializations(self, asset: str, partition: str) -> list[str]:
        """Data versions of a partition, newest first."""
        found = self.graphql(PARTITION, asset={"path": [asset]}, partition=partition)["assetMaterializations"]
        tags = [{one["key"]: one["value"] for one in event["tags"]} for event in found]
        return [one["dagster/data_version"] for one in tags]

    def check(self, asset: str, check: str) -> list[bool]:
        """Whether a check passed, each time it came to an answer; a run that had nothing to do evaluates nothing."""
        found = self.graphql(CHECK, asset={"path": [asset]}, check=check)
        return [done["success"] for execution in found if (done := execution["evaluation"])]

    def backfill(self, assets: list[str], partitions: list[str]) -> str:
        selection = [{"path": asset.split("/")} for asset in assets]
        params = {"assetSelection": selection, "partitionNames": partitions}
        answer = self.graphql(BACKFILL, params=params)
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        return answer["backfillId"]

    def backfill_status(self, backfill: str) -> str:
        return self.graphql(BACKFILL_STATUS, id=backfill)["status"]

    def backfilled(self, backfill: str) -> None:
        """Wait for the end of a backfill, which must be a good one; the daemon looks at it twice a minute."""

        def over() -> Json | None:
            found = self.graphql(BACKFILL_STATUS, id=backfill)
            return None if found["status"] in UNDER_WAY else found

        ended = eventually(over, "the end of the backfill", 4 * RECOVERY)
        good = {"status": "COMPLETED_SUCCESS", "error": None}
        assert ended == good, f"{ended}\n{self.failures('dagster/backfill', backfill)}"

    def failures(self, tag: str, value: str) -> list[str]:
        """What Dagster noted of the ends of the runs with this tag that failed, and the last that they wrote."""
        failed = [run["runId"] for run in self.runs(tag, value) if run["status"] != "SUCCESS"]
        found = [event for run in failed for event in self.graphql(EVENTS, run=run)["events"][-2:]]
        written = [path for run in failed for path in self.stack.home.rglob("*.err") if run in str(path)]
        return [
            *(f"{event['message']} {event.get('error')}" for event in found),
            *(path.read_text()[-3000:] for path in written),
            (self.stack.home / "logs" / "runs.log").read_text()[-3000:],
        ]
