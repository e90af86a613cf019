"""Runs each statement of `/sql/read` in a process of its own; one is kept waiting, so that it starts at once."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing import Pipe
from signal import Signals
from typing import Any

from apphub_assets.errors import AppHubError
from apphub_assets.settings import Settings
from apphub_assets.timestore.errors import (
    InvalidSql,
    LakeUnavailable,
    QueryTooBig,
    QueryTooLong,
    SqlBusy,
    SqlNotAllowed,
    SqlProcessFailed,
    SqlUnknownDataset,
)
from apphub_assets.timestore.lake import Lake, clean

WORKER = "apphub_assets.timestore.sql.worker"
MAX_ANSWER_BYTES = 16 * 1024 * 1024
# As many again as run may wait, this long; whoever comes then is sent away.
WAIT_SECONDS = 5.0
# What a statement's process inherits of the environment's secrets: nothing but the mark by which leftovers are found.
OWN_VARIABLES = ("APPHUB_", "DATABASE_URL")
MARK = "APPHUB_STACK"

Json = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """A statement with its parameters, by position or by name; `form` is json, csv or table.

    `tables` are the SELECTs that the caller's datasets stand for, by slug.
    """

    sql: str
    params: list[Any] | Json
    form: str
    tables: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """`body` are the rows in the form that was asked for; `datasets` the slugs of those that were read."""

    datasets: list[str]
    columns: list[dict[str, str]]
    row_count: int
    truncated: bool
    warnings: list[str]
    body: bytes


class _Passing(Exception):
    """The process could not do it, and another may: the lake has changed since it was opened, or was away."""

    def __init__(self, error: AppHubError) -> None:
        super().__init__(error.message)
        self.error = error


class SqlProcesses:
    """The processes of these settings' lake. Cheap to make; the first starts when somebody asks; safe in threads."""

    def __init__(self, lake: Lake, settings: Settings) -> None:
        self._lake = lake
        self._settings = settings
        self._lock = threading.Lock()
        self._idle: _Process | None = None
        self._all: set[_Process] = set()
        self._is_closed = False
        self._admitted = threading.BoundedSemaphore(2 * settings.sql_concurrency)
        self._running = threading.BoundedSemaphore(settings.sql_concurrency)

    def warm(self) -> None:
        """See that one is waiting.

        Raises:
            LakeUnavailable, StorageMoved: there is no lake to open.
        """
        self._lake.prepare()
        with self._lock:
            if self._waiting() is None and not self._is_closed:
                self._idle = self._start()

    def run(self, question: Question) -> Answer:
        """Answer a question; a process that the lake has outlived is replaced by a new one, once.

        Raises:
            InvalidSql, SqlNotAllowed, SqlUnknownDataset: it is not one that may be asked, or fails.
            QueryTooLong, QueryTooBig: it takes more than APPHUB_SQL_TIMEOUT or APPHUB_SQL_MEMORY_BYTES.
            SqlBusy: too many run and wait.
            SqlProcessFailed: its process ended under it.
            LakeUnavailable, StorageMoved: the lake can't be opened or read.
        """
        self._lake.prepare()
        with self._turn(), _unpacked():
            until = time.monotonic() + self._settings.sql_timeout
            try:
                return self._ask(self._take(), question, until)
            except _Passing:
                with self._lock:
                    fresh = self._start()
                return self._ask(fresh, question, until)
            finally:
                self.warm()

    def close(self) -> None:
        """End every process, also those that work; nothing is answered afterwards."""
        with self._lock:
            self._is_closed = True
            processes = list(self._all)
            idle, self._idle = self._idle, None
        for process in processes:
            process.stop()
        if idle is not None:
            idle.end()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._admitted.acquire(blocking=False):
            raise self._busy()
        try:
            if not self._running.acquire(timeout=WAIT_SECONDS):
                raise self._busy()
            try:
                yield
            finally:
                self._running.release()
        finally:
            self._admitted.release()

    def _busy(self) -> SqlBusy:
        return SqlBusy(
            f"{self._settings.sql_concurrency} statements run and others wait (APPHUB_SQL_CONCURRENCY); try again",
            retry_after=2,
        )

    def _take(self) -> "_Process":
        """The one that waits, or else a new one."""
        with self._lock:
            process, self._idle = self._waiting() or self._start(), None
            return process

    def _waiting(self) -> "_Process | None":
        if self._idle is not None and not self._idle.is_alive:
            self._idle.end()
            self._idle = None
        return self._idle

    def _start(self) -> "_Process":
        if self._is_closed:
            raise LakeUnavailable("AppHub is stopping", retry_after=5)
        settings = self._settings
        opening = asdict(self._lake.recipe(settings.sql_memory_bytes)) | {
            "memory_bytes": settings.sql_memory_bytes,
            "cpu_seconds": int(settings.sql_timeout * (os.cpu_count() or 1)) + 10,
        }
        self._all = {process for process in self._all if process.is_alive}
        process = _Process(opening)
        self._all.add(process)
        return process

    def _ask(self, process: "_Process", question: Question, until: float) -> Answer:
        job = vars(question) | {"max_rows": self._settings.sql_max_rows, "max_bytes": MAX_ANSWER_BYTES}
        timer = threading.Timer(max(0.0, until - time.monotonic()), process.kill)
        timer.start()
        try:
            received = process.ask(job)
        except (EOFError, OSError):
            raise self._obituary(process, until) from None
        finally:
            timer.cancel()
            process.end()
        return self._read(received)

    def _obituary(self, process: "_Process", until: float) -> Exception:
        if time.monotonic() >= until:
            return QueryTooLong(
                f"the statement took more than {self._settings.sql_timeout:g} s (APPHUB_SQL_TIMEOUT);"
                " ask for less at once"
            )
        if self._is_closed:
            return LakeUnavailable("AppHub is stopping", retry_after=5)
        if not process.has_job:
            return _Passing(SqlProcessFailed(f"the statement's process {process.fate()} before it had the statement"))
        return SqlProcessFailed(
            f"the statement's process {process.fate()} before it answered, perhaps for want of memory;"
            " no other was hurt"
        )

    def _read(self, received: bytes) -> Answer:
        head, _, body = received.partition(b"\n")
        said: Json = json.loads(head)
        if "error" in said:
            raise self._error(**said["error"])
        return Answer(
            datasets=said["datasets"],
            columns=said["columns"],
            row_count=said["rowCount"],
            truncated=said["truncated"],
            warnings=said["warnings"],
            body=body,
        )

    def _error(self, code: str, message: str, position: int | None) -> Exception:
        shown = self._without_places(clean(Exception(message)))
        for kind in (InvalidSql, SqlNotAllowed, SqlUnknownDataset):
            if code == kind.code:
                return kind(shown, pointers=[("/sql", shown)], position=position)
        if code == QueryTooBig.code:
            return QueryTooBig(
                f"the statement needs more than {self._settings.sql_memory_bytes} bytes of memory"
                " (APPHUB_SQL_MEMORY_BYTES); ask for less at once"
            )
        if code == SqlProcessFailed.code:
            return _Passing(SqlProcessFailed(f"DuckDB failed at the statement: {shown}"))
        return _Passing(LakeUnavailable(f"the lake's catalog or storage fails: {shown}", retry_after=5))

    def _without_places(self, message: str) -> str:
        for place in self._lake.recipe(0).places:
            message = message.replace(place, "…/")
        return message


