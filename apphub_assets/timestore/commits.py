"""One transaction on the lake, from its beginning to the receipt: the only way in which AppHub changes the lake."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from apphub_assets.kit.db import Database
from apphub_assets.timestore import repository
from apphub_assets.timestore.errors import LakeConflict, LakeUnavailable
from apphub_assets.timestore.lake import Connection, Lake
from apphub_assets.timestore.receipt import AUTHOR, Receipt

LOCK_SECONDS = 20.0


@dataclass(frozen=True)
class Commit:
    """An open transaction: statements go to `connection`, what AppHub notes about them to `receipt`."""

    connection: Connection
    receipt: Receipt = field(default_factory=Receipt)


@contextmanager
def committing(lake: Lake, database: Database, message: str) -> Iterator[Commit]:
    """Commit at the end of the block what was done in it; when it raises, nothing has happened.

    Commits of all processes take turns: DuckLake would let them race, and each loser start over after a pause. Work
    before the commit, such as writing files, goes on side by side.

    Args:
        lake: where.
        database: the same Postgres, for the lock.
        message: what the snapshot says it did.

    Raises:
        LakeConflict: another commit changed a table of this one, or brought one of its batches.
        LakeUnavailable: catalog or storage is away; if that was during the commit, it may have happened.
    """
    with lake.writing() as connection, committing_on(connection, database, message) as commit:
        yield commit


@contextmanager
def committing_on(connection: Connection, database: Database, message: str) -> Iterator[Commit]:
    """The same on an instance that the caller has."""
    connection.begin()
    commit = Commit(connection)
    yield commit
    with exclusive(database) as session:
        _finish(commit, session, message)


@contextmanager
def committing_alone(connection: Connection, database: Database, message: str) -> Iterator[Commit]:
    """The same, with nobody else committing from the beginning of the block: for what conflicts with every write.

    Whoever has the lock must not wait for an instance, since those who have one wait for the lock.
    """
    with exclusive(database) as session:
        connection.begin()
        commit = Commit(connection)
        yield commit
        _finish(commit, session, message)


def _finish(commit: Commit, session: Session, message: str) -> None:
    if repository.any_known(session, [(batch.dataset_id, batch.key) for batch in commit.receipt.batches]):
        raise LakeConflict("another process has written one of these batches meanwhile", retry_after=1)
    commit.connection.execute(
        "CALL ducklake_set_commit_message('lake', ?, ?, extra_info => ?)",
        [AUTHOR, message, commit.receipt.to_json()],
    )
    commit.connection.commit()


@contextmanager
def exclusive(database: Database) -> Iterator[Session]:
    """Be the only one who commits to the lake for the time of the block.

    Raises:
        LakeUnavailable: others did not let go in time, or Postgres is away.
    """
    try:
        with database.transaction() as session:
            repository.lock_commits(session, LOCK_SECONDS)
            yield session
    except OperationalError as error:
        raise LakeUnavailable(
            f"the lake's catalog can't be had: {str(error.orig).strip()[:200]}", retry_after=2
        ) from error
