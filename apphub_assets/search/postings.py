"""Postings: which documents have a term, as bitmaps that can be combined like sets."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pyroaring import BitMap

from apphub_assets.search.spec import Kind


@dataclass(frozen=True)
class TermRange:
    """Terms of one kind from `low` to `high`, both included."""

    kind: Kind
    low: str
    high: str

    @classmethod
    def exactly(cls, kind: Kind, term: str) -> "TermRange":
        return cls(kind, term, term)

    @classmethod
    def beginning(cls, kind: Kind, prefix: str) -> "TermRange":
        return cls(kind, prefix, prefix + "\U0010ffff")


class PostingRow(NamedTuple):
    """A merged bitmap (`docs`), or a single change with its place in the order of changes."""

    kind: str
    term: str
    docs: bytes | None
    change: int | None
    doc_id: int | None
    present: bool | None


class Postings:
    """Postings of the terms that were read; a term that was not read, or that nothing has, is empty."""

    def __init__(self, rows: Sequence[PostingRow]) -> None:
        self._docs: dict[str, dict[str, BitMap]] = {}
        for row in rows:
            if row.docs is not None:
                self._docs.setdefault(row.kind, {})[row.term] = BitMap.deserialize(row.docs)
        self._apply(sorted((row for row in rows if row.change is not None), key=lambda row: row.change or 0))

    def docs(self, kind: Kind, *terms: str) -> BitMap:
        """Documents that have any of the terms."""
        known = self._docs.get(kind, {})
        return BitMap.union(BitMap(), *(known[term] for term in terms if term in known))

    def beginning(self, kind: Kind, prefix: str) -> BitMap:
        """Documents that have a term beginning with `prefix`."""
        known = self._docs.get(kind, {})
        return BitMap.union(BitMap(), *(docs for term, docs in known.items() if term.startswith(prefix)))

    def counts(self, kind: Kind, documents: BitMap) -> dict[str, int]:
        """How many of `documents` have each term of a kind."""
        return {term: docs.intersection_cardinality(documents) for term, docs in self._docs.get(kind, {}).items()}

    def _apply(self, changes: Iterable[PostingRow]) -> None:
        for row in changes:
            docs = self._docs.setdefault(row.kind, {}).setdefault(row.term, BitMap())
            if row.doc_id is not None:
                docs.add(row.doc_id) if row.present else docs.discard(row.doc_id)
