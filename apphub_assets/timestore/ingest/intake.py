"""From the body of an ingest to a batch that was checked as a whole: nothing is written while anything is wrong."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from apphub_assets.timestore.errors import InvalidBody, InvalidRows
from apphub_assets.timestore.ingest.columns import build_column, infer_type
from apphub_assets.timestore.ingest.sources import Rows, Source
from apphub_assets.timestore.ingest.writing import NOBODY, Caller, Incoming
from apphub_assets.timestore.spec import DatasetInfo, Field, TimeRange, is_name, parse_slug

DEFAULT_TIME = "timestamp"
MOST_KEYS = 32
LONGEST_STATISTIC = 64
# What filesystems take.
LONGEST_FOLDER = 255
DEFAULTED = {"string", "double", "integer", "boolean", "timestamp"}

Json = dict[str, Any]


@dataclass(frozen=True)
class Delivery:
    """What an ingest says about its rows, whatever form they come in; what is None follows from the rows."""

    slug: str
    fields: tuple[Field, ...] | None = None
    partition_key: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    time_range: TimeRange | None = None
    key: str | None = None
    defaults: Json = field(default_factory=dict)
    backfill: bool = False
    dataset_name: str | None = None
    storage_target_id: str | None = None
    caller: Caller = NOBODY


@dataclass(frozen=True)
class Content:
    """Rows, and what was found out about them: their columns, the time that they span, and what of them is left out."""

    fields: tuple[Field, ...]
    source: Source
    span: TimeRange
    statistics: Json
    warnings: tuple[str, ...] = ()


def rows_of_objects(delivery: Delivery, dataset: DatasetInfo | None, objects: Sequence[Any]) -> Content:
    """Rows that came as JSON objects.

    Raises:
        InvalidRows: there are none, or some do not fit; names row, column and value.
    """
    if not objects:
        raise _invalid("/rows", "there are no rows; send at least one")
    odd = next((row for row, each in enumerate(objects) if type(each) is not dict), None)
    if odd is not None:
        raise _invalid(f"/rows/{odd}", f"row {odd} is no object with a value per column")
    names = list(dict.fromkeys(name for each in _distinct_shapes(objects) for name in each))
    by_lower = {name.lower(): name for name in names}
    twin = next((name for name in names if by_lower[name.lower()] != name), None)
    if twin is not None and delivery.fields is None:
        message = f"columns {twin!r} and {by_lower[twin.lower()]!r} are one: case does not tell them apart"
        raise _invalid(f"/rows/{twin}", message)
    fields = delivery.fields or _fields_of(names, objects, dataset)
    columns = {each.name: build_column(each, [row.get(each.name) for row in objects]) for each in fields}
    known = {each.name for each in fields}
    left_out = [name for name in names if name not in known]
    warnings = tuple(f"column {name!r} is not in the schema and was not stored" for name in left_out[:20])
    return rows_of_table(delivery, dataset, fields, pa.table(columns), warnings)


def rows_of_table(
    delivery: Delivery,
    dataset: DatasetInfo | None,
    fields: Sequence[Field],
    table: pa.Table,
    warnings: tuple[str, ...] = (),
) -> Content:
    """Rows that are in memory, with columns of the types of `fields`.

    Raises:
        InvalidRows: a row has no time, or contradicts the partition key.
    """
    fields, table = _named_as_stored(fields, table, dataset)
    time = timestamp_column(fields, dataset)
    if missing := table[time].null_count:
        row = pc.index(table[time].is_null(), True).as_py()
        raise _invalid(f"/rows/{row}/{time}", f"row {row}, column {time!r}: {missing} rows have no time")
    fields, table = _with_partition_key(delivery, fields, table, dataset)
    for name in dataset.partition_keys if dataset else ():
        if name in table.column_names:
            check_folders(name, table[name])
    span = pc.min_max(table[time]).as_py()
    return Content(
        fields=tuple(fields),
        source=Rows(table),
        span=TimeRange(span["min"].replace(tzinfo=UTC), span["max"].replace(tzinfo=UTC)),
        statistics=_statistics(fields, table),
        warnings=warnings,
    )


def prepare(delivery: Delivery, dataset: DatasetInfo | None, content: Content, digest: str) -> Incoming:
    """The batch of a delivery; without a key of the client's it is identified by all that was sent.

    `digest` is of the body as it came: what is sent again is the same, whatever the dataset has become meanwhile.

    Raises:
        InvalidBody: a name has a NUL.
    """
    given = delivery.time_range or content.span
    key, whole = identity_of(delivery, digest)
    return Incoming(
        slug=parse_slug(delivery.slug),
        fields=content.fields,
        timestamp_column=timestamp_column(content.fields, dataset),
        source=content.source,
        key=key,
        content=whole,
        # Whoever takes rows out of a window counts a batch as gone that lies in it.
        start=min(given.start, content.span.start),
        end=max(given.end, content.span.end),
        partition_key=delivery.partition_key,
        attributes=delivery.attributes,
        statistics=content.statistics,
        defaults=delivery.defaults,
        backfill=delivery.backfill,
        dataset_name=delivery.dataset_name,
        storage_target_id=delivery.storage_target_id,
        caller=delivery.caller,
    )


def check_folders(key: str, values: pa.Array | pa.ChunkedArray, first_row: int = 0) -> None:
    """See that each value of a partition key can be the name of a folder; few rows get theirs when they are flushed.

    DuckLake (1.5.5) flushes into folders, whatever its option hive_file_pattern says.

    Raises:
        InvalidRows: a value is too long; names its row, of which the first of these is number `first_row`.
    """
    for value in pc.unique(values).to_pylist():
        size = len(quote(f"{key}={value}", safe="="))
        if size > LONGEST_FOLDER:
            row = first_row + values.to_pylist().index(value)
            message = f"row {row}, column {key!r}: {str(value)[:40]!r}… has {size} bytes as the name of a folder"
            raise _invalid(f"/rows/{row}/{key}", f"{message}, and a partition key may have {LONGEST_FOLDER}")


def identity_of(delivery: Delivery, digest: str) -> tuple[str, str]:
    """Key and hash by which a batch is known within its dataset, whatever the dataset is called by then.

    Raises:
        InvalidBody: a name has a NUL.
    """
    _check_names(delivery)
    whole = hashlib.sha256(
        orjson.dumps(
            [
                digest, [each.to_json() for each in delivery.fields or ()],
                sorted(delivery.partition_key.items()), sorted(delivery.attributes.items()), delivery.time_range,
            ]
        )
    ).hexdigest()  # fmt: skip
    return f"content:{whole}" if delivery.key is None else f"key:{delivery.key}", whole


def _check_names(delivery: Delivery) -> None:
    """Raises InvalidBody for a NUL, which Postgres keeps in no text."""
    given = {
        "/idempotencyKey": delivery.key,
        "/datasetName": delivery.dataset_name,
        "/storageTargetId": delivery.storage_target_id,
    }
    for pointer, text in given.items():
        if text is not None and "\0" in text:
            raise _malformed(pointer, f"{pointer[1:]} {text[:80]!r}: leave out the NUL")


def timestamp_column(fields: Sequence[Field], dataset: DatasetInfo | None) -> str:
    """The column that places rows in time: the dataset's, or for a new one `timestamp`, else its first timestamp.

    Raises:
        InvalidRows: the rows have no such column.
    """
    times = [each.name for each in fields if each.type == "timestamp"]
    if dataset is not None:
        wanted = dataset.timestamp_column
    else:
        wanted = next((name for name in times if name.lower() == DEFAULT_TIME), times[0] if times else DEFAULT_TIME)
    found = next((name for name in times if name.lower() == wanted.lower()), None)
    if found is None:
        raise _invalid("/schema/fields", f"there is no column {wanted!r} of type timestamp, and every row needs a time")
    return found


def check_defaults(defaults: Json, fields: Sequence[Field]) -> None:
    """See that defaults belong to columns and are of their type.

    Raises:
        InvalidRows: one does not.
    """
    by_name = {each.name: each for each in fields}
    for name, value in defaults.items():
        pointer = f"/schema/evolution/defaults/{name}"
        if name not in by_name or by_name[name].type not in DEFAULTED or type(value) not in {str, int, float, bool}:
            raise _invalid(pointer, f"default of {name!r}: only for a column of type {', '.join(sorted(DEFAULTED))}")
        try:
            build_column(by_name[name], [value])
        except InvalidRows as error:
            raise _invalid(pointer, f"default of {error.pointers[0][1].partition('column ')[2]}") from None


def named_pairs(given: Json, pointer: str) -> dict[str, str]:
    """Partition key or attributes: names and values trimmed, blank ones dropped (contract C.2).

    Raises:
        InvalidBody: a name can't be a column, or there are too many.
    """
    pairs = {str(name).strip(): str(value).strip() for name, value in given.items()}
    pairs = {name: value for name, value in pairs.items() if name and value}
    if len(pairs) > MOST_KEYS:
        raise _malformed(pointer, f"{len(pairs)} names: at most {MOST_KEYS}")
    for name, value in pairs.items():
        if not is_name(name) or "\0" in value:
            raise _malformed(f"{pointer}/{name}", f"name {name!r} with value {value[:80]!r} can't be used")
    return pairs


def time_range(start: datetime, end: datetime, pointer: str) -> TimeRange:
    """A window of time; moments without a zone are UTC.

    Raises:
        InvalidBody: it ends before it starts.
    """
    first, last = (each.replace(tzinfo=each.tzinfo or UTC).astimezone(UTC) for each in (start, end))
    if last < first:
        raise _malformed(f"{pointer}/end", f"end {end.isoformat()} is before start {start.isoformat()}")
    return TimeRange(first, last)


def _distinct_shapes(objects: Sequence[Json]) -> set[tuple[str, ...]]:
    """The few sets of names that all the rows have."""
    return set(map(tuple, objects))


def _fields_of(names: Sequence[str], objects: Sequence[Json], dataset: DatasetInfo | None) -> tuple[Field, ...]:
    """The columns of rows that came without a schema: the dataset's, and what the values of new ones are."""
    found = []
    for name in names:
        known = dataset.schema.find(name) if dataset else None
        is_time = name == (dataset.timestamp_column if dataset else DEFAULT_TIME)
        kind = infer_type([row.get(name) for row in objects], is_time=is_time) if known is None else ""
        found.append(replace(known, name=name) if known else Field.parse({"name": name, "type": kind}, f"/rows/{name}"))
    return tuple(found)


