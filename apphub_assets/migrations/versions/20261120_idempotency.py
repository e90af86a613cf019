"""Answers to requests that name an idempotency key."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261120_idempotency"
down_revision = "20261120_launches"


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("body_hash", sa.String(), nullable=False, comment="of the request"),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", postgresql.JSONB(), nullable=False),
        sa.Column("body", sa.String(), nullable=False, comment="of the answer"),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_answers")),
        schema="idempotency",
    )
    op.create_index(op.f("ix_answers_created_at"), "answers", ["created_at"], schema="idempotency")


def downgrade() -> None:
    op.drop_table("answers", schema="idempotency")
