"""Every statement on the timestore's own tables; those on the lake are in `store.py`."""

from typing import Any

from sqlalchemy import Row, Select, select, text
from sqlalchemy.orm import Session

from apphub_assets.timestore.models import Dataset, SchemaVersion, StorageTarget
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
    )
