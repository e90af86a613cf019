"""What ingests bring appears as materialisations of partitions: all of it, once, and not more often than is useful."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from apphub_assets.resources import Platform
from apphub_assets.timestore import sensors
from apphub_assets.timestore.assets import key_of
from tests.timestore.making import NOON, days

READINGS = key_of("readings")


class Ticks:
    """Ticks of the sensor as the daemon runs it: events are stored first, then the cursor."""

    def __init__(self, load, instance: dg.DagsterInstance) -> None:
        self.load, self.instance, self.cursor = load, instance, None
        self.definitions = load()

    def evaluate(self) -> dg.SensorResult:
        repository = self.definitions.get_repository_def()
        sensor = repository.get_sensor_def("ingested_partitions")
        resources = {"platform": Platform()}
        with dg.build_sensor_context(self.instance, self.cursor, None, repository, resources=resources) as context:
            return sensor.evaluate_tick(context)

    def tick(self, *, dies: bool = False) -> list[dg.AssetMaterialization]:
        data = self.evaluate()
        for event in data.asset_events:
            self.instance.report_runless_asset_event(event)
        if not dies:
            self.cursor = data.cursor
        return list(data.asset_events)

    def reload(self) -> None:
        self.definitions = self.load()


@pytest.fixture
def ticks(load, instance) -> Ticks:
    return Ticks(load, instance)


@pytest.fixture
def clock(monkeypatch):
    """The sensor's clock, which stands still until it is moved."""

    class Clock(datetime):
        moment = datetime.now(UTC)

        @classmethod
        def now(cls, tz=None):
            return cls.moment

    monkeypatch.setattr(sensors, "datetime", Clock)
    return Clock


def told(event: dg.AssetMaterialization) -> tuple[str, int, int]:
    """Partition, rows and batches."""
    values = {name: value.value for name, value in event.metadata.items()}
    return event.partition, values["rows"], values["batches"]


def test_batches_of_a_partition_are_one_materialisation_with_rows_bytes_and_snapshot(maker, ticks):
    snapshots = [maker.ingest("readings", NOON, NOON + timedelta(minutes=minute)) for minute in range(1, 4)]
    ticks.reload()
    (event,) = ticks.tick()
    assert event.asset_key == READINGS
    assert told(event) == ("2026-03-02", 6, 3)
    assert event.metadata["bytes"].value > 0
    assert event.metadata["dataset_rows"].value == 6
    assert event.metadata["snapshot"].value == snapshots[-1]
    assert event.tags["dagster/data_version"] == str(snapshots[-1])
    assert ticks.tick() == []


@pytest.mark.parametrize(
    ("granularity", "keys"),
    [
        ("hour", ["2026-03-02-12:00", "2026-03-02-13:00", "2026-03-02-14:00"]),
        ("day", ["2026-03-02"]),
        ("month", ["2026-03-01"]),
    ],
)
def test_a_batch_materialises_each_partition_that_it_reaches_into(maker, ticks, granularity, keys):
    maker.ingest("readings", NOON, NOON + timedelta(hours=2))
    maker.change("readings", granularity=granularity)
    ticks.reload()
    assert [event.partition for event in ticks.tick()] == keys


def test_a_partition_that_is_written_to_all_the_time_is_reported_at_once_and_then_now_and_then(maker, ticks, clock):
    maker.ingest("readings")
    ticks.reload()
    assert [told(event) for event in ticks.tick()] == [("2026-03-02", 1, 1)]
    for _ in range(3):
        maker.ingest("readings")
        clock.moment += timedelta(seconds=5)
        assert ticks.tick() == []
    maker.ingest("readings", NOON + timedelta(days=1))
    assert [told(event) for event in ticks.tick()] == [("2026-03-03", 1, 1)]
    clock.moment += sensors.REPORT_EVERY
    assert [told(event) for event in ticks.tick()] == [("2026-03-02", 3, 3)]


def test_many_partitions_are_reported_over_several_ticks_and_none_is_lost(maker, ticks, monkeypatch):
    monkeypatch.setattr(sensors, "MOST_EVENTS", 4)
    maker.ingest("readings", *days(NOON, 10))
    maker.ingest("others", NOON)
    ticks.reload()
    sizes, seen = [], []
    while events := ticks.tick():
        sizes.append(len(events))
        seen += [(event.asset_key.path[-1], event.partition) for event in events]
    assert sizes == [4, 4, 3]
    expected = {("readings", f"{day:%Y-%m-%d}") for day in days(NOON, 10)} | {("others", "2026-03-02")}
    assert (len(seen), set(seen)) == (11, expected)


