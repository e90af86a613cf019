"""/admin/datasets/{dataset}/…: audit log, manifests, schemas and snapshots (contract C.1).

The first AppHub kept manifests and tables in caches, which its clients look at and empty. Here queries read the
snapshot that is current, so there is nothing cached: these routes say so in the shape that is expected.
"""

from datetime import UTC, date, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from apphub_api import deps
from apphub_api.datasets import ADMIN, READ
from apphub_api.deps import Db, ReadDb
from apphub_assets.errors import InvalidInput
from apphub_assets.kit.cursor import decode_number
from apphub_assets.kit.view import View
from apphub_assets.timestore.admin import datasets, history
from apphub_assets.timestore.paging import AccessQuery, BatchQuery, read_batch_cursor
from apphub_assets.timestore.views import AccessView, ManifestView, SchemaChangeView, SnapshotView

router = APIRouter(tags=["datasets"])

SUCCESS = {"true": True, "1": True, "false": False, "0": False}


class AuditAnswer(View):
    events: list[AccessView]
    next_cursor: str | None


class ManifestsAnswer(View):
    """Either all days or, with `shard`, one; both with a page of partitions, newest first."""

    dataset_id: str
    manifests: list[ManifestView] | None = Field(None, exclude_if=lambda value: value is None)
    manifest: ManifestView | None = Field(None, exclude_if=lambda value: value is None)
    next_cursor: str | None


class SchemasAnswer(View):
    dataset_id: str
    schemas: list[SchemaChangeView]


class SnapshotsAnswer(View):
    dataset_id: str
    snapshots: list[SnapshotView]
    next_cursor: str | None


class ManifestCacheAnswer(View):
    dataset_id: str
    dataset_slug: str
    enabled: bool = False
    index_cached_at: str | None = None
    shard_count: int = 0
    shards: list[str] = Field([])


class InvalidateBody(View):
    shards: list[date] | None = Field(None, max_length=100)


class InvalidatedAnswer(ManifestCacheAnswer):
    """`invalidatedShards` is null when all were asked for; of those that were named, none was cached."""

    mode: Literal["none"] = "none"
    invalidated_shards: list[str] | None


class RuntimeCacheAnswer(View):
    snapshot: None = None


class RuntimeCacheBody(View):
    dataset_id: str | None = None
    dataset_slug: str | None = None
    scope: Literal["dataset", "all"] | None = None
    reason: str | None = Field(None, max_length=500)


class RuntimeCacheInvalidated(View):
    status: Literal["invalidated"] = "invalidated"
    scope: Literal["dataset", "all"]
    dataset_id: str | None
    dataset_slug: str | None


@router.get("/admin/datasets/{dataset}/audit", dependencies=[ADMIN])
def list_dataset_audit(
    dataset: str,
    db: ReadDb,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: str | None = None,
    action: Annotated[list[str] | None, Query()] = None,
    actions: Annotated[list[str] | None, Query()] = None,
    success: str | None = None,
    start_time: Annotated[str | None, Query(alias="startTime")] = None,
    end_time: Annotated[str | None, Query(alias="endTime")] = None,
) -> AuditAnswer:
    """Who did or tried what with a dataset, newest first."""
    start, end = _moment(start_time, "startTime"), _moment(end_time, "endTime")
    if start and end and start > end:
        raise _invalid("startTime", "startTime must be before or equal to endTime")
    query = AccessQuery(
        limit=limit,
        before=decode_number(cursor) if cursor else None,
        actions=(*(action or ()), *(actions or ())),
        success=_success(success),
        start=start,
        end=end,
    )
    events, following = history.accesses(db, dataset, query)
    return AuditAnswer(events=events, next_cursor=following)


@router.get("/admin/datasets/{dataset}/manifest", dependencies=[READ])
def show_manifests(
    dataset: str,
    db: ReadDb,
    caller: deps.Caller,
    shard: date | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
    cursor: str | None = None,
) -> ManifestsAnswer:
    """The state of each UTC day that has rows, or of the one that `shard` names."""
    row = datasets.readable(db, dataset, caller)
    query = BatchQuery(limit, shard, read_batch_cursor(cursor) if cursor else None)
    found, following = history.manifests(db, row, query)
    if shard is None:
        return ManifestsAnswer(dataset_id=row.id, manifests=found, next_cursor=following)
    return ManifestsAnswer(dataset_id=row.id, manifest=next(iter(found), None), next_cursor=following)


@router.get("/admin/datasets/{dataset}/schemas", dependencies=[READ])
def list_schemas(dataset: str, db: ReadDb, caller: deps.Caller) -> SchemasAnswer:
    """Every version of a dataset's schema, newest first."""
    row = datasets.readable(db, dataset, caller)
    return SchemasAnswer(dataset_id=row.id, schemas=history.schemas(db, row))


@router.get("/admin/datasets/{dataset}/snapshots", dependencies=[READ])
def list_snapshots(
    dataset: str,
    db: ReadDb,
    caller: deps.Caller,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: str | None = None,
) -> SnapshotsAnswer:
    """Commits of the lake that touched a dataset, newest first; a query may go back to any of them."""
    row = datasets.readable(db, dataset, caller)
    before = decode_number(cursor) if cursor else None
    found, following = history.snapshots(db, row, before, limit)
    return SnapshotsAnswer(dataset_id=row.id, snapshots=found, next_cursor=following)


@router.get("/admin/datasets/{dataset}/manifest-cache", dependencies=[READ])
def show_manifest_cache(dataset: str, db: ReadDb, caller: deps.Caller) -> ManifestCacheAnswer:
    """What is cached of a dataset's manifests: nothing."""
    row = datasets.readable(db, dataset, caller)
    return ManifestCacheAnswer(dataset_id=row.id, dataset_slug=row.slug)


@router.post("/admin/datasets/{dataset}/manifest-cache/invalidate", dependencies=[ADMIN])
def invalidate_manifest_cache(dataset: str, db: Db, body: InvalidateBody | None = None) -> InvalidatedAnswer:
    """Forget what is cached of a dataset's manifests: nothing."""
    row = datasets.existing(db, dataset)
    invalidated: list[str] | None = None if body is None or body.shards is None else []
    return InvalidatedAnswer(dataset_id=row.id, dataset_slug=row.slug, invalidated_shards=invalidated)


@router.get("/admin/sql/runtime-cache", dependencies=[ADMIN])
def show_runtime_cache() -> RuntimeCacheAnswer:
    """What is cached of datasets for SQL: nothing."""
    return RuntimeCacheAnswer()


@router.post("/admin/sql/runtime-cache/invalidate", status_code=202, dependencies=[ADMIN])
def invalidate_runtime_cache(db: Db, body: RuntimeCacheBody | None = None) -> RuntimeCacheInvalidated:
    """Forget what is cached of datasets for SQL: nothing."""
    asked = body or RuntimeCacheBody()
    named = asked.dataset_id or asked.dataset_slug
    row = datasets.existing(db, named) if named else None
    return RuntimeCacheInvalidated(
        scope=asked.scope or ("dataset" if row else "all"),
        dataset_id=row.id if row else None,
        dataset_slug=row.slug if row else None,
    )


def _success(given: str | None) -> bool | None:
    if given is None:
        return None
    if given.lower() not in SUCCESS:
        raise _invalid("success", "success must be true or false")
    return SUCCESS[given.lower()]


def _moment(given: str | None, name: str) -> datetime | None:
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise _invalid(name, f"{name} must be an ISO-8601 timestamp") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _invalid(name: str, message: str) -> InvalidInput:
    return InvalidInput(message, pointers=[(f"/{name}", message)])
