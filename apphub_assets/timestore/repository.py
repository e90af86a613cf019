"""Every statement on the timestore's own tables; those on the lake are in `store.py`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, cast

from sqlalchemy import Row, Select, Table, and_, delete, func, or_, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from apphub_assets.timestore.errors import StorageTargetNotFound
from apphub_assets.timestore.models import Access, Batch, Dataset, Manifest, SchemaVersion, StorageTarget
from apphub_assets.timestore.paging import AccessQuery, BatchQuery, DatasetQuery
from apphub_assets.timestore.spec import DatasetInfo, Granularity, Schema, Status, TimeRange, parse_stored_fields

# Held from before a commit of the lake until after it: many that race would only make each other try again.
COMMIT_LOCK = 7_204_117_003

INFO = (
    select(
        Dataset.id,
        Dataset.slug,
        Dataset.table_name,
        StorageTarget.area,
        Dataset.status,
        Dataset.timestamp_column,
        Dataset.partition_keys,
        Dataset.granularity,
        SchemaVersion.fields,
        Dataset.schema_version,
        Dataset.labels.label("labels"),
        Dataset.storage_target_id,
    )
    .join(StorageTarget, StorageTarget.id == Dataset.storage_target_id)
    .outerjoin(
        SchemaVersion,
        (SchemaVersion.dataset_id == Dataset.id) & (SchemaVersion.version == Dataset.schema_version),
    )
)


def find_dataset(session: Session, slug: str) -> DatasetInfo | None:
    """The dataset of a slug, as long as it is not deleted."""
    row = session.execute(INFO.where(Dataset.slug == slug.lower(), Dataset.status != Status.DELETED)).one_or_none()
    return None if row is None else _dataset_info(row)


def get_dataset(session: Session, id_or_slug: str) -> DatasetInfo | None:
    """The dataset of an id or a slug, as long as it is not deleted."""
    row = session.execute(INFO.where(Dataset.id == id_or_slug, Dataset.status != Status.DELETED)).one_or_none()
    return find_dataset(session, id_or_slug) if row is None else _dataset_info(row)


def list_datasets(session: Session) -> list[DatasetInfo]:
    """Every dataset that is not deleted, by slug."""
    rows = session.execute(INFO.where(Dataset.status != Status.DELETED).order_by(Dataset.slug))
    return [_dataset_info(row) for row in rows]


def find_datasets(session: Session, slugs: Collection[str]) -> list[DatasetInfo]:
    """The datasets of these slugs that are not deleted."""
    rows = session.execute(INFO.where(Dataset.slug.in_(slugs), Dataset.status != Status.DELETED))
    return [_dataset_info(row) for row in rows]


def find_named(session: Session, sql: str) -> list[DatasetInfo]:
    """The datasets whose slugs stand somewhere in a statement, and that are not deleted."""
    named = func.strpos(sql.lower(), Dataset.slug) > 0
    return [_dataset_info(row) for row in session.execute(INFO.where(named, Dataset.status != Status.DELETED))]


def descriptions(session: Session) -> dict[str, str | None]:
    """What people say of each dataset, by id."""
    return {row.id: row.description for row in session.execute(select(Dataset.id, Dataset.description))}


def free_table(session: Session, slug: str, dataset_id: str) -> str:
    """A table for a new dataset: called like it, if no other was called so before."""
    taken = session.scalar(select(Dataset.id).where(Dataset.table_name == slug))
    return slug if taken is None else f"{slug}_{dataset_id}"


def area_of(session: Session, target_id: str) -> str:
    """The lake's schema of a storage target.

    Raises:
        StorageTargetNotFound: there is no such target.
    """
    area = session.scalar(select(StorageTarget.area).where(StorageTarget.id == target_id))
    if area is None:
        raise StorageTargetNotFound(
            f"storage target {target_id[:120]!r} not found; GET /admin/storage-targets lists those that exist"
        )
    return area


def schema_at(session: Session, dataset_id: str, version: int) -> Schema | None:
    """The schema that a version of a dataset had."""
    fields = session.scalar(
        select(SchemaVersion.fields).where(SchemaVersion.dataset_id == dataset_id, SchemaVersion.version == version)
    )
    return None if fields is None else parse_stored_fields(fields)


def lock_commits(session: Session, seconds: float) -> None:
    """Wait for the right to commit to the lake; it ends with the transaction.

    Raises:
        sqlalchemy.exc.OperationalError: it was not had in that many seconds.
    """
    session.execute(text(f"SET LOCAL lock_timeout = {round(seconds * 1000)}"))
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": COMMIT_LOCK})


def any_known(session: Session, keys: Sequence[tuple[str, str]]) -> bool:
    """Whether a batch of one of these (dataset id, key) is there."""
    return session.scalar(select(Batch.id).where(tuple_(Batch.dataset_id, Batch.key).in_(keys)).limit(1)) is not None


def renamed_columns(session: Session, dataset_id: str) -> dict[str, str]:
    """What columns were called before, in lower case, and what they are called now."""
    changes = session.scalars(
        select(SchemaVersion.change).where(SchemaVersion.dataset_id == dataset_id).order_by(SchemaVersion.version)
    )
    renamed: dict[str, str] = {}
    for step in (step for change in changes for step in change.get("steps", ()) if step["action"] == "rename"):
        renamed = {old: step["to"] if now == step["column"] else now for old, now in renamed.items()}
        renamed[step["column"].lower()] = step["to"]
    return renamed


def straddles(session: Session, dataset_id: str, window: TimeRange) -> bool:
    """Whether a batch has rows on both sides of an end of the window, as far as its own window tells."""
    across = or_(
        and_(Batch.start_at < window.start, Batch.end_at >= window.start),
        and_(Batch.start_at < window.end, Batch.end_at >= window.end),
    )
    return (
        session.scalar(
            select(Batch.id).where(Batch.dataset_id == dataset_id, Batch.retired_at.is_(None), across).limit(1)
        )
        is not None
    )


@dataclass(frozen=True)
class Stored:
    """A batch with the rows that say what it belongs to."""

    batch: Batch
    dataset: Dataset
    target: StorageTarget
    schema: SchemaVersion


def batches_by_key(session: Session, keys: Sequence[tuple[str, str]]) -> list[Stored]:
    """The batches of these (dataset id, key)."""
    if not keys:
        return []
    rows = session.execute(
        select(Batch, Dataset, StorageTarget, SchemaVersion)
        .join(Dataset, Dataset.id == Batch.dataset_id)
        .join(StorageTarget, StorageTarget.id == Dataset.storage_target_id)
        .join(
            SchemaVersion,
            (SchemaVersion.dataset_id == Batch.dataset_id) & (SchemaVersion.version == Batch.schema_version),
        )
        .where(tuple_(Batch.dataset_id, Batch.key).in_(keys))
    )
    return [Stored(*row) for row in rows]


def _dataset_info(row: Row[Any]) -> DatasetInfo:
    return DatasetInfo(
        id=row.id,
        slug=row.slug,
        table=row.table_name,
        area=row.area,
        status=Status(row.status),
        timestamp_column=row.timestamp_column,
        partition_keys=tuple(row.partition_keys),
        granularity=Granularity(row.granularity),
        schema=parse_stored_fields(row.fields or []),
        schema_version=row.schema_version,
        metadata=row.labels,
        storage_target_id=row.storage_target_id,
    )


# --- administration -----------------------------------------------------------------------------------------------


def dataset_row(session: Session, id_or_slug: str, *, lock: bool = False) -> Dataset | None:
    """The row of a dataset that is not deleted, read anew; with `lock`, nobody else changes it in this transaction."""
    found = _by_reference(id_or_slug).where(Dataset.status != Status.DELETED)
    return session.scalar(_fresh(found, lock=lock))


def row_of_slug(session: Session, slug: str) -> Dataset | None:
    """The row of the dataset that has a slug and is not deleted, read anew."""
    return session.scalar(
        _fresh(select(Dataset).where(Dataset.slug == slug, Dataset.status != Status.DELETED), lock=False)
    )


def deleted_row(session: Session, id_or_slug: str, *, lock: bool = False) -> Dataset | None:
    """The row of a deleted dataset; of several that had the slug, the one deleted last."""
    found = _by_reference(id_or_slug).where(Dataset.status == Status.DELETED).order_by(Dataset.updated_at.desc())
    return session.scalar(_fresh(found, lock=lock))


def purgeable(session: Session, now: datetime) -> list[DatasetInfo]:
    """Deleted datasets whose grace is over."""
    rows = session.execute(INFO.where(Dataset.status == Status.DELETED, Dataset.purge_after <= now))
    return [_dataset_info(row) for row in rows]


def delete_purged(session: Session, dataset_id: str) -> None:
    """Forget a deleted dataset, with its batches, manifests and versions; its audit log stays."""
    session.execute(delete(Dataset).where(Dataset.id == dataset_id, Dataset.status == Status.DELETED))


def count_retired_before(session: Session, moment: datetime) -> int:
    """How many batches' rows went before a moment."""
    return session.scalar(select(func.count()).where(Batch.retired_at < moment)) or 0


