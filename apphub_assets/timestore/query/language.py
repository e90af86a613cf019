"""The language of `POST /datasets/{slug}/query` (contract C.3) as frozen values that check themselves.

Nothing here knows a dataset: whether its columns exist and a predicate fits one, `service.py` sees.
"""

import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self, TypeVar
from zoneinfo import ZoneInfo

from apphub_assets.timestore.errors import InvalidQuery
from apphub_assets.timestore.spec import Json, TimeRange, is_name

MAX_LIMIT = 500_000
MAX_VALUES = 10_000
MAX_AGGREGATIONS = 100
MAX_INTERVAL = 100_000
INSTANT = re.compile(r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d([.,]\d+)?)?([Zz]|[+-]\d\d:?\d\d)?)?")

Value = str | int | float | bool | datetime
Choice = TypeVar("Choice", bound=StrEnum)


class Kind(StrEnum):
    """What a predicate compares."""

    STRING = "string"
    NUMBER = "number"
    TIMESTAMP = "timestamp"
    BOOLEAN = "boolean"


class Unit(StrEnum):
    SECOND = "second"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Fn(StrEnum):
    AVG = "avg"
    MIN = "min"
    MAX = "max"
    SUM = "sum"
    MEDIAN = "median"
    COUNT = "count"
    COUNT_DISTINCT = "count_distinct"
    PERCENTILE = "percentile"
    FIRST = "first"
    LAST = "last"


class Fill(StrEnum):
    """What an empty bucket has: nothing, what the bucket before had, a line between its neighbours, or a number."""

    NULL = "null"
    PREVIOUS = "previous"
    LINEAR = "linear"
    CONSTANT = "constant"


OPERATORS = {
    Kind.STRING: ("eq", "in"),
    Kind.NUMBER: ("eq", "in", "gt", "gte", "lt", "lte"),
    Kind.TIMESTAMP: ("eq", "in", "gt", "gte", "lt", "lte"),
    Kind.BOOLEAN: ("eq", "in"),
}
ANY_OPERATOR = OPERATORS[Kind.NUMBER]


@dataclass(frozen=True)
class Predicate:
    """What the values of a column must be: every term holds. `kind` None is whatever the column is.

    The values of its terms are as JSON has them until `typed` has read them as a kind's.
    """

    column: str
    kind: Kind | None
    terms: tuple[tuple[str, Any], ...]
    pointer: str

    @classmethod
    def parse(cls, column: str, given: Any, pointer: str, *, is_key: bool) -> Self:
        """From `{type?, eq?, in?, gt?, …}`, for a key also from a list of strings."""
        if is_key and isinstance(given, list):
            given = {"type": Kind.STRING, "in": given}
        stated = _object(given, pointer, {"type", *ANY_OPERATOR})
        kind = _choice(Kind, stated["type"], f"{pointer}/type") if "type" in stated else None
        terms = tuple((name, value) for name, value in stated.items() if name != "type")
        if not terms:
            raise invalid(pointer, f"a predicate needs one of {', '.join(ANY_OPERATOR)}")
        predicate = cls(column, kind, terms, pointer)
        return predicate if kind is None else predicate.typed(kind)

    def typed(self, kind: Kind) -> Self:
        """The same with values of that kind.

        Raises:
            InvalidQuery: the kind has no such operator, or no such value.
        """
        return type(self)(self.column, kind, tuple(self._typed_term(kind, *term) for term in self.terms), self.pointer)

    def _typed_term(self, kind: Kind, operator: str, given: Any) -> tuple[str, Any]:
        pointer = f"{self.pointer}/{operator}"
        if operator not in OPERATORS[kind]:
            raise invalid(pointer, f"a {kind} has no {operator}; use {', '.join(OPERATORS[kind])}")
        read = READERS[kind]
        if operator != "in":
            return operator, read(given, pointer)
        values = _list(given, pointer, MAX_VALUES)
        return operator, tuple(read(value, f"{pointer}/{index}") for index, value in enumerate(values))


