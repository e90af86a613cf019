"""What DuckLake's catalog knows of rows and files; read here, and changed by DuckLake alone.

The catalog's tables: https://ducklake.select/docs/stable/specification/tables/overview
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from apphub_assets.settings import Settings
from apphub_assets.timestore.spec import DatasetInfo, Granularity, quote

# The last values of a partition: year, month, day, hour as far as the granularity goes.
TIME_PARTS = {Granularity.HOUR: 4, Granularity.DAY: 3, Granularity.MONTH: 2}

TABLE_OF = text(
    """
    SELECT t.table_id FROM timestore.ducklake_table t JOIN timestore.ducklake_schema s USING (schema_id)
    WHERE t.table_name = :table AND s.schema_name = :area AND t.end_snapshot IS NULL AND s.end_snapshot IS NULL
    """
)

INLINED_TABLES = text(
    """
    SELECT d.id, i.table_name FROM timestore.ducklake_inlined_data_tables i
    JOIN timestore.ducklake_table t ON t.table_id = i.table_id AND t.end_snapshot IS NULL
    JOIN timestore.ducklake_schema s ON s.schema_id = t.schema_id AND s.end_snapshot IS NULL
    JOIN timestore.storage_targets g ON g.area = s.schema_name
    JOIN timestore.datasets d ON d.table_name = t.table_name AND d.storage_target_id = g.id
    WHERE d.status <> 'deleted' AND (CAST(:dataset_id AS text) IS NULL OR d.id = :dataset_id)
    """
)

# A file may be merged with others of its partition that have the same version of the schema, if nothing of it was
# deleted.
MERGEABLE = text(
    """
    WITH versions AS (
        SELECT schema_version, begin_snapshot, lead(begin_snapshot) OVER (ORDER BY begin_snapshot) AS end_snapshot
        FROM timestore.ducklake_schema_versions WHERE table_id = :table_id
    ), spots AS (
        SELECT data_file_id, array_agg(partition_value ORDER BY partition_key_index) AS place
        FROM timestore.ducklake_file_partition_value WHERE table_id = :table_id GROUP BY data_file_id
    )
    SELECT s.place, v.schema_version, width_bucket(f.file_size_bytes, CAST(:tiers AS bigint[])) AS tier,
        count(*) AS files, sum(f.file_size_bytes)::bigint AS bytes
    FROM timestore.ducklake_data_file f
    LEFT JOIN spots s USING (data_file_id)
    LEFT JOIN versions v ON f.begin_snapshot >= v.begin_snapshot
        AND (v.end_snapshot IS NULL OR f.begin_snapshot < v.end_snapshot)
    WHERE f.table_id = :table_id AND f.end_snapshot IS NULL
        AND NOT EXISTS (SELECT FROM timestore.ducklake_delete_file d WHERE d.data_file_id = f.data_file_id)
    GROUP BY s.place, v.schema_version, tier
    """
)

PARTITIONS = text(
    """
    WITH spots AS (
        SELECT data_file_id, array_agg(partition_value ORDER BY partition_key_index) AS place
        FROM timestore.ducklake_file_partition_value WHERE table_id = :table_id GROUP BY data_file_id
    )
    SELECT s.place, count(*) AS files, sum(f.record_count)::bigint AS rows, sum(f.file_size_bytes)::bigint AS bytes,
        coalesce(sum(f.file_size_bytes) FILTER (WHERE n.snapshot_time IS NULL OR n.snapshot_time <= :before), 0)::bigint
            AS settled
    FROM timestore.ducklake_data_file f
    LEFT JOIN spots s USING (data_file_id)
    LEFT JOIN timestore.ducklake_snapshot n ON n.snapshot_id = f.begin_snapshot
    WHERE f.table_id = :table_id AND f.end_snapshot IS NULL
    GROUP BY s.place
    """
)

TOTALS = text(
    """
    SELECT count(*), coalesce(sum(file_size_bytes), 0)::bigint,
        count(*) FILTER (WHERE file_size_bytes < :small)
    FROM timestore.ducklake_data_file WHERE table_id = :table_id AND end_snapshot IS NULL
    """
)


# Files of which much was deleted before the oldest snapshot that is kept, and those of which it was since.
REWRITABLE = text(
    """
    WITH oldest AS (SELECT min(snapshot_id) AS id FROM timestore.ducklake_snapshot), found AS (
        SELECT greatest(d.begin_snapshot, d.partial_max) AS deleted_at
        FROM timestore.ducklake_data_file f JOIN timestore.ducklake_delete_file d USING (data_file_id)
        WHERE f.table_id = :table_id AND f.end_snapshot IS NULL AND d.end_snapshot IS NULL
            AND d.delete_count >= :share * f.record_count
    )
    SELECT count(*) FILTER (WHERE deleted_at <= oldest.id), count(*) FILTER (WHERE deleted_at > oldest.id)
    FROM found, oldest
    """
)

KEPT = text(
    """
    SELECT d.id, d.slug, count(f.data_file_id) AS files, coalesce(sum(f.file_size_bytes), 0)::bigint AS bytes,
        count(*) FILTER (WHERE f.file_size_bytes < :small) AS small
    FROM timestore.datasets d
    JOIN timestore.storage_targets g ON g.id = d.storage_target_id
    JOIN timestore.ducklake_schema s ON s.schema_name = g.area AND s.end_snapshot IS NULL
    JOIN timestore.ducklake_table t ON t.schema_id = s.schema_id AND t.table_name = d.table_name
        AND t.end_snapshot IS NULL
    LEFT JOIN timestore.ducklake_data_file f ON f.table_id = t.table_id AND f.end_snapshot IS NULL
    WHERE d.status <> 'deleted' AND (CAST(:dataset_id AS text) IS NULL OR d.id = :dataset_id)
    GROUP BY d.id, d.slug ORDER BY d.slug
    """
)

HISTORY = text(
    """
    SELECT count(*) AS snapshots, min(snapshot_time) AS oldest,
        (SELECT count(*) FROM timestore.ducklake_files_scheduled_for_deletion) AS scheduled
    FROM timestore.ducklake_snapshot
    """
)


@dataclass(frozen=True)
class Kept:
    """What a dataset has in files, and in Postgres."""

    dataset_id: str
    slug: str
    files: int
    bytes: int
    small: int
    waiting_rows: int


@dataclass(frozen=True)
class History:
    """Snapshots that are kept since when, and files that were taken off and are still on the storage."""

    snapshots: int
    oldest: datetime | None
    scheduled: int


@dataclass(frozen=True)
class Waiting:
    """Rows of a dataset that are in Postgres; `since` is when the oldest of them came, None if that is forgotten."""

    dataset_id: str
    rows: int
    since: datetime | None


@dataclass(frozen=True)
class Group:
    """Files that may be merged: of one partition, one version of the schema, and of sizes in the same tier.

    `start` is where the partition begins in time; None when it can't be told.
    """

    place: tuple[str | None, ...]
    start: datetime | None
    tier: int
    files: int
    bytes: int


@dataclass(frozen=True)
class Partition:
    """What the files of a window of time hold; `settled` are the bytes of those that were there before a moment."""

    start: datetime
    files: int
    rows: int
    bytes: int
    settled: int


@dataclass(frozen=True)
class FileTotals:
    """Files that the present state of a table is made of."""

    files: int
    bytes: int
    small: int


def table_id(session: Session, dataset: DatasetInfo) -> int | None:
    """The number of a dataset's table; None when it has none."""
    row = session.execute(TABLE_OF, {"table": dataset.table, "area": dataset.area}).one_or_none()
    return None if row is None else int(row.table_id)


