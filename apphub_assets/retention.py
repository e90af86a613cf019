"""What grows without end is cut by age: the event stream's outbox, answers kept for replays, audits, Dagster's runs.

Dagster has retention for ticks only, and an event of a run's log is about 1.5 kB; so its finished runs are deleted
here, through its own API, which removes their events with them.
"""

from datetime import UTC, datetime, timedelta

import dagster as dg

from apphub_assets.events import service as events
from apphub_assets.idempotency import service as idempotency
from apphub_assets.resources import Platform
from apphub_assets.timestore.admin import history

RUNS_AT_ONCE = 500


@dg.op
def expire_events(context: dg.OpExecutionContext, platform: Platform) -> None:
    """Delete published events older than APPHUB_EVENT_RETENTION_DAYS."""
    with platform.database.transaction() as session:
        gone = events.expire(session, platform.settings.event_retention_days, datetime.now(UTC))
    context.add_output_metadata({"events": gone})


@dg.op
def expire_answers(context: dg.OpExecutionContext, platform: Platform) -> None:
    """Delete answers to requests with an Idempotency-Key that are older than a day."""
    with platform.database.transaction() as session:
        gone = idempotency.expire(session, datetime.now(UTC))
    context.add_output_metadata({"answers": gone})


@dg.op
def expire_accesses(context: dg.OpExecutionContext, platform: Platform) -> None:
    """Delete entries of the datasets' audit logs older than APPHUB_ACCESS_RETENTION_DAYS."""
    with platform.database.transaction() as session:
        gone = history.expire_accesses(session, platform.settings.access_retention_days, datetime.now(UTC))
    context.add_output_metadata({"entries": gone})


@dg.op
def delete_old_runs(context: dg.OpExecutionContext, platform: Platform) -> None:
    """Delete finished runs older than APPHUB_RUN_RETENTION_DAYS, oldest first."""
    before = datetime.now(UTC) - timedelta(days=platform.settings.run_retention_days)
    finished = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    old = dg.RunsFilter(statuses=finished, created_before=before)
    runs = context.instance.get_runs(filters=old, limit=RUNS_AT_ONCE, ascending=True)
    for run in runs:
        context.instance.delete_run(run.run_id)
    context.add_output_metadata({"runs": len(runs)})


@dg.job
def retain() -> None:
    """Cut events, kept answers, audit logs of datasets and run history to their age limits."""
    expire_events()
    expire_answers()
    expire_accesses()
    delete_old_runs()


defs = dg.Definitions(
    jobs=[retain],
    schedules=[
        dg.ScheduleDefinition(
            name="retain_hourly",
            job=retain,
            cron_schedule="41 * * * *",
            default_status=dg.DefaultScheduleStatus.RUNNING,
        )
    ],
)
