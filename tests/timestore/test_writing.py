"""Batches that are written together: each has its own fate."""

import time
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import text

from apphub_assets.timestore.errors import LakeConflict
from apphub_assets.timestore.ingest.intake import Delivery, prepare, rows_of_objects
from apphub_assets.timestore.ingest.writing import Incoming, Outcome, Written, write
from apphub_assets.timestore.spec import parse_fields
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