def _named_as_stored(
    fields: Sequence[Field], table: pa.Table, dataset: DatasetInfo | None
) -> tuple[list[Field], pa.Table]:
    """Columns called as the dataset calls them: case does not tell names apart."""
    names = []
    for each in fields:
        known = dataset.schema.find(each.name) if dataset else None
        names.append(known.name if known else each.name)
    return [replace(each, name=name) for each, name in zip(fields, names, strict=True)], table.rename_columns(names)


def _with_partition_key(
    delivery: Delivery, fields: Sequence[Field], table: pa.Table, dataset: DatasetInfo | None
) -> tuple[list[Field], pa.Table]:
    """Every row carries its batch's key, so that one can filter by it."""
    columns = list(fields)
    for name, value in delivery.partition_key.items():
        present = next((each for each in columns if each.name.lower() == name.lower()), None)
        if present is not None:
            table = _agreeing(table, present, value)
            continue
        known = dataset.schema.find(name) if dataset else None
        if known is not None and known.type != "string":
            raise _invalid(
                f"/partition/key/{name}", f"{name!r} is a column of type {known.type}, and a partition key is a string"
            )
        columns.append(known or Field(name, "string", is_key=True))
        table = table.append_column(columns[-1].name, pa.array([value] * table.num_rows, pa.string()))
    return columns, table


