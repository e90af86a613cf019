"""The tables of search.

A migration takes its locks for moments only: add columns without a volatile default, make indexes of big tables
CONCURRENTLY in a revision of their own, make a column NOT NULL in three steps, remove one in two releases.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261120_search"
down_revision = "20261120_first"

BYTEWISE = sa.Text(collation="C")


def upgrade() -> None:
    op.create_table(
        "documents",
        sa.Column("doc_id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("repository_id", sa.String(), nullable=False),
        sa.Column("name_key", BYTEWISE, nullable=False),
        sa.Column(
            "pairs", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False, comment="key:value, folded"
        ),
        sa.Column("popularity", sa.Integer(), server_default="0", nullable=False, comment="launches"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ingested_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("doc_id", name=op.f("pk_documents")),
        sa.UniqueConstraint("repository_id", name=op.f("uq_documents_repository_id")),
        schema="search",
    )
    for column in ("updated_at", "name_key", "popularity", "created_at", "ingested_at"):
        op.create_index(f"ix_documents_{column}_doc_id", "documents", [column, "doc_id"], schema="search")
    op.create_table(
        "contents",
        sa.Column("doc_id", sa.Integer(), nullable=False),
        sa.Column("terms", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(
            ["doc_id"], ["search.documents.doc_id"], name=op.f("fk_contents_doc_id_documents"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("doc_id", name=op.f("pk_contents")),
        schema="search",
    )
    op.create_table(
        "terms",
        sa.Column("kind", BYTEWISE, nullable=False),
        sa.Column("term", BYTEWISE, nullable=False),
        sa.Column("label", sa.String(), nullable=True, comment="as people write it, where that differs from the term"),
        sa.Column("uses", sa.Integer(), nullable=False, comment="documents that have it"),
        sa.Column("docs", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "term", name=op.f("pk_terms")),
        schema="search",
    )
    op.create_table(
        "spellings",
        sa.Column("kind", BYTEWISE, nullable=False),
        sa.Column("term", BYTEWISE, nullable=False),
        sa.Column("forms", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("kind", "term", name=op.f("pk_spellings")),
        schema="search",
    )
    op.create_index(
        "ix_spellings_forms",
        "spellings",
        ["forms"],
        schema="search",
        postgresql_using="gin",
        postgresql_with={"fastupdate": "off"},
    )
    op.create_table(
        "changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("kind", BYTEWISE, nullable=False),
        sa.Column("term", BYTEWISE, nullable=False),
        sa.Column("doc_id", sa.Integer(), nullable=False),
        sa.Column("present", sa.Boolean(), nullable=False),
        sa.Column("label", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_changes")),
        schema="search",
    )
    op.create_index("ix_changes_kind_term", "changes", ["kind", "term"], schema="search")


def downgrade() -> None:
    for table in ("changes", "spellings", "terms", "contents", "documents"):
        op.drop_table(table, schema="search")
