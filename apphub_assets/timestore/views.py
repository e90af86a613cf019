"""The timestore's rows as clients see them (contract C.1, C.5), with a few members more."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Annotated, Any

from pydantic import PlainSerializer

from apphub_assets.kit.view import Instant, View
from apphub_assets.timestore.models import Access, Batch, Dataset, Manifest, SchemaVersion, StorageTarget
from apphub_assets.timestore.spec import Granularity, Status

FILE_FORMAT = "parquet"
PUBLISHED = "published"

Json = dict[str, Any]


def format_version(moment: datetime) -> str:
    """`2026-11-20T12:00:00.000000Z`: all that Postgres keeps, for it tells one version of a dataset from the next."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


Version = Annotated[datetime, PlainSerializer(format_version, return_type=str, when_used="json")]


class DatasetView(View):
    """`updatedAt` is also the dataset's ETag. `schemaVersion` is 0 until there is a schema."""

    id: str
    slug: str
    name: str
    description: str | None
    status: Status
    write_format: str
    default_storage_target_id: str
    timestamp_column: str
    partition_keys: list[str]
    granularity: Granularity
    schema_version: int
    metadata: Json
    created_by: str | None
    purge_after: Instant | None
    created_at: Instant
    updated_at: Version

    @property
    def etag(self) -> str:
        return format_version(self.updated_at)


class StorageTargetView(View):
    id: str
    name: str
    kind: str
    description: str | None
    url: str
    config: Json
    created_at: Instant
    updated_at: Instant


class SchemaVersionView(View):
    id: str
    version: int
    fields: list[Json]


class SchemaChangeView(SchemaVersionView):
    """A version with how it came about."""

    checksum: str
    change: Json
    created_by: str | None
    created_at: Instant


class PartitionView(View):
    """A batch. `filePath` names it; which files its rows are in, the lake knows and changes."""

    id: str
    dataset_id: str
    manifest_id: str
    manifest_shard: date
    partition_key: dict[str, str]
    storage_target_id: str
    file_format: str
    file_path: str
    file_size_bytes: int
    row_count: int
    start_time: Instant
    end_time: Instant
    checksum: str
    metadata: Json
    column_statistics: Json
    ingestion_signature: str
    created_at: Instant


class ManifestView(View):
    """The totals are the whole day's, `partitions` those of this page."""

    id: str
    dataset_id: str
    version: int
    status: str
    manifest_shard: date
    schema_version_id: str | None
    schema_version: SchemaVersionView | None
    partition_count: int
    total_rows: int
    total_bytes: int
    statistics: Json
    summary: Json
    metadata: Json
    published_at: Instant
    created_at: Instant
    updated_at: Instant
    snapshot_id: int
    partitions: list[PartitionView]


class AccessView(View):
    id: str
    dataset_id: str | None
    dataset_slug: str
    actor_id: str | None
    actor_scopes: list[str]
    action: str
    success: bool
    metadata: Json
    created_at: Instant


class SnapshotView(View):
    """A commit of the lake; `batches` and `rows` are what it brought to this dataset and is still there."""

    id: int
    created_at: Instant
    author: str | None
    message: str | None
    changes: list[str]
    batches: int
    rows: int


class RetentionView(View):
    """`policy` is the dataset's own, `effectivePolicy` what holds, `defaultPolicy` what holds without a policy."""

    dataset_id: str
    dataset_slug: str
    policy: Json | None
    updated_at: Version | None
    effective_policy: Json
    default_policy: Json


class RemovalView(View):
    """What goes when a dataset is deleted; `bytes` are those of its files, earlier snapshots' included."""

    dataset_id: str
    dataset_slug: str
    dry_run: bool
    rows: int
    batches: int
    files: int
    bytes: int
    purge_after: Instant


DATASET_COLUMNS = (DatasetView.model_fields.keys() & Dataset.__table__.columns.keys()) - {"metadata"}


def dataset_view(dataset: Dataset) -> DatasetView:
    return DatasetView.model_validate(
        {
            **{name: getattr(dataset, name) for name in DATASET_COLUMNS},
            "write_format": FILE_FORMAT,
            "default_storage_target_id": dataset.storage_target_id,
            "metadata": dataset.labels,
        }
    )


def storage_target_view(target: StorageTarget, kind: str, url: str) -> StorageTargetView:
    """`kind` and `url` are those in use: the settings', for the default target."""
    return StorageTargetView(
        id=target.id,
        name=target.name,
        kind=kind,
        description=target.description,
        url=url,
        config={},
        created_at=target.created_at,
        updated_at=target.updated_at,
    )


def partition_view(dataset: Dataset, batch: Batch, schema_version_id: str | None) -> PartitionView:
    return PartitionView(
        id=batch.id,
        dataset_id=batch.dataset_id,
        manifest_id=batch.manifest_id,
        manifest_shard=batch.shard,
        partition_key=batch.partition_key,
        storage_target_id=dataset.storage_target_id,
        file_format=FILE_FORMAT,
        file_path=f"ducklake://{dataset.table_name}/{batch.id}",
        file_size_bytes=batch.byte_count,
        row_count=batch.row_count,
        start_time=batch.start_at,
        end_time=batch.end_at,
        checksum=batch.content,
        metadata={"attributes": batch.attributes, "schemaVersionId": schema_version_id},
        column_statistics=batch.statistics,
        ingestion_signature=batch.key,
        created_at=batch.received_at,
    )


def manifest_view(
    dataset: Dataset, manifest: Manifest, batches: Iterable[Batch], schemas: Mapping[int, SchemaVersion]
) -> ManifestView:
    """A day with some of its batches; `schemas` are the dataset's versions by number."""
    schema = schemas.get(manifest.schema_version)
    ids = {number: version.id for number, version in schemas.items()}
    return ManifestView(
        id=manifest.id,
        dataset_id=manifest.dataset_id,
        version=manifest.version,
        status=PUBLISHED,
        manifest_shard=manifest.shard,
        schema_version_id=schema and schema.id,
        schema_version=schema and SchemaVersionView.model_validate(schema),
        partition_count=manifest.partition_count,
        total_rows=manifest.total_rows,
        total_bytes=manifest.total_bytes,
        statistics={"rowCount": manifest.total_rows, "byteCount": manifest.total_bytes},
        summary={"partitionCount": manifest.partition_count},
        metadata={"schemaEvolution": schema.change} if schema and schema.version > 1 else {},
        published_at=manifest.updated_at,
        created_at=manifest.created_at,
        updated_at=manifest.updated_at,
        snapshot_id=manifest.snapshot_id,
        partitions=[partition_view(dataset, batch, ids.get(batch.schema_version)) for batch in batches],
    )


def access_view(access: Access) -> AccessView:
    return AccessView(
        id=str(access.id),
        dataset_id=access.dataset_id,
        dataset_slug=access.dataset_slug,
        actor_id=access.actor_id,
        actor_scopes=access.actor_scopes,
        action=access.action,
        success=access.success,
        metadata=access.details,
        created_at=access.created_at,
    )
