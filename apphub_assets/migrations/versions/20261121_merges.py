"""The newest merge of search, by which processes know whether what they keep is still true; values of pairs."""

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
    op.create_index(
        "ix_terms_value",
        "terms",
        [sa.text("substr(term, strpos(term, ':') + 1)")],
        schema="search",
        postgresql_where=sa.text("kind = 'pair'"),
    )
    op.execute("INSERT INTO search.merges VALUES (gen_random_uuid()::text)")


def downgrade() -> None:
    op.drop_index("ix_terms_value", table_name="terms", schema="search")
    op.drop_table("merges", schema="search")
