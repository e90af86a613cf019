"""Rows that wait in Postgres go to files.

A flush holds the right to commit from its beginning to its end: DuckLake removes what it made superfluous only after
its transaction (duckdb/ducklake issues 1305 and 1413), and one that races inserts has brought rows twice (issue 650).
"""

import time
from dataclasses import dataclass

from apphub_assets.kit.db import Database
from apphub_assets.timestore.commits import committing_alone
from apphub_assets.timestore.lake import Connection, Lake, literal
from apphub_assets.timestore.spec import DatasetInfo
from apphub_assets.timestore.upkeep import files


@dataclass(frozen=True)
class Flushed:
    """How many rows went to files, and how long nobody else could commit."""

    rows: int
    seconds: float


def flush(lake: Lake, database: Database, dataset: DatasetInfo) -> Flushed:
    """Write a dataset's rows that wait in Postgres to files; without any, nothing happens.

    Raises:
        LakeConflict, LakeUnavailable: the lake can't be changed now; try again later.
    """
    with database.transaction() as session:
        if not files.waiting(session, dataset.id):
            return Flushed(0, 0.0)
    with lake.maintaining() as connection:
        return flush_on(connection, database, dataset)


def flush_on(connection: Connection, database: Database, dataset: DatasetInfo) -> Flushed:
    """The same on an instance that the caller has."""
    started = time.monotonic()
    with committing_alone(connection, database, f"flush {dataset.slug}") as commit:
        found = commit.connection.execute(
            f"CALL ducklake_flush_inlined_data('lake', schema_name => {literal(dataset.area)},"
            f" table_name => {literal(dataset.table)})"
        ).fetchall()
    return Flushed(sum(int(row[2]) for row in found), time.monotonic() - started)
