"""What a dataset's checks find, and what they leave alone."""

from datetime import timedelta

import dagster as dg
import pytest
from sqlalchemy import text

from apphub_assets.timestore.assets import key_of
from tests.timestore.making import NOON

READINGS = key_of("readings")


@pytest.fixture
def check(load, instance):
    """Runs the checks of `readings`, alone or with a partition's run, and gives those that did not pass."""

    def run(partition: str | None = None) -> dict[str, dg.AssetCheckEvaluation]:
        definitions = load()
        graph = definitions.resolve_asset_graph()
        job = definitions.resolve_implicit_global_asset_job_def()
        if partition is None:
            keys = list(graph.get_check_keys_for_assets({READINGS}))
            result = job.get_subset(asset_selection=set(), asset_check_selection=set(keys)).execute_in_process(
                instance=instance, resources=None
            )
        else:
            result = job.execute_in_process(instance=instance, asset_selection=[READINGS], partition_key=partition)
        assert result.success
        evaluations = result.get_asset_check_evaluations()
        assert len(evaluations) == 4
        return {each.check_name: each for each in evaluations if not each.passed}

    return run


def test_a_sound_dataset_passes_all_of_them(maker, check):
    maker.ingest("readings", NOON, NOON + timedelta(days=1))
    assert check() == {}
    assert check("2026-03-02") == {}


def test_rows_that_are_gone_without_a_reason_are_an_error(maker, check, database):
    maker.ingest("readings")
    maker.ingest("readings", NOON + timedelta(days=1))
    check("2026-03-02")
    with database.transaction() as session:
        session.execute(text("UPDATE timestore.manifests SET total_rows = 0 WHERE shard = '2026-03-03'"))
    found = check()["rows_monotone"]
    assert (found.severity, found.description) == (dg.AssetCheckSeverity.ERROR, "1 rows, at least 2 expected")


def test_rows_that_were_taken_out_are_not_missed(maker, check, database):
    maker.ingest("readings")
    maker.ingest("readings", NOON + timedelta(days=1))
    check("2026-03-02")
    with database.transaction() as session:
        session.execute(text("UPDATE timestore.manifests SET total_rows = 0 WHERE shard = '2026-03-03'"))
        session.execute(text("UPDATE timestore.batches SET retired_at = now() WHERE shard = '2026-03-03'"))
    assert check() == {}


def test_columns_that_differ_from_the_schema_are_named(maker, check, lake):
    maker.ingest("readings", count=1, tags=["a"])
    assert check() == {}
    with lake.writing() as connection:
        connection.execute("ALTER TABLE lake.readings ADD COLUMN odd VARCHAR")
        connection.execute("ALTER TABLE lake.readings DROP COLUMN count")
    assert check()["schema_as_declared"].description == (
        "count: BIGINT, in the lake missing; odd: not declared, in the lake VARCHAR"
    )


def test_empty_windows_between_the_first_and_the_last_are_a_warning(maker, check):
    maker.ingest("readings", NOON)
    maker.ingest("readings", NOON + timedelta(days=1), NOON + timedelta(days=2))
    maker.ingest("readings", NOON + timedelta(days=5))
    found = check()["no_gaps"]
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert found.description == "2 empty windows: 2026-03-05, 2026-03-06"
    assert check("2026-03-04") == {}


def test_a_pause_longer_than_the_metadata_expects_is_a_gap(maker, check):
    maker.ingest("readings", NOON, NOON + timedelta(seconds=60), NOON + timedelta(seconds=300))
    maker.change("readings", labels={"expectedIntervalSeconds": 240})
    assert check() == {}
    maker.change("readings", labels={"expectedIntervalSeconds": 60})
    assert check()["no_gaps"].description == ("240 s without rows, 60 s expected (metadata.expectedIntervalSeconds)")


def test_a_column_with_more_nulls_than_allowed_is_a_warning(maker, check):
    maker.ingest("readings", NOON, note="one")
    maker.ingest("readings", NOON + timedelta(minutes=1), NOON + timedelta(minutes=2))
    assert check()["null_share"].description == "nulls above 50%: note: 67%"
    maker.change("readings", labels={"maxNullShare": 0.7})
    assert check() == {}


def test_a_dataset_without_rows_passes(maker, check, database, lake):
    maker.ingest("readings")
    with lake.writing() as connection:
        connection.execute("DELETE FROM lake.readings")
    with database.transaction() as session:
        session.execute(text("DELETE FROM timestore.batches; DELETE FROM timestore.manifests"))
    assert check() == {}


def test_a_job_checks_every_dataset_once_a_day(maker, load, instance):
    maker.ingest("readings")
    maker.ingest("others")
    repository = load().get_repository_def()
    result = repository.get_job("check_datasets").execute_in_process(instance=instance)
    assert {each.asset_key.path[-1] for each in result.get_asset_check_evaluations()} == {"readings", "others"}
    schedule = repository.get_schedule_def("check_datasets_daily")
    assert (schedule.cron_schedule, schedule.default_status) == ("23 4 * * *", dg.DefaultScheduleStatus.RUNNING)