def waiting(session: Session, dataset_id: str | None = None) -> list[Waiting]:
    """Datasets with rows in Postgres, or one of them.

    A flush takes tables away at any time; who lists them just then looks again.
    """
    for _ in range(3):
        tables = session.execute(INLINED_TABLES, {"dataset_id": dataset_id}).all()
        try:
            with session.begin_nested():
                return _waiting(session, [(row.id, row.table_name) for row in tables])
        except ProgrammingError as error:
            if not isinstance(error.orig, psycopg.errors.UndefinedTable):
                raise
    return []


def kept(session: Session, small: int, dataset_id: str | None = None) -> list[Kept]:
    """Datasets with a table, by slug, or one of them; files below `small` bytes are counted on their own."""
    rows = {each.dataset_id: each.rows for each in waiting(session, dataset_id)}
    found = session.execute(KEPT, {"small": small, "dataset_id": dataset_id})
    return [Kept(row.id, row.slug, row.files, row.bytes, row.small, rows.get(row.id, 0)) for row in found]


def history(session: Session) -> History:
    """What the lake keeps of its past."""
    return History(*session.execute(HISTORY).one())


def overdue(session: Session, settings: Settings, now: datetime) -> list[Waiting]:
    """Datasets of which more rows wait than may, or for longer: those with the most rows first."""
    since = now - timedelta(seconds=settings.flush_after)
    found = [w for w in waiting(session) if w.rows > settings.flush_rows or w.since is None or w.since < since]
    return sorted(found, key=lambda each: -each.rows)


