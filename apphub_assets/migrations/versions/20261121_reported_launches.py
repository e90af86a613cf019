"""Which of a launch's states Dagster was told last."""

import sqlalchemy as sa
from alembic import op

revision = "20261121_reported_launches"
down_revision = "20261121_provenance"


def upgrade() -> None:
    op.add_column(
        "launches",
        sa.Column("reported_status", sa.String(), nullable=True, comment="that Dagster was told last"),
        schema="launches",
    )
    op.create_index(
        "ix_launches_unreported",
        "launches",
        ["repository_id"],
        schema="launches",
        postgresql_where=sa.text("NOT pooled AND reported_status IS DISTINCT FROM status"),
    )


def downgrade() -> None:
    op.drop_index("ix_launches_unreported", table_name="launches", schema="launches")
    op.drop_column("launches", "reported_status", schema="launches")
