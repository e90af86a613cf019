"""Events from Postgres to this process's sockets and streams.

One thread listens and reads; every client has a bounded queue. A client that is too slow for its queue is told so and
let go: it resumes from its last sequence, so nothing is lost for it and nobody waits for it.
"""

import asyncio
import threading
from collections.abc import AsyncIterator

import psycopg
import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from apphub_assets.events import service as events
from apphub_assets.events.spec import Event
from apphub_assets.kit.db import Database

log = structlog.get_logger()
QUEUE = 1000
RECONNECT_SECONDS = 1.0


class TooSlow(Exception):
    """The client did not take its events in time; it should connect again and resume."""


class _Client:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE)

    def offer(self, event: Event) -> None:
        if self.queue.qsize() < QUEUE - 1:
            self.queue.put_nowait(event)
        elif not self.queue.full():
            self.queue.put_nowait(None)


class Fanout:
    """Reads the stream once for all clients of this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._clients: set[_Client] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="event-fanout", daemon=True)
        self.last = 0
        self.listening = False

    def start(self) -> None:
        """Begin behind the newest event; raises when the database is away."""
        self.last = events.latest_sequence(self._database)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    async def follow(self, after: int | None, types: list[str] | None = None) -> AsyncIterator[Event]:
        """Events after a sequence, then those that come; `None` starts now.

        Raises:
            TooSlow: the caller did not keep up.
            SQLAlchemyError: what was missed can't be read now.
        """
        client = _Client()
        self._clients.add(client)
        try:
            sent = self.last
            if after is not None:
                # Whoever has seen more than there is has seen another database: they would wait here for ever.
                sent = min(after, await run_in_threadpool(events.latest_sequence, self._database))
                while past := await run_in_threadpool(events.read, self._database, sent):
                    for event in past:
                        sent = event.sequence
                        if types is None or event.type in types:
                            yield event
            while (live := await client.queue.get()) is not None:
                if live.sequence > sent and (types is None or live.type in types):
                    yield live
            raise TooSlow
        finally:
            self._clients.discard(client)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except (psycopg.Error, SQLAlchemyError) as error:
                self.listening = False
                log.warning("events.listener.lost", error=str(error).partition("\n")[0])
                self._stopping.wait(RECONNECT_SECONDS)

    def _listen(self) -> None:
        with events.listener(self._database.url) as wake_ups:
            self.listening = True
            self._publish()
            for _ in wake_ups:
                if self._stopping.is_set():
                    return
                self._publish()

    def _publish(self) -> None:
        while fresh := events.read(self._database, self.last):
            for event in fresh:
                for client in tuple(self._clients):
                    client.loop.call_soon_threadsafe(client.offer, event)
            self.last = fresh[-1].sequence
