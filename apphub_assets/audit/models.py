"""Table of the audit log."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Identity, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from apphub_assets.kit.db import Base


class AuditEntry(Base):
    """One privileged action or refusal."""

    __tablename__ = "entries"
    __table_args__ = (Index("ix_entries_actor_id", "actor", "id"), {"schema": "audit"})

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    actor: Mapped[str | None]
    address: Mapped[str | None]
    action: Mapped[str]
    resource: Mapped[str | None]
    status: Mapped[str]
    code: Mapped[str | None]
    correlation_id: Mapped[str | None]
    details: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
