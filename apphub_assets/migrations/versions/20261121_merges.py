"""The name of the newest merge of search, by which processes know whether the bitmaps they keep are still true."""

import sqlalchemy as sa
from alembic import op

revision = "20261121_merges"
down_revision = "20261121_preview_links"


def upgrade() -> None:
    op.create_table(
        "merges",
        sa.Column("name", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_merges")),
        schema="search",
    )
    op.execute("INSERT INTO search.merges VALUES (gen_random_uuid()::text)")


def downgrade() -> None:
    op.drop_table("merges", schema="search")
