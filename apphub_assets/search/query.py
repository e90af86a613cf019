"""The search language: from HTTP parameters to a `SearchQuery`, or to an error that says what to change.

    weather dashboard            both words, each the whole or the beginning of a word
    language:go language:rust    one of them (values of one key), and
    framework:"spring boot"      this as well
    license:                     has the key, whatever its value
    -language:php -draft         without
    status:ready updated:>2026-01-01 created:2026-01-01..2026-02-01 ingested:<=2026-03-01T12:00Z

The parameters `tags` and `status` hold more of the same, separated by commas or spaces.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NoReturn

from apphub_assets.errors import InvalidInput
from apphub_assets.search.dates import after, before, date_range
from apphub_assets.search.spec import STATUSES, WEIGHTS, DateField, DateRange, Filter, Kind, SearchQuery, Sort
from apphub_assets.search.words import fold, pair_term, words_of

MAX_TEXT = 1000
MAX_WORDS = 12
MAX_FILTERS = 50
MAX_LIMIT = 200
MAX_WEIGHT = 100.0

KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Parameters:
    """The query parameters of `GET /apps`, as they arrive; `None` is absent."""

    q: str | None = None
    tags: str | None = None
    status: str | None = None
    ingested_after: str | None = None
    ingested_before: str | None = None
    sort: str | None = None
    relevance: str | None = None
    limit: int = 50
    cursor: str | None = None
    explain: bool = False


@dataclass(frozen=True)
class _Token:
    excluded: bool
    key: str | None
    value: str
    pointer: str


def parse(parameters: Parameters) -> SearchQuery:
    """Check and understand a search.

    Raises:
        InvalidInput: with a pointer to the parameter that is wrong.
    """
    draft = _Draft()
    for token in chain(_tokens(parameters.q, "/q", r"\s"), _tokens(parameters.tags, "/tags", r"\s,")):
        draft.take(token)
    draft.statuses += [status for status in re.split(r"[\s,]+", parameters.status or "") if status in STATUSES]
    if parameters.ingested_after:
        draft.ranges.append(after(DateField.INGESTED, parameters.ingested_after, "/ingestedAfter"))
    if parameters.ingested_before:
        draft.ranges.append(before(DateField.INGESTED, parameters.ingested_before, "/ingestedBefore"))
    words = tuple(dict.fromkeys(draft.words))[:MAX_WORDS]
    _check_sizes(draft)
    return SearchQuery(
        words=words,
        excluded=tuple(draft.excluded),
        filters=draft.filters(),
        ranges=tuple(draft.ranges),
        sort=_sort(parameters.sort, has_words=bool(words)),
        weights=_weights(parameters.relevance),
        limit=_limit(parameters.limit),
        cursor=parameters.cursor,
        explain=parameters.explain,
    )


@dataclass
class _Draft:
    """A search in the making."""

    words: list[str] = field(default_factory=list)
    excluded: list[tuple[str, ...]] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    pairs: dict[str, list[str]] = field(default_factory=dict)
    typed: list[str] = field(default_factory=list)
    others: list[Filter] = field(default_factory=list)
    ranges: list[DateRange] = field(default_factory=list)

    def take(self, token: _Token) -> None:
        if token.key is None:
            self._take_words(token)
        elif token.key in set(DateField):
            self.ranges.append(date_range(DateField(token.key), token.value, token.excluded, token.pointer))
        elif token.key == "status":
            self._take_statuses(token)
        else:
            self._take_pair(token, token.key)

    def filters(self) -> tuple[Filter, ...]:
        """All filters; the values of one key are one filter. What people type may be corrected, `tags` is literal."""
        typed = set(self.typed)
        pairs = [
            Filter(Kind.PAIR, tuple(terms), correctable=tuple(term for term in terms if term in typed))
            for terms in self.pairs.values()
        ]
        statuses = [Filter(Kind.STATUS, tuple(self.statuses))] if self.statuses else []
        return (*statuses, *pairs, *self.others)

    def _take_words(self, token: _Token) -> None:
        words = tuple(words_of(token.value))
        if token.excluded and words:
            self.excluded.append(words)
        elif token.pointer == "/tags":
            # Without a key there is nothing to compare exactly: the word may be in any key or value.
            self.others += [Filter(Kind.TAGS, (word,)) for word in words]
        else:
            self.words += words

    def _take_statuses(self, token: _Token) -> None:
        values = [fold(value) for value in token.value.split(",")]
        for value in values:
            if value not in STATUSES:
                _refuse(token.pointer, f"status {value[:40]!r}: use one of {', '.join(STATUSES)}")
        if token.excluded:
            self.others.append(Filter(Kind.STATUS, tuple(values), excluded=True))
        else:
            self.statuses += values

    def _take_pair(self, token: _Token, key: str) -> None:
        if not KEY.fullmatch(key):
            _refuse(token.pointer, f"key {key[:80]!r}: use 1–64 of a–z, 0–9, '.', '_', '-'; quote words with a colon")
        term = pair_term(key, token.value) if token.value else key
        typed = (term,) if token.pointer == "/q" and not token.excluded else ()
        if not token.value or token.excluded:
            kind = Kind.PAIR if token.value else Kind.KEY
            self.others.append(Filter(kind, (term,), token.excluded, correctable=typed))
        else:
            self.pairs.setdefault(key, []).append(term)
            self.typed += typed


def _tokens(text: str | None, pointer: str, separators: str) -> Iterator[_Token]:
    text = text or ""
    _check_text(text, pointer)
    # "://" is no key: people paste addresses.
    token = re.compile(
        rf'(?P<minus>-?)(?:(?P<key>[^{separators}":]+):(?!//))?(?:"(?P<quoted>[^"]*)"|(?P<bare>[^{separators}"]*))'
    )
    gap = re.compile(rf"[{separators}]*")
    position = _end(gap, text, 0)
    while position < len(text):
        match = token.match(text, position)
        if match is None or match.end() == position:
            _refuse(pointer, f'{pointer[1:]}: the quote at character {position + 1} is not closed; add a "')
        quoted = match["quoted"]
        key = fold(match["key"]) if match["key"] else None
        yield _Token(bool(match["minus"]), key, (match["bare"] if quoted is None else quoted).strip(), pointer)
        position = _end(gap, text, match.end())


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _check_text(text: str, pointer: str) -> None:
    if len(text) > MAX_TEXT:
        _refuse(pointer, f"{pointer[1:]}: at most {MAX_TEXT} characters, got {len(text)}")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        _refuse(pointer, f"{pointer[1:]}: must be UTF-8 text without NUL")


def _check_sizes(draft: _Draft) -> None:
    """Words too many are cut, which finds more than was asked for; of what is excluded that would be wrong."""
    excluded = sum(map(len, draft.excluded))
    if excluded > MAX_WORDS:
        _refuse("/q", f"q: at most {MAX_WORDS} excluded words, got {excluded}")
    filters = len(draft.statuses) + sum(map(len, draft.pairs.values())) + len(draft.others) + len(draft.ranges)
    if filters > MAX_FILTERS:
        _refuse("/q", f"q, tags and status: at most {MAX_FILTERS} filters together, got {filters}")


def _sort(text: str | None, *, has_words: bool) -> Sort:
    if not text:
        return Sort.RELEVANCE if has_words else Sort.UPDATED
    if text not in set(Sort):
        _refuse("/sort", f"sort {text[:40]!r}: use one of {', '.join(Sort)}")
    return Sort(text)


def _limit(limit: int) -> int:
    if not 1 <= limit <= MAX_LIMIT:
        _refuse("/limit", f"limit {limit}: use 1–{MAX_LIMIT}")
    return limit


def _weights(text: str | None) -> dict[Kind, float]:
    """`name:10,tags:3`, or the same as a JSON object; fields that are not named keep their weight."""
    if not text:
        return dict(WEIGHTS)
    _check_text(text, "/relevance")
    read: Callable[[str], dict[str, Any]] = _json_object if text.lstrip().startswith("{") else _pairs
    return {**WEIGHTS, **{_field(name): _weight(name, value) for name, value in read(text).items()}}


def _pairs(text: str) -> dict[str, Any]:
    return {name.strip(): value for name, _, value in (part.partition(":") for part in text.split(",") if part.strip())}


def _json_object(text: str) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError):
        _refuse("/relevance", "relevance: neither name:10,tags:3 nor a JSON object")
    return read


def _field(name: str) -> Kind:
    if name not in set(WEIGHTS):
        _refuse("/relevance", f"relevance: no field {name[:40]!r}; use one of {', '.join(WEIGHTS)}")
    return Kind(name)


def _weight(name: str, value: Any) -> float:
    try:
        weight = float(value)
    except (TypeError, ValueError, OverflowError):
        weight = -1.0
    if not 0 <= weight <= MAX_WEIGHT:
        _refuse("/relevance", f"relevance: weight {str(value)[:40]!r} of {name}: use a number from 0 to {MAX_WEIGHT:g}")
    return round(weight, 2)


def _refuse(pointer: str, message: str) -> NoReturn:
    raise InvalidInput(message, pointers=[(pointer, message)])
