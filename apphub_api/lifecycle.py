"""/admin/lifecycle: run the upkeep of datasets now or by Dagster, see its runs, run one again (contract C.1)."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from apphub_api import deps
from apphub_api.deps import Correlation, Platform, requires
from apphub_api.platform import Platform as PlatformState
from apphub_assets.audit import service as audit
from apphub_assets.errors import InvalidInput
from apphub_assets.identity.spec import Scope
from apphub_assets.kit.ids import new_id
from apphub_assets.kit.view import Instant, View, format_instant
from apphub_assets.orchestrator import JobRun, RunNotFound, RunStatus
from apphub_assets.timestore import repository
from apphub_assets.timestore.errors import DatasetNotFound
from apphub_assets.timestore.models import Access
from apphub_assets.timestore.spec import DatasetInfo
from apphub_assets.timestore.upkeep import files
from apphub_assets.timestore.upkeep.lifecycle import (
    DATASET_TAG,
    DRY_RUN_TAG,
    JOB,
    OPERATIONS_TAG,
    TAGS,
    Operation,
    run_config,
    run_tags,
)
from apphub_assets.timestore.upkeep.service import Outcome, Task, Upkeep
from apphub_assets.timestore.views import AccessView, access_view

router = APIRouter(tags=["datasets"])

ADMIN = requires(Scope.TIMESTORE_ADMIN)
INLINE = "inline-"


class RunBody(View):
    """Without a dataset: every one that needs it. Compaction and retention are what is done if nothing is named."""

    model_config = ConfigDict(extra="forbid")

    dataset_id: str | None = None
    dataset_slug: str | None = None
    operations: list[Operation] = Field([Operation.COMPACTION, Operation.RETENTION], min_length=1)
    mode: Literal["inline", "queue"] = "inline"
    dry_run: bool = False


class OutcomeView(View):
    operation: Operation
    status: str
    details: dict[str, Any]


class ReportView(View):
    job_id: str
    dataset_id: str | None
    dataset_slug: str | None
    operations: list[OutcomeView]
    audit_log_entries: list[AccessView]


class RunAnswer(View):
    status: Literal["completed", "queued"]
    job_id: str
    report: ReportView | None = None


class RescheduleBody(View):
    job_id: str


class QueuedAnswer(View):
    status: Literal["queued"] = "queued"
    job_id: str


class JobView(View):
    """A run of the upkeep by Dagster."""

    id: str
    job: str
    status: RunStatus
    operations: list[str]
    dataset_id: str | None
    dry_run: bool
    created_at: Instant
    started_at: Instant | None
    ended_at: Instant | None


class DatasetMetrics(View):
    dataset_id: str
    dataset_slug: str
    files: int
    bytes: int
    small_files: int
    waiting_rows: int


class Metrics(View):
    """`waitingRows` are in Postgres; `filesToRemove` are superseded and wait for their last readers."""

    datasets: list[DatasetMetrics]
    files: int
    bytes: int
    small_files: int
    waiting_rows: int
    snapshots: int
    oldest_snapshot_at: Instant | None
    files_to_remove: int


class StatusAnswer(View):
    jobs: list[JobView]
    metrics: Metrics


@router.post("/admin/lifecycle/run", dependencies=[ADMIN])
def run_lifecycle(
    body: RunBody,
    request: Request,
    response: Response,
    platform: Platform,
    caller: deps.Caller,
    correlation: Correlation,
) -> RunAnswer:
    """Look after a dataset, or all; `queue` leaves it to Dagster, `dryRun` only tells what would be done."""
    dataset = _dataset(platform, body)
    if body.mode == "queue":
        dataset_id = dataset.id if dataset else None
        config = run_config(body.operations, dataset_id, dry_run=body.dry_run)
        tags = run_tags(body.operations, dataset_id, dry_run=body.dry_run)
        job_id = platform.orchestrator.submit_job(JOB, config, tags | {"apphub/correlation-id": correlation or ""})
        _audit(platform, request)
        response.status_code = 202
        return RunAnswer(status="queued", job_id=job_id)
    task = Task(list(dict.fromkeys(body.operations)), dataset, body.dry_run)
    outcomes = Upkeep(platform.lake, platform.database, platform.settings).run(task, datetime.now(UTC))
    entries = _note(platform, dataset, caller, outcomes) if dataset and not body.dry_run else []
    _audit(platform, request)
    job_id = f"{INLINE}{new_id()}"
    report = ReportView(
        job_id=job_id,
        dataset_id=dataset.id if dataset else None,
        dataset_slug=dataset.slug if dataset else None,
        operations=[
            OutcomeView(operation=each.operation, status=each.status, details=_camel(each.details)) for each in outcomes
        ],
        audit_log_entries=entries,
    )
    return RunAnswer(status="completed", job_id=job_id, report=report)


@router.get("/admin/lifecycle/status", dependencies=[ADMIN])
def show_lifecycle(
    platform: Platform,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    dataset_id: Annotated[str | None, Query(alias="datasetId")] = None,
) -> StatusAnswer:
    """The newest runs of the upkeep, and what the lake is made of."""
    runs = platform.orchestrator.job_runs(TAGS | ({DATASET_TAG: dataset_id} if dataset_id else {}), limit)
    return StatusAnswer(jobs=[_job_view(run) for run in runs], metrics=_metrics(platform, dataset_id))


@router.post("/admin/lifecycle/reschedule", dependencies=[ADMIN])
def reschedule_lifecycle(body: RescheduleBody, request: Request, platform: Platform) -> QueuedAnswer:
    """Run again what failed."""
    if body.job_id.startswith(INLINE):
        raise InvalidInput(f"job {body.job_id[:80]} ran inline; POST /admin/lifecycle/run does it again")
    run = platform.orchestrator.job_run(body.job_id)
    if not TAGS.items() <= run.tags.items():
        raise RunNotFound(f"run {run.id} is none of the upkeep; GET /admin/lifecycle/status lists those")
    if run.status not in {RunStatus.FAILURE, RunStatus.CANCELED}:
        raise InvalidInput(f"run {run.id} is {run.status}; only one that failed or was canceled can be run again")
    job_id = platform.orchestrator.resubmit(run.id)
    _audit(platform, request)
    return QueuedAnswer(job_id=job_id)


def _dataset(platform: PlatformState, body: RunBody) -> DatasetInfo | None:
    wanted = body.dataset_id or body.dataset_slug
    if wanted is None:
        return None
    if odd := [operation for operation in body.operations if not operation.is_of_a_dataset]:
        message = f"{', '.join(odd)} can't be done to one dataset; leave datasetId and datasetSlug out"
        raise InvalidInput(message, pointers=[("/operations", message)])
    with platform.database.reading() as session:
        dataset = repository.get_dataset(session, wanted)
    if dataset is None or (body.dataset_slug and dataset.slug != body.dataset_slug.lower()):
        raise DatasetNotFound(wanted if dataset is None else f"{wanted} called {body.dataset_slug}")
    return dataset


def _note(
    platform: PlatformState, dataset: DatasetInfo, caller: deps.Caller, outcomes: Sequence[Outcome]
) -> list[AccessView]:
    entries = [
        Access(
            dataset_id=dataset.id,
            dataset_slug=dataset.slug,
            actor_id=caller.subject,
            actor_scopes=sorted(caller.scopes),
            action=f"admin.lifecycle.{each.operation}",
            success=each.status != "failed",
            details={"status": each.status},
        )
        for each in outcomes
    ]
    with platform.database.transaction() as session:
        for entry in entries:
            repository.add_access(session, entry)
        return [access_view(entry) for entry in entries]


def _audit(platform: PlatformState, request: Request) -> None:
    with platform.database.transaction() as session:
        audit.record(session, deps.action_of(request, "succeeded"))


def _job_view(run: JobRun) -> JobView:
    return JobView(
        id=run.id,
        job=run.job,
        status=run.status,
        operations=[name for name in run.tags.get(OPERATIONS_TAG, "").split(",") if name],
        dataset_id=run.tags.get(DATASET_TAG),
        dry_run=DRY_RUN_TAG in run.tags,
        created_at=run.created_at,
        started_at=run.started_at,
        ended_at=run.ended_at,
    )


def _metrics(platform: PlatformState, dataset_id: str | None) -> Metrics:
    platform.lake.prepare()
    with platform.database.transaction() as session:
        kept = files.kept(session, platform.lake.target_bytes // 2, dataset_id)
        history = files.history(session)
    datasets = [
        DatasetMetrics(
            dataset_id=each.dataset_id,
            dataset_slug=each.slug,
            files=each.files,
            bytes=each.bytes,
            small_files=each.small,
            waiting_rows=each.waiting_rows,
        )
        for each in kept
    ]
    return Metrics(
        datasets=datasets,
        files=sum(each.files for each in datasets),
        bytes=sum(each.bytes for each in datasets),
        small_files=sum(each.small_files for each in datasets),
        waiting_rows=sum(each.waiting_rows for each in datasets),
        snapshots=history.snapshots,
        oldest_snapshot_at=history.oldest,
        files_to_remove=history.scheduled,
    )


def _camel(value: Any) -> Any:
    """Details as clients read them: names in camelCase, moments as everywhere."""
    if isinstance(value, dict):
        return {to_camel(name): _camel(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_camel(each) for each in value]
    return format_instant(value) if isinstance(value, datetime) else value
