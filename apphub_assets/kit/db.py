"""The database: one engine per process, one session per unit of work, committed at the edge."""

import select
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, ClassVar

import psycopg
from sqlalchemy import Connection, DateTime, Engine, MetaData, create_engine, event, func, make_url, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

SCHEMAS = ("catalog", "search", "launches", "timestore", "events", "audit", "idempotency")

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Declarative base: named constraints, timestamps with time zone, dict and list as JSONB."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar = {
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[dict[str, Any]]: JSONB,
        dict[str, str]: JSONB,
    }


class Timestamps:
    """Columns that say when a row was made and last changed, by the database's clock."""

    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), onupdate=func.clock_timestamp())


def _check(connection: psycopg.Connection[Any], _record: object, _proxy: object) -> None:
    """Whether a pooled connection still stands: one that the server has closed has that to read, others have nothing.

    A question to the server would tell more, and cost a round trip each time.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        raise DisconnectionError("the server has closed this connection")


class Held:
    """A lock that this process took; it is lost together with its connection, as when Postgres restarts."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def check(self) -> None:
        """Raises OperationalError when the lock was lost, so that another may have it by now."""
        self._connection.execute(text("SELECT 1"))


class Database:
    """An engine and the ways to use it. Cheap to pass around; `close` when the process ends."""

    def __init__(self, url: str, *, pool_size: int = 10, application_name: str = "apphub") -> None:
        self.url = url
        # Statements here take milliseconds; to compile one takes a hundred, and the planner often thinks it worth it.
        # In the zone of a server elsewhere, what is within the years 1 to 9999 may not be, and could not be read.
        options = f"{make_url(url).query.get('options', '')} -c jit=off -c timezone=UTC".strip()
        self.engine: Engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=10,
            connect_args={"application_name": application_name, "connect_timeout": 5, "options": options},
        )
        event.listen(self.engine, "checkout", _check)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        self._readers = sessionmaker(
            self.engine.execution_options(isolation_level="AUTOCOMMIT"), expire_on_commit=False, autoflush=False
        )

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that commits when the block ends and rolls back when it raises."""
        with self._sessions.begin() as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for reading only, in which each statement sees what is committed by then.

        It saves the two round trips of a transaction, which at that isolation would promise no more.
        """
        with self._readers() as session:
            yield session

    @contextmanager
    def lock(self, name: str) -> "Iterator[Held | None]":
        """Try a session-wide advisory lock called `name`; yields it, or None when somebody else has it.

        The lock lives on its own connection and so dies with the process that holds it, however it dies.
        Whoever can take the lock therefore knows that no living worker holds it.
        """
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            had = bool(connection.scalar(text("SELECT pg_try_advisory_lock(hashtextextended(:n, 0))"), {"n": name}))
            try:
                yield Held(connection) if had else None
            finally:
                if had and not connection.invalidated:
                    connection.execute(text("SELECT pg_advisory_unlock(hashtextextended(:n, 0))"), {"n": name})

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()
