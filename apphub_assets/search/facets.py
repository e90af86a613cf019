"""Counts of tags over everything that was found: exact, whether that is ten documents or all of them."""

from collections import Counter
from heapq import heappush, heapreplace, nlargest

from pyroaring import BitMap
from sqlalchemy.orm import Session

from apphub_assets.search import repository, vocabulary
from apphub_assets.search.matching import Found
from apphub_assets.search.spec import STATUSES, Facets, StatusCount, TagCount
from apphub_assets.search.vocabulary import PairChange, Vocabulary

# Which pairs, and how many of them.
WANTED = (("", 50), ("owner:", 10), ("framework:", 10))
# Up to so many documents it is cheaper to read their tags than to try one pair after the other.
FEW = 2000


def count(session: Session, found: Found) -> Facets:
    """The most frequent tags, owners and frameworks of what was found."""
    pairs, changes = vocabulary.read(session)
    if len(found.documents) <= FEW:
        counted = repository.pair_counts(session, found.documents, WANTED)
        top = [_top(counted, prefix, wanted) for prefix, wanted in WANTED]
    else:
        counted = _counts_of_changed(pairs, changes, found.documents)
        top = [_most_frequent(pairs, counted, found.documents, *wanted) for wanted in WANTED]
    labels = {change.term: change.label for change in changes if change.label}
    tags, owners, frameworks = (
        [_tag_count(labels.get(term) or pairs.label(term), uses) for term, uses in counts] for counts in top
    )
    statuses = [StatusCount(status, found.statuses.get(status, 0)) for status in STATUSES]
    return Facets(tags, statuses, owners, frameworks)


def _counts_of_changed(pairs: Vocabulary, changes: list[PairChange], documents: BitMap) -> dict[str, int]:
    """How many of `documents` have each pair that changed since the last merge."""
    gained: Counter[str] = Counter()
    for change in changes:
        gained[change.term] += (1 if change.present else -1) if change.doc_id in documents else 0
    return {term: pairs.count(term, documents) + more for term, more in gained.items()}


def _most_frequent(
    pairs: Vocabulary, counted: dict[str, int], documents: BitMap, prefix: str, wanted: int
) -> list[tuple[str, int]]:
    """The `wanted` most frequent pairs that begin with `prefix`; what is counted on the way is added to `counted`.

    A pair is at most as frequent here as everywhere. So the most used ones are tried first, until what comes next is
    used less than the last of the best so far.
    """
    best = nlargest(wanted, (uses for term, uses in counted.items() if term.startswith(prefix)))[::-1]
    for pair in pairs.beginning(prefix):
        if len(best) == wanted and pair.uses < best[0]:
            break
        if pair.term not in counted:
            counted[pair.term] = uses = pairs.count(pair.term, documents)
            if len(best) < wanted:
                heappush(best, uses)
            elif uses > best[0]:
                heapreplace(best, uses)
    return _top(counted, prefix, wanted)


def _top(counts: dict[str, int], prefix: str, wanted: int) -> list[tuple[str, int]]:
    found = [(term, uses) for term, uses in counts.items() if uses and term.startswith(prefix)]
    return sorted(found, key=lambda entry: (-entry[1], entry[0]))[:wanted]


def _tag_count(label: str, uses: int) -> TagCount:
    key, _, value = label.partition(":")
    return TagCount(key, value, uses)
