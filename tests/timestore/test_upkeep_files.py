"""Old snapshots and files that nothing refers to go; what somebody needs, or may be writing, stays."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from apphub_assets.settings import Settings
from apphub_assets.timestore.ingest.service import staging_folder
from apphub_assets.timestore.upkeep import expiry, sweeping
from apphub_assets.timestore.upkeep.compaction import compact
from apphub_assets.timestore.upkeep.expiry import LakeInconsistent, expire
from apphub_assets.timestore.upkeep.sweeping import sweep
from tests.timestore.keeping import Keeper

FILE = 1001


@pytest.fixture
def merged(keeper: Keeper) -> Keeper:
    """Three files were merged into one."""
    for _ in range(3):
        keeper.add(FILE)
    compact(keeper.lake, keeper.database, keeper.info)
    assert (keeper.live_files(), len(keeper.on_disk())) == (1, 4)
    return keeper


def later(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def run(keeper: Keeper, now: datetime) -> expiry.Expired:
    return expire(keeper.lake, keeper.database, keeper.settings, now)


def swept(keeper: Keeper, days: float, **values) -> sweeping.Swept:
    return sweep(keeper.database, keeper.settings, later(days), **values)


def quarantine(keeper: Keeper) -> list[str]:
    return [path.name for path in Path(keeper.settings.storage, "quarantine").rglob("*.parquet")]


def test_snapshots_within_the_window_stay(keeper: Keeper):
    before = keeper.add()
    assert run(keeper, later(6.9)).snapshots == []
    assert keeper.rows(before) == keeper.model


def test_of_older_snapshots_only_the_newest_stays(keeper: Keeper):
    for _ in range(3):
        newest = keeper.add()
    done = run(keeper, later(8))
    assert len(done.snapshots) == newest
    assert keeper.snapshots() == [newest]
    assert keeper.rows(newest) == keeper.model
    keeper.check()
    keeper.add()
    keeper.check()


def test_beyond_a_number_of_snapshots_the_oldest_go_earlier_but_none_within_an_hour(keeper: Keeper):
    for _ in range(4):
        newest = keeper.add()
    few = keeper.settings.model_copy(update={"snapshots_max": 2})
    assert expire(keeper.lake, keeper.database, few, datetime.now(UTC)).snapshots == []
    expire(keeper.lake, keeper.database, few, later(0.1))
    assert keeper.snapshots() == [newest - 1, newest]
    keeper.check()


def test_the_snapshot_that_a_query_for_the_beginning_of_the_window_needs_stays(keeper: Keeper):
    old = keeper.add()
    keeper.catalog("UPDATE timestore.ducklake_snapshot SET snapshot_time = now() - interval '9 days' RETURNING 1")
    then = keeper.model.copy()
    keeper.add()
    run(keeper, datetime.now(UTC))
    with keeper.lake.query(
        f"SELECT count(*) AS n FROM {keeper.info.relation} AT (TIMESTAMP => now() - INTERVAL 7 DAY)"
    ) as found:
        assert found.read_all().to_pylist() == [{"n": then.total()}]
    assert keeper.snapshots()[0] == old


def test_none_goes_that_is_younger_than_a_transaction_that_is_open(keeper: Keeper):
    keeper.add()
    with keeper.lake.writing() as connection:
        connection.begin()
        connection.execute(f"SELECT count(*) FROM {keeper.info.relation}").fetchall()
        known = keeper.snapshots()
        keeper.add()
        keeper.add()
        run(keeper, later(8))
        assert set(keeper.snapshots()) >= {known[-1] + 1, known[-1] + 2}


def test_what_ducklake_removes_too_much_is_put_back(merged: Keeper, monkeypatch):
    call = expiry._call

    def damaging(connection, snapshots, *, dry_run):
        named = call(connection, snapshots, dry_run=dry_run)
        if not dry_run:
            merged.catalog("DELETE FROM timestore.ducklake_data_file RETURNING 1")
            merged.catalog("DELETE FROM timestore.ducklake_file_column_stats RETURNING 1")
        return named

    monkeypatch.setattr(expiry, "_call", damaging)
    with pytest.raises(LakeInconsistent, match="they are back"):
        run(merged, later(8))
    merged.check()


def test_nothing_is_done_when_ducklake_names_others(merged: Keeper, monkeypatch):
    monkeypatch.setattr(expiry, "_call", lambda *_, dry_run: [1])
    before = merged.state()
    with pytest.raises(LakeInconsistent, match="nothing was done"):
        run(merged, later(8))
    assert merged.state() == before


def test_nobody_waits_while_ducklake_is_asked_what_it_would_expire(merged: Keeper, monkeypatch):
    call = expiry._call

    def looking(connection, snapshots, *, dry_run):
        if dry_run:
            merged.add()
        return call(connection, snapshots, dry_run=dry_run)

    monkeypatch.setattr(expiry, "_call", looking)
    assert run(merged, later(8)).snapshots
    merged.check()


def test_merged_files_stay_for_their_readers_then_wait_in_quarantine_and_go(merged: Keeper):
    assert swept(merged, 0.9).quarantined == []
    done = swept(merged, 1.1)
    assert len(done.quarantined) == 3
    assert done.bytes > 0
    assert (len(merged.on_disk()), len(quarantine(merged))) == (1, 3)
    assert merged.catalog("SELECT count(*) FROM timestore.ducklake_files_scheduled_for_deletion") == [(0,)]
    merged.check()
    assert swept(merged, 5).removed == []
    assert len(swept(merged, 10).removed) == 3
    assert quarantine(merged) == []
    merged.check()


def test_files_of_snapshots_that_expired_go(keeper: Keeper):
    keeper.add(FILE)
    with keeper.lake.writing() as connection:
        connection.execute(f"DELETE FROM {keeper.info.relation}")
    keeper.model.clear()
    assert swept(keeper, 9).quarantined == []
    run(keeper, later(8))
    assert swept(keeper, 0).quarantined == []
    assert len(swept(keeper, 9).quarantined) >= 1
    keeper.check()


def test_a_file_of_a_transaction_in_flight_stays(keeper: Keeper):
    keeper.add()
    with keeper.lake.writing() as connection:
        connection.begin()
        columns = "TIMESTAMP '2026-03-02' AS \"timestamp\", i AS n, 'z' AS site"
        connection.execute(f"INSERT INTO {keeper.info.relation} BY NAME SELECT {columns} FROM range({FILE}) t(i)")
        (path,) = keeper.on_disk()
        assert swept(keeper, 0.5).quarantined == []
        assert keeper.on_disk() == {path}
        connection.commit()
    assert keeper.rows().total() == FILE + 3


def test_a_file_that_is_committed_while_it_is_moved_comes_back(keeper: Keeper, monkeypatch):
    keeper.add()
    move = sweeping.Storage.move
    with keeper.lake.writing() as connection:
        connection.begin()
        columns = "TIMESTAMP '2026-03-02' AS \"timestamp\", i AS n, 'z' AS site"
        connection.execute(f"INSERT INTO {keeper.info.relation} BY NAME SELECT {columns} FROM range({FILE}) t(i)")

        def commit_meanwhile(storage, source, target):
            move(storage, source, target)
            monkeypatch.setattr(sweeping.Storage, "move", move)
            connection.commit()

        monkeypatch.setattr(sweeping.Storage, "move", commit_meanwhile)
        assert len(swept(keeper, 2).returned) == 1
    assert keeper.rows().total() == FILE + 3


def test_orphans_are_found_wherever_the_storage_is(lake_settings: Settings, make_keeper):
    keeper = make_keeper(lake_settings.model_copy(update={"storage_url": f"{lake_settings.state}/elsewhere//"}))
    keeper.add(FILE)
    (live,) = keeper.on_disk()
    folder = Path(keeper.lake.data_path, live).parent
    orphan = folder / "ducklake-0198c0de-0000-7000-8000-000000000000.parquet"
    orphan.write_bytes(b"PAR1")
    (folder / "somebody.parquet").write_bytes(b"PAR1")
    assert swept(keeper, 2).quarantined == [str(orphan)]
    assert {Path(path).name for path in keeper.on_disk()} == {Path(live).name, "somebody.parquet"}
    keeper.check()


def test_a_storage_target_is_swept_too(lake_settings: Settings, make_keeper, tmp_path: Path):
    cold = tmp_path / "cold"
    keeper = make_keeper(lake_settings.model_copy(update={"storage_targets": {"cold": f"{cold}/"}}))
    keeper.lake.prepare()
    orphan = cold / "some" / "ducklake-0198c0de-0000-7000-8000-000000000000.parquet"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"PAR1")
    assert swept(keeper, 2).quarantined == [str(orphan)]
    assert len(list((cold / sweeping.QUARANTINE).rglob("*.parquet"))) == 1
    assert swept(keeper, 3).quarantined == []
    assert len(swept(keeper, 12).removed) == 1


def test_what_killed_requests_left_goes(keeper: Keeper):
    body = staging_folder(keeper.settings) / "tmpbody"
    body.write_bytes(b"x")
    assert swept(keeper, 0.5).leftovers == []
    assert swept(keeper, 2).leftovers == [str(body)]
    assert not body.exists()


def test_dry_runs_change_nothing(merged: Keeper):
    body = staging_folder(merged.settings) / "tmpbody"
    body.write_bytes(b"x")
    before = merged.state()
    assert expiry.due(merged.database, merged.settings, later(8)).snapshots
    found = swept(merged, 2, dry_run=True)
    assert (len(found.quarantined), len(found.leftovers)) == (3, 1)
    assert merged.state() == before
    assert body.exists()


def test_all_of_it_while_writers_and_readers_work(keeper: Keeper):
    keeper.batch_rows = FILE

    def tidy() -> None:
        compact(keeper.lake, keeper.database, keeper.info)
        run(keeper, datetime.now(UTC))
        swept(keeper, 0)

    keeper.while_at_work(tidy, batches=5)
