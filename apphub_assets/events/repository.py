"""Every SQL statement of the event stream."""

from datetime import datetime
from typing import Any

from psycopg.errors import QueryCanceled
from sqlalchemy import Row, TextClause, delete, func, insert, select, text
from sqlalchemy.exc import DataError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from apphub_assets.events.errors import InvalidJsonPath, JsonPathTooSlow
from apphub_assets.events.models import OutboxEvent, Sequencer
from apphub_assets.events.spec import Event, EventQuery

NUMBER_COMMITTED = text(
    """
    WITH fresh AS (
        SELECT position, row_number() OVER (ORDER BY position) AS n FROM events.outbox WHERE sequence IS NULL
    ), numbered AS (
        UPDATE events.outbox o SET sequence = :last + fresh.n FROM fresh WHERE o.position = fresh.position
    )
    UPDATE events.sequencer SET last = :last + (SELECT count(*) FROM fresh)
    """
)

JSON_PATH_SECONDS = 5.0

COLUMNS = (
    OutboxEvent.id,
    OutboxEvent.sequence,
    OutboxEvent.type,
    OutboxEvent.source,
    OutboxEvent.occurred_at,
    OutboxEvent.payload,
    OutboxEvent.correlation_id,
)


def insert_event(session: Session, values: dict[str, Any]) -> None:
    session.execute(insert(OutboxEvent).values(**values))


def notify(session: Session, channel: str) -> None:
    session.execute(select(func.pg_notify(channel, "")))


def number_committed(session: Session) -> None:
    """Give the next numbers to committed events that have none."""
    if session.scalar(select(OutboxEvent.position).where(OutboxEvent.sequence.is_(None)).limit(1)) is None:
        return
    # The lock is a statement of its own: the one that numbers must not see what an earlier holder numbered meanwhile.
    last = session.scalar(select(Sequencer.last).with_for_update())
    session.execute(NUMBER_COMMITTED, {"last": last})


def after(session: Session, sequence: int, types: list[str] | None, limit: int) -> list[Event]:
    statement = select(*COLUMNS).where(OutboxEvent.sequence > sequence).order_by(OutboxEvent.sequence).limit(limit)
    if types is not None:
        statement = statement.where(OutboxEvent.type.in_(types))
    return [_event(row) for row in session.execute(statement)]


def last_sequence(session: Session) -> int:
    return session.scalar(select(Sequencer.last)) or 0


def first_sequence(session: Session) -> int:
    return session.scalar(select(func.min(OutboxEvent.sequence))) or 0


def find(session: Session, query: EventQuery) -> list[Event]:
    """One row more than the limit, so that the caller sees whether there are more."""
    statement = select(*COLUMNS).where(OutboxEvent.sequence.is_not(None))
    if query.type is not None:
        statement = statement.where(OutboxEvent.type == query.type)
    if query.source is not None:
        statement = statement.where(OutboxEvent.source == query.source)
    if query.correlation_id is not None:
        statement = statement.where(OutboxEvent.correlation_id == query.correlation_id)
    if query.since is not None:
        statement = statement.where(OutboxEvent.occurred_at >= query.since)
    if query.until is not None:
        statement = statement.where(OutboxEvent.occurred_at <= query.until)
    if query.before is not None:
        statement = statement.where(OutboxEvent.sequence < query.before)
    if query.json_path is not None:
        _check_path(session, query.json_path)
        statement = statement.where(_path_exists(query.json_path))
    statement = statement.order_by(OutboxEvent.sequence.desc()).limit(query.limit + 1)
    try:
        return [_event(row) for row in session.execute(statement)]
    except OperationalError as error:
        if query.json_path is None or not isinstance(error.orig, QueryCanceled):
            raise
        message = f"jsonPath took more than {JSON_PATH_SECONDS:g} s; narrow it by type, source, from or to"
        raise JsonPathTooSlow(message, pointers=[("/jsonPath", message)]) from None


def delete_before(session: Session, moment: datetime) -> int:
    result = session.execute(
        delete(OutboxEvent).where(OutboxEvent.occurred_at < moment, OutboxEvent.sequence.is_not(None))
    )
    return int(result.rowcount)  # type: ignore[attr-defined]  # a DML result has it


def _check_path(session: Session, json_path: str) -> None:
    """Refuse what does not parse, and bound what this transaction may spend on what does."""
    try:
        session.execute(text("SELECT CAST(:json_path AS jsonpath)"), {"json_path": json_path})
    except (DataError, ProgrammingError) as error:
        message = f"jsonPath {json_path[:200]!r} is not a Postgres jsonpath: {error.orig}"
        raise InvalidJsonPath(message, pointers=[("/jsonPath", message)]) from None
    session.execute(text(f"SET LOCAL statement_timeout = {round(JSON_PATH_SECONDS * 1000)}"))


def _path_exists(json_path: str) -> TextClause:
    return text(
        "jsonb_path_exists(jsonb_build_object('id', id, 'type', type, 'source', source, 'payload', payload,"
        " 'correlationId', correlation_id), CAST(:json_path AS jsonpath), silent => true)"
    ).bindparams(json_path=json_path)


def _event(row: Row[Any]) -> Event:
    return Event(**row._mapping)  # noqa: SLF001 SQLAlchemy's public name for it
