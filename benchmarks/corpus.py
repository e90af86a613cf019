"""A made-up company of many apps, the same one for the same size: names, tags and prose with the usual long tails."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Generic, TypeVar

from apphub_assets.search.spec import Document

T = TypeVar("T")

# Every second description has this one.
COMMON_WORD = "service"
REAL_WORDS = [
    "weather", "dashboard", "report", "inventory", "invoice", "billing", "sensor", "monitor", "gateway", "search",
    "catalog", "editor", "planner", "booking", "calendar", "chat", "forecast", "notebook", "pipeline", "metrics",
    "tracker", "portal", "registry", "console", "viewer", "archive", "survey", "ledger", "customer", "warehouse",
    "payment", "shipping", "fleet", "energy", "climate", "radar", "satellite", "audit", "policy", "payroll", "travel",
]  # fmt: skip
SYLLABLES = [consonant + vowel for consonant in "bcdfghklmnprstvz" for vowel in "aeiou"]
KEYS = {
    "language": 40, "framework": 60, "team": 400, "library": 1500, "domain": 300, "region": 30, "license": 20,
    "runtime": 50, "database": 30, "cost-center": 500, "customer": 1200, "compliance": 15, "stage": 6, "product": 549,
}  # fmt: skip
OWNERS = 300
NOW = datetime(2026, 11, 1, tzinfo=UTC)


class _Tail(Generic[T]):
    """Few things are picked often, many seldom (Zipf)."""

    def __init__(self, things: list[T]) -> None:
        self._things = things
        self._weights = list(accumulate(1 / (rank + 5) for rank in range(len(things))))

    def pick(self, chance: random.Random, count: int) -> list[T]:
        return chance.choices(self._things, cum_weights=self._weights, k=count)


class Corpus:
    """`size` documents that carry 5,000 distinct tags, owners included. Iterate as often as you like."""

    def __init__(self, size: int) -> None:
        self.size = size
        chance = random.Random(1)
        names = [*REAL_WORDS, *_invented(chance, 15_000)]
        self._names = _Tail(names)
        self._prose = _Tail([*names, *_invented(chance, 25_000)])
        self._owners = _Tail([f"team-{name}" for name in _invented(chance, OWNERS)])
        self._tags = {
            key: _Tail([(key, value) for value in [*REAL_WORDS, *_invented(chance, count)][:count]])
            for key, count in KEYS.items()
        }

    def __iter__(self) -> Iterator[Document]:
        chance = random.Random(2)
        for number in range(self.size):
            yield self._document(chance, number)

    def _document(self, chance: random.Random, number: int) -> Document:
        name = " ".join(word.capitalize() for word in self._names.pick(chance, 2))
        created = NOW - timedelta(minutes=chance.randrange(3 * 365 * 24 * 60))
        updated = created + (NOW - created) * chance.random()
        return Document(
            repository_id=f"{name.lower().replace(' ', '-')}-{number}",
            name=name,
            status=chance.choices(("ready", "failed", "processing", "pending"), (90, 8, 1, 1))[0],
            description=self._text(chance, 14, COMMON_WORD if number % 2 else ""),
            repo_url=f"https://git.example.com/{name.lower().replace(' ', '/')}-{number}",
            owner=self._owners.pick(chance, 1)[0],
            readme=self._text(chance, 120),
            tags=[tag for key in chance.sample(list(self._tags), 7) for tag in self._tags[key].pick(chance, 1)],
            created_at=created,
            updated_at=updated,
            ingested_at=updated,
        )

    def _text(self, chance: random.Random, words: int, *more: str) -> str:
        return " ".join([*self._prose.pick(chance, words), *more])


def _invented(chance: random.Random, count: int) -> list[str]:
    return ["".join(chance.choices(SYLLABLES, k=chance.randint(2, 4))) for _ in range(count)]
