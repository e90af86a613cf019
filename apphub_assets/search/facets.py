"""Counts of tags over everything that was found: exact, whether that is ten documents or all of them."""

from pyroaring import BitMap
from sqlalchemy.orm import Session

from apphub_assets.search import repository
from apphub_assets.search.matching import Found
from apphub_assets.search.postings import Postings, TermRange
from apphub_assets.search.repository import Usage
from apphub_assets.search.spec import STATUSES, Facets, Kind, StatusCount, TagCount

# Which pairs, and how many of them.
WANTED = (("", 50), ("owner:", 10), ("framework:", 10))
# Up to so many documents it is cheaper to read their tags than the postings of tags.
FEW = 8000
# The most used tags that are tried first, per tag that is wanted.
CANDIDATES = 3


def count(session: Session, found: Found) -> Facets:
    """The most frequent tags, owners and frameworks of what was found."""
    few = len(found.documents) <= FEW
    counts = repository.pair_counts(session, found.documents, WANTED) if few else _counts_of_many(session, found)
    tags, owners, frameworks = (_top(counts, *wanted) for wanted in WANTED)
    labels = repository.labels(session, {term for term, _ in (*tags, *owners, *frameworks)})
    return Facets(
        tags=[_tag_count(term, uses, labels) for term, uses in tags],
        statuses=[StatusCount(status, found.statuses.get(status, 0)) for status in STATUSES],
        owners=[_tag_count(term, uses, labels) for term, uses in owners],
        frameworks=[_tag_count(term, uses, labels) for term, uses in frameworks],
    )


def _counts_of_many(session: Session, found: Found) -> dict[str, int]:
    """Counts of all pairs that can be among the most frequent.

    A pair is at most as frequent here as everywhere. So the pairs that are used most anywhere come first, and what
    is used less than the last of the best so far need not be looked at.
    """
    likely = {prefix: _most_used(session, prefix, limit=wanted * CANDIDATES) for prefix, wanted in WANTED}
    if found.documents == found.everything:
        return {used.term: used.uses for candidates in likely.values() for used in candidates}
    counts = _counts(session, found.documents, {used.term for candidates in likely.values() for used in candidates})
    for prefix, wanted in WANTED:
        top = _top(counts, prefix, wanted)
        least = top[-1][1] if len(top) == wanted else 1
        if len(likely[prefix]) == wanted * CANDIDATES and likely[prefix][-1].uses >= least:
            possible = _most_used(session, prefix, least=least)
            counts |= _counts(session, found.documents, {used.term for used in possible} - counts.keys())
    return counts


def _most_used(session: Session, prefix: str, limit: int | None = None, least: int = 1) -> list[Usage]:
    return repository.most_used(session, TermRange.beginning(Kind.PAIR, prefix), limit, least)


def _counts(session: Session, documents: BitMap, pairs: set[str]) -> dict[str, int]:
    rows = repository.postings(session, [TermRange.exactly(Kind.PAIR, pair) for pair in pairs])
    return Postings(rows).counts(Kind.PAIR, documents)


def _top(counts: dict[str, int], prefix: str, wanted: int) -> list[tuple[str, int]]:
    found = [(term, uses) for term, uses in counts.items() if uses and term.startswith(prefix)]
    return sorted(found, key=lambda entry: (-entry[1], entry[0]))[:wanted]


def _tag_count(term: str, uses: int, labels: dict[str, str]) -> TagCount:
    key, _, value = labels.get(term, term).partition(":")
    return TagCount(key, value, uses)
