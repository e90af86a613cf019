"""The Dagster UI under /dagster, behind our identity: it has no login of its own.

Whoever may see it may also start and stop runs with it, so it needs the scopes of both.
"""

from fastapi import APIRouter, Request, Response, WebSocket
from starlette.requests import HTTPConnection

from apphub_api.deps import Platform, admits, requires
from apphub_api.platform import Platform as PlatformState
from apphub_api.proxy import Upstream
from apphub_assets.identity.spec import Scope
from apphub_assets.orchestrator import LOCK_HEADER

router = APIRouter(include_in_schema=False)

NEEDED = (Scope.WORKFLOWS_RUN, Scope.APPS_RUN)
METHODS = ["GET", "HEAD", "POST", "OPTIONS"]


@router.api_route("/dagster", methods=METHODS, dependencies=[requires(*NEEDED)])
@router.api_route("/dagster/{path:path}", methods=METHODS, dependencies=[requires(*NEEDED)])
async def dagster_http(request: Request, platform: Platform) -> Response:
    """Pages, GraphQL and downloads."""
    return await platform.proxy.http(request, _unlocked(request, platform))


@router.websocket("/dagster/{path:path}")
async def dagster_socket(websocket: WebSocket, platform: Platform) -> None:
    """GraphQL subscriptions: live runs and logs."""
    if await admits(websocket, platform, None, *NEEDED):
        await platform.proxy.websocket(websocket, _unlocked(websocket, platform))


def _unlocked(connection: HTTPConnection, platform: PlatformState) -> Upstream:
    """The webserver, with the request given the secret that it wants, in place of whatever the caller wrote there."""
    settings, name = platform.settings, LOCK_HEADER.lower().encode()
    headers = [header for header in connection.scope["headers"] if header[0] != name]
    if settings.dagster_secret:
        headers.append((name, settings.dagster_secret.get_secret_value().encode()))
    connection.scope["headers"] = headers
    return Upstream(f"{settings.dagster_host}:{settings.dagster_port}")