def delete_retired_before(session: Session, moment: datetime) -> int:
    """Forget batches whose rows went before a moment, and with them their idempotency keys; returns how many."""
    return len(session.scalars(delete(Batch).where(Batch.retired_at < moment).returning(Batch.id)).all())


def row_even_deleted(session: Session, id_or_slug: str) -> Dataset | None:
    """The row of a dataset, or if there is none, of a deleted one."""
    return dataset_row(session, id_or_slug) or deleted_row(session, id_or_slug)


def _by_reference(id_or_slug: str) -> Select[Dataset]:
    is_id = Dataset.id == id_or_slug
    return select(Dataset).where(is_id | (Dataset.slug == id_or_slug.lower())).order_by(is_id.desc()).limit(1)


def _fresh(found: Select[Dataset], *, lock: bool) -> Select[Dataset]:
    found = found.execution_options(populate_existing=True)
    return found.with_for_update() if lock else found


def insert_dataset(session: Session, values: Mapping[str, Any]) -> bool:
    """Add a dataset by column; False when another one has its slug, or its table, by now."""
    statement = insert(cast(Table, Dataset.__table__)).values(dict(values)).on_conflict_do_nothing()
    return session.scalar(statement.returning(Dataset.id)) is not None


def save(session: Session, row: Dataset) -> None:
    """Write a changed row with a time of change that is later than the one before.

    Raises:
        sqlalchemy.exc.IntegrityError: another dataset has its slug.
    """
    grown = func.greatest(func.clock_timestamp(), Dataset.updated_at + text("interval '1 microsecond'"))
    row.updated_at = grown
    session.flush()
    session.refresh(row)


