"""What a word or tag that nothing has may have meant."""

from sqlalchemy.orm import Session

from apphub_assets.search import repository
from apphub_assets.search.postings import TermRange
from apphub_assets.search.spec import Kind
from apphub_assets.search.spelling import nearest, typos_allowed

# Terms that others are corrected to.
CORRECTED_KINDS = (Kind.NAME, Kind.TAGS, Kind.KEY, Kind.PAIR)


def spelled_part(kind: Kind, term: str) -> str:
    """The part of a term that may be misspelt: of a pair its value; nothing of what is no word, like a beginning."""
    if kind not in CORRECTED_KINDS or term.endswith("*"):
        return ""
    return term.partition(":")[2] if kind is Kind.PAIR else term


def of_word(session: Session, word: str, fields: tuple[Kind, ...] = (Kind.NAME, Kind.TAGS)) -> tuple[str, ...]:
    """The nearest words of names and tags, best first; none if nothing is near enough."""
    return nearest(word, _candidates(session, [TermRange.beginning(field, "") for field in fields], word))


def of_filter(session: Session, kind: Kind, term: str) -> tuple[str, ...]:
    """The nearest known keys for a key, and for a pair the nearest pairs: its key is put right first."""
    if kind is Kind.KEY:
        return nearest(term, _candidates(session, [TermRange.beginning(Kind.KEY, "")], term))
    key, _, value = term.partition(":")
    pairs = [pair for known in _known_keys(session, key) for pair in _nearest_pairs(session, known, value)]
    return tuple(pairs)


def _known_keys(session: Session, key: str) -> tuple[str, ...]:
    known = repository.most_used(session, TermRange.exactly(Kind.KEY, key), limit=1)
    return (key,) if known else of_filter(session, Kind.KEY, key)


def _nearest_pairs(session: Session, key: str, value: str) -> list[str]:
    if repository.most_used(session, TermRange.exactly(Kind.PAIR, f"{key}:{value}"), limit=1):
        return [f"{key}:{value}"]
    pairs = _candidates(session, [TermRange.beginning(Kind.PAIR, f"{key}:")], value)
    values = [(term.partition(":")[2], uses) for term, uses in pairs]
    return [f"{key}:{near}" for near in nearest(value, values)]


def _candidates(session: Session, ranges: list[TermRange], word: str) -> list[tuple[str, int]]:
    if not typos_allowed(word):
        return []
    found = repository.spelled_like(session, ranges, word)
    return [(term, uses) for kind, term, uses in found if spelled_part(Kind(kind), term)]
