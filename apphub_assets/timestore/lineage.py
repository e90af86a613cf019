"""What Dagster shows of datasets, read from AppHub's own tables: which there are, and what ingests brought.

It knows nothing of Dagster. A *window* is the time that one partition of a dataset's asset holds: an hour, a day or a
month in UTC, named by its start.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, DateTime, Select, SQLColumnExpression, and_, cast, func, literal, select, text
from sqlalchemy.orm import Session

from apphub_assets.timestore import repository
from apphub_assets.timestore.models import Batch, Dataset, Manifest
from apphub_assets.timestore.spec import DatasetInfo, Granularity, Status

# More windows than this would make Dagster slow for everybody: 11 years of hours, 270 years of days.
MOST_PAST, MOST_FUTURE = 100_000, 1000
MONTHS = 12_000
FORMATS = {Granularity.HOUR: "%Y-%m-%d-%H:%M", Granularity.DAY: "%Y-%m-%d", Granularity.MONTH: "%Y-%m-%d"}
OLDEST = datetime(1000, 1, 1, tzinfo=UTC)
# Where the calendar ends.
EARLIEST, LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
BATCHES_AT_ONCE = 20_000

# What definitions are built of: when this changes, they are to be built anew. Ingests alone do not change it, unless
# they bring data from before the first window or after the current one.
GENERATION = text(
    """
    SELECT md5(coalesce(string_agg(
        concat_ws(' ', d.id, extract(epoch FROM d.updated_at), d.status, d.schema_version, m.first,
            CASE WHEN m.last > (now() AT TIME ZONE 'UTC')::date THEN m.last END), ',' ORDER BY d.id), ''))
    FROM timestore.datasets d
    LEFT JOIN LATERAL (
        SELECT min(shard) AS first, max(shard) AS last FROM timestore.manifests WHERE dataset_id = d.id
    ) m ON true
    WHERE d.status <> 'deleted' AND d.schema_version > 0
    """
)


# Statistics are text; timestamps of four-digit years are in the order of their text.
FILES = text(
    """
    SELECT count(*), coalesce(sum(f.file_size_bytes), 0)
    FROM timestore.ducklake_schema s
    JOIN timestore.ducklake_table t ON t.schema_id = s.schema_id AND t.end_snapshot IS NULL
    JOIN timestore.ducklake_column c ON c.table_id = t.table_id AND c.end_snapshot IS NULL
    JOIN timestore.ducklake_data_file f ON f.table_id = t.table_id AND f.end_snapshot IS NULL
    JOIN timestore.ducklake_file_column_stats m ON m.data_file_id = f.data_file_id AND m.column_id = c.column_id
    WHERE s.schema_name = :area AND s.end_snapshot IS NULL AND t.table_name = :table
        AND c.column_name = :column AND c.parent_column IS NULL
        AND m.min_value COLLATE "C" < :end AND m.max_value COLLATE "C" >= :start
    """
)

Window = tuple[datetime, datetime]
"""Start, and the end that does not belong to it."""


@dataclass(frozen=True)
class Described:
    """A dataset as its asset shows it; `first` and `last` are its oldest and newest shard, None without data."""

    info: DatasetInfo
    name: str
    description: str | None
    created_at: datetime
    first: date | None
    last: date | None


@dataclass(frozen=True)
class Arrival:
    """What batches brought to a dataset that begin in one window and end in one; snapshots are those of commits."""

    dataset_id: str
    first: datetime
    last: datetime
    batches: int
    rows: int
    bytes: int
    oldest_snapshot: int
    newest_snapshot: int


@dataclass(frozen=True)
class Totals:
    """Rows and bytes of a dataset by its manifests."""

    rows: int
    bytes: int


@dataclass(frozen=True)
class Told:
    """How many rows a dataset had when something of it was materialised last."""

    rows: int
    at: datetime


@dataclass(frozen=True)
class Files:
    """How many, and their bytes together."""

    count: int
    bytes: int


# Windows


def window_start(granularity: Granularity, moment: datetime) -> datetime:
    """Start of the window that a moment lies in."""
    start = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if granularity != Granularity.HOUR:
        start = start.replace(hour=0)
    return start.replace(day=1) if granularity == Granularity.MONTH else start


def window_name(granularity: Granularity, start: datetime) -> str:
    """What the window that begins there is called: the key of its partition."""
    return start.strftime(FORMATS[granularity])


def shifted(granularity: Granularity, start: datetime, count: int) -> datetime:
    """Start of the window so many windows later; where the calendar ends before, its end."""
    try:
        if granularity == Granularity.MONTH:
            months = start.year * 12 + start.month - 1 + count
            return start.replace(year=months // 12, month=months % 12 + 1)
        return start + count * timedelta(hours=1 if granularity == Granularity.HOUR else 24)
    except (OverflowError, ValueError):
        return LATEST if count > 0 else EARLIEST


def shown_windows(granularity: Granularity, now: datetime) -> tuple[datetime, datetime]:
    """Starts of the first and the last window that Dagster is shown, whatever data there is."""
    current = window_start(granularity, now)
    past = MONTHS if granularity == Granularity.MONTH else MOST_PAST
    return max(shifted(granularity, current, -past), OLDEST), shifted(granularity, current, MOST_FUTURE)


def windows(granularity: Granularity, first: datetime, last: datetime) -> Iterator[datetime]:
    """Starts of the windows from one to another, both included."""
    while first <= last:
        yield first
        first = shifted(granularity, first, 1)


# Datasets


def generation(session: Session) -> str:
    """A value that differs when definitions have to be built anew."""
    return str(session.scalar(GENERATION))


def describe(session: Session) -> list[Described]:
    """Every dataset that has a schema and is not deleted, by slug."""
    infos = {info.id: info for info in repository.list_datasets(session) if info.schema_version}
    spans = (
        select(Manifest.dataset_id, func.min(Manifest.shard).label("first"), func.max(Manifest.shard).label("last"))
        .group_by(Manifest.dataset_id)
        .subquery()
    )
    rows = session.execute(
        select(Dataset.id, Dataset.name, Dataset.description, Dataset.created_at, spans.c.first, spans.c.last)
        .outerjoin(spans, spans.c.dataset_id == Dataset.id)
        .where(Dataset.status != Status.DELETED)
        .order_by(Dataset.slug)
    )
    return [
        Described(infos[row.id], row.name, row.description, row.created_at, row.first, row.last)
        for row in rows
        if row.id in infos
    ]


def granularities(session: Session) -> dict[str, Granularity]:
    """Of every dataset by its id, the deleted included as long as their rows are there."""
    rows = session.execute(select(Dataset.id, Dataset.granularity))
    return {row.id: Granularity(row.granularity) for row in rows}


def totals(session: Session, dataset_id: str) -> Totals:
    """What a dataset holds."""
    row = session.execute(
        select(func.sum(Manifest.total_rows), func.sum(Manifest.total_bytes)).where(Manifest.dataset_id == dataset_id)
    ).one()
    return Totals(int(row[0] or 0), int(row[1] or 0))


def retired_rows(session: Session, dataset_id: str, since: datetime) -> int:
    """Rows of a dataset's batches that were taken out since a moment."""
    taken = select(func.sum(Batch.row_count)).where(Batch.dataset_id == dataset_id, Batch.retired_at >= since)
    return int(session.scalar(taken) or 0)


