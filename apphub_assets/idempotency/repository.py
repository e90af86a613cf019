"""Every SQL statement of idempotency."""

from datetime import datetime

from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.orm import Session

from apphub_assets.idempotency.models import StoredAnswer
from apphub_assets.idempotency.spec import Answer, Claim


def lock(session: Session, claim: Claim, seconds: float) -> None:
    """Hold the claim until this transaction ends.

    Raises:
        OperationalError: with `LockNotAvailable` as its origin, when another transaction holds it for longer.
    """
    session.execute(select(func.set_config("lock_timeout", f"{round(seconds * 1000)}ms", True)))
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"idempotency:{claim.id}", 0))))
    session.execute(text("SET LOCAL lock_timeout TO DEFAULT"))


def get(session: Session, claim: Claim) -> StoredAnswer | None:
    return session.get(StoredAnswer, claim.id)


def add(session: Session, claim: Claim, answer: Answer) -> None:
    session.execute(
        insert(StoredAnswer).values(
            id=claim.id,
            body_hash=claim.body_hash,
            status=answer.status,
            headers=dict(answer.headers),
            body=answer.body,
        )
    )


def delete_before(session: Session, moment: datetime) -> int:
    result = session.execute(delete(StoredAnswer).where(StoredAnswer.created_at < moment))
    return int(result.rowcount)  # type: ignore[attr-defined]  # a DML result has it
