"""Table of the launches."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from apphub_assets.kit.db import Base, Timestamps

SCHEMA = "launches"


class Launch(Timestamps, Base):
    """What a person wants to run and what is known of it.

    A *pooled* launch is one that nobody has asked for yet: it is kept like any other, and given away under a new id.
    `sandbox_id` is set from before the container is made until it is gone, so a container without such a row is an
    orphan. `outcome` is the state that a stopping launch ends in.
    """

    __tablename__ = "launches"
    __table_args__ = (
        CheckConstraint(
            "status IN ('pending','starting','running','stopping','stopped','failed','expired')", name="status"
        ),
        Index("ix_launches_repository_id_created_at", "repository_id", "created_at"),
        Index(
            "ix_launches_kept", "status", postgresql_where=text("status IN ('pending','starting','running','stopping')")
        ),
        Index(
            "ix_launches_unreported",
            "repository_id",
            postgresql_where=text("NOT pooled AND reported_status IS DISTINCT FROM status"),
        ),
        {"schema": SCHEMA},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    repository_id: Mapped[str] = mapped_column(ForeignKey("catalog.repositories.id", ondelete="CASCADE"))
    build_id: Mapped[str | None] = mapped_column(ForeignKey("catalog.builds.id", ondelete="SET NULL"))
    image_tag: Mapped[str]
    resource_profile: Mapped[str] = mapped_column(server_default="medium")
    env: Mapped[list[dict[str, Any]]] = mapped_column(server_default=text("'[]'"))
    command: Mapped[str | None]
    wake: Mapped[bool] = mapped_column(server_default=text("false"))
    pooled: Mapped[bool] = mapped_column(server_default=text("false"))
    correlation_id: Mapped[str | None]
    preview_key: Mapped[str] = mapped_column(
        server_default=text("replace(gen_random_uuid()::text, '-', '')"), comment="opens the preview without a token"
    )

    status: Mapped[str] = mapped_column(server_default="pending")
    outcome: Mapped[str | None]
    reported_status: Mapped[str | None] = mapped_column(comment="that Dagster was told last")
    reason_code: Mapped[str]
    reason: Mapped[str]
    reason_at: Mapped[datetime]

    sandbox_id: Mapped[str | None] = mapped_column(unique=True)
    address: Mapped[str | None] = mapped_column(comment="host:port where the relay listens")
    container_ip: Mapped[str | None]
    internal_port: Mapped[int | None]
    exit_code: Mapped[int | None]
    log_tail: Mapped[str | None] = mapped_column(deferred=True, comment="end of what it printed, kept when it ends")
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger, comment="measured while it waits in the pool")

    started_at: Mapped[datetime | None]
    stopped_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    last_request_at: Mapped[datetime | None]
