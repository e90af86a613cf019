"""The group-committing writer of one process: while it commits, what arrives gathers for the next commit.

One commit of the lake takes some tens of milliseconds however few rows it has, and commits of all processes take
turns; so many small batches become durable together, and each of their senders waits for one or two commits.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import structlog
from prometheus_client import Counter, Histogram

from apphub_assets.errors import AppHubError
from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings
from apphub_assets.timestore.errors import IngestBusy, LakeUnavailable
from apphub_assets.timestore.ingest.writing import Incoming, Outcome, Written, write
from apphub_assets.timestore.lake import Lake

log = structlog.get_logger()

# What one commit takes of what waits. More would keep the first of them waiting for the last.
GROUP_BATCHES = 500
GROUP_BYTES = 32 * 1024 * 1024
# How long a commit waits for those whose last batch was in the one before: they are about to send their next.
GATHER_SECONDS = 0.015

BATCHES = Counter("apphub_timestore_batches", "Batches by what became of them.", ["outcome"])
ROWS = Counter("apphub_timestore_rows", "Rows written.")
COMMITS = Histogram(
    "apphub_timestore_commit_seconds", "Time from the first look to the last commit of a group.",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)  # fmt: skip


@dataclass(frozen=True)
class _Waiting:
    batch: Incoming
    until: float
    done: "Future[Written]"


class Writer:
    """Takes batches from any thread; `start` before the first, `stop` after the last."""

    def __init__(self, lake: Lake, database: Database, settings: Settings) -> None:
        self._lake, self._database, self._settings = lake, database, settings
        self._waiting = deque[_Waiting]()
        self._bytes = 0
        self._expected = 1
        self._changed = threading.Condition()
        self._stopping = False
        # One at a time: an instance of the lake is left for what is small.
        self._big = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="timestore-writer", daemon=True)

    @property
    def waiting_bytes(self) -> int:
        """How much was taken and is not written yet."""
        return self._bytes

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what was taken, take no more, and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def submit(self, batch: Incoming) -> "Future[Written]":
        """Take a batch; the future has it once it is durable and every process can read it.

        Raises:
            IngestBusy: more waits than APPHUB_INGEST_QUEUE_BYTES allow.
        """
        size = batch.source.byte_count
        limit = self._settings.ingest_queue_bytes
        waiting = _Waiting(batch, time.monotonic() + self._settings.ingest_timeout, Future())
        with self._changed:
            if self._stopping:
                raise LakeUnavailable("AppHub stops; send the batch again", retry_after=5)
            if self._bytes and self._bytes + size > limit:
                raise IngestBusy(
                    f"{self._bytes} bytes wait to be written, and {limit} may (APPHUB_INGEST_QUEUE_BYTES); try again",
                    retry_after=1,
                )
            self._bytes += size
            self._waiting.append(waiting)
            self._changed.notify()
        return waiting.done

    def write_now(self, batch: Incoming) -> Written:
        """Write a batch in a commit of its own, on this thread: for one that is as big as a group.

        Raises:
            AppHubError: why it can't be written.
        """
        with self._big:
            until = time.monotonic() + self._settings.ingest_timeout
            return _result(batch, self._write([batch], until))

    def _run(self) -> None:
        while group := self._next_group():
            until = max(waiting.until for waiting in group)
            try:
                outcomes = self._write([waiting.batch for waiting in group], until)
            except Exception as error:
                # Whoever waits has to learn of it, and the thread must live.
                log.exception("ingest.broken")
                outcomes = dict.fromkeys((waiting.batch.id for waiting in group), error)
            with self._changed:
                self._bytes -= sum(waiting.batch.source.byte_count for waiting in group)
            for waiting in group:
                _resolve(waiting, outcomes)

    def _next_group(self) -> list[_Waiting]:
        """What is to be committed together; empty when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            self._changed.wait_for(lambda: len(self._waiting) >= self._expected or self._stopping, GATHER_SECONDS)
            group, size = list[_Waiting](), 0
            while self._waiting and len(group) < GROUP_BATCHES and size < GROUP_BYTES:
                group.append(self._waiting.popleft())
                size += group[-1].batch.source.byte_count
            # As many as were served lately, by and by fewer when they stay away.
            self._expected = max(len(group), self._expected * 3 // 4)
            return group

    def _write(self, batches: Sequence[Incoming], until: float) -> dict[str, Outcome]:
        with COMMITS.time():
            outcomes = write(self._lake, self._database, batches, until=until)
        for outcome in outcomes.values():
            BATCHES.labels(_kind(outcome)).inc()
            if isinstance(outcome, Written) and not outcome.replayed:
                ROWS.inc(outcome.batch.row_count)
        return outcomes


def _resolve(waiting: _Waiting, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[waiting.batch.id]
    if waiting.done.set_running_or_notify_cancel():
        if isinstance(outcome, Written):
            waiting.done.set_result(outcome)
        else:
            waiting.done.set_exception(outcome)


def _result(batch: Incoming, outcomes: dict[str, Outcome]) -> Written:
    outcome = outcomes[batch.id]
    if isinstance(outcome, Written):
        return outcome
    raise outcome


def _kind(outcome: Outcome) -> str:
    if isinstance(outcome, Written):
        return "replayed" if outcome.replayed else "written"
    return "refused" if isinstance(outcome, AppHubError) and not outcome.retryable else "failed"
