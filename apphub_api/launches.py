"""Launches (contract F.4): ask for one, list, look, stop, read what it prints."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Annotated

import structlog
from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from apphub_api.deps import Correlation, Db, Platform, requires
from apphub_api.idempotency import once
from apphub_api.platform import Platform as PlatformState
from apphub_assets.catalog import service as catalog
from apphub_assets.catalog.views import RepositoryView
from apphub_assets.containers import EngineUnavailable, Feed
from apphub_assets.identity.spec import Scope
from apphub_assets.kit.view import View
from apphub_assets.launches import logs, service
from apphub_assets.launches.errors import LaunchNotFound, LaunchNotRunning
from apphub_assets.launches.spec import LIVE, EnvVar, LaunchRequest, Profile
from apphub_assets.launches.views import LaunchLogsView, LaunchStatsView, LaunchView

log = structlog.get_logger()
router = APIRouter(tags=["launches"])

WAIT_SECONDS = 0.3
LINES_AHEAD = 500


class EnvBody(View):
    key: str
    value: str


class LaunchBody(View):
    """`command` replaces the image's own, split as a shell would; `wake`: once expired, a request restarts it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"resourceProfile": "small", "env": [{"key": "A", "value": "1"}]}]},
    )

    build_id: str | None = None
    resource_profile: Profile = Profile.MEDIUM
    env: list[EnvBody] = Field([])
    command: str | None = None
    launch_id: str | None = None
    wake: bool = False


class NamedLaunchBody(LaunchBody):
    repository_id: str


class LaunchAnswer(View):
    data: LaunchView


class LaunchesAnswer(View):
    data: list[LaunchView]


class LaunchOfApp(View):
    repository: RepositoryView
    launch: LaunchView


class LaunchOfAppAnswer(View):
    data: LaunchOfApp


class LaunchLogsAnswer(View):
    data: LaunchLogsView


class LaunchStatsAnswer(View):
    data: LaunchStatsView


@router.post("/apps/{app_id}/launch", status_code=202, dependencies=[requires(Scope.APPS_RUN)])
@once
def launch_app(
    app_id: str,
    db: Db,
    platform: Platform,
    correlation: Correlation,
    response: Response,
    body: LaunchBody | None = None,
) -> LaunchOfAppAnswer:
    """Start a container of an app's newest image, or of the build named. `Location` says where to follow it."""
    return _launch(db, platform, _request(app_id, body or LaunchBody()), correlation, response)


@router.post("/launches", status_code=202, dependencies=[requires(Scope.APPS_RUN)])
@once
def create_launch(
    body: NamedLaunchBody, db: Db, platform: Platform, correlation: Correlation, response: Response
) -> LaunchOfAppAnswer:
    """The same, with the app named in the body."""
    return _launch(db, platform, _request(body.repository_id, body), correlation, response)


@router.get("/apps/{app_id}/launches", dependencies=[requires(Scope.APPS_READ)])
def list_launches(
    app_id: str, db: Db, platform: Platform, limit: Annotated[int, Query(ge=1, le=50)] = 20
) -> LaunchesAnswer:
    """An app's launches, newest first."""
    return LaunchesAnswer(data=service.page(db, platform.settings, app_id, limit))


@router.get("/launches/{launch_id}", dependencies=[requires(Scope.APPS_READ)])
def show_launch(launch_id: str, db: Db, platform: Platform) -> LaunchAnswer:
    """One launch: its state, why, and where it is reached."""
    return LaunchAnswer(data=service.show(db, platform.settings, launch_id))


@router.post("/apps/{app_id}/launches/{launch_id}/stop", status_code=202, dependencies=[requires(Scope.APPS_RUN)])
def stop_launch(app_id: str, launch_id: str, db: Db, platform: Platform) -> LaunchOfAppAnswer:
    """End a launch."""
    return _with_app(db, service.stop(db, platform.settings, app_id, launch_id))


@router.get("/launches/{launch_id}/logs", dependencies=[requires(Scope.APPS_READ)], response_model=LaunchLogsAnswer)
async def show_launch_logs(
    launch_id: str, platform: Platform, follow: bool = False
) -> LaunchLogsAnswer | StreamingResponse:
    """The last 64 KiB of what the app printed, or with `follow` text that grows until it ends."""
    view = await run_in_threadpool(_read_logs, platform, launch_id)
    if follow:
        return StreamingResponse(_follow(platform, launch_id), media_type="text/plain; charset=utf-8")
    return LaunchLogsAnswer(data=view)


