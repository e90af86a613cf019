"""Tables of search."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, Integer, LargeBinary, Text, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from apphub_assets.kit.db import Base

SCHEMA = "search"
# Bytewise order: a prefix is a range, whatever the locale of the database.
BYTEWISE = Text(collation="C")


class SearchDocument(Base):
    """What a document is sorted and dated by. `doc_id` is small and dense: it is a position in bitmaps."""

    __tablename__ = "documents"
    __table_args__ = (
        Index("ix_documents_updated_at_doc_id", "updated_at", "doc_id"),
        Index("ix_documents_name_key_doc_id", "name_key", "doc_id"),
        Index("ix_documents_popularity_doc_id", "popularity", "doc_id"),
        Index("ix_documents_created_at_doc_id", "created_at", "doc_id"),
        Index("ix_documents_ingested_at_doc_id", "ingested_at", "doc_id"),
        {"schema": SCHEMA},
    )

    doc_id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    repository_id: Mapped[str] = mapped_column(unique=True)
    name_key: Mapped[str] = mapped_column(BYTEWISE)
    pairs: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"), comment="key:value, folded")
    popularity: Mapped[int] = mapped_column(server_default="0", comment="launches")
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    ingested_at: Mapped[datetime | None]


class Content(Base):
    """The terms a document has now, as `kind term`; apart, so that the table of documents stays small."""

    __tablename__ = "contents"
    __table_args__ = ({"schema": SCHEMA},)

    doc_id: Mapped[int] = mapped_column(ForeignKey(f"{SCHEMA}.documents.doc_id", ondelete="CASCADE"), primary_key=True)
    terms: Mapped[list[str]] = mapped_column(ARRAY(Text))


class TermRow(Base):
    """A term and its merged postings (a portable Roaring bitmap of doc_ids)."""

    __tablename__ = "terms"
    __table_args__ = (
        Index("ix_terms_value", text("substr(term, strpos(term, ':') + 1)"), postgresql_where=text("kind = 'pair'")),
        {"schema": SCHEMA},
    )

    kind: Mapped[str] = mapped_column(BYTEWISE, primary_key=True)
    term: Mapped[str] = mapped_column(BYTEWISE, primary_key=True)
    label: Mapped[str | None] = mapped_column(comment="as people write it, where that differs from the term")
    uses: Mapped[int] = mapped_column(comment="documents that have it")
    docs: Mapped[bytes] = mapped_column(LargeBinary)


class Spelling(Base):
    """How a merged term looks with letters missing. Apart from the terms, for it never changes and they often do."""

    __tablename__ = "spellings"
    __table_args__ = (
        # Without fastupdate: a search must not read through a list of what is not in the index yet.
        Index("ix_spellings_forms", "forms", postgresql_using="gin", postgresql_with={"fastupdate": False}),
        {"schema": SCHEMA},
    )

    kind: Mapped[str] = mapped_column(BYTEWISE, primary_key=True)
    term: Mapped[str] = mapped_column(BYTEWISE, primary_key=True)
    forms: Mapped[list[str]] = mapped_column(ARRAY(Text))


class Change(Base):
    """A document won (`present`) or lost a term. Appended by writers, read by every search, eaten by `merge`."""

    __tablename__ = "changes"
    __table_args__ = (Index("ix_changes_kind_term", "kind", "term"), {"schema": SCHEMA})

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    kind: Mapped[str] = mapped_column(BYTEWISE)
    term: Mapped[str] = mapped_column(BYTEWISE)
    doc_id: Mapped[int]
    present: Mapped[bool]
    label: Mapped[str | None]


class Merge(Base):
    """The newest merge, under a name that no other merge has anywhere: who has read its bitmaps may keep them."""

    __tablename__ = "merges"
    __table_args__ = ({"schema": SCHEMA},)

    name: Mapped[str] = mapped_column(primary_key=True)