@contextmanager
def _unpacked() -> Iterator[None]:
    try:
        yield
    except _Passing as passing:
        raise passing.error from None


class _Process:
    """One process, which answers one statement."""

    def __init__(self, opening: Json) -> None:
        self.has_job = False
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", WORKER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={name: value for name, value in os.environ.items() if _is_harmless(name)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # A Ctrl-C in the terminal is for AppHub, which ends this one.
                start_new_session=True,
            )
        with suppress(OSError):  # it ended at once, which whoever takes it will see
            self._connection.send_bytes(json.dumps(opening).encode())

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, job: Json) -> bytes:
        """Send the job and wait for the answer.

        Raises:
            EOFError, OSError: the process ended before.
        """
        self._connection.send_bytes(json.dumps(job).encode())
        self._connection.recv_bytes()
        self.has_job = True
        return self._connection.recv_bytes(2 * MAX_ANSWER_BYTES)

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        """Kill it if it still is there, and wait until it is not."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Stop it; only for whoever would read its answer."""
        self.stop()
        self._connection.close()

    def fate(self) -> str:
        """How it ended, once its end of the connection is closed."""
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return "said what can't be understood"
        return f"was killed by {Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _is_harmless(variable: str) -> bool:
    return variable == MARK or not variable.startswith(OWN_VARIABLES)
