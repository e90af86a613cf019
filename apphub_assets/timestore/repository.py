"""Every statement on the timestore's own tables; those on the lake are in `store.py`."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Row, Select, select, text, tuple_
from sqlalchemy.orm import Session

from apphub_assets.timestore.errors import StorageTargetNotFound
from apphub_assets.timestore.models import Batch, Dataset, SchemaVersion, StorageTarget
from apphub_assets.timestore.spec import DatasetInfo, Granularity, Schema, Status, parse_stored_fields

# Held from before a commit of the lake until after it: many that race would only make each other try again.
COMMIT_LOCK = 7_204_117_003


def find_dataset(session: Session, slug: str) -> DatasetInfo | None:
    """The dataset of a slug, as long as it is not deleted."""
    row = session.execute(_info().where(Dataset.slug == slug.lower(), Dataset.status != Status.DELETED)).one_or_none()
    return None if row is None else _dataset_info(row)


def get_dataset(session: Session, id_or_slug: str) -> DatasetInfo | None:
    """The dataset of an id or a slug, as long as it is not deleted."""
    row = session.execute(_info().where(Dataset.id == id_or_slug, Dataset.status != Status.DELETED)).one_or_none()
    return find_dataset(session, id_or_slug) if row is None else _dataset_info(row)


def list_datasets(session: Session) -> list[DatasetInfo]:
    """Every dataset that is not deleted, by slug."""
    rows = session.execute(_info().where(Dataset.status != Status.DELETED).order_by(Dataset.slug))
    return [_dataset_info(row) for row in rows]


def find_datasets(session: Session, slugs: Collection[str]) -> list[DatasetInfo]:
    """The datasets of these slugs that are not deleted."""
    rows = session.execute(_info().where(Dataset.slug.in_(slugs), Dataset.status != Status.DELETED))
    return [_dataset_info(row) for row in rows]


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


def batches_by_key(session: Session, keys: Sequence[tuple[str, str]]) -> list[Batch]:
    """The batches of these (dataset id, key)."""
    return list(session.scalars(select(Batch).where(tuple_(Batch.dataset_id, Batch.key).in_(keys))))


def _info() -> Select[Any]:
    return (
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
