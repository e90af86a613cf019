"""The pairs that documents have, kept in this process for as long as no merge changes them.

Counting tags takes the bitmaps of the most used pairs, whatever was searched: too much to read each time, and only a
merge changes them. What came since is read with every search, so that counts are exact.
"""

from collections.abc import Iterable
from typing import NamedTuple

from pyroaring import BitMap
from sqlalchemy.orm import Session

from apphub_assets.search import repository

# More than one, for tests and scripts that use several databases.
KEPT = 4


class Pair(NamedTuple):
    """A merged pair: how people write it if not so, how many documents have it, and which (a serialised bitmap)."""

    term: str
    label: str | None
    uses: int
    docs: bytes


class PairChange(NamedTuple):
    """A document won or lost a pair after the last merge."""

    term: str
    label: str | None
    doc_id: int
    present: bool


class Vocabulary:
    """The merged pairs, most used first."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self._pairs = sorted(pairs, key=lambda pair: (-pair.uses, pair.term))
        self._by_term = {pair.term: pair for pair in self._pairs}
        self._beginning: dict[str, list[Pair]] = {"": self._pairs}
        self._docs: dict[str, BitMap] = {}

    def beginning(self, prefix: str) -> list[Pair]:
        if prefix not in self._beginning:
            self._beginning[prefix] = [pair for pair in self._pairs if pair.term.startswith(prefix)]
        return self._beginning[prefix]

    def count(self, term: str, documents: BitMap) -> int:
        """How many of `documents` had the pair when it was merged."""
        if term not in self._by_term:
            return 0
        if term not in self._docs:
            self._docs[term] = BitMap.deserialize(self._by_term[term].docs)
        return self._docs[term].intersection_cardinality(documents)

    def label(self, term: str) -> str:
        """How people write a pair."""
        pair = self._by_term.get(term)
        return (pair and pair.label) or term


# By the name of the merge that made them, which no other database has.
_kept: dict[str | None, Vocabulary] = {}


def read(session: Session) -> tuple[Vocabulary, list[PairChange]]:
    """The merged pairs, and what changed since that merge."""
    while True:
        merge, changes = repository.pair_changes(session)
        if merge in _kept:
            return _kept[merge], list(map(PairChange._make, changes))
        _load(session)


def _load(session: Session) -> None:
    merge, rows = repository.merged_pairs(session)
    if len(_kept) >= KEPT:
        _kept.pop(next(iter(_kept)), None)
    _kept[merge] = Vocabulary(map(Pair._make, rows))
