"""Tables of the catalog."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from apphub_assets.kit.db import Base, Timestamps

SCHEMA = "catalog"


class Repository(Timestamps, Base):
    """A registered repository and what its last ingestion found."""

    __tablename__ = "repositories"
    __table_args__ = (
        CheckConstraint("ingest_status IN ('seed','pending','processing','ready','failed')", name="ingest_status"),
        Index(
            "ix_repositories_unfinished",
            "ingest_status",
            postgresql_where=text("ingest_status IN ('pending','processing')"),
        ),
        {"schema": SCHEMA},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    repo_url: Mapped[str] = mapped_column(index=True)
    git_ref: Mapped[str | None]
    dockerfile_path: Mapped[str | None] = mapped_column(comment="as declared by a person")
    metadata_strategy: Mapped[str] = mapped_column(server_default="auto")
    version: Mapped[int] = mapped_column(server_default="1")

    ingest_status: Mapped[str] = mapped_column(server_default="pending")
    ingest_error: Mapped[str | None]
    ingest_error_code: Mapped[str | None]
    ingest_attempts: Mapped[int] = mapped_column(server_default="0")
    ingest_not_before: Mapped[datetime | None] = mapped_column(comment="back-off: no sensor retries it before")
    last_ingested_at: Mapped[datetime | None]
    run_id: Mapped[str | None] = mapped_column(comment="Dagster run that was last asked to ingest")
    correlation_id: Mapped[str | None]

    commit_sha: Mapped[str | None]
    branch: Mapped[str | None]
    found_dockerfile: Mapped[str | None]
    readme: Mapped[str | None]
    owner: Mapped[str | None]
    facts: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    warnings: Mapped[list[dict[str, Any]]] = mapped_column(server_default=text("'[]'"))
    launch_env_templates: Mapped[list[dict[str, Any]]] = mapped_column(server_default=text("'[]'"))
    preview_tiles: Mapped[list[dict[str, Any]]] = mapped_column(server_default=text("'[]'"))

    latest_launch: Mapped[dict[str, Any] | None] = mapped_column(JSONB, comment="the launch view, kept by launches")
    remote_checked_at: Mapped[datetime | None]
    remote_sha: Mapped[str | None] = mapped_column(comment="commit that was looked at last, well or in vain")
    remote_failures: Mapped[int] = mapped_column(server_default="0")

    @property
    def dockerfile(self) -> str:
        """Path of the Dockerfile to build."""
        return self.found_dockerfile or self.dockerfile_path or "Dockerfile"


class TagRow(Base):
    """A distinct `key:value` pair."""

    __tablename__ = "tags"
    __table_args__ = (UniqueConstraint("key", "value"), {"schema": SCHEMA})

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    key: Mapped[str]
    value: Mapped[str]


class RepositoryTag(Base):
    """A repository carries a tag, once per source that says so."""

    __tablename__ = "repository_tags"
    __table_args__ = (
        CheckConstraint("source IN ('author','manual','auto')", name="source"),
        Index("ix_repository_tags_tag_id", "tag_id"),
        {"schema": SCHEMA},
    )

    repository_id: Mapped[str] = mapped_column(
        ForeignKey(f"{SCHEMA}.repositories.id", ondelete="CASCADE"), primary_key=True
    )
    tag_id: Mapped[int] = mapped_column(ForeignKey(f"{SCHEMA}.tags.id"), primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class IngestionEvent(Base):
    """One line of a repository's ingestion history."""

    __tablename__ = "ingestion_events"
    __table_args__ = (Index("ix_ingestion_events_repository_id_id", "repository_id", "id"), {"schema": SCHEMA})

    id: Mapped[str] = mapped_column(primary_key=True)
    repository_id: Mapped[str] = mapped_column(ForeignKey(f"{SCHEMA}.repositories.id", ondelete="CASCADE"))
    status: Mapped[str]
    message: Mapped[str | None]
    attempt: Mapped[int | None]
    commit_sha: Mapped[str | None]
    duration_ms: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Build(Timestamps, Base):
    """One attempt to make an image of one commit."""

    __tablename__ = "builds"
    __table_args__ = (
        CheckConstraint("status IN ('pending','running','succeeded','failed','canceled')", name="status"),
        Index("ix_builds_repository_id_id", "repository_id", "id"),
        Index("ix_builds_unfinished", "status", postgresql_where=text("status IN ('pending','running')")),
        {"schema": SCHEMA},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    repository_id: Mapped[str] = mapped_column(ForeignKey(f"{SCHEMA}.repositories.id", ondelete="CASCADE"))
    status: Mapped[str] = mapped_column(server_default="pending")
    commit_sha: Mapped[str | None]
    git_branch: Mapped[str | None]
    git_ref: Mapped[str | None]
    dockerfile_path: Mapped[str | None]
    image_tag: Mapped[str | None]
    image_digest: Mapped[str | None]
    image_size: Mapped[int | None] = mapped_column(BigInteger)
    exposed_port: Mapped[int | None]
    error_message: Mapped[str | None]
    error_code: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(server_default="0")
    cancel_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    image_removed_at: Mapped[datetime | None]
    run_id: Mapped[str | None]
    correlation_id: Mapped[str | None]
    log_size: Mapped[int] = mapped_column(BigInteger, server_default="0", comment="bytes the build printed")
    log_kept: Mapped[int] = mapped_column(BigInteger, server_default="0", comment="bytes that are kept")


class BuildLogChunk(Base):
    """A piece of a build's log; `position` is the offset in bytes of its first byte in what was printed."""

    __tablename__ = "build_log_chunks"
    __table_args__ = ({"schema": SCHEMA},)

    build_id: Mapped[str] = mapped_column(ForeignKey(f"{SCHEMA}.builds.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    content: Mapped[str]
