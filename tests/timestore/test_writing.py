"""Batches that are written together: each has its own fate."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from apphub_assets.timestore import store
from apphub_assets.timestore.errors import LakeConflict
from apphub_assets.timestore.ingest.intake import Delivery, prepare, rows_of_objects
from apphub_assets.timestore.ingest.writer import Writer
from apphub_assets.timestore.ingest.writing import Incoming, Outcome, Written, write
from apphub_assets.timestore.lake import Connection, Lake
from apphub_assets.timestore.spec import DatasetInfo, TimeRange, parse_fields
from tests.fixtures.timestore import Timestore


def first_batch(slug: str, row: dict[str, Any], times: str = "timestamp", **said: Any) -> Incoming:
    """One row for a dataset that is not there yet when it is looked at."""
    fields = parse_fields([{"name": times, "type": "timestamp"}, {"name": "value", "type": "integer"}], "")
    delivery = Delivery(slug, fields, **said)
    return prepare(delivery, None, rows_of_objects(delivery, None, [row]), repr(row))


def written(timestore: Timestore, *batches: Incoming) -> list[Outcome]:
    outcomes = write(timestore.lake, timestore.database, batches, until=time.monotonic() + 30)
    return [outcomes[batch.id] for batch in batches]


@pytest.mark.parametrize("together", [True, False])
def test_a_batch_is_not_written_without_times_when_another_made_the_dataset_with_other_ones(
    timestore: Timestore, together: bool
):
    batches = [
        first_batch("readings", {name: "2026-01-01T00:00:00Z", "value": value}, name)
        for name, value in (("timestamp", 1), ("seen", 2))
    ]
    outcomes = written(timestore, *batches) if together else [written(timestore, each)[0] for each in batches]
    assert {type(each) for each in outcomes} == {Written, LakeConflict}
    assert timestore.ask("SELECT count(*) FROM lake.main.readings") == [(1,)]


def test_the_window_of_a_batch_holds_its_rows_whatever_was_announced(timestore: Timestore):
    day = datetime(2025, 1, 1, tzinfo=UTC)
    batch = timestore.ingest("readings", "2026-06-01", time_range=TimeRange(day, day + timedelta(hours=1))).batch
    assert (batch.start_at, batch.end_at) == (day, datetime(2026, 6, 1, tzinfo=UTC))


@dataclass(frozen=True)
class Slow:
    """A big source: it is being written until somebody says that it is."""

    begun: threading.Semaphore
    done: threading.Event
    row_count: int = 1
    byte_count: int = 1

    def append_to(self, connection: Connection, dataset: DatasetInfo) -> None:
        self.begun.release()
        assert self.done.wait(60)
        store.append_from(connection, dataset, "SELECT TIMESTAMP '2026-01-02' AS timestamp, 2 AS value")


def test_small_batches_do_not_wait_for_big_ones(timestore: Timestore):
    row = {"timestamp": "2026-01-01T00:00:00Z", "value": 1}
    written(timestore, first_batch("readings", row, key="first"))
    writer = Writer(timestore.lake, timestore.database, timestore.settings)
    writer.start()
    slow = Slow(threading.Semaphore(0), threading.Event())
    with ThreadPoolExecutor(2) as pool:
        big = [replace(first_batch("readings", row, key=key), source=slow) for key in "ab"]
        results = [pool.submit(writer.write_now, each) for each in big]
        assert slow.begun.acquire(timeout=30)
        # The other one is about to begin, if it may.
        slow.begun.acquire(timeout=1)
        try:
            assert writer.submit(first_batch("readings", row, key="small")).result(timeout=10).batch.row_count == 1
        finally:
            slow.done.set()
        assert [each.result().batch.row_count for each in results] == [1, 1]
    writer.stop()


def test_batches_wait_together_for_an_instance_that_comes_free(timestore: Timestore):
    patience = 0.5
    lake = Lake(timestore.settings.model_copy(update={"query_timeout": patience}))
    row = {"timestamp": "2026-01-01T00:00:00Z", "value": 1}
    batches = [first_batch("readings", row, key=str(number)) for number in range(3)]
    with ThreadPoolExecutor(1) as pool:
        with lake.writing(), lake.writing():
            late = pool.submit(write, lake, timestore.database, batches, until=time.monotonic() + 30)
            # Longer than they would wait for an instance one after the other.
            time.sleep(len(batches) * patience + 0.1)
        assert {each.batch.snapshot_id for each in late.result().values()} == {1}
    lake.close()


def test_a_batch_that_postgres_does_not_take_fails_alone(timestore: Timestore):
    row = {"timestamp": "2026-01-01T00:00:00Z", "value": 1}
    odd = replace(first_batch("others", row), key="key:\0")
    good, bad = written(timestore, first_batch("readings", row), odd)
    assert isinstance(good, Written)
    assert isinstance(bad, Exception)


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
def test_rows_at_both_ends_of_the_calendar_are_written_whatever_the_zone_of_the_database(
    timestore: Timestore, zone: str
):
    name = timestore.database.engine.url.database
    with timestore.database.transaction() as session:
        session.execute(text(f"ALTER DATABASE {name} SET timezone = '{zone}'"))
    timestore.database.close()
    for moment in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        assert timestore.ingest("readings", moment).batch.start_at == datetime.fromisoformat(moment)
