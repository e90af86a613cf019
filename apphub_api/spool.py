"""Answers that are made at the engine's speed and sent at the client's: between the two they wait in a file.

So whoever reads slowly holds up neither an instance of the lake nor memory, and what fails early is still told as an
error. A failure after the first byte ends the connection in mid-air: no client can take the half for the whole.
"""

import os
import threading
from collections.abc import AsyncIterator, Callable
from contextvars import copy_context
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from apphub_assets.timestore.errors import LakeUnavailable, QueryTooBig

CHUNK = 2**18
# An answer that is shorter is sent as a whole, with its length.
WHOLE = 2**20


class Abandoned(Exception):
    """Nobody reads any more what is being written."""


class Spool:
    """Bytes that one thread writes and another reads, in a file that goes with them."""

    closed = False

    def __init__(self, folder: Path, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 it is open for as long as this is there
        self._max = max_bytes
        self._size = 0
        self._changed = threading.Condition()
        self._is_done = False
        self._is_abandoned = False
        self._error: BaseException | None = None

    def __del__(self) -> None:
        self._file.close()

    @property
    def size(self) -> int:
        """How many bytes there are by now."""
        return self._size

    def fill(self, write: Callable[["Spool"], None]) -> None:
        """Let `write` write in a thread of its own; what it raises, `wait` and `read` raise."""
        threading.Thread(target=copy_context().run, args=(self._filled, write), name="spool").start()

    def write(self, data: Any) -> int:
        """Append bytes.

        Raises:
            QueryTooBig: there are too many.
            LakeUnavailable: the disk has no room for them.
            Abandoned: nobody reads them.
        """
        length = memoryview(data).nbytes
        if self._is_abandoned:
            raise Abandoned
        if self._size + length > self._max:
            raise QueryTooBig(f"the answer has more than {self._max} bytes (APPHUB_QUERY_TEMP_BYTES); ask for less")
        self._append(memoryview(data).cast("B"))
        with self._changed:
            self._size += length
            self._changed.notify_all()
        return length

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Writers call it at their end; the file stays for the reader."""

    def abandon(self) -> None:
        """Read no more of it."""
        self._is_abandoned = True

    def wait(self, size: int | None) -> bool:
        """Wait for so many bytes, or the end; tells whether it is the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_done or (size is not None and self._size >= size))
            if self._error:
                raise self._error
            return self._is_done

    def read(self, position: int, most: int) -> bytes:
        """The bytes from a position on, once there are any; none at the end."""
        self.wait(position + 1)
        return os.pread(self._file.fileno(), most, position)

    def _append(self, rest: memoryview) -> None:
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise LakeUnavailable(f"the answer can't be kept: {error.strerror}", retry_after=5) from error

    def _filled(self, write: Callable[["Spool"], None]) -> None:
        try:
            write(self)
        except BaseException as error:  # noqa: BLE001 the reader's thread raises it
            self._error = error
        with self._changed:
            self._is_done = True
            self._changed.notify_all()


def respond(spool: Spool, media_type: str, *, whole: bool, headers: Callable[[], dict[str, str]]) -> Response:
    """The response of what is being written; `whole` waits for its end, and its `headers` are asked for after it."""
    if spool.wait(None if whole else WHOLE) and spool.size <= WHOLE:
        return Response(spool.read(0, WHOLE), headers=headers(), media_type=media_type)
    return StreamingResponse(_sent(spool), headers=headers(), media_type=media_type)


async def _sent(spool: Spool) -> AsyncIterator[bytes]:
    position = 0
    try:
        while data := await run_in_threadpool(spool.read, position, CHUNK):
            position += len(data)
            yield data
    finally:
        spool.abandon()
