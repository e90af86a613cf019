"""Sensors of the catalog: nothing waits unseen, nothing grows stale."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import dagster as dg
from dagster._core.launcher import WorkerStatus

from apphub_assets.catalog import building, ingestion, remotes, service, workplace
from apphub_assets.catalog.assets import REASON
from apphub_assets.catalog.partitions import repositories
from apphub_assets.resources import Platform

REPOSITORY, IMAGE = dg.AssetKey("repository"), dg.AssetKey("image")
CORRELATION = "apphub/correlation-id"
# Longer than a launch takes while the fork server restarts.
LAUNCHING = timedelta(seconds=20)
BEFORE_START = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    *BEFORE_START,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dg.sensor(
    name="unfinished_work",
    target=dg.AssetSelection.assets(REPOSITORY, IMAGE),
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def unfinished_work(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
    """Starts a run for work that nobody does: its run was never started, or its worker died.

    A run that the API or an earlier tick asked for and that still waits, starts or works is left alone.
    """
    workplace.clear_abandoned(platform.database, platform.settings)
    to_build = {build.repository_id: build for build in building.unclaimed(platform.database)}
    to_ingest = {row.id: row for row in ingestion.unclaimed(platform.database, platform.settings)}
    requests = [
        dg.RunRequest(
            partition_key=key,
            asset_selection=[REPOSITORY, IMAGE] if key in to_ingest else [IMAGE],
            tags={REASON: "unfinished", CORRELATION: work.correlation_id or ""},
        )
        for key, work in sorted((to_build | to_ingest).items())
        if not any(map(partial(_is_alive, context.instance), _runs_of(context.instance, key)))
    ]
    return dg.SensorResult(run_requests=requests, dynamic_partitions_requests=_partition_changes(context, platform))


@dg.sensor(
    name="moved_remotes",
    target=dg.AssetSelection.assets(REPOSITORY, IMAGE),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def moved_remotes(platform: Platform) -> dg.SensorResult:
    """Asks remotes whose turn it is for their HEAD, and ingests what has moved."""
    requests = [
        dg.RunRequest(partition_key=key, asset_selection=[REPOSITORY, IMAGE], tags={REASON: "remote moved"})
        for key in remotes.refresh_moved(platform.database, platform.settings)
    ]
    return dg.SensorResult(run_requests=requests)


def _runs_of(instance: dg.DagsterInstance, partition: str) -> Sequence[dg.RunRecord]:
    """The unfinished runs of a partition."""
    return instance.get_run_records(dg.RunsFilter(statuses=UNFINISHED, tags={"dagster/partition": partition}))


def _is_alive(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    """Whether a run waits, starts or has a living worker.

    One that is being launched has none yet; one whose launch was cut short never gets one, and Dagster itself notices
    only after a minute.
    """
    run, age = record.dagster_run, datetime.now(UTC) - record.update_timestamp
    if run.status == dg.DagsterRunStatus.QUEUED or (run.status in BEFORE_START and age < LAUNCHING):
        return True
    return instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING


def _partition_changes(
    context: dg.SensorEvaluationContext, platform: Platform
) -> list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest]:
    with platform.database.transaction() as session:
        wanted = set(service.all_ids(session))
    there = set(context.instance.get_dynamic_partitions(str(repositories.name)))
    changes: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
    if missing := sorted(wanted - there):
        changes.append(repositories.build_add_request(missing))
    if extra := sorted(there - wanted):
        changes.append(repositories.build_delete_request(extra))
    return changes
