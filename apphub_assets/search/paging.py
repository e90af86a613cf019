"""One page of what was found, in order, and the cursor to the next."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pyroaring import BitMap
from sqlalchemy.orm import Session

from apphub_assets.kit.cursor import InvalidCursor, decode_cursor, encode_cursor
from apphub_assets.search import repository
from apphub_assets.search.matching import Found
from apphub_assets.search.repository import Place
from apphub_assets.search.scoring import Scoring
from apphub_assets.search.spec import DateField, Hit, SearchQuery, Sort

# Relevance too, where the score is equal.
BY_UPDATE = (Sort.RELEVANCE, Sort.UPDATED)


@dataclass(frozen=True)
class Position:
    """Where a page ended: behind this score (only of account when sorting by relevance), sort value and document."""

    points: int
    value: Any
    doc_id: int


def page(session: Session, query: SearchQuery, found: Found) -> tuple[list[Hit], str | None]:
    """The hits of one page and the cursor to the next one, if there is one.

    Raises:
        InvalidCursor: the query's cursor is not one of this query.
    """
    after = _decode(query, query.cursor) if query.cursor else None
    scoring = Scoring(query, found)
    order = _Order(session, query)
    if query.sort is Sort.RELEVANCE:
        ids = _best(order, scoring.groups(after.points if after else None), after)
    else:
        ids = order.first(found.documents, after)
    places = repository.places(session, query.sort, ids)
    if query.sort is Sort.RELEVANCE:
        places.sort(key=lambda place: -scoring.points(place.doc_id))
    shown, more = places[: query.limit], len(places) > query.limit
    hits = [scoring.hit(place.repository_id, place.doc_id) for place in shown]
    return hits, _encode(query, scoring.points(shown[-1].doc_id), shown[-1]) if more else None


class _Order:
    """Sets of documents in the order of the query, as many as a page shows and one more."""

    def __init__(self, session: Session, query: SearchQuery) -> None:
        self._session, self._sort = session, query.sort
        self._start = _start(query)
        self.count = query.limit + 1

    def first(self, docs: BitMap, after: Position | None) -> list[int]:
        place = (after.value, after.doc_id) if after else self._start
        return repository.first(self._session, self._sort, docs, place, self.count)


def _start(query: SearchQuery) -> tuple[datetime, int] | None:
    """What was updated before some time starts there in the order of updates: no need to walk what is newer."""
    ends = [
        dates.end for dates in query.ranges if dates.field is DateField.UPDATED and not dates.excluded and dates.end
    ]
    return (min(ends), 0) if ends and query.sort in BY_UPDATE else None


def _best(order: _Order, groups: Iterable[tuple[int, BitMap]], after: Position | None) -> list[int]:
    """Documents that include those of the page, from groups of equal score."""
    ids: list[int] = []
    for points, docs in groups:
        within = after if after and after.points == points else None
        ids += order.first(docs, within) if within or len(docs) > order.count else docs
        if len(ids) >= order.count:
            break
    return ids


def _encode(query: SearchQuery, points: int, place: Place) -> str:
    value = place.value.isoformat() if isinstance(place.value, datetime) else place.value
    return encode_cursor([query.fingerprint, points, value, place.doc_id])


def _decode(query: SearchQuery, cursor: str) -> Position:
    match decode_cursor(cursor, 4):
        case [query.fingerprint, int(points), value, int(doc_id)]:
            return Position(points, _sort_value(query.sort, value), doc_id)
    raise InvalidCursor("cursor: it belongs to another search; leave it out when the search changes")


def _sort_value(sort: Sort, value: Any) -> Any:
    try:
        if sort in BY_UPDATE:
            return datetime.fromisoformat(value)
        return int(value) if sort is Sort.POPULARITY else str(value).replace("\0", "")
    except (TypeError, ValueError) as error:
        raise InvalidCursor("cursor: not a cursor of this list; leave it out to start at the first page") from error
