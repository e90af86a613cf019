"""Upkeep of the lake by the clock: a job per operation, and one that does those it is asked for."""

import json
from datetime import UTC, datetime

import dagster as dg

from apphub_assets.resources import Platform
from apphub_assets.timestore import repository
from apphub_assets.timestore.resources import LakeResource
from apphub_assets.timestore.upkeep import files
from apphub_assets.timestore.upkeep.lifecycle import JOB, OP, TAGS, Operation, run_config, run_tags

CLOCKS = {
    Operation.COMPACTION: ("compact_files", "*/10 * * * *"),
    Operation.RETENTION: ("trim_datasets", "7 * * * *"),
    Operation.PURGE: ("purge_datasets", "13 * * * *"),
    Operation.EXPIRY: ("expire_snapshots", "23 * * * *"),
    Operation.ORPHANS: ("sweep_files", "37 2 * * *"),
}
FLUSH_JOB = "flush_rows"
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


class KeepConfig(dg.Config):
    """`dataset_id` names the one dataset to look after; `dry_run` tells what would be done, and does nothing."""

    operations: list[str]
    dataset_id: str | None = None
    dry_run: bool = False


@dg.op(name=OP, pool="upkeep")
def keep(context: dg.OpExecutionContext, config: KeepConfig, platform: Platform, lake: LakeResource) -> None:
    """Flush, merge, trim, purge, expire and sweep, as asked for; the outcomes are the output's metadata."""
    # Brings DuckDB and its threads, which the fork server must not have.
    from apphub_assets.timestore.upkeep.service import Task, Upkeep

    dataset = None
    if config.dataset_id is not None:
        with platform.database.transaction() as session:
            dataset = repository.get_dataset(session, config.dataset_id)
        if dataset is None:
            raise dg.Failure(f"dataset {config.dataset_id} not found", allow_retries=False)
    task = Task([Operation(name) for name in config.operations], dataset, config.dry_run)
    outcomes = Upkeep(lake.lake, platform.database, platform.settings).run(task, datetime.now(UTC))
    shown = {str(each.operation): dg.MetadataValue.json(_shown(each.details)) for each in outcomes}
    for each in outcomes:
        context.log.info("%s: %s", each.operation, each.status)
    if failed := [str(each.operation) for each in outcomes if each.status == "failed"]:
        raise dg.Failure(f"failed: {', '.join(failed)}", metadata=shown, allow_retries=False)
    context.add_output_metadata(shown)


def _shown(details: dict[str, object]) -> dict[str, object]:
    """As JSON has it: moments are text."""
    shown: dict[str, object] = json.loads(json.dumps(details, default=str))
    return shown


@dg.graph
def upkeep() -> None:
    keep()


def _job(name: str, operation: Operation) -> dg.JobDefinition:
    return upkeep.to_job(name=name, config=run_config([operation]), run_tags=run_tags([operation]))


keep_lake = upkeep.to_job(name=JOB, run_tags=TAGS)
flush_rows = _job(FLUSH_JOB, Operation.FLUSH)
by_the_clock = {operation: _job(name, operation) for operation, (name, _) in CLOCKS.items()}

schedules = [
    dg.ScheduleDefinition(
        job=by_the_clock[operation],
        cron_schedule=clock,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    for operation, (_, clock) in CLOCKS.items()
]


@dg.sensor(
    name="rows_to_flush",
    job=flush_rows,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts a flush when rows of a dataset have waited for long, or many of them.",
)
def rows_to_flush(context: dg.SensorEvaluationContext, platform: Platform) -> dg.RunRequest | dg.SkipReason:
    running = dg.RunsFilter(job_name=FLUSH_JOB, statuses=UNFINISHED)
    if context.instance.get_runs(filters=running, limit=1):
        return dg.SkipReason("a flush is under way")
    with platform.database.transaction() as session:
        overdue = files.overdue(session, platform.settings, datetime.now(UTC))
    if not overdue:
        return dg.SkipReason("no rows have waited for long")
    return dg.RunRequest()


defs = dg.Definitions(
    jobs=[keep_lake, flush_rows, *by_the_clock.values()], schedules=schedules, sensors=[rows_to_flush]
)
