"""Table of idempotency."""

from datetime import datetime

from sqlalchemy import func
from sqlalchemy.orm import Mapped, mapped_column

from apphub_assets.kit.db import Base


class StoredAnswer(Base):
    """The answer to the first request under a key; `id` is a hash of caller, method, path and key."""

    __tablename__ = "answers"
    __table_args__ = ({"schema": "idempotency"},)

    id: Mapped[str] = mapped_column(primary_key=True)
    body_hash: Mapped[str] = mapped_column(comment="of the request")
    status: Mapped[int]
    headers: Mapped[dict[str, str]]
    body: Mapped[str] = mapped_column(comment="of the answer")
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), index=True)
