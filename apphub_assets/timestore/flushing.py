"""Rows that wait in Postgres go to files.

A flush holds the right to commit from its beginning to its end: DuckLake removes what it made superfluous only after
its transaction (duckdb/ducklake issues 1305 and 1413), and one that races inserts has brought rows twice (issue 650).
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings
from apphub_assets.timestore import files, repository
from apphub_assets.timestore.commits import committing_alone
from apphub_assets.timestore.files import Waiting
from apphub_assets.timestore.lake import Connection, Lake, literal
from apphub_assets.timestore.spec import DatasetInfo


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


def due(database: Database, settings: Settings, now: datetime) -> list[tuple[DatasetInfo, Waiting]]:
    """Datasets of which more rows wait than may, or for longer: those with the most rows first."""
    with database.transaction() as session:
        found = [each for each in files.waiting(session) if _is_due(each, settings, now)]
        found.sort(key=lambda each: -each.rows)
        infos = _by_id(repository.list_datasets(session)) if found else {}
    return [(infos[each.dataset_id], each) for each in found if each.dataset_id in infos]


def _is_due(each: Waiting, settings: Settings, now: datetime) -> bool:
    if each.rows > settings.flush_rows or each.since is None:
        return True
    return each.since.astimezone(UTC) < now - timedelta(seconds=settings.flush_after)


def _by_id(datasets: Iterable[DatasetInfo]) -> dict[str, DatasetInfo]:
    return {dataset.id: dataset for dataset in datasets}
