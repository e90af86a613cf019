"""What a document's score is, and why."""

from collections.abc import Iterator
from math import gcd

from pyroaring import BitMap

from apphub_assets.search.matching import Found, WordHits
from apphub_assets.search.ranking import BitSlicedSum
from apphub_assets.search.spec import Hit, ScoreTerm, SearchQuery

# Scores are whole hundredths, so that equal ones are equal.
POINTS = 100


class Scoring:
    """Scores of what one query found: for each word, the weight of each field it is in, less if not found exactly."""

    def __init__(self, query: SearchQuery, found: Found) -> None:
        self._documents = found.documents
        self._explain = query.explain
        self._best = sum(query.weights.values()) * len(found.words)
        self._terms = [(_score_term(query, hits), hits.docs) for hits in found.hits if hits.docs]

    def groups(self, at_most: int | None) -> Iterator[tuple[int, BitMap]]:
        """(points, documents that have so many), best first, from `at_most` points down."""
        total = BitSlicedSum(self._documents)
        # Smaller numbers have fewer bits to add.
        unit = gcd(*(_points(term) for term, _ in self._terms)) or 1
        for term, docs in self._terms:
            total.add(_points(term) // unit, docs)
        found = total.descending(None if at_most is None else at_most // unit)
        return ((points * unit, docs) for points, docs in found)

    def points(self, doc_id: int) -> int:
        """The score in hundredths."""
        return sum(map(_points, self._explanation(doc_id)))

    def hit(self, repository_id: str, doc_id: int) -> Hit:
        score = self.points(doc_id) / POINTS
        normalized = round(score / self._best, 4) if self._best else 0.0
        return Hit(repository_id, score, normalized, self._explanation(doc_id) if self._explain else None)

    def _explanation(self, doc_id: int) -> list[ScoreTerm]:
        return [term for term, docs in self._terms if doc_id in docs]


def _score_term(query: SearchQuery, hits: WordHits) -> ScoreTerm:
    weight = query.weights[hits.field]
    score = round(weight * hits.factor * POINTS) / POINTS
    return ScoreTerm(hits.word, hits.field, hits.match, weight, hits.factor, score)


def _points(term: ScoreTerm) -> int:
    return round(term.score * POINTS)