def find_page(session: Session, query: DatasetQuery) -> list[Dataset]:
    """Datasets, those changed last first, one more than asked for if there are more."""
    found = select(Dataset).order_by(Dataset.updated_at.desc(), Dataset.id.desc()).limit(query.limit + 1)
    found = found.where(Dataset.status == query.status if query.status else Dataset.status != Status.DELETED)
    if query.search:
        texts = (Dataset.slug, Dataset.name, Dataset.description)
        found = found.where(or_(*(column.icontains(query.search, autoescape=True) for column in texts)))
    if query.before:
        found = found.where(tuple_(Dataset.updated_at, Dataset.id) < tuple_(*query.before))
    return list(session.scalars(found))


def storage_targets(session: Session) -> list[StorageTarget]:
    """Every storage target, the default one first."""
    return list(session.scalars(select(StorageTarget).order_by(StorageTarget.url.nulls_first(), StorageTarget.name)))


def storage_target(session: Session, target_id: str) -> StorageTarget:
    """A storage target.

    Raises:
        StorageTargetNotFound: there is no such target.
    """
    area_of(session, target_id)
    return session.get_one(StorageTarget, target_id)


def has_batches(session: Session, dataset_id: str) -> bool:
    """Whether there is anything in a dataset."""
    live = select(Batch.id).where(Batch.dataset_id == dataset_id, Batch.retired_at.is_(None)).limit(1)
    return session.scalar(live) is not None


def totals(session: Session, dataset_id: str) -> tuple[int, int]:
    """Batches and rows of a dataset."""
    sums = select(func.sum(Manifest.partition_count), func.sum(Manifest.total_rows))
    batches, rows = session.execute(sums.where(Manifest.dataset_id == dataset_id)).one()
    return int(batches or 0), int(rows or 0)


def add_access(session: Session, access: Access) -> None:
    session.add(access)
    session.flush()


