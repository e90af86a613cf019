"""Write and read the audit log."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from apphub_assets.audit.models import AuditEntry


@dataclass(frozen=True)
class Action:
    """What was done or tried. `status` is `succeeded`, `failed` or `refused`; `code` is the error's code."""

    action: str
    status: str
    actor: str | None = None
    address: str | None = None
    resource: str | None = None
    code: str | None = None
    correlation_id: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    id: int | None = None
    at: datetime | None = None


def record(session: Session, action: Action) -> None:
    """Add an entry to this transaction."""
    session.execute(
        insert(AuditEntry).values(
            action=action.action, status=action.status, actor=action.actor, address=action.address,
            resource=action.resource, code=action.code, correlation_id=action.correlation_id, details=action.details,
        )
    )  # fmt: skip


def recent(session: Session, *, before: int | None, limit: int) -> list[Action]:
    """Entries with an id smaller than `before`, newest first."""
    statement = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(AuditEntry.id < before)
    return [
        Action(
            e.action, e.status, e.actor, e.address, e.resource, e.code, e.correlation_id, e.details, e.id, e.at
        )
        for e in session.scalars(statement)
    ]  # fmt: skip
