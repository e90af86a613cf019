"""/builds, and the builds of an app (contract F.4)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from apphub_api.deps import Correlation, Db, Platform, requires
from apphub_api.idempotency import once
from apphub_api.platform import Platform as PlatformState
from apphub_api.runs import IMAGE, start_runs
from apphub_assets.catalog import builds, logs
from apphub_assets.catalog.builds import FINISHED
from apphub_assets.catalog.errors import BuildNotFound
from apphub_assets.catalog.views import BuildView
from apphub_assets.identity.spec import Scope
from apphub_assets.kit.view import Instant, View

router = APIRouter(tags=["builds"])

FOLLOW_SECONDS = 0.3
MAX_OFFSET = 1_000_000


class BuildBody(View):
    branch: str | None = None
    ref: str | None = None


class BuildAnswer(View):
    data: BuildView


class BuildsMeta(View):
    total: int
    count: int
    limit: int
    offset: int
    next_offset: int | None
    has_more: bool


class BuildsAnswer(View):
    data: list[BuildView]
    meta: BuildsMeta


class LogsView(View):
    id: str
    repository_id: str
    logs: str
    size: int
    truncated: bool
    updated_at: Instant


class LogsAnswer(View):
    data: LogsView


@router.get("/apps/{app_id}/builds", dependencies=[requires(Scope.APPS_READ)])
def list_builds(
    app_id: str,
    db: Db,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
) -> BuildsAnswer:
    """An app's builds, newest first."""
    found, total = builds.page(db, app_id, limit, offset)
    following = offset + len(found)
    more = following < total
    meta = BuildsMeta(
        total=total,
        count=len(found),
        limit=limit,
        offset=offset,
        next_offset=following if more else None,
        has_more=more,
    )
    return BuildsAnswer(data=found, meta=meta)


@router.post("/apps/{app_id}/builds", status_code=202, dependencies=[requires(Scope.APPS_RUN)])
@once
def build_app(
    app_id: str,
    db: Db,
    platform: Platform,
    correlation: Correlation,
    later: BackgroundTasks,
    body: BuildBody | None = None,
) -> BuildAnswer:
    """Build an image of a branch or ref, or again of the commit that was ingested last."""
    asked = body or BuildBody()
    build = builds.request(db, app_id, ref=asked.ref, branch=asked.branch, correlation_id=correlation)
    later.add_task(start_runs, platform, [app_id], IMAGE, "build", correlation)
    return BuildAnswer(data=build)


@router.get("/builds/{build_id}", dependencies=[requires(Scope.APPS_READ)])
def show_build(build_id: str, db: Db) -> BuildAnswer:
    """One build."""
    return BuildAnswer(data=builds.show(db, build_id))


@router.post("/builds/{build_id}/retry", status_code=202, dependencies=[requires(Scope.APPS_RUN)])
@once
def retry_build(
    build_id: str, db: Db, platform: Platform, correlation: Correlation, later: BackgroundTasks
) -> BuildAnswer:
    """Do a finished build again."""
    build = builds.retry(db, build_id)
    later.add_task(start_runs, platform, [build.repository_id], IMAGE, "build", correlation)
    return BuildAnswer(data=build)


@router.post("/builds/{build_id}/cancel", status_code=202, dependencies=[requires(Scope.APPS_RUN)])
def cancel_build(build_id: str, db: Db) -> BuildAnswer:
    """Stop a build that waits or runs."""
    return BuildAnswer(data=builds.cancel(db, build_id))


@router.get("/builds/{build_id}/logs", dependencies=[requires(Scope.APPS_READ)], response_model=None)
def show_build_logs(
    build_id: str,
    db: Db,
    platform: Platform,
    download: bool = False,
    follow: bool = False,
) -> LogsAnswer | Response:
    """A build's log: as JSON, as a file (`download`), or as text that grows until the build ends (`follow`)."""
    build = builds.show(db, build_id)
    if follow:
        return StreamingResponse(_follow(platform, build_id), media_type="text/plain; charset=utf-8")
    text, _ = logs.read(db, build_id)
    if download:
        name = f'attachment; filename="build-{build.id}.log"'
        return PlainTextResponse(text, headers={"Content-Disposition": name})
    view = LogsView(
        id=build.id,
        repository_id=build.repository_id,
        logs=text,
        size=build.logs_size,
        truncated=build.logs_truncated,
        updated_at=build.updated_at,
    )
    return LogsAnswer(data=view)


async def _follow(platform: PlatformState, build_id: str) -> AsyncIterator[str]:
    """What is printed, without one of the loop's worker threads for as long as the build is silent."""
    position, done = 0, False
    while not done:
        try:
            text, position, done = await run_in_threadpool(_read_on, platform, build_id, position)
        except BuildNotFound:
            return
        if text:
            yield text
        if not done:
            await asyncio.sleep(FOLLOW_SECONDS)


def _read_on(platform: PlatformState, build_id: str, position: int) -> tuple[str, int, bool]:
    """The log from byte `position` on, where it ends now, and whether that is its end for good."""
    with platform.database.transaction() as session:
        # First: what is printed between the two reads is read before it is called the end.
        done = builds.show(session, build_id).status in FINISHED
        return *logs.read(session, build_id, position), done
