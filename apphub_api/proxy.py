"""A reverse proxy for HTTP and WebSocket that streams both ways and tells neither side about the other's credentials.

What the far side gets: the caller's request without hop-by-hop headers, without AppHub's own token and cookies, and
with `X-Forwarded-*` as seen here (a caller's own are dropped). What the caller gets: the answer, with redirects and
cookie paths moved under the prefix by which the far side is reached.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from apphub_assets.errors import AppHubError, Unavailable

CONNECT_SECONDS, HANDSHAKE_SECONDS = 5.0, 15.0
NO_STATUS, ABNORMAL = 1005, 1006
GOING_AWAY, INTERNAL = 1001, 1011
CLIENT_CLOSED = 499

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
# The caller's claims about itself, and what it tells AppHub alone.
NOT_FORWARDED = HOP_BY_HOP | {b"authorization", b"cookie", b"forwarded", b"x-real-ip", b"x-correlation-id", b"expect"}
# What one app behind a shared host must not decide for all of them.
NOT_RETURNED = HOP_BY_HOP | {b"strict-transport-security", b"alt-svc", b"clear-site-data", b"service-worker-allowed"}
OWN_COOKIES = ("apphub_", "apphub-", "__host-apphub", "__secure-apphub")

RawHeaders = list[tuple[bytes, bytes]]


class UpstreamUnreachable(Unavailable):
    """Nobody answers at the address, or what answers does not speak HTTP."""

    status, code, title = 502, "upstream_unreachable", "Upstream unreachable"


class ClientGone(AppHubError):
    """The caller left before the answer came; nobody reads this."""

    status, code, title = CLIENT_CLOSED, "client_closed_request", "Client closed the request"


@dataclass(frozen=True)
class Upstream:
    """Where a request goes on to.

    Args:
        authority: `host:port`.
        prefix: path under which the caller reaches it, without a slash at the end; "" at the root of a host.
        strips_prefix: whether the far side sees paths without the prefix.
    """

    authority: str
    prefix: str = ""
    strips_prefix: bool = True

    def target(self, connection: HTTPConnection) -> bytes:
        """Path and query for the far side, byte for byte as the caller wrote them."""
        path: bytes = connection.scope["raw_path"]
        if self.strips_prefix and self.prefix:
            path = path.partition(self.prefix.encode())[2] or b"/"
        query: bytes = connection.scope["query_string"]
        return path + b"?" + query if query else path

    def outside(self, path: str) -> str:
        """An absolute path of the far side as the caller sees it."""
        is_outside = path == self.prefix or path.startswith(self.prefix + "/")
        return path if is_outside else self.prefix + path


class ReverseProxy:
    """Forwards requests; one per process. Every request has a connection of its own, so none is ever stale."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
            verify=False,  # noqa: S501  # upstreams are plain HTTP on this machine; spares loading certificates
        )
        self._client.headers.clear()

    async def close(self) -> None:
        """End what is still open."""
        await self._client.aclose()

    async def http(self, request: Request, upstream: Upstream) -> Response:
        """Forward one request; returns when the far side has sent its headers, the body follows as it comes.

        Raises:
            UpstreamUnreachable: no connection, or no HTTP on it.
            ClientGone: the caller left first.
        """
        incoming = _Incoming(request)
        outgoing = self._client.build_request(
            request.method,
            f"http://{upstream.authority}",
            headers=request_headers(request, upstream),
            content=incoming.body() if incoming.has_body else None,
            # Not as part of the URL, which httpx would normalise.
            extensions={"target": upstream.target(request)},
        )
        answer = await self._send(outgoing, incoming, upstream)
        try:
            headers = response_headers(answer.headers.raw, request, upstream)
        except Exception:
            await answer.aclose()
            raise
        response = StreamingResponse(_body(answer), answer.status_code, background=BackgroundTask(answer.aclose))
        response.raw_headers = headers
        return response

    async def _send(self, outgoing: httpx.Request, incoming: "_Incoming", upstream: Upstream) -> httpx.Response:
        sending = asyncio.create_task(self._client.send(outgoing, stream=True))
        leaving = asyncio.create_task(incoming.left())
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise ClientGone("the caller closed the connection before the answer came")
            return sending.result()
        except httpx.TransportError as error:
            raise UpstreamUnreachable(f"{upstream.authority} does not answer HTTP: {error!r}") from error
        finally:
            leaving.cancel()
            sending.cancel()

    async def websocket(self, websocket: WebSocket, upstream: Upstream) -> None:
        """Connect the caller's WebSocket with the far side's until one of them closes; close codes are passed on."""
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in request_headers(websocket, upstream)
            if not name.startswith(b"sec-websocket-") and name != b"host"
        ]
        host = websocket.headers.get("host", upstream.authority)
        try:
            async with _ConnectOnce(
                f"ws://{host}{upstream.target(websocket).decode('latin-1')}",
                host=upstream.authority.rpartition(":")[0],
                port=int(upstream.authority.rpartition(":")[2]),
                additional_headers=headers,
                subprotocols=[Subprotocol(name) for name in websocket.scope.get("subprotocols", [])] or None,
                user_agent_header=None,
                compression=None,
                max_size=None,
                ping_interval=None,
                open_timeout=HANDSHAKE_SECONDS,
                proxy=None,
            ) as far:
                await websocket.accept(subprotocol=far.subprotocol)
                await _couple(websocket, far)
        except InvalidStatus as refused:
            answer = refused.response
            await websocket.send_denial_response(Response(bytes(answer.body or b""), answer.status_code))
        except (OSError, ValueError, InvalidHandshake, InvalidURI):
            await websocket.send_denial_response(Response(f"{upstream.authority} does not answer\n", 502))


