"""The event stream: append inside a transaction, read by sequence, wait for more."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import psycopg
from sqlalchemy.orm import Session

from apphub_assets.events import repository
from apphub_assets.events.spec import Event, EventPage, EventQuery
from apphub_assets.kit.cursor import encode_cursor
from apphub_assets.kit.db import Database
from apphub_assets.kit.ids import new_id

CHANNEL = "apphub_events"
QUIET_SECONDS = 0.2


def append(
    session: Session, *, type: str, source: str, payload: dict[str, Any], correlation_id: str | None = None
) -> str:
    """Add an event to the outbox of this transaction; it is published when, and only if, that commits.

    Returns: the event's id.
    """
    event_id = new_id()
    values = {"id": event_id, "type": type, "source": source, "payload": payload, "correlation_id": correlation_id}
    repository.insert_event(session, values)
    repository.notify(session, CHANNEL)
    return event_id


def read(database: Database, after: int, *, types: list[str] | None = None, limit: int = 500) -> list[Event]:
    """Events with a sequence greater than `after`, oldest first, at most `limit`.

    Gives sequence numbers to what has been committed since the last reader, so the answer is complete: nothing
    with a smaller sequence appears later.
    """
    with database.transaction() as session:
        repository.number_committed(session)
        return repository.after(session, after, types, limit)


def latest_sequence(database: Database) -> int:
    """The sequence of the newest event, 0 when there is none."""
    with database.transaction() as session:
        repository.number_committed(session)
        return repository.last_sequence(session)


def find(database: Database, query: EventQuery) -> EventPage:
    """A page of events, newest first.

    Raises:
        InvalidJsonPath, JsonPathTooSlow: the jsonPath filter does not parse, or takes too long.
    """
    # On its own: whoever numbers next waits for this transaction, and must not wait for the search.
    with database.transaction() as session:
        repository.number_committed(session)
    with database.transaction() as session:
        events = repository.find(session, query)
    page, more = events[: query.limit], len(events) > query.limit
    return EventPage(page, encode_cursor([page[-1].sequence]) if more else None)


def oldest_kept(session: Session) -> int:
    """The smallest sequence still in the outbox, 0 when it is empty."""
    return repository.first_sequence(session)


def expire(session: Session, days: float, now: datetime) -> int:
    """Delete numbered events older than `days`; returns how many."""
    return repository.delete_before(session, now - timedelta(days=days))


@contextmanager
def listener(url: str) -> Iterator[Iterator[bool]]:
    """Yield an iterator over wake-ups: True when something was appended, False after QUIET_SECONDS without.

    The connection is dedicated to LISTEN. `psycopg.OperationalError` passes through when Postgres goes away; the
    caller reads from its last sequence when it is back, so nothing is missed.
    """
    with psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True) as connection:
        connection.execute(f"LISTEN {CHANNEL}")
        yield _wake_ups(connection)


def _wake_ups(connection: psycopg.Connection[Any]) -> Iterator[bool]:
    while True:
        yield any(True for _ in connection.notifies(timeout=QUIET_SECONDS, stop_after=1))
