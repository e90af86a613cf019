"""/admin/datasets and /admin/storage-targets: create, look, change, archive, delete, restore (contract C.1)."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from apphub_api import deps
from apphub_api.deps import Correlation, Db, Platform, ReadDb, requires
from apphub_api.idempotency import once
from apphub_api.platform import Platform as PlatformState
from apphub_assets.errors import AppHubError, InvalidInput
from apphub_assets.identity.spec import Identity, Scope
from apphub_assets.kit.view import View
from apphub_assets.timestore.admin import datasets
from apphub_assets.timestore.admin.datasets import Parts
from apphub_assets.timestore.admin.declaration import Declaration
from apphub_assets.timestore.ingest.writing import Caller
from apphub_assets.timestore.paging import DatasetQuery, read_dataset_cursor
from apphub_assets.timestore.spec import Granularity, Status
from apphub_assets.timestore.views import DatasetView, RemovalView, RetentionView, StorageTargetView, dataset_view

router = APIRouter(tags=["datasets"])

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


class SchemaBody(View):
    """Fields are `{name, type}`, lists with `items`, structs with `fields`."""

    fields: list[dict[str, Any]] = Field(min_length=1)


class CreateBody(View):
    """`writeFormat` is what the first AppHub's clients send; files are Parquet whatever it says."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "slug": "greenhouse",
                    "name": "Greenhouse",
                    "schema": {
                        "fields": [{"name": "timestamp", "type": "timestamp"}, {"name": "celsius", "type": "double"}]
                    },
                    "partitionKeys": ["site"],
                }
            ]
        }
    )

    slug: str
    name: str
    description: str | None = None
    status: Status = Status.ACTIVE
    write_format: Literal["clickhouse", "parquet"] | None = None
    default_storage_target_id: str | None = None
    metadata: dict[str, Any] = Field({})
    idempotency_key: str | None = Field(None, min_length=4, max_length=100)
    fields_of: SchemaBody | None = Field(None, alias="schema")
    timestamp_column: str | None = None
    partition_keys: list[str] = Field([])
    granularity: Granularity = Granularity.DAY
    retention: dict[str, Any] | None = None


class ChangeBody(View):
    """What is left out stays. Metadata is merged: null takes a member out."""

    model_config = ConfigDict(extra="forbid")

    slug: str = ""
    name: str = ""
    description: str | None = None
    status: str = ""
    default_storage_target_id: str = ""
    metadata: dict[str, Any] = Field({})
    if_match: str | None = None


class ArchiveBody(View):
    reason: str | None = Field(None, max_length=500)
    if_match: str | None = None


class StorageTargetBody(View):
    storage_target_id: str


class DatasetAnswer(View):
    dataset: DatasetView
    etag: str


class DatasetsAnswer(View):
    datasets: list[DatasetView]
    next_cursor: str | None


class StorageTargetsAnswer(View):
    storage_targets: list[StorageTargetView]


class MovedAnswer(DatasetAnswer):
    storage_target: StorageTargetView


async def get_author(caller: deps.Caller, correlation: Correlation) -> Caller:
    return _author(caller, correlation)


Author = Annotated[Caller, Depends(get_author)]
IfMatch = Annotated[str | None, Header(description="The `etag` of the dataset that is to be changed, or *.")]
READ = requires(Scope.TIMESTORE_READ)
ADMIN = requires(Scope.TIMESTORE_ADMIN)


def changes(action: str) -> list[Any]:
    """What a route that changes a dataset depends on; a refusal goes into the dataset's audit log as `action`."""

    async def note(request: Request, platform: Platform) -> AsyncIterator[None]:
        try:
            yield
        except AppHubError as error:
            await run_in_threadpool(_note_refusal, platform, request, action, error.code)
            raise

    return [Depends(note), ADMIN]


@router.get("/admin/datasets", dependencies=[ADMIN])
def list_datasets(
    db: ReadDb,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: str | None = None,
    status: Literal["active", "inactive", "deleted", "all"] = "active",
    search: Annotated[str | None, Query(max_length=200)] = None,
) -> DatasetsAnswer:
    """Datasets, those changed last first; `search` looks into slug, name and description, `all` leaves out deleted."""
    before = read_dataset_cursor(cursor) if cursor else None
    query = DatasetQuery(limit, None if status == "all" else Status(status), search, before)
    found, following = datasets.page(db, query)
    return DatasetsAnswer(datasets=found, next_cursor=following)


@router.post("/admin/datasets", status_code=201, dependencies=changes(datasets.CREATED))
@once
def create_dataset(
    body: CreateBody, db: Db, platform: Platform, author: Author, request: Request, response: Response
) -> DatasetAnswer:
    """Create a dataset, with its table if a schema is declared; else the first ingest makes that.

    The same again is answered with 200 and changes nothing.
    """
    request.state.dataset = body.slug
    given = body.model_dump(by_alias=False, exclude={"write_format", "idempotency_key"})
    given["schema"] = given.pop("fields_of")
    given["storage_target_id"] = given.pop("default_storage_target_id")
    view, is_new = datasets.create(_parts(db, platform), Declaration.parse(given), author)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/admin/datasets/{view.slug}"
    return _answer(view, response)


@router.get("/admin/datasets/{dataset}", dependencies=[READ])
def show_dataset(dataset: str, db: ReadDb, caller: deps.Caller, response: Response) -> DatasetAnswer:
    """One dataset, by id or slug."""
    return _answer(dataset_view(datasets.readable(db, dataset, caller)), response)