def test_a_tick_that_is_cut_short_after_it_stored_events_is_not_repeated(maker, ticks, instance):
    maker.ingest("readings", NOON)
    maker.ingest("readings", NOON + timedelta(days=1))
    ticks.reload()
    assert len(ticks.tick(dies=True)) == 2
    maker.ingest("readings", NOON)
    assert [told(event) for event in ticks.tick()] == [("2026-03-02", 1, 1)]
    assert len(instance.fetch_materializations(READINGS, limit=10).records) == 3


def test_a_tick_that_is_cut_short_before_it_stored_anything_loses_nothing(maker, ticks):
    maker.ingest("readings", NOON)
    ticks.reload()
    ticks.evaluate()
    assert [told(event) for event in ticks.tick()] == [("2026-03-02", 1, 1)]


def test_a_dataset_that_definitions_do_not_have_yet_is_reported_once_they_do(maker, ticks):
    maker.ingest("readings")
    assert ticks.tick() == []
    ticks.reload()
    assert [told(event) for event in ticks.tick()] == [("2026-03-02", 1, 1)]


def test_data_from_before_the_first_partition_waits_until_definitions_reach_so_far(maker, ticks):
    maker.ingest("readings", NOON)
    ticks.reload()
    ticks.tick()
    maker.ingest("readings", NOON - timedelta(days=3))
    assert ticks.tick() == []
    ticks.reload()
    assert [event.partition for event in ticks.tick()] == ["2026-02-27"]


def test_data_that_dagster_can_never_show_is_passed_over(maker, ticks):
    maker.ingest("readings", datetime(9999, 12, 31, tzinfo=UTC))
    maker.ingest("others", NOON)
    ticks.reload()
    assert [event.asset_key.path[-1] for event in ticks.tick()] == ["others"]
    assert '"waiting":[]' in ticks.cursor


def test_what_waits_for_a_dataset_that_is_gone_is_forgotten(maker, ticks, database):
    maker.ingest("readings")
    ticks.tick()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM timestore.datasets")
    ticks.tick()
    assert '"waiting":[]' in ticks.cursor


def test_what_waits_for_a_deleted_dataset_holds_up_no_other(maker, ticks, monkeypatch):
    monkeypatch.setattr(sensors, "MOST_WAITING", 1)
    maker.ingest("gone")
    maker.change("gone", status="deleted")
    ticks.reload()
    assert ticks.tick() == []
    maker.ingest("readings")
    ticks.reload()
    assert [event.asset_key for event in ticks.tick()] == [READINGS]


def test_a_database_that_was_set_back_is_read_on_from_where_it_is(maker, ticks):
    ticks.cursor = sensors.Cursor(snapshot=1_000_000).to_json()
    maker.ingest("readings")
    ticks.reload()
    ticks.tick()
    maker.ingest("readings", NOON + timedelta(days=1))
    assert [event.partition for event in ticks.tick()] == ["2026-03-03"]


def test_sealing_a_partition_is_no_news_for_those_who_follow_its_data(maker, ticks, instance):
    maker.ingest("readings")
    ticks.reload()
    ticks.tick()
    job = ticks.definitions.resolve_implicit_global_asset_job_def()
    job.execute_in_process(instance=instance, asset_selection=[READINGS], partition_key="2026-03-02")
    versions = [
        record.asset_materialization.tags["dagster/data_version"]
        for record in instance.fetch_materializations(READINGS, limit=10).records
    ]
    assert len(versions) == 2
    assert len(set(versions)) == 1


@pytest.mark.parametrize("granularity", ["hour", "day", "month"])
def test_automation_downstream_fires_for_the_partition_that_data_arrived_in(maker, load, instance, granularity):
    maker.ingest("readings", NOON)
    maker.change("readings", granularity=granularity)
    partitions = load().resolve_assets_def(READINGS).partitions_def

    @dg.asset(
        deps=[READINGS],
        partitions_def=partitions,
        automation_condition=dg.AutomationCondition.eager().without(dg.AutomationCondition.in_latest_time_window()),
    )
    def daily_report() -> None: ...

    ticks = Ticks(lambda: dg.Definitions.merge(load(), dg.Definitions(assets=[daily_report])), instance)
    first = dg.evaluate_automation_conditions(ticks.definitions, instance)
    (event,) = ticks.tick()
    second = dg.evaluate_automation_conditions(ticks.definitions, instance, cursor=first.cursor)
    assert second.get_requested_partitions(dg.AssetKey("daily_report")) == {event.partition}
    third = dg.evaluate_automation_conditions(ticks.definitions, instance, cursor=second.cursor)
    assert third.total_requested == 0
