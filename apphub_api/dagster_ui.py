"""The Dagster UI under /dagster, behind our identity: it has no login of its own.

Whoever may see it may also start and stop runs with it, so it needs the scopes of both.
"""

from fastapi import APIRouter, Request, Response, WebSocket

from apphub_api.deps import Platform, caller_of, requires
from apphub_api.platform import Platform as PlatformState
from apphub_api.proxy import Upstream
from apphub_assets.errors import AppHubError
from apphub_assets.identity.spec import Scope

router = APIRouter(include_in_schema=False)

NEEDED = (Scope.WORKFLOWS_RUN, Scope.APPS_RUN)
METHODS = ["GET", "HEAD", "POST", "OPTIONS"]
POLICY = 1008


@router.api_route("/dagster", methods=METHODS, dependencies=[requires(*NEEDED)])
@router.api_route("/dagster/{path:path}", methods=METHODS, dependencies=[requires(*NEEDED)])
async def dagster_http(request: Request, platform: Platform) -> Response:
    """Pages, GraphQL and downloads."""
    return await platform.proxy.http(request, _upstream(platform))


@router.websocket("/dagster/{path:path}")
async def dagster_socket(websocket: WebSocket, platform: Platform) -> None:
    """GraphQL subscriptions: live runs and logs."""
    try:
        identity = caller_of(websocket, platform, None)
    except AppHubError as error:
        await websocket.close(POLICY, error.message)
        return
    if not all(identity.may(scope) for scope in NEEDED):
        await websocket.close(POLICY, f"the scopes {', '.join(NEEDED)} are needed")
        return
    await platform.proxy.websocket(websocket, _upstream(platform))


def _upstream(platform: PlatformState) -> Upstream:
    settings = platform.settings
    return Upstream(f"{settings.dagster_host}:{settings.dagster_port}")
