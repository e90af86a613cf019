"""What belongs to one request and must reach the log, the run's tags and the container's labels."""

import re
import time
from contextvars import ContextVar

import structlog
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apphub_assets.kit.ids import new_id

log = structlog.get_logger()
correlation_id: ContextVar[str | None] = ContextVar("correlation_id", default=None)
HEADER = b"x-correlation-id"
ACCEPTABLE = re.compile(r"[A-Za-z0-9._:-]{1,64}")

REQUESTS = Counter("apphub_http_requests", "Requests answered.", ["method", "route", "status"])
DURATION = Histogram("apphub_http_request_duration_seconds", "Time to the end of the response.", ["method", "route"])


class RequestContext:
    """Gives each request a correlation id (the caller's if it is a sane one), logs and counts it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(HEADER, b"").decode("latin-1")
        current = given if ACCEPTABLE.fullmatch(given) else new_id()
        correlation_id.set(current)
        structlog.contextvars.bind_contextvars(correlation_id=current)
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (HEADER, current.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            structlog.contextvars.clear_contextvars()
            if scope["type"] == "http":
                _account(scope, status, time.perf_counter() - started, current)


def _account(scope: Scope, status: int, seconds: float, current: str) -> None:
    route = getattr(scope.get("route"), "path", "unmatched")
    REQUESTS.labels(scope["method"], route, str(status)).inc()
    DURATION.labels(scope["method"], route).observe(seconds)
    log.debug(
        "request.answered",
        method=scope["method"],
        route=route,
        status=status,
        ms=round(seconds * 1000, 1),
        correlation_id=current,
    )
