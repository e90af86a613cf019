"""/apps: register, look, tag, refresh, delete (contract F.4)."""

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Header, Query, Response
from pydantic import AliasChoices, ConfigDict, Field

from apphub_api.deps import Correlation, Db, Platform, requires
from apphub_api.etag import etag_of, expected_version
from apphub_api.idempotency import once
from apphub_api.runs import REPOSITORY_AND_IMAGE, start_runs
from apphub_assets.catalog import service
from apphub_assets.catalog.address import check_address
from apphub_assets.catalog.spec import MetadataStrategy, Registration, Tag
from apphub_assets.catalog.views import IngestionEventView, RepositoryDetail, RepositoryView
from apphub_assets.errors import InvalidInput
from apphub_assets.identity.spec import Scope
from apphub_assets.kit.view import View
from apphub_assets.launches import service as launches

router = APIRouter(tags=["apps"])


class TagBody(View):
    key: str
    value: str


class RegisterBody(View):
    """Tags are objects or `key:value` strings."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": "hello", "name": "Hello", "repoUrl": "https://github.com/org/hello"}]}
    )

    id: str
    name: str
    description: str = ""
    repo_url: str
    dockerfile_path: str | None = None
    git_ref: str | None = Field(None, validation_alias=AliasChoices("gitRef", "ref", "branch"))
    tags: list[TagBody | str] = Field([])
    metadata_strategy: MetadataStrategy = MetadataStrategy.AUTO


class TagsBody(View):
    tags: list[TagBody | str]


class AppAnswer(View):
    data: RepositoryView


class AppDetailAnswer(View):
    data: RepositoryDetail


class HistoryAnswer(View):
    data: list[IngestionEventView]


@router.post("/apps", status_code=201, dependencies=[requires(Scope.APPS_WRITE)])
@once
def register_app(
    body: RegisterBody, db: Db, platform: Platform, correlation: Correlation, later: BackgroundTasks, response: Response
) -> AppAnswer:
    """Register a repository and start its ingestion; the same id again changes it and ingests anew."""
    wanted = Registration(
        id=body.id,
        name=body.name,
        description=body.description,
        repo_url=check_address(body.repo_url, platform.settings),
        dockerfile_path=body.dockerfile_path,
        git_ref=body.git_ref,
        tags=_tags(body.tags),
        metadata_strategy=body.metadata_strategy,
    )
    app = service.register(db, wanted, correlation_id=correlation)
    response.headers["Location"] = f"/apps/{app.id}"
    later.add_task(start_runs, platform, [app.id], REPOSITORY_AND_IMAGE, "registered", correlation)
    return AppAnswer(data=app)


@router.get("/apps/{app_id}", dependencies=[requires(Scope.APPS_READ)])
def show_app(app_id: str, db: Db, response: Response) -> AppDetailAnswer:
    """One app, with its README and an ETag for changes."""
    app = service.show(db, app_id)
    response.headers["ETag"] = etag_of(app.version)
    return AppDetailAnswer(data=app)


@router.delete("/apps/{app_id}", status_code=204, dependencies=[requires(Scope.APPS_WRITE)])
def delete_app(app_id: str, db: Db) -> None:
    """Stop an app's launches and forget it; its images go with the next clean-up."""
    launches.stop_all(db, app_id)
    service.delete(db, app_id)


@router.get("/apps/{app_id}/history", dependencies=[requires(Scope.APPS_READ)])
def show_history(app_id: str, db: Db, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> HistoryAnswer:
    """What happened to an app's ingestion, newest first."""
    return HistoryAnswer(data=service.history(db, app_id, limit))


@router.put("/apps/{app_id}/tags", dependencies=[requires(Scope.APPS_WRITE)])
def set_tags(
    app_id: str, body: TagsBody, db: Db, response: Response, if_match: Annotated[str | None, Header()] = None
) -> AppAnswer:
    """Replace the tags that people gave; those of the author and the detected ones stay."""
    app = service.set_manual_tags(db, app_id, _tags(body.tags), expected_version=expected_version(if_match))
    response.headers["ETag"] = etag_of(app.version)
    return AppAnswer(data=app)


@router.post("/apps/{app_id}/retry", status_code=202, dependencies=[requires(Scope.APPS_RUN)])
@once
def retry_ingestion(
    app_id: str, db: Db, platform: Platform, correlation: Correlation, later: BackgroundTasks
) -> AppAnswer:
    """Ingest again, whatever came of it last time."""
    app = service.refresh(db, app_id, "asked to retry", correlation_id=correlation)
    later.add_task(start_runs, platform, [app_id], REPOSITORY_AND_IMAGE, "retry", correlation)
    return AppAnswer(data=app)


@router.post("/apps/{app_id}/refresh", status_code=202, dependencies=[requires(Scope.APPS_RUN)])
@once
def refresh_app(app_id: str, db: Db, platform: Platform, correlation: Correlation, later: BackgroundTasks) -> AppAnswer:
    """Look for a newer commit now."""
    app = service.refresh(db, app_id, "asked to refresh", correlation_id=correlation)
    later.add_task(start_runs, platform, [app_id], REPOSITORY_AND_IMAGE, "refresh", correlation)
    return AppAnswer(data=app)


def _tags(given: list[TagBody | str]) -> list[Tag]:
    return [_tag(tag, f"/tags/{index}") for index, tag in enumerate(given)]


def _tag(given: TagBody | str, pointer: str) -> Tag:
    if isinstance(given, TagBody):
        return Tag.parse(given.key, given.value, pointer)
    key, colon, value = given.partition(":")
    if not colon:
        message = f"tag {given[:80]!r}: write it as key:value"
        raise InvalidInput(message, pointers=[(pointer, message)])
    return Tag.parse(key, value, pointer)
