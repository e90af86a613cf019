"""What people ask of a dataset on the command line, as the body of a query."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from apphub_api.cli_client import Exit, fail
from apphub_api.cli_dataset_values import moment_of

Json = dict[str, Any]

# The API's own limit, which a command line starts without.
MAX_AGGREGATIONS = 100
UNITS = {
    "s": ("second", timedelta(seconds=1)),
    "m": ("minute", timedelta(minutes=1)),
    "h": ("hour", timedelta(hours=1)),
    "d": ("day", timedelta(days=1)),
    "w": ("week", timedelta(weeks=1)),
    "mo": ("month", timedelta(days=31)),
}
EVERY = re.compile(r"(\d+)(mo|[smhdw])")
CONDITION = re.compile(r"(.+?)(>=|<=|=|>|<)(.*)", re.DOTALL)
OPERATORS = {"=": "eq", ">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?|100)")
BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Every:
    """The length of a bucket."""

    unit: str
    count: int

    @classmethod
    def parse(cls, given: str) -> "Every":
        match = EVERY.fullmatch(given)
        if match is None:
            fail(f"--every {given!r}: write it as 30s, 15m, 1h, 1d, 1w or 1mo", Exit.USAGE)
        return cls(match[2], int(match[1]))

    @property
    def gap(self) -> timedelta:
        """Two buckets that are further apart have one between them that is missing."""
        return UNITS[self.unit][1] * self.count * 1.5

    def to_json(self) -> Json:
        return {"intervalUnit": UNITS[self.unit][0], "intervalSize": self.count}


@dataclass(frozen=True)
class Asked:
    """The options of a query, as they were given."""

    start: str | None
    end: str | None
    columns: Sequence[str]
    where: Sequence[str]
    every: Every | None
    aggregations: Sequence[str]
    by: Sequence[str]
    fill: str | None
    time_zone: str | None
    last: bool
    limit: int | None
    descending: bool
    as_of: str | None
    explain: bool

    def check(self) -> None:
        """End the command when options do not go together."""
        if self.every and self.columns:
            fail("--every with --column: name what to group by as --by, and totals as --agg", Exit.USAGE)
        if self.every is None and (self.aggregations or self.fill or self.time_zone):
            fail("--agg, --fill and --time-zone need --every, as in --every 1h", Exit.USAGE)
        if self.by and not (self.every or self.last):
            fail("--by needs --every or --last", Exit.USAGE)

    @property
    def needs_fields(self) -> bool:
        """Whether the body depends on the types of the dataset's columns."""
        return bool(self.where or (self.every and not self.aggregations))

    def body(self, fields: Sequence[Json], now: datetime) -> Json:
        """The body of the query; the range is the last day, unless it is said or only the newest rows are wanted."""
        body: Json = {"explain": True} if self.explain else {}
        if self.start or self.end or not self.last:
            start, end = self.start or "-24h", self.end or "now"
            body["timeRange"] = {"start": moment_of(start, "--from", now), "end": moment_of(end, "--to", now)}
        if self.last:
            body["lastValue"] = {"by": list(self.by)} if self.by else True
        if self.every:
            body["downsample"] = self._downsample(self.every, fields)
        if columns := self.by if self.every else self.columns:
            body["columns"] = list(columns)
        if self.where:
            body["filters"] = {"columns": conditions_of(self.where, fields, now)}
        if self.limit:
            body["limit"] = self.limit
        if self.as_of:
            body["asOf"] = self.as_of if self.as_of.isdigit() else moment_of(self.as_of, "--as-of", now)
        return body | ({"order": "desc"} if self.descending else {})

    def _downsample(self, every: Every, fields: Sequence[Json]) -> Json:
        said = every.to_json() | {"aggregations": aggregations_of(self.aggregations, fields)}
        return (
            said
            | ({"timeZone": self.time_zone} if self.time_zone else {})
            | ({"gapFill": fill_of(self.fill)} if self.fill else {})
        )


def is_number(kind: str) -> bool:
    """Whether a column of a type can be averaged."""
    return kind in {"integer", "double"} or kind.startswith("decimal")


def aggregations_of(given: Sequence[str], fields: Iterable[Json]) -> list[Json]:
    """What is told of each bucket; by default the average of each number."""
    if given:
        return [aggregation_of(each) for each in given]
    numbers = [field["name"] for field in fields if is_number(field["type"])]
    if len(numbers) > MAX_AGGREGATIONS:
        fail(f"there are {len(numbers)} columns of numbers; name those to average: --agg avg:{numbers[0]}", Exit.USAGE)
    return [{"fn": "avg", "column": name} for name in numbers] or [{"fn": "count"}]


def aggregation_of(given: str) -> Json:
    """`avg:value`, `p95:value`, `count`."""
    fn, _, column = given.partition(":")
    share = PERCENTILE.fullmatch(fn)
    said: Json = {"fn": "percentile", "percentile": float(share[1]) / 100} if share else {"fn": fn}
    return said | ({"column": column} if column else {})


def fill_of(given: str) -> Json:
    """null, previous, linear, or a number."""
    number = _number(given)
    return {"mode": given} if number is None else {"mode": "constant", "value": number}


def conditions_of(given: Sequence[str], fields: Iterable[Json], now: datetime) -> Json:
    """Predicates by column. Conditions hold together, but a column that is to equal several values may have any."""
    kinds = {field["name"].lower(): field["type"] for field in fields}
    found: dict[str, Json] = {}
    for each in given:
        match = CONDITION.fullmatch(each)
        if match is None or match[1].endswith("!"):
            fail(f"--where {each!r}: write it as column=value, or with >, >=, < or <=", Exit.USAGE)
        column, operator = match[1].strip(), OPERATORS[match[2]]
        value = _value_of(match[3].strip(), kinds.get(column.lower(), "string"), f"--where {each!r}", now)
        predicate = found.setdefault(column, {})
        if operator == "eq":
            predicate.setdefault("in", []).append(value)
        elif operator in predicate:
            fail(f"--where {each!r}: {column} has such a condition already", Exit.USAGE)
        else:
            predicate[operator] = value
    return found


def _value_of(text: str, kind: str, where: str, now: datetime) -> Any:
    if kind == "timestamp":
        return moment_of(text, where, now)
    if kind == "boolean":
        if text.lower() not in BOOLEANS:
            fail(f"{where}: the column is a boolean; write true or false", Exit.USAGE)
        return BOOLEANS[text.lower()]
    if not is_number(kind):
        return text
    if (number := _number(text)) is None:
        fail(f"{where}: the column is a {kind}; write a number", Exit.USAGE)
    return number


def _number(text: str) -> int | float | None:
    for read in (int, float):
        try:
            return value if math.isfinite(value := read(text)) else None
        except (ValueError, OverflowError):
            continue
    return None
