"""The way to a launch: `/preview/<id>/…`, or any path at the host `<id>.preview.<anything>`.

It needs a token that may read apps, or the launch's link: `/preview/<id>.<key>/…`, for browsers can't send a token.

Below `/preview` an app shares our host, so every answer is put into a browser sandbox: its scripts have an origin of
their own and can't act as the person who looks at it. At a host of its own an app needs none of that.
"""

import hmac
import html
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request, Security, WebSocket
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, SecurityScopes
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from apphub_api.deps import LOOPBACK, Platform, audited, bearer, caller_of
from apphub_api.platform import Platform as PlatformState
from apphub_api.proxy import Upstream, UpstreamUnreachable
from apphub_assets.errors import AppHubError, Forbidden, Unavailable
from apphub_assets.identity.spec import Scope as Permission
from apphub_assets.launches import service
from apphub_assets.launches.errors import LaunchNotFound
from apphub_assets.launches.models import Launch
from apphub_assets.launches.spec import LIVE, LaunchStatus

router = APIRouter(include_in_schema=False)

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
HOST = re.compile(r"([a-z0-9-]{1,64})\.preview\.[a-z0-9.-]+(?::\d+)?", re.IGNORECASE)
SANDBOX = "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads"
OPAQUE = "null"
LIVE_REFRESH, ENDED_REFRESH = 1, 5
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="{refresh}">
<meta name="viewport" content="width=device-width"><title>{status} – {app}</title>
<style>
html {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }}
body {{ margin: 20vh auto; max-width: 34em; padding: 0 1em }}
b {{ text-transform: capitalize }} small {{ opacity: .7 }}
</style></head>
<body><h1>{app}</h1><p><b>{status}</b> – {reason}</p>
<p><small>Launch {launch}, since {since}. This page becomes the app when it answers.</small></p></body></html>
"""


class PreviewNotRunning(Unavailable):
    code, title = "preview_not_running", "Preview is not running"


class HostRouting:
    """Leads requests for `<id>.preview.<anything>` to the launch, whatever their path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"}:
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            if match := HOST.fullmatch(host):
                # `raw_path` stays: that is what the app sees.
                path = f"/preview/{match[1].lower()}{scope['path']}"
                scope = {**scope, "path": path, "apphub.own_host": True}
        await self._app(scope, receive, send)


admitted = asynccontextmanager(audited)


async def visitor(
    request: Request,
    scopes: SecurityScopes,
    platform: Platform,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)] = None,
) -> AsyncIterator[None]:
    """Whoever holds a token with the scope, or the link; without any tokens, the person at this machine."""
    if _is_neighbour(request, platform) or await run_in_threadpool(_has_link, request, platform):
        yield
        return
    async with admitted(request, scopes, platform, credentials):
        yield


async def visit(launch: str, platform: Platform) -> AsyncIterator[None]:
    """A launch is not idle until the last byte of an answer has left.

    Raises:
        LaunchNotFound: no launch can be called this; the keeper writes whatever is noted here.
    """
    launch_id = _id_of(launch)
    service.check_id(launch_id)
    with platform.keeper.visits.during(launch_id):
        yield


ACCESS = [Security(visitor, scopes=[str(Permission.APPS_READ)]), Depends(visit)]


@router.api_route("/preview/{launch}", methods=METHODS, dependencies=ACCESS)
async def add_slash(request: Request, launch: str) -> Response:
    """Relative links of the app need the slash."""
    query = f"?{request.url.query}" if request.url.query else ""
    return RedirectResponse(f"/preview/{launch}/{query}", status_code=307)


@router.api_route("/preview/{launch}/{path:path}", methods=METHODS, dependencies=ACCESS)
async def preview(request: Request, launch: str, platform: Platform) -> Response:
    """The app, or a page that says why it is not there and turns into it."""
    shared_host = "apphub.own_host" not in request.scope
    if shared_host and _is_preflight(request):
        return _preflight(request)
    row = await run_in_threadpool(_find, platform, _id_of(launch))
    if row.status != LaunchStatus.RUNNING or row.address is None:
        return _not_running(request, row)
    try:
        answer = await platform.proxy.http(request, _upstream(launch, row.address, shared_host))
    except UpstreamUnreachable:
        platform.keeper.wake()
        return _not_running(request, row, "The app does not answer just now.")
    if shared_host:
        answer.headers.append("Content-Security-Policy", SANDBOX)
        if request.headers.get("origin") == OPAQUE:
            answer.headers["Access-Control-Allow-Origin"] = OPAQUE
    return answer


