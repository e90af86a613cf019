"""Values of the timestore that check themselves: types, fields, schemas, slugs."""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

from apphub_assets.timestore.errors import InvalidDataset

SLUG = re.compile(r"[a-z0-9._-]{3,120}")
# What DuckDB adds to the contract's five types: fixed decimals, JSON documents, and lists and structs of any type.
DECIMAL = re.compile(r"decimal\((\d{1,2}),(\d{1,2})\)")
MAX_FIELDS = 1000
# Inlined rows are in tables of Postgres with columns of the same names, so what it can't call a column, we can't.
MAX_NAME_BYTES = 63
RESERVED = {"rowid", "row_id", "begin_snapshot", "end_snapshot", "ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"}
MAX_DEPTH = 8
MAX_LEVELS = 32

Json = dict[str, Any]


class Status(StrEnum):
    """`deleted` waits for its grace to end; nobody sees it any more, and its rows are still there."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    DELETED = "deleted"


class Granularity(StrEnum):
    """How much time one partition of a dataset holds: of its files, and of its asset in Dagster."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


SCALARS = {
    "timestamp": "TIMESTAMP",  # UTC: what a session's time zone is changes nothing
    "string": "VARCHAR",
    "double": "DOUBLE",
    "integer": "BIGINT",
    "boolean": "BOOLEAN",
    "json": "JSON",
}


@dataclass(frozen=True)
class Field:
    """A column. `type` is a scalar's name, `decimal(p,s)`, `list` or `struct`; a list has one element in `children`.

    `is_key` marks a partition key that no schema declared: it can be asked for and filtered by, but is no part of a
    row as long as nobody asks.

    Raises:
        InvalidDataset: the name or type can't be one; `pointer` says where it was.
    """

    name: str
    type: str
    children: tuple["Field", ...] = ()
    is_key: bool = False

    @classmethod
    def parse(cls, given: Json, pointer: str = "", depth: int = 0) -> Self:
        """From `{name, type, items?, fields?}`: `items` is a list's element type, `fields` are a struct's."""
        name, kind = given.get("name"), given.get("type")
        if not isinstance(name, str) or not is_name(name.strip()):
            raise _invalid(
                f"{pointer}/name",
                f"name {name!r}: give printable characters, at most {MAX_NAME_BYTES} bytes, none of {sorted(RESERVED)}",
            )
        if depth > MAX_DEPTH:
            raise _invalid(pointer, f"field {name!r}: nested deeper than {MAX_DEPTH}")
        return cls(name.strip(), *_parsed_type(name, kind, given, pointer, depth), bool(given.get("partitionKey")))

    @property
    def sql_type(self) -> str:
        """The column's type in DuckDB."""
        if self.type == "list":
            return f"{self.children[0].sql_type}[]"
        if self.type == "struct":
            return f"STRUCT({', '.join(f'{quote(child.name)} {child.sql_type}' for child in self.children)})"
        return SCALARS.get(self.type) or self.type.upper()

    def to_json(self) -> Json:
        shown: Json = {"name": self.name, "type": self.type}
        if self.type == "list":
            shown["items"] = {key: value for key, value in self.children[0].to_json().items() if key != "name"}
        if self.type == "struct":
            shown["fields"] = [child.to_json() for child in self.children]
        return shown | {"partitionKey": True} if self.is_key else shown


def _parsed_type(name: str, kind: Any, given: Json, pointer: str, depth: int) -> tuple[str, tuple[Field, ...]]:
    if isinstance(kind, str) and kind in SCALARS:
        return kind, ()
    if isinstance(kind, str) and (match := DECIMAL.fullmatch(kind.replace(" ", "").lower())):
        precision, scale = int(match[1]), int(match[2])
        if 1 <= precision <= 38 and scale <= precision:
            return f"decimal({precision},{scale})", ()
    if kind == "list" and isinstance(items := given.get("items"), dict):
        return kind, (Field.parse(items | {"name": "element"}, f"{pointer}/items", depth + 1),)
    if kind == "struct" and isinstance(fields := given.get("fields"), list) and fields:
        return kind, parse_fields(fields, f"{pointer}/fields", depth + 1)
    raise _invalid(
        f"{pointer}/type",
        f"type {kind!r} of field {name!r}: use {', '.join(SCALARS)}, decimal(p,s), list with `items`"
        " or struct with `fields`",
    )


