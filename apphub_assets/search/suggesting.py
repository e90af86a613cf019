"""Completion of tags while typing."""

from collections.abc import Iterable

from sqlalchemy.orm import Session

from apphub_assets.errors import InvalidInput
from apphub_assets.search import corrections, repository
from apphub_assets.search.postings import TermRange
from apphub_assets.search.repository import Usage
from apphub_assets.search.spec import Kind, Suggestion
from apphub_assets.search.words import fold

MAX_LIMIT = 50
MAX_PREFIX = 200


def suggest(session: Session, prefix: str, limit: int = 10) -> list[Suggestion]:
    """Completions of `prefix`; where it has none, of the nearest key or pair.

    Raises:
        InvalidInput: the limit is not 1–50, or the prefix too long or not text.
    """
    _check(prefix, limit)
    typed = fold(prefix.strip().lstrip("-").replace('"', ""))
    return _beginning(session, typed, limit) or _alike(session, typed, limit)


def _beginning(session: Session, typed: str, limit: int) -> list[Suggestion]:
    key, colon, value = typed.partition(":")
    if colon:
        return [_pair(used) for used in repository.pairs_beginning(session, key, value, limit)]
    keys = repository.most_used(session, TermRange.beginning(Kind.KEY, key), limit)
    pairs = repository.pairs_of_either(session, key, limit - len(keys))
    return [_key(used) for used in keys] + [_pair(used) for used in pairs]


def _alike(session: Session, typed: str, limit: int) -> list[Suggestion]:
    key, colon, value = typed.partition(":")
    keys = [f"{known}{colon}{value}" for known in corrections.of_filter(session, Kind.KEY, key)]
    found = _beginning_of_any(session, keys, limit)
    if found:
        return found
    if colon:
        return _beginning_of_any(session, corrections.of_filter(session, Kind.PAIR, typed), limit)
    return _beginning_of_any(session, corrections.of_word(session, typed, fields=(Kind.TAGS,)), limit)


def _beginning_of_any(session: Session, typed: Iterable[str], limit: int) -> list[Suggestion]:
    found: list[Suggestion] = []
    for each in typed:
        if len(found) < limit:
            found += _beginning(session, each, limit - len(found))
    return found


def _key(used: Usage) -> Suggestion:
    return Suggestion("key", f"{used.label}:", used.label, used.uses)


def _pair(used: Usage) -> Suggestion:
    key, _, value = used.label.partition(":")
    quoted = f'{key}:"{value}"' if any(character.isspace() or character == "," for character in value) else used.label
    return Suggestion("pair", quoted, used.label, used.uses)


def _check(prefix: str, limit: int) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        _refuse("/limit", f"limit {limit}: use 1–{MAX_LIMIT}")
    if len(prefix) > MAX_PREFIX or not prefix.isprintable():
        _refuse("/prefix", f"prefix: at most {MAX_PREFIX} printable characters")


def _refuse(pointer: str, message: str) -> None:
    raise InvalidInput(message, pointers=[(pointer, message)])