@dataclass(frozen=True)
class Aggregation:
    """One column of a downsampled answer; `fraction` is a percentile's, between 0 and 1."""

    fn: Fn
    column: str | None
    alias: str
    pointer: str
    fraction: float | None = None

    @classmethod
    def parse(cls, given: Any, pointer: str) -> Self:
        stated = _object(given, pointer, {"fn", "column", "alias", "percentile"})
        fn = _choice(Fn, stated.get("fn"), f"{pointer}/fn")
        column = _optional(stated, "column", pointer, _text)
        if column is None and fn != Fn.COUNT:
            raise invalid(f"{pointer}/column", f"{fn} needs the column it is taken of")
        fraction = _fraction(fn, stated, pointer)
        alias = _optional(stated, "alias", pointer, _text) or _default_alias(fn, column, fraction)
        if not is_name(alias):
            raise invalid(f"{pointer}/alias", f"alias {alias[:80]!r} can't be a column; give another")
        return cls(fn, column, alias, pointer, fraction)


@dataclass(frozen=True)
class GapFill:
    """How buckets without rows are answered; `value` is the constant."""

    fill: Fill
    value: float | int | None = None

    @classmethod
    def parse(cls, given: Any, pointer: str) -> Self:
        """From `{mode, value?}`, or the mode alone."""
        stated = {"mode": given} if isinstance(given, str) else _object(given, pointer, {"mode", "value"})
        fill = _choice(Fill, stated.get("mode"), f"{pointer}/mode" if isinstance(given, dict) else pointer)
        value = _optional(stated, "value", pointer, _number)
        if (value is not None) != (fill == Fill.CONSTANT):
            raise invalid(pointer, 'a constant is {"mode": "constant", "value": 0}; other modes have no value')
        return cls(fill, value)


@dataclass(frozen=True)
class Downsample:
    """Buckets of `size` units, in UTC or by the clocks of a zone, and what is told of each."""

    unit: Unit
    size: int
    aggregations: tuple[Aggregation, ...]
    zone: ZoneInfo | None
    gap_fill: GapFill | None

    @classmethod
    def parse(cls, given: Any, pointer: str) -> Self:
        stated = _object(given, pointer, {"intervalUnit", "intervalSize", "aggregations", "timeZone", "gapFill"})
        listed = _list(stated.get("aggregations"), f"{pointer}/aggregations", MAX_AGGREGATIONS)
        return cls(
            unit=_choice(Unit, stated.get("intervalUnit", Unit.MINUTE), f"{pointer}/intervalUnit"),
            size=_whole(stated.get("intervalSize", 1), f"{pointer}/intervalSize", MAX_INTERVAL),
            aggregations=tuple(
                Aggregation.parse(each, f"{pointer}/aggregations/{index}") for index, each in enumerate(listed)
            ),
            zone=_optional(stated, "timeZone", pointer, _zone),
            gap_fill=_optional(stated, "gapFill", pointer, GapFill.parse),
        )


@dataclass(frozen=True)
class LastValue:
    """Only the newest row of each series; `by` None are the dataset's partition keys."""

    by: tuple[str, ...] | None

    @classmethod
    def parse(cls, given: Any, pointer: str) -> Self:
        if given is True:
            return cls(None)
        return cls(_optional(_object(given, pointer, {"by"}), "by", pointer, _names))


