"""Tables of the timestore beside DuckLake's own, which are in the same schema and begin with `ducklake_`."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, CheckConstraint, ForeignKey, Identity, Index, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from apphub_assets.kit.db import Base, Timestamps

SCHEMA = "timestore"


class StorageTarget(Base, Timestamps):
    """Where files may lie. `area` is the lake's schema for it; the one with area `main` is APPHUB_STORAGE_URL."""

    __tablename__ = "storage_targets"
    __table_args__ = ({"schema": SCHEMA},)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    description: Mapped[str | None]
    area: Mapped[str] = mapped_column(unique=True)
    url: Mapped[str | None]


class Dataset(Base, Timestamps):
    """A dataset. `table_name` is its table in the lake and never changes, whatever the slug becomes.

    `status_before` is what a deleted one's status was; its rows go after `purge_after`.
    """

    __tablename__ = "datasets"
    __table_args__ = (
        CheckConstraint("status IN ('active', 'inactive', 'deleted')", name="status"),
        CheckConstraint("granularity IN ('hour', 'day', 'month')", name="granularity"),
        # A deleted one keeps its slug until its rows are gone, but does not keep others from it.
        Index("uq_datasets_slug", "slug", unique=True, postgresql_where=text("status <> 'deleted'")),
        Index("ix_datasets_updated_at", "updated_at", "id"),
        {"schema": SCHEMA},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    slug: Mapped[str]
    name: Mapped[str]
    description: Mapped[str | None]
    status: Mapped[str]
    table_name: Mapped[str] = mapped_column(unique=True)
    storage_target_id: Mapped[str] = mapped_column(ForeignKey(f"{SCHEMA}.storage_targets.id"))
    timestamp_column: Mapped[str]
    partition_keys: Mapped[list[str]] = mapped_column(JSONB)
    granularity: Mapped[str]
    schema_version: Mapped[int]
    retention: Mapped[dict[str, Any] | None]
    # `metadata` itself is SQLAlchemy's.
    labels: Mapped[dict[str, Any]] = mapped_column("metadata")
    created_by: Mapped[str | None]
    purge_after: Mapped[datetime | None]
    status_before: Mapped[str | None]


class SchemaVersion(Base):
    """What the columns of a dataset were from one change to the next; written by the receipt's trigger."""

    __tablename__ = "schema_versions"
    __table_args__ = (UniqueConstraint("dataset_id", "version"), {"schema": SCHEMA})

    id: Mapped[str] = mapped_column(primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey(f"{SCHEMA}.datasets.id", ondelete="CASCADE"))
    version: Mapped[int]
    fields: Mapped[list[dict[str, Any]]]
    checksum: Mapped[str]
    change: Mapped[dict[str, Any]]
    created_by: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Manifest(Base, Timestamps):
    """Batches, rows and bytes of one UTC day of a dataset; written by the receipt's trigger."""

    __tablename__ = "manifests"
    __table_args__ = (UniqueConstraint("dataset_id", "shard"), {"schema": SCHEMA})

    id: Mapped[str] = mapped_column(primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey(f"{SCHEMA}.datasets.id", ondelete="CASCADE"))
    shard: Mapped[date]
    version: Mapped[int]
    schema_version: Mapped[int]
    partition_count: Mapped[int]
    total_rows: Mapped[int] = mapped_column(BigInteger)
    total_bytes: Mapped[int] = mapped_column(BigInteger)
    snapshot_id: Mapped[int] = mapped_column(BigInteger)


class Batch(Base):
    """What one ingest brought, and the manifest as it was right after; written by the receipt's trigger.

    `key` identifies it within its dataset: what the client called it, else a hash of all that it is made of. Its
    uniqueness is what makes a commit that brings a batch again fail as a whole.
    """

    __tablename__ = "batches"
    __table_args__ = (
        UniqueConstraint("dataset_id", "key"),
        Index("ix_batches_dataset_id_shard", "dataset_id", "shard", "id"),
        Index("ix_batches_snapshot_id", "snapshot_id"),
        {"schema": SCHEMA},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey(f"{SCHEMA}.datasets.id", ondelete="CASCADE"))
    key: Mapped[str]
    content: Mapped[str]
    schema_version: Mapped[int]
    shard: Mapped[date]
    partition_key: Mapped[dict[str, str]]
    attributes: Mapped[dict[str, str]]
    start_at: Mapped[datetime]
    end_at: Mapped[datetime]
    row_count: Mapped[int] = mapped_column(BigInteger)
    byte_count: Mapped[int] = mapped_column(BigInteger)
    statistics: Mapped[dict[str, Any]]
    actor: Mapped[str | None]
    received_at: Mapped[datetime]
    snapshot_id: Mapped[int] = mapped_column(BigInteger)
    manifest_id: Mapped[str]
    manifest_version: Mapped[int]
    manifest_partitions: Mapped[int]
    manifest_rows: Mapped[int] = mapped_column(BigInteger)
    manifest_bytes: Mapped[int] = mapped_column(BigInteger)
    retired_at: Mapped[datetime | None]


class Access(Base):
    """Who did or tried what with a dataset (contract C.1, audit)."""

    __tablename__ = "access_audit"
    __table_args__ = (Index("ix_access_audit_dataset_id_id", "dataset_id", "id"), {"schema": SCHEMA})

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    dataset_id: Mapped[str | None]
    dataset_slug: Mapped[str]
    actor_id: Mapped[str | None]
    actor_scopes: Mapped[list[str]] = mapped_column(JSONB)
    action: Mapped[str]
    success: Mapped[bool] = mapped_column(Boolean)
    details: Mapped[dict[str, Any]] = mapped_column("metadata")
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class SavedQuery(Base, Timestamps):
    """A statement that somebody keeps for `/sql/read`."""

    __tablename__ = "saved_queries"
    __table_args__ = ({"schema": SCHEMA},)

    id: Mapped[str] = mapped_column(primary_key=True)
    statement: Mapped[str]
    label: Mapped[str | None]
    stats: Mapped[dict[str, Any] | None]
    created_by: Mapped[str | None]
