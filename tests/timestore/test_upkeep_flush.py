"""Rows that wait in Postgres go to files, and nobody notices but by the time that a query takes."""

from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from apphub_assets.settings import Settings
from apphub_assets.timestore import store
from apphub_assets.timestore.commits import committing
from apphub_assets.timestore.errors import InvalidRows, LakeConflict
from apphub_assets.timestore.upkeep import files
from apphub_assets.timestore.upkeep.flushing import flush
from tests.fixtures.timestore import FIELDS, Timestore
from tests.timestore.keeping import DAY, Keeper


def waiting(keeper: Keeper) -> int:
    with keeper.database.transaction() as session:
        return sum(each.rows for each in files.waiting(session))


def test_rows_that_wait_go_to_files(keeper: Keeper):
    for site in "ba":
        keeper.add(5, site=site)
    assert (waiting(keeper), keeper.live_files()) == (10, 0)
    flushed = flush(keeper.lake, keeper.database, keeper.info)
    assert flushed.rows == 10
    assert waiting(keeper) == 0
    assert keeper.live_files() == 1
    keeper.check()


def test_every_snapshot_stays_as_it_was(keeper: Keeper):
    then = {keeper.add(): keeper.model.copy() for _ in range(4)}
    flush(keeper.lake, keeper.database, keeper.info)
    then |= {keeper.add(): keeper.model.copy()}
    flush(keeper.lake, keeper.database, keeper.info)
    for snapshot, model in then.items():
        assert keeper.rows(snapshot) == model


def test_rows_of_several_versions_of_the_schema_are_flushed_at_once(keeper: Keeper):
    keeper.add()
    keeper.add(note="new")
    keeper.add(other=1.5)
    assert flush(keeper.lake, keeper.database, keeper.info).rows == 9
    keeper.check()
    keeper.add(note="more")
    keeper.check()


@pytest.mark.parametrize("value", ["Ж" * 41, "x" * 250, "a/../../b", "100%", ".", "a=b*?"])
def test_rows_are_flushed_whatever_their_partition_key_is(timestore: Timestore, value: str):
    fields = [*FIELDS, {"name": "site", "type": "string"}]
    timestore.declare("readings", fields, partition_keys=["site"])
    written = timestore.ingest("readings", "2026-01-01", partition_key={"site": value})
    assert flush(timestore.lake, timestore.database, written.dataset).rows == 1
    assert timestore.ask("SELECT site FROM lake.main.readings") == [(value,)]


@pytest.mark.parametrize("value", ["Ж" * 42, "x" * 251])
def test_a_partition_key_that_can_be_no_folder_is_refused(timestore: Timestore, value: str):
    fields = [*FIELDS, {"name": "site", "type": "string"}]
    timestore.declare("readings", fields, partition_keys=["site"])
    with pytest.raises(InvalidRows, match="row 0, column 'site'"):
        timestore.ingest("readings", "2026-01-01", partition_key={"site": value})


def test_without_rows_that_wait_nothing_happens(keeper: Keeper):
    keeper.add()
    flush(keeper.lake, keeper.database, keeper.info)
    before = keeper.snapshots()
    assert flush(keeper.lake, keeper.database, keeper.info).rows == 0
    assert keeper.snapshots() == before


def test_writers_and_readers_of_other_processes_go_on_during_flushes(keeper: Keeper):
    keeper.while_at_work(lambda: flush(keeper.lake, keeper.database, keeper.info))
    assert waiting(keeper) == 0


def test_readers_go_on_when_a_flush_takes_away_what_a_change_of_schema_left(keeper: Keeper):
    numbers = count()

    def evolve_and_flush() -> None:
        keeper.add(**{f"column{next(numbers)}": 1})
        flush(keeper.lake, keeper.database, keeper.info)

    keeper.while_at_work(evolve_and_flush, writers=1)


def test_who_deletes_after_a_flush_that_it_does_not_know_of_tries_again(keeper: Keeper):
    keeper.add()
    keeper.add(note="new")
    with keeper.lake.writing() as idle:
        idle.execute(f"SELECT count(*) FROM {keeper.info.relation}").fetchall()
        flush(keeper.lake, keeper.database, keeper.info)

    def delete() -> None:
        with committing(keeper.lake, keeper.database, "delete") as commit:
            store.delete_rows(commit.connection, keeper.info, ["n < 3"])

    with pytest.raises(LakeConflict):
        delete()
    delete()
    keeper.forget(lambda row: row[2] < 3)
    keeper.check()


@pytest.mark.parametrize(
    ("settings", "ahead", "expected"),
    [
        ({"flush_rows": 10, "flush_after": 60}, 0, False),
        ({"flush_rows": 5, "flush_after": 60}, 0, True),
        ({"flush_rows": 10, "flush_after": 60}, 61, True),
    ],
)
def test_a_flush_is_due_by_rows_or_by_age(keeper: Keeper, settings: dict, ahead: float, expected: bool):
    keeper.add(6)
    now = datetime.now(UTC) + timedelta(seconds=ahead)
    with keeper.database.transaction() as session:
        found = files.overdue(session, keeper.settings.model_copy(update=settings), now)
    assert [each.dataset_id for each in found] == ([keeper.info.id] if expected else [])


def test_a_storage_url_may_end_with_a_slash(lake_settings: Settings, make_keeper):
    keeper = make_keeper(lake_settings.model_copy(update={"storage_url": f"{lake_settings.state}/elsewhere//"}))
    keeper.add(5, at=DAY)
    flush(keeper.lake, keeper.database, keeper.info)
    keeper.check()
    assert all("//" not in path for path in keeper.on_disk())
    assert len(keeper.on_disk()) == 1