@dataclass(frozen=True)
class Query:
    """What is asked of a dataset.

    `shape` is the question without the page: two pages of one answer have the same. `as_of` is a snapshot's number or
    a time. Only the newest rows may be asked for without a time range.
    """

    range: TimeRange | None
    timestamp_column: str | None
    columns: tuple[str, ...] | None
    filters: tuple[Predicate, ...]
    key_filters: tuple[Predicate, ...]
    downsample: Downsample | None
    last_value: LastValue | None
    descending: bool
    limit: int | None
    cursor: str | None
    as_of: int | datetime | None
    explain: bool
    shape: str

    @classmethod
    def parse(cls, given: Any) -> Self:
        """From the body of the request.

        Raises:
            InvalidQuery: it says what is unknown, contradicts itself, or misses what is needed; pointers tell where.
        """
        stated = _object(given, "", MEMBERS)
        filters = _optional(stated, "filters", "", _filters) or {}
        query = cls(
            range=_optional(stated, "timeRange", "", _range),
            timestamp_column=_optional(stated, "timestampColumn", "", _text),
            columns=_optional(stated, "columns", "", _names),
            filters=_predicates(filters, "columns", is_key=False),
            key_filters=_predicates(filters, "partitionKey", is_key=True),
            downsample=_optional(stated, "downsample", "", Downsample.parse),
            last_value=_optional(stated, "lastValue", "", LastValue.parse),
            descending=_order(stated.get("order", "asc"), "/order"),
            limit=_optional(stated, "limit", "", lambda value, at: _whole(value, at, MAX_LIMIT)),
            cursor=_optional(stated, "cursor", "", _text),
            as_of=_optional(stated, "asOf", "", _moment),
            explain=_flag(stated.get("explain", False), "/explain"),
            shape=json.dumps({key: value for key, value in stated.items() if key not in PAGE}, sort_keys=True),
        )
        query._check()
        return query

    def _check(self) -> None:
        if self.range is None and self.last_value is None:
            raise invalid("/timeRange", 'timeRange is needed: {"start": "2026-01-01T00:00:00Z", "end": …}')
        if self.downsample and self.last_value:
            raise invalid("/lastValue", "lastValue and downsample exclude each other; the aggregation `last` is close")
        if self.cursor is not None and (self.downsample or self.last_value or self.limit is None):
            raise invalid("/cursor", "a cursor is for the next page of raw rows, with a limit")


PAGE = {"limit", "cursor", "explain"}
MEMBERS = {
    "timeRange", "timestampColumn", "columns", "filters", "downsample", "lastValue", "order", "limit", "cursor",
    "asOf", "explain",
}  # fmt: skip
FILTER_HINT = '; write {"columns": {"<column>": {"eq": …}}} or {"partitionKey": {"<key>": {"eq": …}}}'


def invalid(pointer: str, message: str) -> InvalidQuery:
    """The error about one place of the query."""
    return InvalidQuery(f"{pointer or '/'}: {message}", pointers=[(pointer, message)])