@router.websocket("/preview/{launch}/{path:path}")
async def preview_socket(websocket: WebSocket, launch: str, platform: Platform) -> None:
    """A WebSocket of the app."""
    try:
        await run_in_threadpool(_admit, websocket, platform)
        row = await run_in_threadpool(_find, platform, _id_of(launch))
        if row.status != LaunchStatus.RUNNING or row.address is None:
            raise PreviewNotRunning(row.reason)
    except AppHubError as error:
        await websocket.send_denial_response(Response(error.message, error.status))
        return
    shared_host = "apphub.own_host" not in websocket.scope
    with platform.keeper.visits.during(row.id):
        await platform.proxy.websocket(websocket, _upstream(launch, row.address, shared_host))


def _find(platform: PlatformState, launch_id: str) -> Launch:
    """The launch; one that expired and was made to wake is woken."""
    with platform.database.transaction() as session:
        launch = service.existing(session, launch_id)
        if launch.wake and launch.status == LaunchStatus.EXPIRED:
            service.wake(session, platform.settings, launch_id)
        return launch


def _upstream(launch: str, address: str, shared_host: bool) -> Upstream:
    return Upstream(address, f"/preview/{launch}" if shared_host else "")


def _id_of(launch: str) -> str:
    """The id in `<id>` or `<id>.<key>`."""
    return launch.partition(".")[0]


# --- who may look -------------------------------------------------------------------------------------------------


def _is_neighbour(connection: HTTPConnection, platform: PlatformState) -> bool:
    """Whether the local operator opens a preview, or a page within a preview loads what belongs to it.

    Such a page has an opaque origin: its requests come as if from another site, with `Origin: null` or none, and never
    with a `Referer`. What names another site is refused; who hides where they come from needs to know the launch's id.
    """
    host = connection.url.hostname or ""
    peer = connection.client.host if connection.client else ""
    at_home = host in LOOPBACK or host.endswith(".preview.localhost")
    if platform.tokens.configured or peer not in LOOPBACK or not at_home:
        return False
    headers = connection.headers
    if headers.get("sec-fetch-mode") == "navigate" and connection.scope.get("method") in {"GET", "HEAD"}:
        return True
    own = {f"{scheme}://{headers.get('host')}" for scheme in ("http", "https")}
    return _is_page_of(own, headers.get("referer", "")) and headers.get("origin", OPAQUE) in own | {OPAQUE}


def _is_page_of(origins: set[str], referer: str) -> bool:
    """Whether a page names one of these origins as its own, or none."""
    try:
        page = urlsplit(referer)
    except ValueError:
        return False
    return not page.netloc or f"{page.scheme}://{page.netloc}" in origins


def _has_link(connection: HTTPConnection, platform: PlatformState) -> bool:
    """Whether the launch's key stands behind its id."""
    launch_id, _, key = connection.path_params["launch"].partition(".")
    if not key:
        return False
    with suppress(LaunchNotFound), platform.database.transaction() as session:
        return hmac.compare_digest(service.existing(session, launch_id).preview_key.encode(), key.encode())
    return False


def _admit(websocket: WebSocket, platform: PlatformState) -> None:
    if _is_neighbour(websocket, platform) or _has_link(websocket, platform):
        return
    scheme, _, token = websocket.headers.get("authorization", "").partition(" ")
    identity = caller_of(websocket, platform, token if scheme.lower() == "bearer" else None)
    if not identity.may(Permission.APPS_READ):
        raise Forbidden(f"{identity.subject} lacks the scope {Permission.APPS_READ}")


def _is_preflight(request: Request) -> bool:
    asks = "access-control-request-method" in request.headers
    return request.method == "OPTIONS" and asks and request.headers.get("origin") == OPAQUE


def _preflight(request: Request) -> Response:
    """A page of an opaque origin has to ask before it sends JSON to its own server, which expects no such question."""
    headers = {
        "Access-Control-Allow-Origin": OPAQUE,
        "Access-Control-Allow-Methods": request.headers["access-control-request-method"],
        "Access-Control-Allow-Headers": request.headers.get("access-control-request-headers", ""),
        "Access-Control-Max-Age": "600",
    }
    return Response(status_code=204, headers=headers)


# --- while it is not there ----------------------------------------------------------------------------------------


def _not_running(request: Request, launch: Launch, reason: str | None = None) -> Response:
    """A page for people, a problem document for programs; both say when to look again."""
    refresh = LIVE_REFRESH if launch.status in LIVE or launch.wake else ENDED_REFRESH
    reason = reason or launch.reason
    if "text/html" not in request.headers.get("accept", ""):
        message = f"launch {launch.id!r} is {launch.status}: {reason}"
        raise PreviewNotRunning(message, retry_after=refresh, launchStatus=launch.status, reason=launch.reason_code)
    page = PAGE.format(
        refresh=refresh,
        app=html.escape(launch.repository_id),
        launch=html.escape(launch.id),
        status=launch.status,
        reason=html.escape(reason),
        since=f"{launch.reason_at:%H:%M:%S} UTC",
    )
    headers = {
        "Retry-After": str(refresh),
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    }
    return HTMLResponse(page, 503, headers)