@router.patch("/admin/datasets/{dataset}", dependencies=changes(datasets.UPDATED))
def change_dataset(
    dataset: str, body: ChangeBody, db: Db, author: Author, response: Response, if_match: IfMatch = None
) -> DatasetAnswer:
    """Change what is given; another slug renames the dataset."""
    given = body.model_dump(by_alias=False, exclude_unset=True, exclude={"if_match"})
    if "default_storage_target_id" in given:
        given["storage_target_id"] = given.pop("default_storage_target_id")
    view = datasets.change(db, dataset, given, author, _expected(if_match or body.if_match))
    return _answer(view, response)


@router.post("/admin/datasets/{dataset}/archive", dependencies=changes(datasets.ARCHIVED))
@once
def archive_dataset(
    dataset: str,
    db: Db,
    author: Author,
    response: Response,
    body: ArchiveBody | None = None,
    if_match: IfMatch = None,
) -> DatasetAnswer:
    """Let a dataset take no more rows; it can still be read."""
    asked = body or ArchiveBody()
    expected = _expected(if_match or asked.if_match)
    return _answer(datasets.archive(db, dataset, asked.reason, author, expected), response)


@router.delete("/admin/datasets/{dataset}", dependencies=changes(datasets.DELETED))
def delete_dataset(
    dataset: str,
    db: Db,
    platform: Platform,
    author: Author,
    dry_run: Annotated[bool, Query(alias="dryRun")] = False,
    if_match: IfMatch = None,
) -> RemovalView:
    """Delete a dataset: it is gone at once, its rows go when the grace is over. A dry run tells what that would be."""
    now, expected = datetime.now(UTC), _expected(if_match)
    if dry_run:
        return datasets.planned_deletion(db, platform.settings, dataset, now)
    return datasets.delete(db, platform.settings, dataset, author, now, expected)


@router.post("/admin/datasets/{dataset}/restore", dependencies=changes(datasets.RESTORED))
@once
def restore_dataset(dataset: str, db: Db, author: Author, response: Response) -> DatasetAnswer:
    """Bring a deleted dataset back before its grace is over, if nobody has its slug by now."""
    return _answer(datasets.restore(db, dataset, author, datetime.now(UTC)), response)


@router.get("/admin/datasets/{dataset}/retention", dependencies=[READ])
def show_retention(dataset: str, db: ReadDb, platform: Platform, caller: deps.Caller) -> RetentionView:
    """How long a dataset's rows stay."""
    return datasets.retention_of(datasets.readable(db, dataset, caller), platform.settings)


@router.put("/admin/datasets/{dataset}/retention", dependencies=changes(datasets.RETENTION_UPDATED))
def set_retention(
    dataset: str, body: dict[str, Any], db: Db, platform: Platform, author: Author, if_match: IfMatch = None
) -> RetentionView:
    """Replace the policy: `{mode?, rules: {maxAgeHours?, maxTotalBytes?}, deleteGraceMinutes?, …}`."""
    return datasets.set_retention(db, platform.settings, dataset, body, author, _expected(if_match))


@router.put("/admin/datasets/{dataset}/storage-target", dependencies=changes(datasets.STORAGE_TARGET_UPDATED))
def set_storage_target(
    dataset: str,
    body: StorageTargetBody,
    db: Db,
    platform: Platform,
    author: Author,
    response: Response,
    if_match: IfMatch = None,
) -> MovedAnswer:
    """Give a dataset without rows another place for its files."""
    parts, expected = _parts(db, platform), _expected(if_match)
    view, target = datasets.move(parts, dataset, body.storage_target_id, author, expected)
    response.headers["ETag"] = view.etag
    shown = datasets.target_view(target, platform.settings)
    return MovedAnswer(dataset=view, etag=view.etag, storage_target=shown)


@router.get("/admin/storage-targets", dependencies=[ADMIN])
def list_storage_targets(db: ReadDb, platform: Platform) -> StorageTargetsAnswer:
    """Where files of datasets may lie; `default` is APPHUB_STORAGE_URL, others come from APPHUB_STORAGE_TARGETS."""
    platform.lake.prepare()
    return StorageTargetsAnswer(storage_targets=datasets.storage_targets(db, platform.settings))


def _answer(view: DatasetView, response: Response) -> DatasetAnswer:
    # As the first AppHub's clients read it: a bare time, without quotes.
    response.headers["ETag"] = view.etag
    return DatasetAnswer(dataset=view, etag=view.etag)


def _parts(db: Db, platform: PlatformState) -> Parts:
    return Parts(db, platform.database, platform.lake)


def _expected(if_match: str | None) -> datetime | None:
    """The `updatedAt` of the dataset that the caller has read; None when any will do.

    Raises:
        InvalidInput: it is none.
    """
    given = (if_match or "*").strip().strip('"')
    if given == "*":
        return None
    if RFC_3339.fullmatch(given):
        try:
            return datetime.fromisoformat(given.upper())
        except ValueError:
            pass
    raise InvalidInput("ifMatch must be an RFC 3339 timestamp", pointers=[("/ifMatch", f"got {given[:80]!r}")])


def _author(identity: Identity | None, correlation: str | None) -> Caller:
    if identity is None:
        return Caller(correlation_id=correlation)
    return Caller(identity.subject, tuple(sorted(identity.scopes)), correlation)


def _note_refusal(platform: PlatformState, request: Request, action: str, code: str) -> None:
    dataset = request.path_params.get("dataset") or getattr(request.state, "dataset", None)
    if dataset is None or "\0" in dataset:
        return
    author = _author(getattr(request.state, "identity", None), None)
    with platform.database.transaction() as session:
        datasets.note_refusal(session, dataset, action, author, code)
