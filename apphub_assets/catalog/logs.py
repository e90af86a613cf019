"""The log of a build: written while it happens, read while it grows, bounded in the middle.

What is kept of a long log is its beginning, where the mistake often is, and its end, where it shows. Chunks carry the
offset of their first byte, so a reader sees exactly where something is missing and says so.
"""

import threading
import time
from collections import deque

from sqlalchemy.orm import Session

from apphub_assets.catalog import repository
from apphub_assets.kit.db import Database

CHUNK_BYTES = 256 * 1024
FLUSH_SECONDS = 0.3


class BuildLog:
    """Collects what a build prints and writes it in chunks; call `flush` at the end.

    Holds at most one chunk in memory. Every flush is a short transaction of its own: followers see it at once. Safe to
    call from several threads.
    """

    def __init__(self, database: Database, build_id: str, max_bytes: int) -> None:
        self._database = database
        self._build_id = build_id
        self._head_bytes = max_bytes // 2
        self._tail_bytes = max_bytes - self._head_bytes
        self._buffer: list[str] = []
        self._buffered = 0
        self._printed = 0
        self._kept_head = 0
        self._lock = threading.Lock()
        self._tail: deque[tuple[int, int]] = deque()
        self._flushed_at = time.monotonic()

    def write(self, text: str) -> None:
        """Add text; whatever Postgres can't keep (NUL, lone surrogates) is replaced."""
        with self._lock:
            self._write(text)

    def flush(self) -> None:
        """Write what was collected."""
        with self._lock:
            self._flush()

    def _write(self, text: str) -> None:
        clean = text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
        self._buffer.append(clean)
        self._buffered += len(clean.encode())
        if self._buffered >= CHUNK_BYTES or time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        self._flushed_at = time.monotonic()
        if not self._buffered:
            return
        content, size, position = "".join(self._buffer), self._buffered, self._printed
        self._buffer, self._buffered = [], 0
        self._printed += size
        with self._database.transaction() as session:
            repository.add_log_chunk(session, self._build_id, position, content)
            self._make_room(session, position, size)
            repository.note_log_size(session, self._build_id, self._printed, self._kept)

    @property
    def _kept(self) -> int:
        return self._kept_head + sum(size for _, size in self._tail)

    def _make_room(self, session: Session, position: int, size: int) -> None:
        if self._kept_head + size <= self._head_bytes and not self._tail:
            self._kept_head += size
            return
        self._tail.append((position, size))
        while len(self._tail) > 1 and sum(size for _, size in self._tail) > self._tail_bytes:
            oldest, _ = self._tail.popleft()
            repository.drop_log_chunk(session, self._build_id, oldest)


def read(session: Session, build_id: str, after: int = 0) -> tuple[str, int]:
    """The kept log from byte `after` on, gaps marked in place, and the position to go on from."""
    parts: list[str] = []
    position = after
    for chunk in repository.log_chunks(session, build_id, after):
        if chunk.position > position:
            parts.append(f"\n[… {chunk.position - position} bytes were not kept …]\n")
        parts.append(chunk.content)
        position = chunk.position + len(chunk.content.encode())
    return "".join(parts), position