# Batches


def newest_snapshot(session: Session) -> int:
    """Of the last commit that brought a batch; 0 when there was none."""
    return session.scalar(select(func.max(Batch.snapshot_id))) or 0


def arrivals(session: Session, after: int) -> tuple[list[Arrival], int]:
    """What was committed after a snapshot, oldest first, and the last snapshot that was looked at.

    Snapshots have numbers in the order of commits, and one is seen with all its batches or not at all; so the next
    call goes on from that number and misses nothing.
    """
    page = select(Batch.snapshot_id).where(Batch.snapshot_id > after).order_by(Batch.snapshot_id).limit(BATCHES_AT_ONCE)
    until = session.scalar(select(func.max(page.subquery().c.snapshot_id)))
    if until is None:
        return [], after
    begin, end = _reach(Dataset.timestamp_column)
    first, last = _truncated(Dataset.granularity, begin), _truncated(Dataset.granularity, end)
    rows = session.execute(
        _counted(Batch.dataset_id, first, last)
        .join(Dataset, Dataset.id == Batch.dataset_id)
        .where(Batch.snapshot_id > after, Batch.snapshot_id <= until)
        .group_by(Batch.dataset_id, first, last)
        .order_by(func.min(Batch.snapshot_id))
    )
    return [_arrival(row.dataset_id, row[1], row[2], row) for row in rows], until


