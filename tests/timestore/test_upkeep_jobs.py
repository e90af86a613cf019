"""Upkeep as Dagster runs it: by the clock, when rows have waited, or as asked; its runs say what was done."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from sqlalchemy import update

from apphub_assets.resources import Platform
from apphub_assets.settings import Settings
from apphub_assets.timestore.models import Batch, Dataset
from apphub_assets.timestore.resources import LakeResource
from apphub_assets.timestore.spec import Status
from apphub_assets.timestore.upkeep import assets as upkeep_assets
from apphub_assets.timestore.upkeep import compaction, flushing
from apphub_assets.timestore.upkeep.lifecycle import JOB, TAGS, Operation, run_config
from apphub_assets.timestore.upkeep.service import Task, Upkeep
from tests.timestore.keeping import DAY, Keeper

FILE = 1001
ALL = list(Operation)


@pytest.fixture
def run(
    lake_settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dg.ExecuteInProcessResult]:
    assert lake_settings.database_url is not None
    monkeypatch.setenv("APPHUB_DATABASE_URL", lake_settings.database_url.get_secret_value())
    monkeypatch.setenv("APPHUB_HOME", str(lake_settings.home))

    def execute(job: dg.JobDefinition, **values) -> dg.ExecuteInProcessResult:
        resources = {"platform": Platform(), "lake": LakeResource()}
        return job.execute_in_process(resources=resources, instance=instance, **values)

    return execute


def outcome(result: dg.ExecuteInProcessResult, operation: Operation) -> dict:
    (event,) = [event for event in result.all_events if event.is_successful_output]
    told = event.step_output_data.metadata[str(operation)].value
    assert isinstance(told, dict)
    return told


def upkeep(keeper: Keeper) -> Upkeep:
    return Upkeep(keeper.lake, keeper.database, keeper.settings)


def test_a_scheduled_job_merges_files_and_tells_how_many(keeper: Keeper, run):
    for _ in range(3):
        keeper.add(FILE)
    result = run(upkeep_assets.by_the_clock[Operation.COMPACTION])
    (told,) = outcome(result, Operation.COMPACTION)["datasets"]
    assert (told["before"]["files"], told["after"]["files"], told["merged"]) == (3, 1, 3)
    keeper.check()


def test_a_job_that_is_asked_for_a_dry_run_changes_nothing(keeper: Keeper, run):
    for _ in range(3):
        keeper.add(FILE)
    keeper.add()
    with keeper.database.transaction() as session:
        session.execute(update(Dataset).values(retention={"rules": {"maxAgeHours": 24}}))
    before = keeper.state()
    result = run(upkeep_assets.keep_lake, run_config=run_config(map(str, ALL), dry_run=True))
    assert outcome(result, Operation.COMPACTION)["datasets"][0]["files"] == 3
    assert outcome(result, Operation.RETENTION)["datasets"][0]["rows"] == 3 * FILE
    assert keeper.state() == before


def test_a_run_for_a_dataset_that_is_gone_fails(keeper: Keeper, run):
    with pytest.raises(dg.Failure, match="not found"):
        run(upkeep_assets.keep_lake, run_config=run_config(["flush"], "nobody"))


def test_a_flush_is_started_when_rows_have_waited(keeper: Keeper, instance: dg.DagsterInstance, run):
    def look() -> dg.RunRequest | dg.SkipReason:
        with dg.build_sensor_context(instance, resources={"platform": Platform()}) as context:
            found = upkeep_assets.rows_to_flush(context)
        assert isinstance(found, dg.RunRequest | dg.SkipReason)
        return found

    assert isinstance(look(), dg.SkipReason)
    keeper.add()
    assert isinstance(look(), dg.SkipReason)
    keeper.catalog("UPDATE timestore.ducklake_snapshot SET snapshot_time = now() - interval '1 hour' RETURNING 1")
    assert isinstance(look(), dg.RunRequest)
    told = outcome(run(upkeep_assets.flush_rows), Operation.FLUSH)
    assert told["datasets"][0]["rows"] == 3
    assert isinstance(look(), dg.SkipReason)


def test_every_operation_has_a_clock_or_a_sensor_and_every_run_its_tags():
    jobs = [upkeep_assets.flush_rows, *upkeep_assets.by_the_clock.values()]
    assert len(jobs) == len(Operation)
    assert all(TAGS.items() <= job.run_tags.items() for job in [*jobs, upkeep_assets.keep_lake])
    assert upkeep_assets.keep_lake.name == JOB


def test_all_operations_on_all_datasets_one_after_the_other(keeper: Keeper):
    keeper.add(at=datetime.now(UTC) - timedelta(days=1))
    outcomes = upkeep(keeper).run(Task(ALL), datetime.now(UTC))
    assert {each.operation: each.status for each in outcomes} == dict.fromkeys(Operation, "completed")
    keeper.check()


def test_all_operations_on_rows_at_both_ends_of_the_calendar(keeper: Keeper):
    for at in (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)):
        for _ in range(2):
            keeper.add(at=at)
            flushing.flush(keeper.lake, keeper.database, keeper.info)
    settings = keeper.settings.model_copy(update={"retention_max_age_hours": 24.0, "delete_grace_minutes": 0.0})
    outcomes = Upkeep(keeper.lake, keeper.database, settings).run(Task(ALL), datetime.now(UTC))
    assert {each.operation: each.status for each in outcomes} == dict.fromkeys(Operation, "completed")
    keeper.forget(lambda row: row[0].year == 1)
    keeper.check()


def test_what_is_under_way_is_not_begun_again(keeper: Keeper):
    keeper.add()
    with keeper.database.lock("timestore/flush"):
        (told,) = upkeep(keeper).run(Task([Operation.FLUSH]), datetime.now(UTC))
    assert told.status == "skipped"


def test_the_trouble_of_one_dataset_is_told_and_holds_up_no_other(keeper: Keeper, monkeypatch):
    keeper.add(at=DAY)

    def fail(*_, **__):
        raise ZeroDivisionError

    def refuse(*_, **__):
        raise compaction.LakeConflict("busy")

    monkeypatch.setattr(compaction, "next_step", refuse)
    tried, trimmed = upkeep(keeper).run(Task([Operation.COMPACTION, Operation.RETENTION]), DAY + timedelta(days=1))
    assert (tried.status, trimmed.status) == ("postponed", "completed")
    assert tried.details["datasets"][0]["postponed"] == "busy"
    monkeypatch.setattr(compaction, "next_step", fail)
    with pytest.raises(ZeroDivisionError):
        upkeep(keeper).run(Task([Operation.COMPACTION]), DAY)


def test_batches_that_went_long_ago_are_forgotten_and_deleted_datasets_purged(keeper: Keeper):
    keeper.add()
    now = datetime.now(UTC)
    with keeper.database.transaction() as session:
        session.execute(update(Batch).values(retired_at=now))
    (told,) = upkeep(keeper).run(Task([Operation.PURGE]), now + timedelta(days=13))
    assert told.details["batches"] == 0
    (dry,) = upkeep(keeper).run(Task([Operation.PURGE], dry_run=True), now + timedelta(days=15))
    (told,) = upkeep(keeper).run(Task([Operation.PURGE]), now + timedelta(days=15))
    assert (dry.details["batches"], told.details["batches"]) == (1, 1)
    with keeper.database.transaction() as session:
        session.execute(update(Dataset).values(status=Status.DELETED, purge_after=now))
    (told,) = upkeep(keeper).run(Task([Operation.PURGE]), now)
    assert told.details["datasets"][0]["rows"] == 3
    assert keeper.catalog("SELECT count(*) FROM timestore.datasets") == [(0,)]