def _waiting(session: Session, tables: Sequence[tuple[str, str]]) -> list[Waiting]:
    if not tables:
        return []
    parts = " UNION ALL ".join(
        f"SELECT CAST(:id{number} AS text) AS id, count(*) AS rows, min(begin_snapshot) AS first"
        f" FROM timestore.{quote(name)} HAVING count(*) > 0"
        for number, (_, name) in enumerate(tables)
    )
    found = session.execute(
        text(
            "SELECT w.id, sum(w.rows)::bigint AS rows, min(s.snapshot_time) AS since,"
            " count(s.snapshot_id) < count(*) AS forgotten"
            f" FROM ({parts}) w LEFT JOIN timestore.ducklake_snapshot s ON s.snapshot_id = w.first GROUP BY w.id"
        ),
        {f"id{number}": dataset_id for number, (dataset_id, _) in enumerate(tables)},
    )
    return [Waiting(row.id, row.rows, None if row.forgotten else row.since) for row in found]


def mergeable(session: Session, dataset: DatasetInfo, tiers: Sequence[int]) -> list[Group]:
    """Groups of files of which two could be merged; `tiers` are the sizes in bytes where one tier ends."""
    number = table_id(session, dataset)
    if number is None:
        return []
    rows = session.execute(MERGEABLE, {"table_id": number, "tiers": list(tiers)})
    return [
        Group(tuple(row.place or ()), _start(dataset.granularity, row.place), row.tier, row.files, row.bytes)
        for row in rows
        if row.files > 1 and row.tier < len(tiers)
    ]


def rewritable(session: Session, dataset: DatasetInfo, share: float) -> int:
    """Files of which that share was deleted, if no snapshot that is kept needs any of them as it was before."""
    number = table_id(session, dataset)
    if number is None:
        return 0
    ready, too_early = session.execute(REWRITABLE, {"table_id": number, "share": share}).one()
    return 0 if too_early else int(ready)


def partitions(session: Session, dataset: DatasetInfo, before: datetime) -> list[Partition]:
    """The windows of which a dataset has files, oldest first, whatever its partition keys."""
    number = table_id(session, dataset)
    if number is None:
        return []
    found: dict[datetime, Partition] = {}
    for row in session.execute(PARTITIONS, {"table_id": number, "before": before}):
        if (start := _start(dataset.granularity, row.place)) is not None:
            known = found.get(start, Partition(start, 0, 0, 0, 0))
            found[start] = Partition(
                start,
                known.files + row.files,
                known.rows + row.rows,
                known.bytes + row.bytes,
                known.settled + row.settled,
            )
    return sorted(found.values(), key=lambda partition: partition.start)


def totals(session: Session, dataset: DatasetInfo, small: int) -> FileTotals:
    """The files of a dataset; those below `small` bytes are counted on their own."""
    number = table_id(session, dataset)
    if number is None:
        return FileTotals(0, 0, 0)
    return FileTotals(*session.execute(TOTALS, {"table_id": number, "small": small}).one())


def _start(granularity: Granularity, place: Iterable[str | None] | None) -> datetime | None:
    """When the partition begins."""
    parts = TIME_PARTS[granularity]
    try:
        numbers = [int(value or "") for value in list(place or ())[-parts:]]
        return datetime(*(numbers + [1] * (3 - len(numbers))), tzinfo=UTC)  # type: ignore[misc,arg-type]
    except (ValueError, TypeError):
        return None
