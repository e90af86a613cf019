"""Tables of the event stream."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Identity, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from apphub_assets.kit.db import Base

SCHEMA = "events"


class OutboxEvent(Base):
    """One event. `position` is the order of insertion, `sequence` the order of the stream."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index("ix_outbox_unsequenced", "position", postgresql_where=text("sequence IS NULL")),
        Index("ix_outbox_type_sequence", "type", "sequence"),
        Index("ix_outbox_occurred_at", "occurred_at"),
        {"schema": SCHEMA},
    )

    position: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    sequence: Mapped[int | None] = mapped_column(BigInteger, unique=True)
    id: Mapped[str] = mapped_column(unique=True)
    type: Mapped[str]
    source: Mapped[str]
    occurred_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    payload: Mapped[dict[str, Any]]
    correlation_id: Mapped[str | None] = mapped_column(index=True)


class Sequencer(Base):
    """One row: the last sequence number given."""

    __tablename__ = "sequencer"
    __table_args__ = (CheckConstraint("one", name="one"), {"schema": SCHEMA})

    one: Mapped[bool] = mapped_column(Boolean, primary_key=True, server_default=text("true"))
    last: Mapped[int] = mapped_column(BigInteger, server_default="0")