def request_headers(connection: HTTPConnection, upstream: Upstream) -> RawHeaders:
    """The headers that the far side gets; `Host` is the caller's, as apps build absolute links from it."""
    given: RawHeaders = connection.scope["headers"]
    dropped = NOT_FORWARDED | _named_by_connection(given)
    kept = [(n, v) for n, v in given if n not in dropped and not n.startswith(b"x-forwarded-")]
    forwarded = {
        "x-forwarded-for": connection.client.host if connection.client else "unknown",
        "x-forwarded-proto": {"ws": "http", "wss": "https"}.get(connection.url.scheme, connection.url.scheme),
        "x-forwarded-host": connection.headers.get("host", ""),
        "x-forwarded-prefix": upstream.prefix,
    }
    kept += [(name.encode(), value.encode("latin-1")) for name, value in forwarded.items() if value]
    if cookies := "; ".join(_foreign_cookies(connection.headers.getlist("cookie"))):
        kept.append((b"cookie", cookies.encode("latin-1")))
    return kept


def response_headers(given: Iterable[tuple[bytes, bytes]], request: HTTPConnection, upstream: Upstream) -> RawHeaders:
    """The headers that the caller gets."""
    lowered = [(name.lower(), value) for name, value in given]
    dropped = NOT_RETURNED | _named_by_connection(lowered)
    answer: RawHeaders = []
    for name, value in lowered:
        if name in {b"location", b"content-location"}:
            answer.append((name, _moved(value.decode("latin-1"), request, upstream).encode("latin-1")))
        elif name == b"set-cookie":
            cookie = _cookie_under_prefix(value.decode("latin-1"), upstream)
            answer += [(name, cookie.encode("latin-1"))] if cookie else []
        elif name not in dropped:
            answer.append((name, value))
    return answer


class _ConnectOnce(connect):
    """A redirect is the caller's to follow: it may lead to where the far side has no business."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class _Incoming:
    """The caller's side of a request: its body once, and then whether the caller is still there."""

    def __init__(self, request: Request) -> None:
        headers = request.headers
        self.has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        self._receive = request.receive
        self._read = asyncio.Event()
        if not self.has_body:
            self._read.set()

    async def body(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message: Message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("the caller closed the connection in the middle of its request")
            more = message.get("more_body", False)
            yield message.get("body", b"")
        self._read.set()

    async def left(self) -> None:
        """Return when the caller has closed the connection."""
        await self._read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()


async def _couple(near: WebSocket, far: ClientConnection) -> None:
    """Pass messages both ways until one side closes; the other is then closed with the same code."""
    tasks = {asyncio.create_task(_to_far(near, far)), asyncio.create_task(_to_near(near, far))}
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*done)


async def _to_far(near: WebSocket, far: ClientConnection) -> None:
    while True:
        message = await near.receive()
        if message["type"] == "websocket.disconnect":
            await far.close(_sendable(message.get("code"), GOING_AWAY), message.get("reason") or "")
            return
        text: str | None = message.get("text")
        with suppress(ConnectionClosed):  # the other direction sees it too, and closes
            await far.send(message["bytes"] if text is None else text)


async def _to_near(near: WebSocket, far: ClientConnection) -> None:
    with suppress(WebSocketDisconnect, ConnectionClosed):
        async for message in far:
            await (near.send_text(message) if isinstance(message, str) else near.send_bytes(message))
    with suppress(RuntimeError, WebSocketDisconnect):  # the caller was faster
        await near.close(_sendable(far.close_code, INTERNAL), far.close_reason)


def _sendable(code: int | None, otherwise: int) -> int:
    """A close code that may go over the wire."""
    return otherwise if code is None or code == ABNORMAL else 1000 if code == NO_STATUS else code


def _named_by_connection(headers: RawHeaders) -> set[bytes]:
    """Headers that `Connection` declares to be hop-by-hop."""
    return {part.strip().lower() for name, value in headers if name == b"connection" for part in value.split(b",")}


def _foreign_cookies(headers: list[str]) -> list[str]:
    pairs = [pair.strip() for header in headers for pair in header.split(";")]
    return [pair for pair in pairs if pair and not pair.lower().startswith(OWN_COOKIES)]


def _moved(location: str, request: HTTPConnection, upstream: Upstream) -> str:
    """A redirect within the far side, put under the prefix; one to elsewhere, or to nowhere, as it is."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return location
    if parts.netloc and parts.netloc not in {upstream.authority, request.headers.get("host")}:
        return location
    if not parts.netloc and not location.startswith("/"):
        return location
    path = upstream.outside(parts.path or "/") if upstream.strips_prefix else parts.path or "/"
    return parts._replace(scheme="", netloc="", path=path).geturl()


def _cookie_under_prefix(cookie: str, upstream: Upstream) -> str | None:
    """A cookie that reaches its own app alone; None for one that looks like AppHub's."""
    first, *attributes = [part.strip() for part in cookie.split(";")]
    if first.lower().startswith(OWN_COOKIES):
        return None
    kept = [a for a in attributes if not a.lower().startswith("domain")]
    return "; ".join([first, *(_path_under_prefix(a, upstream) for a in kept)])


def _path_under_prefix(attribute: str, upstream: Upstream) -> str:
    name, _, path = attribute.partition("=")
    if name.lower() != "path" or not path.startswith("/") or not upstream.strips_prefix:
        return attribute
    return f"{name}={upstream.outside(path)}"