def escape(name: str) -> str:
    """A name as a part of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def parse_instant(given: Any, pointer: str) -> datetime:
    """A time of ISO 8601 as UTC without a zone, as the lake has it; one that names no zone is in UTC.

    Raises:
        InvalidQuery: it is none.
    """
    try:
        if not isinstance(given, str) or not INSTANT.fullmatch(given):
            raise ValueError
        moment = datetime.fromisoformat(given.upper().replace(",", "."))
        return (moment if moment.tzinfo is None else moment.astimezone(UTC)).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise invalid(pointer, f"{_shown(given)} is no time; write it as 2026-01-01T00:00:00Z") from None


def _object(given: Any, pointer: str, allowed: set[str], hint: str = "") -> Json:
    if not isinstance(given, dict):
        raise invalid(pointer, f"{_shown(given)} is no object")
    unknown = sorted(set(given) - allowed)
    if unknown:
        message = f"unknown member {unknown[0][:80]!r}: there are {', '.join(sorted(allowed))}{hint}"
        raise invalid(f"{pointer}/{escape(unknown[0])}", message)
    return given


def _optional(stated: Json, name: str, pointer: str, read: Callable[[Any, str], Any]) -> Any:
    """A member, or None where it is not there or null."""
    value = stated.get(name)
    return None if value is None else read(value, f"{pointer}/{name}")


def _list(given: Any, pointer: str, most: int) -> list[Any]:
    if not isinstance(given, list) or not 0 < len(given) <= most:
        raise invalid(pointer, f"give a list of 1 to {most}")
    return given


def _text(given: Any, pointer: str) -> str:
    # Postgres, which has the inlined rows, knows no NUL; half a surrogate pair is no text at all.
    if not isinstance(given, str) or "\0" in given or any("\ud800" <= char <= "\udfff" for char in given):
        raise invalid(pointer, f"{_shown(given)} is no text")
    return given


def _number(given: Any, pointer: str) -> int | float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not abs(given) <= sys.float_info.max:
        raise invalid(pointer, f"{_shown(given)} is no finite number")
    return int(given) if isinstance(given, float) and given.is_integer() else given


def _flag(given: Any, pointer: str) -> bool:
    if not isinstance(given, bool):
        raise invalid(pointer, f"{_shown(given)} is neither true nor false")
    return given


def _whole(given: Any, pointer: str, most: int) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= most:
        raise invalid(pointer, f"{_shown(given)}: give a whole number from 1 to {most}")
    return given


READERS: dict[Kind, Callable[[Any, str], Value]] = {
    Kind.STRING: _text,
    Kind.NUMBER: _number,
    Kind.TIMESTAMP: parse_instant,
    Kind.BOOLEAN: _flag,
}


def _choice(kinds: type[Choice], given: Any, pointer: str) -> Choice:
    if isinstance(given, str) and given in set(kinds):
        return kinds(given)
    raise invalid(pointer, f"{_shown(given)}: use {', '.join(kinds)}")


def _names(given: Any, pointer: str) -> tuple[str, ...]:
    names = [_text(name, f"{pointer}/{index}") for index, name in enumerate(_list(given, pointer, MAX_VALUES))]
    return tuple(dict.fromkeys(names))


def _range(given: Any, pointer: str) -> TimeRange:
    stated = _object(given, pointer, {"start", "end"})
    start = parse_instant(stated.get("start"), f"{pointer}/start")
    end = parse_instant(stated.get("end"), f"{pointer}/end")
    if end < start:
        raise invalid(f"{pointer}/end", "end is before start; both belong to the range")
    return TimeRange(start, end)


def _moment(given: Any, pointer: str) -> int | datetime:
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 2**63:
        return given
    if isinstance(given, str) and given.isascii() and given.isdigit() and len(given) < 19:
        return int(given)
    return parse_instant(given, pointer)


def _order(given: Any, pointer: str) -> bool:
    if given not in ("asc", "desc"):
        raise invalid(pointer, f"{_shown(given)}: use asc or desc")
    return bool(given == "desc")


def _zone(given: Any, pointer: str) -> ZoneInfo:
    try:
        return ZoneInfo(_text(given, pointer))
    except (KeyError, ValueError, OSError):
        raise invalid(pointer, f"{_shown(given)} is no time zone; use a name of IANA's, as Europe/Berlin") from None


def _filters(given: Any, pointer: str) -> Json:
    return _object(given, pointer, {"partitionKey", "columns"}, hint=FILTER_HINT)


def _predicates(filters: Json, name: str, *, is_key: bool) -> tuple[Predicate, ...]:
    pointer = f"/filters/{name}"
    stated = {} if filters.get(name) is None else filters[name]
    if not isinstance(stated, dict):
        raise invalid(pointer, f"{_shown(stated)} is no object of columns and what they must be")
    return tuple(
        Predicate.parse(column, each, f"{pointer}/{escape(column)}", is_key=is_key) for column, each in stated.items()
    )


def _fraction(fn: Fn, stated: Json, pointer: str) -> float | None:
    if fn != Fn.PERCENTILE:
        if "percentile" in stated:
            raise invalid(f"{pointer}/percentile", f"{fn} has no percentile")
        return None
    fraction = _number(stated.get("percentile"), f"{pointer}/percentile")
    if not 0 <= fraction <= 1:
        raise invalid(f"{pointer}/percentile", f"{fraction}: give a fraction from 0 to 1")
    return float(fraction)


def _default_alias(fn: Fn, column: str | None, fraction: float | None) -> str:
    if fraction is not None:
        return f"p{math.floor(fraction * 100 + 0.5)}_{column}"
    return str(fn) if column is None else f"{fn}_{column}"


def _shown(given: Any) -> str:
    return repr(given)[:120]
