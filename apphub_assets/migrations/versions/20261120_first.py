"""The first tables: catalog, events, audit.

A migration takes its locks for moments only: add columns without a volatile default, make indexes of big tables
CONCURRENTLY in a revision of their own, make a column NOT NULL in three steps, remove one in two releases.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261120_first"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "entries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("actor", sa.String(), nullable=True),
        sa.Column("address", sa.String(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("resource", sa.String(), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("code", sa.String(), nullable=True),
        sa.Column("correlation_id", sa.String(), nullable=True),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_entries")),
        schema="audit",
    )
    op.create_index("ix_entries_actor_id", "entries", ["actor", "id"], unique=False, schema="audit")
    op.create_table(
        "repositories",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("description", sa.String(), server_default="", nullable=False),
        sa.Column("repo_url", sa.String(), nullable=False),
        sa.Column("git_ref", sa.String(), nullable=True),
        sa.Column("dockerfile_path", sa.String(), nullable=True, comment="as declared by a person"),
        sa.Column("metadata_strategy", sa.String(), server_default="auto", nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("ingest_status", sa.String(), server_default="pending", nullable=False),
        sa.Column("ingest_error", sa.String(), nullable=True),
        sa.Column("ingest_error_code", sa.String(), nullable=True),
        sa.Column("ingest_attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "ingest_not_before",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="back-off: no sensor retries it before",
        ),
        sa.Column("last_ingested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("run_id", sa.String(), nullable=True, comment="Dagster run that was last asked to ingest"),
        sa.Column("correlation_id", sa.String(), nullable=True),
        sa.Column("commit_sha", sa.String(), nullable=True),
        sa.Column("branch", sa.String(), nullable=True),
        sa.Column("found_dockerfile", sa.String(), nullable=True),
        sa.Column("readme", sa.String(), nullable=True),
        sa.Column("owner", sa.String(), nullable=True),
        sa.Column("facts", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("warnings", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'"), nullable=False),
        sa.Column(
            "launch_env_templates",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'"),
            nullable=False,
        ),
        sa.Column(
            "preview_tiles", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'"), nullable=False
        ),
        sa.Column(
            "latest_launch",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="the launch view, kept by launches",
        ),
        sa.Column("remote_checked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("remote_failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint(
            "ingest_status IN ('seed','pending','processing','ready','failed')",
            name=op.f("ck_repositories_ingest_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_repositories")),
        schema="catalog",
    )
    op.create_index(op.f("ix_repositories_repo_url"), "repositories", ["repo_url"], unique=False, schema="catalog")
    op.create_index(
        "ix_repositories_unfinished",
        "repositories",
        ["ingest_status"],
        unique=False,
        schema="catalog",
        postgresql_where=sa.text("ingest_status IN ('pending','processing')"),
    )
    op.create_table(
        "tags",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tags")),
        sa.UniqueConstraint("key", "value", name=op.f("uq_tags_key_value")),
        schema="catalog",
    )
    op.create_table(
        "outbox",
        sa.Column("position", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column(
            "occurred_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("correlation_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_outbox")),
        sa.UniqueConstraint("id", name=op.f("uq_outbox_id")),
        sa.UniqueConstraint("sequence", name=op.f("uq_outbox_sequence")),
        schema="events",
    )
    op.create_index(op.f("ix_outbox_correlation_id"), "outbox", ["correlation_id"], unique=False, schema="events")
    op.create_index("ix_outbox_occurred_at", "outbox", ["occurred_at"], unique=False, schema="events")
    op.create_index("ix_outbox_type_sequence", "outbox", ["type", "sequence"], unique=False, schema="events")
    op.create_index(
        "ix_outbox_unsequenced",
        "outbox",
        ["position"],
        unique=False,
        schema="events",
        postgresql_where=sa.text("sequence IS NULL"),
    )
    op.create_table(
        "sequencer",
        sa.Column("one", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("last", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("one", name=op.f("ck_sequencer_one")),
        sa.PrimaryKeyConstraint("one", name=op.f("pk_sequencer")),
        schema="events",
    )
    op.create_table(
        "builds",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("repository_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), server_default="pending", nullable=False),
        sa.Column("commit_sha", sa.String(), nullable=True),
        sa.Column("git_branch", sa.String(), nullable=True),
        sa.Column("git_ref", sa.String(), nullable=True),
        sa.Column("image_tag", sa.String(), nullable=True),
        sa.Column("image_digest", sa.String(), nullable=True),
        sa.Column("image_size", sa.BigInteger(), nullable=True),
        sa.Column("exposed_port", sa.Integer(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("image_removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.Column("correlation_id", sa.String(), nullable=True),
        sa.Column("log_size", sa.BigInteger(), server_default="0", nullable=False, comment="bytes the build printed"),
        sa.Column("log_kept", sa.BigInteger(), server_default="0", nullable=False, comment="bytes that are kept"),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint(
            "status IN ('pending','running','succeeded','failed','canceled')", name=op.f("ck_builds_status")
        ),
        sa.ForeignKeyConstraint(
            ["repository_id"],
            ["catalog.repositories.id"],
            name=op.f("fk_builds_repository_id_repositories"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_builds")),
        schema="catalog",
    )
    op.create_index("ix_builds_repository_id_id", "builds", ["repository_id", "id"], unique=False, schema="catalog")
    op.create_index(
        "ix_builds_unfinished",
        "builds",
        ["status"],
        unique=False,
        schema="catalog",
        postgresql_where=sa.text("status IN ('pending','running')"),
    )
    op.create_table(
        "ingestion_events",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("repository_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("commit_sha", sa.String(), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["repository_id"],
            ["catalog.repositories.id"],
            name=op.f("fk_ingestion_events_repository_id_repositories"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ingestion_events")),
        schema="catalog",
    )
    op.create_index(
        "ix_ingestion_events_repository_id_id",
        "ingestion_events",
        ["repository_id", "id"],
        unique=False,
        schema="catalog",
    )
    op.create_table(
        "repository_tags",
        sa.Column("repository_id", sa.String(), nullable=False),
        sa.Column("tag_id", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("source IN ('author','manual','auto')", name=op.f("ck_repository_tags_source")),
        sa.ForeignKeyConstraint(
            ["repository_id"],
            ["catalog.repositories.id"],
            name=op.f("fk_repository_tags_repository_id_repositories"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["tag_id"], ["catalog.tags.id"], name=op.f("fk_repository_tags_tag_id_tags")),
        sa.PrimaryKeyConstraint("repository_id", "tag_id", "source", name=op.f("pk_repository_tags")),
        schema="catalog",
    )
    op.create_index("ix_repository_tags_tag_id", "repository_tags", ["tag_id"], unique=False, schema="catalog")
    op.create_table(
        "build_log_chunks",
        sa.Column("build_id", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["build_id"], ["catalog.builds.id"], name=op.f("fk_build_log_chunks_build_id_builds"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("build_id", "position", name=op.f("pk_build_log_chunks")),
        schema="catalog",
    )
    op.execute("INSERT INTO events.sequencer (one, last) VALUES (true, 0)")


def downgrade() -> None:
    op.drop_table("build_log_chunks", schema="catalog")
    op.drop_index("ix_repository_tags_tag_id", table_name="repository_tags", schema="catalog")
    op.drop_table("repository_tags", schema="catalog")
    op.drop_index("ix_ingestion_events_repository_id_id", table_name="ingestion_events", schema="catalog")
    op.drop_table("ingestion_events", schema="catalog")
    op.drop_index(
        "ix_builds_unfinished",
        table_name="builds",
        schema="catalog",
        postgresql_where=sa.text("status IN ('pending','running')"),
    )
    op.drop_index("ix_builds_repository_id_id", table_name="builds", schema="catalog")
    op.drop_table("builds", schema="catalog")
    op.drop_table("sequencer", schema="events")
    op.drop_index(
        "ix_outbox_unsequenced", table_name="outbox", schema="events", postgresql_where=sa.text("sequence IS NULL")
    )
    op.drop_index("ix_outbox_type_sequence", table_name="outbox", schema="events")
    op.drop_index("ix_outbox_occurred_at", table_name="outbox", schema="events")
    op.drop_index(op.f("ix_outbox_correlation_id"), table_name="outbox", schema="events")
    op.drop_table("outbox", schema="events")
    op.drop_table("tags", schema="catalog")
    op.drop_index(
        "ix_repositories_unfinished",
        table_name="repositories",
        schema="catalog",
        postgresql_where=sa.text("ingest_status IN ('pending','processing')"),
    )
    op.drop_index(op.f("ix_repositories_repo_url"), table_name="repositories", schema="catalog")
    op.drop_table("repositories", schema="catalog")
    op.drop_index("ix_entries_actor_id", table_name="entries", schema="audit")
    op.drop_table("entries", schema="audit")
