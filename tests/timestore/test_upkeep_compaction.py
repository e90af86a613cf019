"""Small files become few, sorted ones; rows, snapshots, readers and writers stay as they are."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from apphub_assets.timestore import store
from apphub_assets.timestore.commits import committing
from apphub_assets.timestore.lake import INLINE_ROWS
from apphub_assets.timestore.upkeep import compaction
from apphub_assets.timestore.upkeep.compaction import Budget, compact
from apphub_assets.timestore.upkeep.expiry import expire
from apphub_assets.timestore.upkeep.flushing import flush
from tests.timestore.keeping import DAY, Keeper

LONG = Budget(60.0, 2**40)


@pytest.fixture
def keeper(keeper: Keeper) -> Keeper:
    """Every batch makes a file."""
    keeper.batch_rows = INLINE_ROWS + 1
    return keeper


def run(keeper: Keeper, **values) -> compaction.Compacted:
    return compact(keeper.lake, keeper.database, keeper.info, **({"budget": LONG} | values))


def test_files_of_a_partition_that_is_past_become_one(keeper: Keeper):
    for day in range(3):
        for _ in range(4):
            keeper.add(at=DAY + timedelta(days=day))
    done = run(keeper)
    assert (done.before.files, done.after.files, done.merged, done.created) == (12, 3, 12, 3)
    assert done.postponed is None
    keeper.check()


def test_a_merged_file_is_sorted(keeper: Keeper):
    for minutes in (300, 0, 200, 100):
        for site in "ba":
            keeper.add(at=DAY + timedelta(minutes=minutes), site=site)
    run(keeper)
    (path,) = [Path(keeper.lake.data_path) / each for (each,) in _paths(keeper)]
    found = [tuple(row.values()) for row in pq.read_table(path, columns=["site", "timestamp"]).to_pylist()]
    assert len(found) == 8 * (INLINE_ROWS + 1)
    assert found == sorted(found)


def test_a_row_keeps_its_number_whatever_it_is_sorted_between(keeper: Keeper):
    """Pages of an answer go on after the number of the last row."""

    def numbers() -> dict[int, int]:
        with keeper.lake.query(f"SELECT n, rowid FROM {keeper.info.relation}") as found:
            return dict(found.read_all().select(["n", "rowid"]).to_pandas().to_numpy().tolist())

    for _ in range(3):
        keeper.add()
    before = numbers()
    assert run(keeper).after.files == 1
    keeper.add()
    assert numbers().items() >= before.items()
    run(keeper)
    assert numbers().items() >= before.items()


def _paths(keeper: Keeper) -> list[tuple]:
    prefix = f"{keeper.info.area}/{keeper.info.table}/"
    return keeper.catalog(f"SELECT '{prefix}' || path FROM timestore.ducklake_data_file WHERE end_snapshot IS NULL")


def test_every_snapshot_stays_as_it_was(keeper: Keeper):
    then = {keeper.add(): keeper.model.copy() for _ in range(5)}
    then |= {keeper.add(note="new"): keeper.model.copy()}
    then |= {keeper.add(): keeper.model.copy() for _ in range(5)}
    run(keeper)
    then |= {keeper.add(): keeper.model.copy() for _ in range(5)}
    run(keeper)
    assert keeper.live_files() < 5
    for snapshot, model in then.items():
        assert keeper.rows(snapshot) == model


def test_the_current_partition_waits_for_enough_files(keeper: Keeper):
    now = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for _ in range(compaction.ENOUGH - 1):
        keeper.add(at=now)
    assert run(keeper).merged == 0
    keeper.add(at=now)
    assert run(keeper).after.files == 1
    assert run(keeper).commits == 0
    keeper.check()


def test_a_window_is_merged_whatever_is_in_it(keeper: Keeper):
    now = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for _ in range(2):
        keeper.add(at=now)
    assert run(keeper, window=(DAY, DAY + timedelta(days=1))).merged == 0
    assert run(keeper, window=(now, now + timedelta(days=1))).after.files == 1
    keeper.check()


def test_it_stops_when_its_budget_is_spent_and_goes_on_the_next_time(keeper: Keeper, monkeypatch):
    monkeypatch.setattr(compaction, "MOST_MERGES", 1)
    for day in range(4):
        for _ in range(2):
            keeper.add(at=DAY + timedelta(days=day))
    first = run(keeper, budget=Budget(60.0, 1))
    assert (first.commits, first.after.files) == (1, 7)
    assert "left to merge" in (first.postponed or "")
    assert run(keeper).after.files == 4
    keeper.check()


def test_writers_and_readers_of_other_processes_go_on_during_compactions(keeper: Keeper):
    keeper.while_at_work(lambda: run(keeper))
    assert keeper.live_files() == 1


def test_a_delete_at_the_same_time_wins_and_the_rest_comes_later(keeper: Keeper, monkeypatch):
    for _ in range(4):
        keeper.add()
    merge = compaction._merge

    def delete_meanwhile(connection, dataset, step):
        merged = merge(connection, dataset, step)
        with committing(keeper.lake, keeper.database, "delete") as commit:
            store.delete_rows(commit.connection, dataset, ["n < 3"])
        return merged

    with monkeypatch.context() as during:
        during.setattr(compaction, "_merge", delete_meanwhile)
        done = run(keeper)
    assert (done.commits, done.after.files) == (0, 4)
    assert done.postponed
    keeper.forget(lambda row: row[2] < 3)
    keeper.check()
    assert run(keeper).after.files == 2
    keeper.check()


def test_files_are_written_again_without_their_deleted_rows_once_no_snapshot_needs_them(keeper: Keeper):
    for day in range(2):
        keeper.add(at=DAY + timedelta(days=day))
    before, whole = keeper.snapshots()[-1], keeper.model.copy()
    with committing(keeper.lake, keeper.database, "delete") as commit:
        store.delete_rows(commit.connection, keeper.info, ["n % 2 = 0"])
    keeper.forget(lambda row: row[2] % 2 == 0)
    assert run(keeper).rewritten == 0
    assert keeper.rows(before) == whole
    expire(keeper.lake, keeper.database, keeper.settings, datetime.now(UTC) + timedelta(days=8))
    deleted = keeper.snapshots()[-1]
    assert run(keeper).rewritten == 2
    assert run(keeper).rewritten == 0
    assert keeper.rows(deleted) == keeper.model
    keeper.check()


def test_two_compactions_at_once_do_no_harm(keeper: Keeper, monkeypatch):
    for _ in range(4):
        keeper.add()
    merge = compaction._merge

    def compact_meanwhile(connection, dataset, step):
        merged = merge(connection, dataset, step)
        monkeypatch.setattr(compaction, "_merge", merge)
        assert run(keeper).after.files == 1
        return merged

    monkeypatch.setattr(compaction, "_merge", compact_meanwhile)
    assert run(keeper).postponed
    keeper.check()
    assert keeper.live_files() == 1


def test_flushes_and_compactions_go_together(keeper: Keeper):
    keeper.batch_rows = 3

    def tidy() -> None:
        flush(keeper.lake, keeper.database, keeper.info)
        run(keeper)

    keeper.while_at_work(tidy)
