"""Use case: from what a client delivers to an answer that is given once the batch is durable and readable."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson
from pydantic import ConfigDict, Field, ValidationError

from apphub_assets.errors import AppHubError
from apphub_assets.identity.spec import Identity
from apphub_assets.kit.db import Database
from apphub_assets.kit.view import View
from apphub_assets.settings import Settings
from apphub_assets.timestore import access, repository
from apphub_assets.timestore.errors import InvalidBody, UnsupportedFormat
from apphub_assets.timestore.ingest.binary import Body, check_limits, rows_of_file
from apphub_assets.timestore.ingest.intake import (
    Content,
    Delivery,
    check_defaults,
    identity_of,
    named_pairs,
    prepare,
    rows_of_objects,
    time_range,
)
from apphub_assets.timestore.ingest.text import objects_of_csv, objects_of_ndjson
from apphub_assets.timestore.ingest.writing import Caller, Incoming, Written, check_active, find_written
from apphub_assets.timestore.lake import kind_of
from apphub_assets.timestore.models import Manifest
from apphub_assets.timestore.spec import DatasetInfo, Json, parse_fields, parse_slug
from apphub_assets.timestore.views import (
    DatasetView,
    ManifestView,
    StorageTargetView,
    dataset_view,
    manifest_view,
    storage_target_view,
)

LONGEST_KEY = 255
Warnings = tuple[str, ...]


class Form(StrEnum):
    """What a body can be."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"

    @property
    def is_binary(self) -> bool:
        return self in {Form.PARQUET, Form.ARROW}


MEDIA_TYPES = {
    "application/json": Form.JSON,
    "application/x-ndjson": Form.NDJSON,
    "application/ndjson": Form.NDJSON,
    "application/jsonl": Form.NDJSON,
    "text/csv": Form.CSV,
    "application/vnd.apache.parquet": Form.PARQUET,
    "application/x-parquet": Form.PARQUET,
    "application/vnd.apache.arrow.stream": Form.ARROW,
}


class EvolutionBody(View):
    model_config = ConfigDict(extra="forbid")

    defaults: Json = Field({})
    backfill: bool = False


class SchemaBody(View):
    model_config = ConfigDict(extra="forbid")

    fields: list[Any] = Field(min_length=1)
    evolution: EvolutionBody = EvolutionBody()


class TimeRangeBody(View):
    model_config = ConfigDict(extra="forbid")

    start: datetime
    end: datetime


class PartitionBody(View):
    model_config = ConfigDict(extra="forbid")

    key: dict[str, str | int | float | bool] = Field({})
    attributes: dict[str, str | int | float | bool] = Field({})
    time_range: TimeRangeBody | None = None


class IngestBody(View):
    """The JSON body (contract C.2). `tableName` and `actor` are accepted and mean nothing: who asks, the token says."""

    model_config = ConfigDict(extra="forbid")

    dataset_name: str | None = Field(None, max_length=160)
    storage_target_id: str | None = None
    table_name: str | None = Field(None, max_length=120)
    shape: SchemaBody | None = Field(None, alias="schema")
    partition: PartitionBody = PartitionBody()
    rows: list[Any]
    idempotency_key: str | None = Field(None, min_length=1, max_length=LONGEST_KEY)
    actor: Json | None = None


class IngestAnswer(View):
    """`manifest` is that of the batch's day, as it was right after the batch, with the batch in `partitions`."""

    mode: str = "inline"
    flush_pending: bool = False
    dataset: DatasetView
    storage_target: StorageTargetView
    manifest: ManifestView
    warnings: list[str] = Field([])


def form_of(content_type: str | None) -> Form:
    """What a Content-Type announces; without one, JSON.

    Raises:
        UnsupportedFormat: nothing that can be ingested.
    """
    media_type = (content_type or "application/json").partition(";")[0].strip().lower()
    form = MEDIA_TYPES.get(media_type)
    if form is None:
        raise UnsupportedFormat(f"Content-Type {media_type[:80]!r} can't be ingested; use {', '.join(MEDIA_TYPES)}")
    return form


def read_rows(
    database: Database, identity: Identity, delivery: Delivery, form: Form, body: bytes, settings: Settings
) -> tuple[Incoming | Written, Warnings]:
    """A batch from JSON, NDJSON or CSV, and what of it is left out; or what was written when it came before.

    Raises:
        InvalidDataset, DatasetForbidden, DatasetInactive: no slug; not theirs; archived.
        InvalidBody, InvalidRows, BatchTooLarge: naming what is wrong, and where.
    """
    dataset = _dataset_of(database, delivery.slug, identity)
    objects: list[Any] = []
    if form is Form.JSON:
        delivery, objects = _delivered(delivery, body)

    def read() -> Content:
        found = objects if form is Form.JSON else _objects_of(delivery, dataset, form, body)
        check_limits(len(found), 0, settings)
        return rows_of_objects(delivery, dataset, found)

    return _prepared(database, delivery, dataset, hashlib.sha256(body).hexdigest(), read)


