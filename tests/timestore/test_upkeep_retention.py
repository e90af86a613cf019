"""Rows leave by age and by size in whole windows; deleted datasets leave for good."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from apphub_assets.timestore.admin import datasets
from apphub_assets.timestore.errors import GraceOver, LakeConflict
from apphub_assets.timestore.ingest.writing import NOBODY
from apphub_assets.timestore.models import Access, Batch, Dataset, Manifest
from apphub_assets.timestore.spec import Status
from apphub_assets.timestore.upkeep import purging, trimming
from apphub_assets.timestore.upkeep.retention import Mode, Retention
from tests.timestore.keeping import DAY, SLUG, Keeper

TEN_DAYS = Retention(Mode.TIME, 240.0, None, 0.0)


@pytest.fixture
def week(keeper: Keeper) -> Keeper:
    """A dataset with rows on each of seven days, the last of them in Postgres."""
    keeper.batch_rows = 1001
    for day in range(7):
        keeper.add(10 if day == 6 else None, at=DAY + timedelta(days=day))
    return keeper


def trim(keeper: Keeper, policy: Retention, now: datetime) -> trimming.Trimmed:
    return trimming.trim(keeper.lake, keeper.database, keeper.info, policy, now)


def test_windows_go_when_all_of_them_is_due_and_batches_and_manifests_follow(week: Keeper):
    before = week.model.copy()
    snapshot = week.snapshots()[-1]
    done = trim(week, TEN_DAYS, DAY + timedelta(days=12, hours=23))
    assert [window.start for window in done.windows] == [DAY, DAY + timedelta(days=1)]
    assert done.rows == 2002
    week.forget(lambda row: row[0] < (DAY + timedelta(days=2)).replace(tzinfo=None))
    week.check()
    assert week.rows(snapshot) == before
    with week.database.transaction() as session:
        retired = session.scalars(select(Batch.start_at).where(Batch.retired_at.is_not(None))).all()
        assert sorted(retired) == [DAY, DAY + timedelta(days=1)]
        assert session.scalars(select(Manifest.total_rows).order_by(Manifest.shard)).all()[:3] == [0, 0, 1001]
        actions = session.scalars(select(Access.action)).all()
        assert "lifecycle.retention" in actions
    events = week.catalog("SELECT payload FROM events.outbox WHERE type = 'timestore.partition.deleted' ORDER BY id")
    assert [each[0]["timeRange"]["start"] for each in events] == [
        "2026-03-02T00:00:00.000Z",
        "2026-03-03T00:00:00.000Z",
    ]
    assert not week.catalog("SELECT FROM timestore.ducklake_delete_file")


def test_rows_stay_for_the_grace_after_they_are_due(week: Keeper):
    policy = Retention(Mode.TIME, 240.0, None, 60.0)
    due = DAY + timedelta(days=11)
    assert trim(week, policy, due + timedelta(minutes=59)).rows == 0
    assert trim(week, policy, due + timedelta(minutes=61)).rows == 1001


def test_the_oldest_windows_go_until_the_rest_fits(week: Keeper):
    now = datetime.now(UTC) + timedelta(minutes=1)
    total = sum(window.bytes for window in trimming.due(week.database, week.info, _bytes(0), now))
    found = trimming.due(week.database, week.info, _bytes(total // 2), now)
    assert 2 <= len(found) <= 4
    assert {window.reason for window in found} == {"size"}
    done = trim(week, _bytes(total // 2), now)
    assert len(done.windows) >= 2
    week.forget(lambda row: row[0] < done.windows[-1].end.replace(tzinfo=None))
    week.check()


def test_the_newest_window_never_goes_by_its_size(week: Keeper):
    trim(week, _bytes(1), datetime.now(UTC) + timedelta(minutes=1))
    week.forget(lambda row: row[0] < (DAY + timedelta(days=6)).replace(tzinfo=None))
    week.check()


def test_rows_that_wait_in_postgres_go_as_well(week: Keeper):
    trim(week, TEN_DAYS, DAY + timedelta(days=30))
    week.model.clear()
    week.check()


def test_looking_changes_nothing(week: Keeper):
    before = week.state()
    assert len(trimming.due(week.database, week.info, TEN_DAYS, DAY + timedelta(days=30))) == 6
    assert week.state() == before


def test_a_limit_that_does_not_hold_limits_nothing(week: Keeper):
    assert not trimming.due(week.database, week.info, Retention(Mode.HYBRID, None, None, 0.0), DAY.replace(year=2999))


def test_writers_and_readers_go_on_while_old_rows_leave(keeper: Keeper):
    now = DAY + timedelta(days=20)
    for day in range(1, 4):
        keeper.add(1001, at=DAY - timedelta(days=20 + day))
    old = {row for row in keeper.model if row[0] < DAY.replace(tzinfo=None)}

    def forget_and_trim() -> None:
        keeper.forget(lambda row: row in old)
        trim(keeper, Retention(Mode.TIME, 24 * 22.0, None, 0.0), now)

    keeper.while_at_work(forget_and_trim, batches=5)


def test_a_deleted_dataset_leaves_when_its_grace_is_over(week: Keeper):
    info, now = week.info, datetime.now(UTC)
    assert not purging.due(week.database, now)
    with week.database.transaction() as session:
        deleted = {"status": Status.DELETED, "purge_after": now + timedelta(minutes=5)}
        session.execute(update(Dataset).values(**deleted))
    assert not purging.due(week.database, now)
    (found,) = purging.due(week.database, now + timedelta(minutes=6))
    assert (found.dataset.slug, found.rows) == (SLUG, 6 * 1001 + 10)
    purging.purge(week.lake, week.database, found)
    assert not purging.due(week.database, now + timedelta(minutes=6))
    assert week.catalog("SELECT count(*) FROM timestore.batches") == [(0,)]
    tables = week.catalog("SELECT table_name FROM timestore.ducklake_table WHERE end_snapshot IS NULL")
    assert tables == []
    week.model.clear()
    week.add()
    assert week.info.id != info.id
    week.check()


def deleted(week: Keeper, now: datetime) -> purging.Purged:
    """The dataset, whose grace has ended."""
    with week.database.transaction() as session:
        session.execute(update(Dataset).values(status=Status.DELETED, purge_after=now))
    (found,) = purging.due(week.database, now)
    return found


def test_a_purge_that_was_cut_short_is_finished(week: Keeper, monkeypatch):
    now = datetime.now(UTC)
    found = deleted(week, now)
    with monkeypatch.context() as during:
        during.setattr(purging.repository, "delete_purged", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            purging.purge(week.lake, week.database, found)
    (again,) = purging.due(week.database, now)
    purging.purge(week.lake, week.database, again)
    assert week.catalog("SELECT count(*) FROM timestore.datasets") == [(0,)]


def test_a_dataset_that_was_restored_meanwhile_is_not_purged(week: Keeper):
    found = deleted(week, datetime.now(UTC))
    with week.database.transaction() as session:
        session.execute(update(Dataset).values(status=Status.ACTIVE))
    with pytest.raises(LakeConflict):
        purging.purge(week.lake, week.database, found)
    week.check()


def test_a_dataset_that_is_half_purged_can_not_be_restored(week: Keeper, monkeypatch):
    now = datetime.now(UTC)
    found = deleted(week, now)
    monkeypatch.setattr(purging.repository, "delete_purged", lambda *_: None)
    purging.purge(week.lake, week.database, found)
    behind = now - timedelta(minutes=1)
    with week.database.transaction() as session, pytest.raises(GraceOver):
        datasets.restore(session, SLUG, NOBODY, behind)


def _bytes(most: int) -> Retention:
    return Retention(Mode.SIZE, None, most, 0.0)
