"""Where a process dies. Production code is patched by name: it knows nothing of this."""

import os
import signal
import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from apphub_assets.timestore.lake import Access, Lake

DELAY = struct.Struct("d")
WATCH = -1.0


class Point(StrEnum):
    """What the process is doing when it dies."""

    BODY = "body is read"
    PARQUET = "Parquet is written"
    STAGED = "rows and files are staged"
    BEFORE = "just before COMMIT"
    DURING = "during COMMIT"
    AFTER = "after COMMIT"
    ANSWER = "before the answer"
    ANY = "at any time"


OF_API = (Point.STAGED, Point.AFTER, Point.PARQUET, Point.DURING, Point.ANSWER, Point.BEFORE, Point.BODY)
OF_UPKEEP = (Point.BEFORE, Point.PARQUET, Point.AFTER, Point.DURING, Point.STAGED)
WRITES_FILES = ("INSERT INTO", "CALL ducklake_flush", "CALL ducklake_merge")


@dataclass(frozen=True)
class Plan:
    """Die when `point` is reached after `passes` times; DURING waits `delay` seconds into the commit."""

    point: Point | None = None
    passes: int = 0
    delay: float = 0.0


class Death:
    """Carries out a plan in this process, from a helper process where this one is busy by then."""

    def __init__(self, plan: Plan, storage: Path) -> None:
        self._plan, self._left, self._storage = plan, plan.passes, storage
        self._orders = _start_killer(storage)

    def at(self, point: Point) -> None:
        """The point is reached."""
        if self._is_due(point):
            os.kill(os.getpid(), signal.SIGKILL)

    def soon(self) -> None:
        """A commit begins."""
        if self._is_due(Point.DURING):
            os.write(self._orders, DELAY.pack(self._plan.delay))

    def at_new_file(self) -> None:
        """Something begins that writes files: die as soon as a new one is there."""
        if self._is_due(Point.PARQUET):
            os.write(self._orders, DELAY.pack(WATCH))

    def _is_due(self, point: Point) -> bool:
        if point is not self._plan.point:
            return False
        self._left -= 1
        return self._left < 0


class Mortal:
    """A DuckDB connection that passes the points of a commit."""

    def __init__(self, connection: Any, death: Death) -> None:
        self._connection, self._death = connection, death

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *parameters: Any) -> Any:
        if sql.startswith(WRITES_FILES):
            self._death.at_new_file()
        if "ducklake_set_commit_message" in sql:
            self._death.at(Point.STAGED)
        return self._connection.execute(sql, *parameters)

    def commit(self) -> Any:
        self._death.at(Point.BEFORE)
        self._death.soon()
        done = self._connection.commit()
        self._death.at(Point.AFTER)
        return done


def pass_commits(death: Death) -> None:
    """Let every commit of the lake in this process pass the points."""
    open_lake = Lake._open

    def mortal(self: Lake, access: Access) -> Any:
        connection = open_lake(self, access)
        return connection if access.read_only else Mortal(connection, death)

    Lake._open = mortal  # type: ignore[method-assign]


def pass_requests(death: Death) -> None:
    """The same for what an ingest has before its commit, and after it."""
    from apphub_api import ingest  # no need of it where nothing is served

    answer, chunks = ingest.answer_of, ingest._chunks

    async def read(*arguments: Any) -> AsyncIterator[bytes]:
        async for chunk in chunks(*arguments):
            yield chunk
            death.at(Point.BODY)

    def reply(*arguments: Any) -> Any:
        death.at(Point.ANSWER)
        return answer(*arguments)

    vars(ingest).update(answer_of=reply, _chunks=read)


def _start_killer(storage: Path) -> int:
    """Fork a process that kills this one when it is told to; it ends with this one. To be called before any thread."""
    reading, writing = os.pipe()
    victim = os.getpid()
    if os.fork() > 0:
        os.close(reading)
        return writing
    os.close(writing)
    known = set(_files(storage))
    while order := os.read(reading, DELAY.size):
        (delay,) = DELAY.unpack(order)
        if delay == WATCH:
            known = set(_files(storage))
            while known.issuperset(_files(storage)):
                if os.getppid() != victim:
                    os._exit(0)
        else:
            time.sleep(delay)
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    os._exit(0)


def _files(storage: Path) -> Iterator[str]:
    for folder, _, names in os.walk(storage):
        for name in names:
            yield f"{folder}/{name}"