def parse_fields(given: list[Any], pointer: str, depth: int = 0) -> tuple[Field, ...]:
    """Fields with names that differ in more than their case, which DuckDB does not tell apart.

    Raises:
        InvalidDataset: one can't be a field, two have one name, or there are too many.
    """
    if not 0 < len(given) <= MAX_FIELDS:
        raise _invalid(pointer, f"{len(given)} fields: give 1 to {MAX_FIELDS}")
    fields, seen = [], set[str]()
    for index, each in enumerate(given):
        where = f"{pointer}/{index}"
        if not isinstance(each, dict):
            raise _invalid(where, "a field is an object with name and type")
        field = Field.parse(each, where, depth)
        if field.name.lower() in seen:
            raise _invalid(f"{where}/name", f"field {field.name!r} is there twice (case does not tell them apart)")
        seen.add(field.name.lower())
        fields.append(field)
    return tuple(fields)


@dataclass(frozen=True)
class Schema:
    """The columns of a dataset in their order, partition keys that nobody declared as a field included."""

    fields: tuple[Field, ...]

    @classmethod
    def parse(cls, given: list[Any], pointer: str = "/schema/fields") -> Self:
        return cls(parse_fields(given, pointer))

    @cached_property
    def by_name(self) -> dict[str, Field]:
        """Fields by their name in lower case."""
        return {field.name.lower(): field for field in self.fields}

    @property
    def checksum(self) -> str:
        """SHA-256 of the fields sorted by name: the order of columns does not make another version (contract C.2)."""
        parts = sorted(f"{field.name}:{field.sql_type}" for field in self.fields)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def find(self, name: str) -> Field | None:
        return self.by_name.get(name.lower())

    def to_json(self) -> list[Json]:
        return [field.to_json() for field in self.fields]


@dataclass(frozen=True)
class DatasetInfo:
    """What reading and writing must know of a dataset.

    `table` is its table in the lake and `area` the lake's schema it is in, of which each storage target has one.
    `partition_keys` are the columns whose values have files of their own. `schema_version` is 0, and `schema` empty,
    until there is a schema.
    """

    id: str
    slug: str
    table: str
    area: str
    status: Status
    timestamp_column: str
    partition_keys: tuple[str, ...]
    granularity: Granularity
    schema: Schema
    schema_version: int
    metadata: Json
    storage_target_id: str = "default"

    @property
    def relation(self) -> str:
        """The quoted table, as SQL on an attached lake says it."""
        return f"lake.{quote(self.area)}.{quote(self.table)}"


@dataclass(frozen=True)
class TimeRange:
    """Both ends belong to it."""

    start: datetime
    end: datetime


def parse_stored_fields(given: list[Json]) -> Schema:
    """The schema of a version's row, which was checked when it was written; none has no fields."""
    return Schema(tuple(Field.parse(each) for each in given))


def parse_slug(given: str) -> str:
    """A dataset's slug, in lower case.

    Raises:
        InvalidDataset: it is not one.
    """
    slug = given.lower()
    if not SLUG.fullmatch(slug):
        raise _invalid("/slug", f"slug {given[:130]!r}: use 3 to 120 of a-z, 0-9, '.', '_' and '-'")
    return slug


def is_name(given: str) -> bool:
    """Whether it can be a column."""
    return 0 < len(given.encode()) <= MAX_NAME_BYTES and given.isprintable() and given.lower() not in RESERVED


def check_document(document: Json, pointer: str, most_bytes: int) -> None:
    """Raises InvalidDataset for a document that is too large, or that has too many levels to be shown again."""
    level, depth = [document], 0
    while level := [child for each in level for child in _children(each)]:
        depth += 1
        if depth > MAX_LEVELS:
            raise _invalid(pointer, f"at most {MAX_LEVELS} levels of objects and lists")
    size = len(json.dumps(document))
    if size > most_bytes:
        raise _invalid(pointer, f"{size} bytes: use at most {most_bytes}")


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def quote(name: str) -> str:
    """A name as an SQL identifier, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def _invalid(pointer: str, message: str) -> InvalidDataset:
    return InvalidDataset(message, pointers=[(pointer, message)])
