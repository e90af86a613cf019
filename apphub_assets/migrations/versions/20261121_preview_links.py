"""A key per launch: whoever has its link may look, for browsers can't send a token."""

import sqlalchemy as sa
from alembic import op

revision = "20261121_preview_links"
down_revision = "20261121_reported_launches"


def upgrade() -> None:
    op.add_column(
        "launches",
        sa.Column(
            "preview_key",
            sa.String(),
            nullable=False,
            server_default=sa.text("replace(gen_random_uuid()::text, '-', '')"),
            comment="opens the preview without a token",
        ),
        schema="launches",
    )


def downgrade() -> None:
    op.drop_column("launches", "preview_key", schema="launches")