@router.get("/launches/{launch_id}/stats", dependencies=[requires(Scope.APPS_READ)])
def show_launch_stats(launch_id: str, db: Db, platform: Platform) -> LaunchStatsAnswer:
    """What the app uses now: memory, CPU time, processes."""
    row = service.existing(db, launch_id)
    if row.sandbox_id is None:
        raise LaunchNotRunning(launch_id, row.status)
    stats = platform.keeper.sandboxes.stats(row.sandbox_id)
    return LaunchStatsAnswer(data=LaunchStatsView.model_validate(stats))


def _request(app_id: str, body: LaunchBody) -> LaunchRequest:
    return LaunchRequest(
        repository_id=app_id,
        build_id=body.build_id,
        profile=body.resource_profile,
        env=[EnvVar(variable.key, variable.value) for variable in body.env],
        command=body.command,
        launch_id=body.launch_id,
        wake=body.wake,
    )


def _launch(
    db: Db, platform: PlatformState, wanted: LaunchRequest, correlation: str | None, response: Response
) -> LaunchOfAppAnswer:
    launch = service.launch(db, platform.settings, wanted, correlation_id=correlation)
    response.headers["Location"] = f"/launches/{launch.id}"
    response.headers["Retry-After"] = "1"
    return _with_app(db, launch)


def _with_app(db: Db, launch: LaunchView) -> LaunchOfAppAnswer:
    repository = catalog.show_many(db, [launch.repository_id])[0]
    return LaunchOfAppAnswer(data=LaunchOfApp(repository=repository, launch=launch))


# --- logs that grow -----------------------------------------------------------------------------------------------


def _read_logs(platform: PlatformState, launch_id: str) -> LaunchLogsView:
    with platform.database.transaction() as session:
        return logs.read(session, platform.keeper.sandboxes, launch_id)


def _sandbox_of(platform: PlatformState, launch_id: str) -> tuple[str | None, bool]:
    """The container's id, if there is one, and whether there is or will be one."""
    with platform.database.transaction() as session:
        row = service.existing(session, launch_id)
        return row.sandbox_id if row.address else None, row.status in LIVE


async def _follow(platform: PlatformState, launch_id: str) -> AsyncIterator[str]:
    try:
        sandbox_id, live = await run_in_threadpool(_sandbox_of, platform, launch_id)
        while live and sandbox_id is None:
            await asyncio.sleep(WAIT_SECONDS)
            sandbox_id, live = await run_in_threadpool(_sandbox_of, platform, launch_id)
        sandboxes = platform.keeper.sandboxes
        feed = await run_in_threadpool(logs.follow, sandboxes, sandbox_id) if sandbox_id else None
        if feed is None:
            yield (await run_in_threadpool(_read_logs, platform, launch_id)).logs
            return
        async for line in lines_of(feed):
            yield line + "\n"
    except LaunchNotFound:
        return


async def lines_of(feed: Feed[str]) -> AsyncGenerator[str, None]:
    """The feed's lines without blocking the loop, nor one of its worker threads for as long as the app is silent.

    A thread reads at most 500 lines ahead; it ends with the feed, or when nobody reads on.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str | None] = asyncio.Queue()
    room, left = threading.Semaphore(LINES_AHEAD), threading.Event()

    def read() -> None:
        try:
            for line in feed:
                room.acquire()
                if left.is_set():
                    return
                loop.call_soon_threadsafe(queue.put_nowait, line)
        except EngineUnavailable as error:
            log.warning("launch.log.lost", reason=error.message)
        except Exception:
            log.exception("launch.log.broke")
        finally:
            with suppress(RuntimeError):  # the loop has ended, and whoever read with it
                loop.call_soon_threadsafe(queue.put_nowait, None)

    threading.Thread(target=read, name="launch-log", daemon=True).start()
    try:
        while (line := await queue.get()) is not None:
            yield line
            room.release()
    finally:
        left.set()
        room.release()
        feed.close()