def accesses(session: Session, dataset_id: str, query: AccessQuery) -> list[Access]:
    """Entries of a dataset's audit log, newest first, one more than asked for if there are more."""
    found = select(Access).where(Access.dataset_id == dataset_id).order_by(Access.id.desc()).limit(query.limit + 1)
    if query.before is not None:
        found = found.where(Access.id < query.before)
    if query.start is not None:
        found = found.where(Access.created_at >= query.start)
    if query.end is not None:
        found = found.where(Access.created_at <= query.end)
    if query.actions:
        found = found.where(Access.action.in_(query.actions))
    if query.success is not None:
        found = found.where(Access.success.is_(query.success))
    return list(session.scalars(found))


def delete_accesses_before(session: Session, moment: datetime) -> int:
    """Forget what was done before a moment; returns how many entries."""
    return len(session.scalars(delete(Access).where(Access.created_at < moment).returning(Access.id)).all())


def schema_versions(session: Session, dataset_id: str) -> list[SchemaVersion]:
    """Every version of a dataset's schema, newest first."""
    found = select(SchemaVersion).where(SchemaVersion.dataset_id == dataset_id)
    return list(session.scalars(found.order_by(SchemaVersion.version.desc())))


def batch_page(session: Session, dataset_id: str, query: BatchQuery) -> list[Batch]:
    """Batches that are still there, newest day first, one more than asked for if there are more."""
    order = (Batch.shard, Batch.id)
    found = select(Batch).where(Batch.dataset_id == dataset_id, Batch.retired_at.is_(None))
    if query.shard is not None:
        found = found.where(Batch.shard == query.shard)
    if query.before is not None:
        found = found.where(tuple_(*order) < tuple_(*query.before))
    return list(session.scalars(found.order_by(*(column.desc() for column in order)).limit(query.limit + 1)))


def manifests(session: Session, dataset_id: str, shards: Collection[date]) -> dict[date, Manifest]:
    """The manifests of these days that have batches."""
    found = select(Manifest).where(Manifest.dataset_id == dataset_id, Manifest.shard.in_(shards))
    return {manifest.shard: manifest for manifest in session.scalars(found.where(Manifest.partition_count > 0))}


# DuckLake's own tables, of which only what its specification says is read here:
# https://ducklake.select/docs/stable/specification/tables/overview
TABLES = """
    SELECT t.table_id FROM timestore.ducklake_table t JOIN timestore.ducklake_schema s USING (schema_id)
    WHERE t.table_name = :name AND s.schema_name IN (SELECT area FROM timestore.storage_targets)
"""
FILES = f"""
    SELECT count(*), coalesce(sum(file_size_bytes), 0)::bigint FROM (
        SELECT table_id, file_size_bytes FROM timestore.ducklake_data_file
        UNION ALL SELECT table_id, file_size_bytes FROM timestore.ducklake_delete_file
    ) files WHERE table_id IN ({TABLES})
"""
SNAPSHOTS = f"""
    SELECT c.snapshot_id AS id, s.snapshot_time AS created_at, c.author, c.commit_message AS message, c.changes_made,
        b.batches, b.rows
    FROM timestore.ducklake_snapshot_changes c JOIN timestore.ducklake_snapshot s USING (snapshot_id),
        LATERAL (SELECT count(*) AS batches, coalesce(sum(row_count), 0)::bigint AS rows FROM timestore.batches
            WHERE snapshot_id = c.snapshot_id AND dataset_id = :dataset_id AND retired_at IS NULL) b
    WHERE (CAST(:before AS bigint) IS NULL OR c.snapshot_id < :before)
        AND EXISTS (SELECT FROM timestore.ducklake_table t WHERE t.table_id IN ({TABLES})
            AND (c.snapshot_id = t.begin_snapshot OR c.changes_made ~ ('(^|,)[a-z_]+:' || t.table_id || '(,|$)')))
    ORDER BY c.snapshot_id DESC LIMIT :limit
"""


def files_of(session: Session, dataset: Dataset) -> tuple[int, int]:
    """Files of a dataset on the storage and their bytes, those of earlier snapshots included."""
    files, size = session.execute(text(FILES), {"name": dataset.table_name}).one()
    return files, size


def snapshots_of(session: Session, dataset: Dataset, before: int | None, limit: int) -> list[Row[Any]]:
    """Snapshots that changed a dataset's table, newest first: those that expired are not there any more."""
    values = {"name": dataset.table_name, "dataset_id": dataset.id, "before": before, "limit": limit}
    return list(session.execute(text(SNAPSHOTS), values))
