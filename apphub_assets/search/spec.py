"""Values of search: what goes in, what may be asked, what comes out."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

STATUSES = ("seed", "pending", "processing", "ready", "failed")
README_LENGTH = 20_000


class Kind(StrEnum):
    """What a term stands for; the last five are the fields that words are found in."""

    ALL = "all"
    STATUS = "status"
    KEY = "key"
    PAIR = "pair"
    NAME = "name"
    TAGS = "tags"
    DESCRIPTION = "description"
    URL = "url"
    README = "readme"


WEIGHTS: Mapping[Kind, float] = {
    Kind.NAME: 4,
    Kind.TAGS: 2,
    Kind.DESCRIPTION: 1.5,
    Kind.URL: 1,
    Kind.README: 0.5,
}
# A README repeats half the dictionary: it is found by whole words only, and its misspellings teach nothing.
PREFIX_FIELDS = (Kind.NAME, Kind.TAGS, Kind.DESCRIPTION, Kind.URL)


class Sort(StrEnum):
    RELEVANCE = "relevance"
    UPDATED = "updated"
    NAME = "name"
    POPULARITY = "popularity"


class Match(StrEnum):
    """How a word of the query was found."""

    EXACT = "exact"
    PREFIX = "prefix"
    CORRECTED = "corrected"


# Share of a field's weight that a match earns.
FACTORS: Mapping[Match, float] = {Match.EXACT: 1.0, Match.PREFIX: 0.7, Match.CORRECTED: 0.4}


class DateField(StrEnum):
    CREATED = "created"
    UPDATED = "updated"
    INGESTED = "ingested"


@dataclass(frozen=True)
class Document:
    """All that can be found of one repository. `tags` are (key, value) pairs; an owner is found as `owner:<name>`."""

    repository_id: str
    name: str
    status: str
    created_at: datetime
    updated_at: datetime
    description: str = ""
    repo_url: str = ""
    owner: str | None = None
    readme: str = ""
    tags: Sequence[tuple[str, str]] = ()
    ingested_at: datetime | None = None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The tags, and the owner as one of them."""
        return [*self.tags, *([("owner", self.owner)] if self.owner else [])]


@dataclass(frozen=True)
class Filter:
    """Documents that have one of `terms`, or none of them when `excluded`; `correctable` terms may be misspelt."""

    kind: Kind
    terms: tuple[str, ...]
    excluded: bool = False
    correctable: tuple[str, ...] = ()


@dataclass(frozen=True)
class DateRange:
    """From `start` on and before `end`; `None` is open."""

    field: DateField
    start: datetime | None = None
    end: datetime | None = None
    excluded: bool = False


@dataclass(frozen=True)
class SearchQuery:
    """A checked search, made by `query.parse`. Every word must be found; an `excluded` group only all together."""

    words: tuple[str, ...] = ()
    excluded: tuple[tuple[str, ...], ...] = ()
    filters: tuple[Filter, ...] = ()
    ranges: tuple[DateRange, ...] = ()
    sort: Sort = Sort.UPDATED
    weights: Mapping[Kind, float] = field(default_factory=lambda: WEIGHTS)
    limit: int = 50
    cursor: str | None = None
    explain: bool = False

    @property
    def fingerprint(self) -> str:
        """Equal for pages of one search, so that a cursor can't be used with another."""
        parts = (self.words, self.excluded, self.filters, self.ranges, self.sort, sorted(self.weights.items()))
        return hashlib.blake2b(repr(parts).encode(), digest_size=6).hexdigest()


@dataclass(frozen=True)
class ScoreTerm:
    """One line of a score: the word was found in the field, which earned `score` = `weight` × `factor`."""

    word: str
    field: Kind
    match: Match
    weight: float
    factor: float
    score: float


@dataclass(frozen=True)
class Hit:
    """A found repository. `score` is what relevance sorts by, `normalized_score` its share of the best possible one."""

    repository_id: str
    score: float
    normalized_score: float
    explanation: Sequence[ScoreTerm] | None = None


@dataclass(frozen=True)
class TagCount:
    key: str
    value: str
    count: int


@dataclass(frozen=True)
class StatusCount:
    status: str
    count: int


@dataclass(frozen=True)
class Facets:
    """Exact counts over everything that was found, not only this page; most frequent first."""

    tags: list[TagCount]
    statuses: list[StatusCount]
    owners: list[TagCount]
    frameworks: list[TagCount]


@dataclass(frozen=True)
class Correction:
    """A word or tag that nothing has, and what was searched in its place."""

    word: str
    used: tuple[str, ...]


@dataclass(frozen=True)
class SearchPage:
    hits: list[Hit]
    facets: Facets
    total: int
    next_cursor: str | None
    tokens: tuple[str, ...]
    sort: Sort
    weights: Mapping[Kind, float]
    corrections: list[Correction]


@dataclass(frozen=True)
class Suggestion:
    """A completion: `value` replaces what was typed (`key:` or `key:value`, quoted if need be), `label` is shown."""

    type: str
    value: str
    label: str
    count: int