def arrived(session: Session, info: DatasetInfo, window: Window, after: int, until: int) -> Arrival:
    """What batches brought that reach into a window [start, end), of the commits in (after, until]."""
    row = session.execute(
        _counted().where(Batch.snapshot_id > after, Batch.snapshot_id <= until, _reaches(info, window))
    ).one()
    return _arrival(info.id, window[0].replace(tzinfo=None), window[0].replace(tzinfo=None), row)


def version_of(session: Session, info: DatasetInfo, window: Window) -> int:
    """The commit that last brought something to a window [start, end); 0 when none did."""
    return session.scalar(select(func.max(Batch.snapshot_id)).where(_reaches(info, window))) or 0


def newest_moment(session: Session, dataset_id: str) -> datetime | None:
    """When the newest batch of the newest shard with rows ends; None without any."""
    shard = select(func.max(Manifest.shard)).where(Manifest.dataset_id == dataset_id, Manifest.total_rows > 0)
    there = (Batch.dataset_id == dataset_id, Batch.retired_at.is_(None), Batch.shard == shard.scalar_subquery())
    return session.scalar(select(func.max(Batch.end_at)).where(*there))


def covered(session: Session, info: DatasetInfo, first: datetime, last: datetime) -> set[datetime]:
    """Starts of the windows from one to another into which a batch reaches that was not taken out."""
    begin, end = (_truncated(info.granularity, moment) for moment in _reach(literal(info.timestamp_column)))
    whole = (first, shifted(info.granularity, last, 1))
    rows = session.execute(select(begin, end).distinct().where(_reaches(info, whole), Batch.retired_at.is_(None)))
    return {
        window
        for row in rows
        for window in windows(info.granularity, max(_utc(row[0]), first), min(_utc(row[1]), last))
    }


def files_in(session: Session, info: DatasetInfo, window: Window) -> Files:
    """The files that may hold rows of a window [start, end), by DuckLake's statistics."""
    start, end = (f"{moment:%Y-%m-%d %H:%M:%S}" for moment in window)
    names = {"area": info.area, "table": info.table, "column": info.timestamp_column}
    row = session.execute(FILES, {**names, "start": start, "end": end}).one()
    return Files(row[0], int(row[1]))


def _reach(timestamp_column: SQLColumnExpression[str]) -> tuple[ColumnElement[datetime], ColumnElement[datetime]]:
    """From when to when a batch has rows: what its client announced may be far more."""
    moments = {
        side: cast(func.jsonb_extract_path_text(Batch.statistics, timestamp_column, side), DateTime(timezone=True))
        for side in ("min", "max")
    }
    begin = func.greatest(Batch.start_at, moments["min"])
    return begin, func.greatest(begin, func.least(Batch.end_at, moments["max"]))


def _reaches(info: DatasetInfo, window: Window) -> ColumnElement[bool]:
    """Whether a batch is the dataset's and has rows in a window; what was announced is cheaper to look at."""
    begin, end = _reach(literal(info.timestamp_column))
    announced = and_(Batch.dataset_id == info.id, Batch.start_at < window[1], Batch.end_at >= window[0])
    return and_(announced, begin < window[1], end >= window[0])


def _truncated(unit: Any, moment: Any) -> Any:
    return func.date_trunc(unit, func.timezone("UTC", moment))


def _counted(*columns: Any) -> Select[Any]:
    return select(
        *columns,
        func.count().label("batches"),
        func.coalesce(func.sum(Batch.row_count), 0).label("rows"),
        func.coalesce(func.sum(Batch.byte_count), 0).label("bytes"),
        func.coalesce(func.min(Batch.snapshot_id), 0).label("oldest"),
        func.coalesce(func.max(Batch.snapshot_id), 0).label("newest"),
    ).select_from(Batch)


def _arrival(dataset_id: str, first: datetime, last: datetime, row: Any) -> Arrival:
    return Arrival(
        dataset_id, _utc(first), _utc(last), row.batches, int(row.rows), int(row.bytes), row.oldest, row.newest
    )


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)
