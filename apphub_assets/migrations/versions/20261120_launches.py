"""Launches.

A migration takes its locks for moments only: add columns without a volatile default, make indexes of big tables
CONCURRENTLY in a revision of their own, make a column NOT NULL in three steps, remove one in two releases.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261120_launches"
down_revision = "20261120_search"


def upgrade() -> None:
    op.create_table(
        "launches",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("repository_id", sa.String(), nullable=False),
        sa.Column("build_id", sa.String(), nullable=True),
        sa.Column("image_tag", sa.String(), nullable=False),
        sa.Column("resource_profile", sa.String(), server_default="medium", nullable=False),
        sa.Column("env", postgresql.JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("command", sa.String(), nullable=True),
        sa.Column("wake", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("pooled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("correlation_id", sa.String(), nullable=True),
        sa.Column("status", sa.String(), server_default="pending", nullable=False),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("reason_code", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("reason_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sandbox_id", sa.String(), nullable=True),
        sa.Column("address", sa.String(), nullable=True, comment="host:port where the relay listens"),
        sa.Column("container_ip", sa.String(), nullable=True),
        sa.Column("internal_port", sa.Integer(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("log_tail", sa.String(), nullable=True, comment="end of what it printed, kept when it ends"),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True, comment="measured while it waits in the pool"),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_request_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint(
            "status IN ('pending','starting','running','stopping','stopped','failed','expired')",
            name=op.f("ck_launches_status"),
        ),
        sa.ForeignKeyConstraint(
            ["repository_id"],
            ["catalog.repositories.id"],
            name=op.f("fk_launches_repository_id_repositories"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["build_id"], ["catalog.builds.id"], name=op.f("fk_launches_build_id_builds"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_launches")),
        sa.UniqueConstraint("sandbox_id", name=op.f("uq_launches_sandbox_id")),
        schema="launches",
    )
    op.create_index(
        "ix_launches_repository_id_created_at", "launches", ["repository_id", "created_at"], schema="launches"
    )
    op.create_index(
        "ix_launches_kept",
        "launches",
        ["status"],
        schema="launches",
        postgresql_where=sa.text("status IN ('pending','starting','running','stopping')"),
    )


def downgrade() -> None:
    op.drop_table("launches", schema="launches")
