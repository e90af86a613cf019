"""A bound on request bodies, counted as they arrive: a missing or lying Content-Length does not help."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apphub_api.errors import problem
from apphub_assets.errors import TooLarge
from apphub_assets.timestore.errors import IngestBusy

UNBOUNDED = re.compile(r"/preview/|/dagster/|(/api|/v1)?/datasets/[^/]+/ingest$")


class BodyTooLarge(TooLarge):
    code, title = "body_too_large", "Request body too large"


class Budget:
    """How much memory all the bodies that are being read may take together."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0

    @contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """Yields what to call before more is kept; all of it is given back at the end.

        Raises:
            IngestBusy: there is no room for that now.
        """
        held = 0

        def take(size: int) -> None:
            nonlocal held
            if self._used > held and self._used + size > self._limit:
                raise IngestBusy(f"the bodies that arrive now take {self._used} bytes; try again", retry_after=1)
            held += size
            self._used += size

        try:
            yield take
        finally:
            self._used -= held


class BodyLimit:
    """Refuses bodies over `max_bytes` with 413, except where there are other limits: previews, ingests."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or UNBOUNDED.match(scope["path"]):
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max:
            await self._refuse(scope, receive, send)
            return
        seen, started = 0, False

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            # Whoever reads the body sees a client that left; what they answer to that is replaced below.
            return {"type": "http.disconnect"} if seen > self._max else message

        async def watched(message: Message) -> None:
            nonlocal started
            if seen <= self._max or started:
                started = True
                await send(message)

        await self._app(scope, bounded, watched)
        if seen > self._max and not started:
            await self._refuse(scope, receive, send)

    @property
    def _message(self) -> str:
        return f"the request body is larger than {self._max} bytes (APPHUB_MAX_BODY_BYTES)"

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        await problem(BodyTooLarge(self._message), scope["path"])(scope, receive, send)