def _agreeing(table: pa.Table, column: Field, value: str) -> pa.Table:
    """Fill a declared column with the key where it is null; a row that says otherwise is wrong."""
    as_text = table[column.name].cast(pa.string()) if column.type != "string" else table[column.name]
    differs = pc.fill_null(pc.not_equal(as_text, value), False)
    if pc.any(differs).as_py():
        row = pc.index(differs, True).as_py()
        raise _invalid(
            f"/rows/{row}/{column.name}",
            f"row {row}, column {column.name!r}: {as_text[row].as_py()!r} is not the partition key's {value!r}",
        )
    if column.type != "string":
        return table
    at = table.column_names.index(column.name)
    return table.set_column(at, column.name, pc.fill_null(table[column.name], value))


def _statistics(fields: Sequence[Field], table: pa.Table) -> Json:
    """What the contract calls columnStatistics: type, nulls, smallest and largest value of each column."""
    found: Json = {}
    for each in fields:
        column = table[each.name]
        found[each.name] = {"type": each.type, "rowCount": table.num_rows, "nullCount": column.null_count}
        if each.type in {"timestamp", "double", "integer", "string"}:
            span = pc.min_max(column).as_py()
            found[each.name] |= {side: _shown(span[side]) for side in ("min", "max")}
    return found


def _shown(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z")
    # Postgres keeps no NUL in its JSON.
    return value[:LONGEST_STATISTIC].replace("\0", "\ufffd") if isinstance(value, str) else value


def _invalid(pointer: str, message: str) -> InvalidRows:
    return InvalidRows(f"{message}; nothing was written", pointers=[(pointer, message)])


def _malformed(pointer: str, message: str) -> InvalidBody:
    return InvalidBody(message, pointers=[(pointer, message)])
