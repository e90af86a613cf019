"""Answers as bytes: JSON, NDJSON, CSV, Parquet and Arrow, written batch by batch.

DuckDB itself makes the text, row by row in one string, several times faster than Python could; here it is only copied.

- Times are RFC 3339 in UTC with milliseconds, with microseconds where there are any.
- NaN and infinities are null, for JSON has none; in Parquet and Arrow they stay what they are.
- Decimals are numbers with all their digits; a reader that makes doubles of numbers rounds them.
- In CSV, lists, structs and JSON are JSON text, nothing is null, and `""` the empty text.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from apphub_assets.timestore.lake import literal
from apphub_assets.timestore.query.service import Answer
from apphub_assets.timestore.spec import Field, quote

ROW_GROUP = 122_880
ROW_GROUP_BYTES = 16 * 2**20


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: Any, /) -> Any: ...


@dataclass(frozen=True)
class Format:
    """A way to write answers: what it selects of a plan's columns, and how it writes the batches of that."""

    media_type: str
    select: Callable[[tuple[Field, ...]], str]
    write: Callable[[Answer, Sink], None]


def _as_json(fields: tuple[Field, ...]) -> str:
    return f"',' || {_object([(field, quote(field.name)) for field in fields])}"


def _as_line(fields: tuple[Field, ...]) -> str:
    return f"{_object([(field, quote(field.name)) for field in fields])} || chr(10)"


def _as_cells(fields: tuple[Field, ...]) -> str:
    return ", ".join(f"{_cell(field, quote(field.name))} AS {quote(field.name)}" for field in fields)


def _as_they_are(fields: tuple[Field, ...]) -> str:
    return ", ".join(quote(field.name) for field in fields)


def _cell(field: Field, column: str) -> str:
    if field.type in ("list", "struct"):
        return f"CASE WHEN {column} IS NOT NULL THEN {_value(field, column)} END"
    if field.type == "timestamp":
        return _time(column)
    if field.type == "double":
        return f"CASE WHEN isfinite({column}) THEN {column} END"
    return f"CAST({column} AS VARCHAR)" if field.type == "json" else column


def _value(field: Field, value: str, depth: int = 0) -> str:
    """SQL that writes a value of the field's type as JSON text; it is never NULL.

    Text is put together rather than handed to `to_json`, which knows neither our times nor decimals.
    """
    if field.type == "struct":
        members = [(child, f"struct_extract({value}, {literal(child.name)})") for child in field.children]
        written = f"CASE WHEN {value} IS NOT NULL THEN {_object(members, depth)} END"
    elif field.type == "list":
        # Lambdas within lambdas need names of their own.
        each = f"e{depth}"
        element = _value(field.children[0], each, depth + 1)
        written = f"'[' || array_to_string(list_transform({value}, lambda {each}: {element}), ',') || ']'"
    elif field.type == "timestamp":
        written = f"""'"' || {_time(value)} || '"'"""
    elif field.type == "double":
        written = f"CASE WHEN isfinite({value}) THEN {value} END::VARCHAR"
    elif field.type == "string":
        written = f"to_json({value})::VARCHAR"
    elif field.type == "json":
        # Without its line breaks, which end rows elsewhere.
        written = f"json({value})::VARCHAR"
    else:
        written = f"{value}::VARCHAR"
    return f"coalesce({written}, 'null')"


def _object(members: list[tuple[Field, str]], depth: int = 0) -> str:
    pieces = []
    for index, (field, value) in enumerate(members):
        key = ("," if index else "{") + json.dumps(field.name, ensure_ascii=False) + ":"
        pieces += [literal(key), _value(field, value, depth)]
    return f"concat({', '.join(pieces)}, '}}')" if pieces else "'{}'"


def _time(value: str) -> str:
    parts = "%Y-%m-%dT%H:%M:%S"
    return (
        f"CASE WHEN epoch_us({value}) % 1000 = 0 THEN strftime({value}, '{parts}.%gZ')"
        f" ELSE strftime({value}, '{parts}.%fZ') END"
    )


def _write_envelope(answer: Answer, sink: Sink) -> None:
    """`{"rows": […], "columns": […], "mode": …, "warnings": […], "nextCursor"?: …}`."""
    plan = answer.plan
    sink.write(b'{"rows":[')
    first = True
    for text in _texts(answer):
        sink.write(text[1:] if first else text)
        first = False
    rest = {"columns": plan.columns, "mode": plan.mode, "warnings": plan.warnings}
    if answer.next_cursor is not None:
        rest["nextCursor"] = answer.next_cursor
    sink.write(b"]," + json.dumps(rest, ensure_ascii=False).encode()[1:])


def _write_lines(answer: Answer, sink: Sink) -> None:
    for text in _texts(answer):
        sink.write(text)


def _texts(answer: Answer) -> Iterator[memoryview]:
    """The rows of each batch as they follow each other in Arrow's own memory."""
    for batch in answer.batches():
        rows = batch.column(0)
        _, offsets, data = rows.buffers()
        positions = memoryview(offsets).cast("i")
        yield memoryview(data)[positions[rows.offset] : positions[rows.offset + len(rows)]]


def _write_csv(answer: Answer, sink: Sink) -> None:
    schema = _shown(answer)
    with pyarrow.csv.CSVWriter(pa.PythonFile(sink, "w"), schema) as writer:
        for batch in answer.batches():
            writer.write_batch(batch.select(schema.names))


def _write_arrow(answer: Answer, sink: Sink) -> None:
    schema = _in_utc(_shown(answer))
    with pa.ipc.new_stream(pa.PythonFile(sink, "w"), schema) as writer:
        for batch in answer.batches():
            writer.write_batch(batch.select(schema.names).cast(schema))


def _write_parquet(answer: Answer, sink: Sink) -> None:
    schema = _in_utc(_shown(answer))
    with pq.ParquetWriter(pa.PythonFile(sink, "w"), schema, compression="zstd") as writer:
        for group in _row_groups(answer, schema):
            writer.write_table(group, row_group_size=ROW_GROUP)


def _row_groups(answer: Answer, schema: pa.Schema) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    for batch in answer.batches():
        held.append(batch.select(schema.names).cast(schema))
        if sum(len(each) for each in held) >= ROW_GROUP or sum(each.nbytes for each in held) >= ROW_GROUP_BYTES:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def _shown(answer: Answer) -> pa.Schema:
    """The columns that were asked for, without what only a cursor is made of."""
    return pa.schema([answer.schema.field(field.name) for field in answer.plan.fields])


def _in_utc(schema: pa.Schema) -> pa.Schema:
    """The same with times that say that they are in UTC."""
    return pa.schema([field.with_type(_zoned(field.type)) for field in schema])


def _zoned(kind: Any) -> Any:
    if pa.types.is_timestamp(kind):
        return pa.timestamp(kind.unit, "UTC")
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_zoned(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([child.with_type(_zoned(child.type)) for child in kind])
    return kind


FORMATS = (
    Format("application/json", _as_json, _write_envelope),
    Format("application/x-ndjson", _as_line, _write_lines),
    Format("text/csv", _as_cells, _write_csv),
    Format("application/vnd.apache.parquet", _as_they_are, _write_parquet),
    Format("application/vnd.apache.arrow.stream", _as_they_are, _write_arrow),
)
