"""Old snapshots go, so that files that only they need can go; time travel stays within a window.

The window is shorter where there are very many of them: DuckLake reads all that there are whenever one is to go.

DuckLake decides which rows of its catalog go with a snapshot, and has taken live ones in the past (duckdb/ducklake
issue 527). So what the snapshots that stay need is noted before, and put back if it is not there after.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from apphub_assets.errors import AppHubError
from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings
from apphub_assets.timestore.commits import exclusive
from apphub_assets.timestore.errors import LakeConflict
from apphub_assets.timestore.lake import Connection, Lake

# A commit finds conflicts by the snapshots since its beginning (duckdb/ducklake issue 1472).
YOUNGEST = timedelta(hours=1)
# DuckLake takes seconds to read the snapshots that there are, however few of them are to go; nobody commits meanwhile.
AT_ONCE = 10_000

# Whoever reads or writes the lake has a transaction of Postgres open since before its snapshot.
OLDEST_TRANSACTION = text(
    "SELECT min(xact_start) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
# The newest snapshot before the horizon is what a query sees that asks for the horizon.
EXPIRED = text(
    """
    SELECT snapshot_id FROM timestore.ducklake_snapshot
    WHERE snapshot_id < (SELECT max(snapshot_id) FROM timestore.ducklake_snapshot WHERE snapshot_time <= :needed)
        AND (snapshot_id < (SELECT max(snapshot_id) FROM timestore.ducklake_snapshot WHERE snapshot_time <= :horizon)
            OR snapshot_id <= (SELECT snapshot_id FROM timestore.ducklake_snapshot
                ORDER BY snapshot_id DESC OFFSET :most LIMIT 1))
    ORDER BY snapshot_id LIMIT :limit
    """
)
VERSIONED = ("ducklake_schema", "ducklake_table", "ducklake_column", "ducklake_data_file", "ducklake_delete_file")
BY_FILE = ("ducklake_file_column_stats", "ducklake_file_partition_value")
NEEDED = """
    (t.end_snapshot IS NULL OR EXISTS (SELECT FROM timestore.ducklake_snapshot s
        WHERE s.snapshot_id >= t.begin_snapshot AND s.snapshot_id < t.end_snapshot AND s.snapshot_id <> ALL(:expired)))
"""


class LakeInconsistent(AppHubError):
    """DuckLake did, or would have done, something else to its catalog than it was asked for."""

    code, title = "lake_inconsistent", "The lake's catalog is not as expected"


@dataclass(frozen=True)
class Expired:
    """The snapshots that went, or would in a dry run; `left` says whether more are due."""

    snapshots: Sequence[int]
    left: bool


def due(database: Database, settings: Settings, now: datetime) -> Expired:
    """The snapshots to expire next, oldest first; never one that a query within the window or an open commit needs."""
    with database.transaction() as session:
        return _due(session, settings, now)


def expire(lake: Lake, database: Database, settings: Settings, now: datetime) -> Expired:
    """Expire the snapshots that are due, as many as one turn takes.

    Raises:
        LakeInconsistent: DuckLake would expire others, or removed what others need; that was put back.
        LakeConflict: somebody else expires snapshots.
        LakeUnavailable: catalog or storage is away.
    """
    found = due(database, settings, now)
    if not found.snapshots:
        return found
    with lake.maintaining() as connection:
        _check_named(connection, found.snapshots)
        with exclusive(database) as session:
            if _due(session, settings, now).snapshots[: len(found.snapshots)] != found.snapshots:
                raise LakeConflict("snapshots were expired at the same time", retry_after=1)
            _note_needed(session, found.snapshots)
            _call(connection, found.snapshots, dry_run=False)
            lost = _put_back(session)
    if lost:
        raise LakeInconsistent(f"expiring snapshots removed {lost} rows of the catalog that are needed; they are back")
    return found


def _due(session: Session, settings: Settings, now: datetime) -> Expired:
    needed, horizon = now - YOUNGEST, now - timedelta(hours=settings.snapshot_retention_hours)
    oldest: datetime | None = session.scalar(OLDEST_TRANSACTION)
    if oldest is not None:
        needed = min(needed, oldest)
    limits = {"needed": needed, "horizon": horizon, "most": settings.snapshots_max, "limit": AT_ONCE + 1}
    found = list(session.scalars(EXPIRED, limits))
    return Expired(found[:AT_ONCE], left=len(found) > AT_ONCE)


def _check_named(connection: Connection, snapshots: Sequence[int]) -> None:
    named = sorted(_call(connection, snapshots, dry_run=True))
    if named != sorted(snapshots):
        raise LakeInconsistent(f"of {len(snapshots)} snapshots to expire DuckLake names {len(named)}; nothing was done")


def _call(connection: Connection, snapshots: Sequence[int], *, dry_run: bool) -> list[int]:
    versions = ", ".join(map(str, snapshots))
    rows = connection.execute(
        f"CALL ducklake_expire_snapshots('lake', dry_run => {str(dry_run).lower()}, versions => [{versions}])"
    ).fetchall()
    return [int(row[0]) for row in rows]


def _note_needed(session: Session, expired: Sequence[int]) -> None:
    for table in VERSIONED:
        statement = f"CREATE TEMP TABLE {table} ON COMMIT DROP AS SELECT t.* FROM timestore.{table} t WHERE {NEEDED}"
        session.execute(text(statement), {"expired": list(expired)})
    for table in BY_FILE:
        session.execute(
            text(
                f"CREATE TEMP TABLE {table} ON COMMIT DROP AS SELECT t.* FROM timestore.{table} t"
                " WHERE t.data_file_id IN (SELECT data_file_id FROM pg_temp.ducklake_data_file)"
            )
        )


def _put_back(session: Session) -> int:
    """Bring back what was noted and is not there any more; returns how many rows that are."""
    lost = 0
    for table in (*VERSIONED, *BY_FILE):
        missing = f"SELECT * FROM pg_temp.{table} EXCEPT SELECT * FROM timestore.{table}"
        back = text(f"WITH back AS (INSERT INTO timestore.{table} {missing} RETURNING 1) SELECT count(*) FROM back")
        lost += session.scalar(back) or 0
    return lost
