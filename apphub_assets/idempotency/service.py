"""Do a request once: claim its key, do the work, store the answer, all in one transaction."""

from datetime import datetime, timedelta

from psycopg.errors import LockNotAvailable
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from apphub_assets.idempotency import repository
from apphub_assets.idempotency.errors import IdempotencyInFlight, IdempotencyKeyReused
from apphub_assets.idempotency.spec import Answer, Claim

WAIT_SECONDS = 2.0
KEPT = timedelta(hours=24)


def claim(session: Session, wanted: Claim) -> Answer | None:
    """The answer that was given before; `None` when the work is now this transaction's to do, and to `store`.

    Waits two seconds for another transaction with the same claim, which may answer or fail meanwhile.

    Raises:
        IdempotencyKeyReused: the key was used with another body.
        IdempotencyInFlight: the other transaction still works.
    """
    try:
        repository.lock(session, wanted, WAIT_SECONDS)
    except OperationalError as error:
        if isinstance(error.orig, LockNotAvailable):
            raise IdempotencyInFlight(wanted.key) from error
        raise
    stored = repository.get(session, wanted)
    if stored is None:
        return None
    if stored.body_hash != wanted.body_hash:
        raise IdempotencyKeyReused(wanted.key)
    return Answer(stored.status, stored.headers, stored.body)


def store(session: Session, claimed: Claim, answer: Answer) -> None:
    """Keep the answer with the work that it tells of."""
    repository.add(session, claimed, answer)


def expire(session: Session, now: datetime) -> int:
    """Forget answers older than a day; returns how many."""
    return repository.delete_before(session, now - KEPT)