def read_file(
    database: Database, identity: Identity, delivery: Delivery, body: Body, settings: Settings
) -> tuple[Incoming | Written, Warnings]:
    """A batch from a Parquet file or an Arrow stream; or what was written when it came before.

    Raises:
        InvalidDataset, DatasetForbidden, DatasetInactive: no slug; not theirs; archived.
        InvalidBody, InvalidRows, BatchTooLarge: naming what is wrong, and where.
    """
    dataset = _dataset_of(database, delivery.slug, identity)
    return _prepared(database, delivery, dataset, body.digest, lambda: rows_of_file(delivery, dataset, body, settings))


def _dataset_of(database: Database, slug: str, identity: Identity) -> DatasetInfo | None:
    with database.reading() as session:
        dataset = repository.find_dataset(session, parse_slug(slug))
    if dataset is not None:
        access.check_write(identity, dataset)
    return dataset


def _prepared(
    database: Database, delivery: Delivery, dataset: DatasetInfo | None, digest: str, read: Callable[[], Content]
) -> tuple[Incoming | Written, Warnings]:
    """The batch; where the dataset has become one that would refuse it, what was written when it came before."""
    try:
        if dataset is not None:
            check_active(dataset)
        content = read()
    except AppHubError:
        written = None if dataset is None else find_written(database, dataset, *identity_of(delivery, digest))
        if written is None:
            raise
        return written, ()
    return prepare(delivery, dataset, content, digest), content.warnings


def _objects_of(delivery: Delivery, dataset: DatasetInfo | None, form: Form, body: bytes) -> list[Any]:
    if form is Form.NDJSON:
        return objects_of_ndjson(body)
    return objects_of_csv(body, delivery.fields or (dataset.schema.fields if dataset else None))


def _delivered(delivery: Delivery, body: bytes) -> tuple[Delivery, list[Any]]:
    """What the JSON body says, and its rows."""
    try:
        given = IngestBody.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise InvalidBody(f"the body is not JSON: {error}") from None
    except ValidationError as error:
        raise _malformed(error) from None
    window = given.partition.time_range
    fields = None if given.shape is None else parse_fields(given.shape.fields, "/schema/fields")
    evolution = EvolutionBody() if given.shape is None else given.shape.evolution
    check_defaults(evolution.defaults, fields or ())
    return replace(
        delivery,
        fields=fields,
        partition_key=named_pairs(given.partition.key, "/partition/key"),
        attributes=named_pairs(given.partition.attributes, "/partition/attributes"),
        time_range=None if window is None else time_range(window.start, window.end, "/partition/timeRange"),
        key=given.idempotency_key or delivery.key,
        defaults=evolution.defaults,
        backfill=evolution.backfill,
        dataset_name=given.dataset_name,
        storage_target_id=given.storage_target_id,
    ), given.rows


def caller_of(identity: Identity, correlation_id: str | None) -> Caller:
    return Caller(identity.subject, tuple(sorted(identity.scopes)), correlation_id)


def staging_folder(settings: Settings) -> Path:
    """Where bodies lie while they are read; nothing in it outlives its request, unless the process is killed."""
    folder = settings.state / "timestore" / "staging"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def answer_of(settings: Settings, written: Written, warnings: Warnings) -> IngestAnswer:
    """What the client learns; the same for a batch that is sent again."""
    stored, batch = written.stored, written.batch
    then = Manifest(
        id=batch.manifest_id,
        dataset_id=batch.dataset_id,
        shard=batch.shard,
        version=batch.manifest_version,
        schema_version=batch.schema_version,
        partition_count=batch.manifest_partitions,
        total_rows=batch.manifest_rows,
        total_bytes=batch.manifest_bytes,
        snapshot_id=batch.snapshot_id,
        created_at=batch.received_at,
        updated_at=batch.received_at,
    )
    url = stored.target.url or f"{settings.storage}/timestore"
    return IngestAnswer(
        dataset=dataset_view(stored.dataset),
        storage_target=storage_target_view(stored.target, kind_of(url), url),
        manifest=manifest_view(stored.dataset, then, [batch], {batch.schema_version: stored.schema}),
        warnings=list(warnings),
    )


def pairs_of(given: list[str], pointer: str) -> dict[str, str]:
    """`name=value` strings of a query as a mapping.

    Raises:
        InvalidBody: one is not written like that.
    """
    for each in given:
        if "=" not in each:
            message = f"{each[:80]!r}: write it as name=value"
            raise InvalidBody(message, pointers=[(pointer, message)])
    return named_pairs(dict(each.split("=", 1) for each in given), pointer)


def _malformed(error: ValidationError) -> InvalidBody:
    pointers = [("/" + "/".join(map(str, each["loc"])), each["msg"]) for each in error.errors()[:20]]
    return InvalidBody("; ".join(f"{where}: {what}" for where, what in pointers[:5]), pointers=pointers)
