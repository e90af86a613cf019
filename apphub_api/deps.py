"""What routes ask for: a session, the caller, the platform."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, cast

from fastapi import Depends, Request, Security, WebSocket
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from apphub_api.context import correlation_id
from apphub_api.platform import Platform as PlatformState
from apphub_assets.audit import service as audit
from apphub_assets.errors import AppHubError, Forbidden, Unauthorized
from apphub_assets.identity.spec import LOCAL_OPERATOR, Identity, Scope
from apphub_assets.kit.db import Database

READING = {"GET", "HEAD", "OPTIONS"}
POLICY = 1008
LOOPBACK = {"127.0.0.1", "::1", "localhost"}

bearer = HTTPBearer(auto_error=False, description="An operator token; see APPHUB_OPERATOR_TOKENS.")


async def get_platform(connection: HTTPConnection) -> PlatformState:
    return cast(PlatformState, connection.app.state.platform)


Platform = Annotated[PlatformState, Depends(get_platform)]


async def identify(
    connection: HTTPConnection,
    platform: Platform,
    scopes: SecurityScopes,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)] = None,
) -> Identity:
    """Who is calling, and whether they hold every scope that the route declares.

    Raises:
        Unauthorized, Forbidden: no or an unknown token; a scope is missing.
    """
    token = credentials.credentials if credentials else None
    return permit(connection, platform, token, [Scope(scope) for scope in scopes.scopes])


def permit(connection: HTTPConnection, platform: PlatformState, token: str | None, scopes: Iterable[Scope]) -> Identity:
    """The holder of the token, if they hold every one of the scopes.

    Raises:
        Unauthorized, Forbidden: no or an unknown token; a scope is missing.
    """
    identity = connection.state.identity = caller_of(connection, platform, token)
    missing = [scope for scope in scopes if not identity.may(scope)]
    if missing:
        raise Forbidden(f"{identity.subject} lacks the scope {missing[0]}; ask an operator for a token that has it")
    return identity


async def admits(websocket: WebSocket, platform: PlatformState, token: str | None, *scopes: Scope) -> bool:
    """Whether the caller may have this socket; if not, it has been closed, and the refusal audited."""
    try:
        async with witnessed(websocket, platform):
            permit(websocket, platform, token, scopes)
    except AppHubError as error:
        await websocket.close(POLICY, error.message)
        return False
    return True


def caller_of(connection: HTTPConnection, platform: PlatformState, token: str | None) -> Identity:
    """The holder of the token, or the local operator where that is allowed."""
    if token is not None:
        return platform.tokens.identify(token)
    if not platform.tokens.configured and is_local(connection):
        return LOCAL_OPERATOR
    raise Unauthorized("a bearer token is needed: `Authorization: Bearer …`, or APPHUB_TOKEN for the CLI")


def is_local(connection: HTTPConnection) -> bool:
    """Whether the request comes from a person at this machine, and not from a web page they merely look at.

    A page of another origin, or one that rebinds its name to 127.0.0.1, also arrives from loopback; its Origin or its
    Host gives it away.
    """
    host = connection.url.hostname or ""
    peer = connection.client.host if connection.client else ""
    if peer not in LOOPBACK or host not in LOOPBACK:
        return False
    origin = connection.headers.get("origin")
    site = connection.headers.get("sec-fetch-site", "none")
    own = {f"http://{connection.headers.get('host')}", f"https://{connection.headers.get('host')}"}
    return (origin is None or origin in own) and site in {"none", "same-origin"}


Caller = Annotated[Identity, Security(identify)]


def requires(*scopes: Scope) -> Any:
    """A route's declaration of what its caller must hold; OpenAPI shows it.

    A mutation is audited in its own transaction; what fails or is refused, in one of its own.
    """
    return Security(audited, scopes=[str(scope) for scope in scopes])


async def audited(
    request: Request,
    scopes: SecurityScopes,
    platform: Platform,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)] = None,
) -> AsyncIterator[Identity]:
    async with witnessed(request, platform):
        yield await identify(request, platform, scopes, credentials)


@asynccontextmanager
async def witnessed(connection: HTTPConnection, platform: PlatformState) -> AsyncIterator[None]:
    """Write a failed mutation, or a refusal of anything, into the audit log in a transaction of its own."""
    try:
        yield
    except AppHubError as error:
        refused = isinstance(error, Unauthorized | Forbidden)
        if refused or _method(connection) not in READING:
            action = action_of(connection, "refused" if refused else "failed", error.code)
            await run_in_threadpool(_record, platform.database, action)
        raise


def _record(database: Database, action: audit.Action) -> None:
    with database.transaction() as session:
        audit.record(session, action)


def get_session(request: Request, platform: Platform) -> Iterator[Session]:
    """One transaction per request, committed before the response leaves (hence `scope="function"` below)."""
    with platform.database.transaction() as session:
        yield session
        if request.method not in READING:
            audit.record(session, action_of(request, "succeeded"))


Db = Annotated[Session, Depends(get_session, scope="function")]


def get_reader(platform: Platform) -> Iterator[Session]:
    """For routes that read much and are waited for: without a transaction."""
    with platform.database.reading() as session:
        yield session


ReadDb = Annotated[Session, Depends(get_reader, scope="function")]


async def get_correlation() -> str | None:
    return correlation_id.get()


Correlation = Annotated[str | None, Depends(get_correlation)]


def action_of(connection: HTTPConnection, status: str, code: str | None = None) -> audit.Action:
    """The request as a line of the audit log."""
    identity: Identity | None = getattr(connection.state, "identity", None)
    route = connection.scope.get("route")
    return audit.Action(
        action=f"{_method(connection)} {getattr(route, 'path', connection.url.path)}",
        status=status,
        actor=identity.subject if identity else None,
        address=connection.client.host if connection.client else None,
        resource=connection.url.path.replace("\0", "\ufffd"),  # no text in Postgres may have it, a path may
        code=code,
        correlation_id=correlation_id.get(),
    )


def _method(connection: HTTPConnection) -> str:
    """A WebSocket begins as a GET."""
    return str(connection.scope.get("method", "GET"))
