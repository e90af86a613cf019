"""Parquet files and Arrow streams from outside: checked piece by piece, then read by DuckDB if they are big."""

import io
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apphub_assets.settings import Settings
from apphub_assets.timestore.errors import BatchTooLarge, InvalidBody, InvalidRows
from apphub_assets.timestore.ingest.columns import arrow_type
from apphub_assets.timestore.ingest.intake import (
    Content,
    Delivery,
    check_folders,
    rows_of_table,
    timestamp_column,
)
from apphub_assets.timestore.ingest.sources import File
from apphub_assets.timestore.lake import literal
from apphub_assets.timestore.spec import DatasetInfo, Field, TimeRange, parse_fields, quote

# What is smaller becomes a table in memory, and shares a commit with others.
SMALL_ROWS, SMALL_BYTES = 20_000, 4 * 1024 * 1024
PIECE_ROWS = 65_536
LARGEST_FOOTER = 64 * 1024 * 1024
# Sources: https://parquet.apache.org/docs/file-format/ and
# https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format
MAGIC = b"PAR1"
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
# Years 1 to 9999 in microseconds since the epoch.
FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999

Json = dict[str, Any]


@dataclass(frozen=True)
class Body:
    """A file on disk that is said to be one or the other, and the SHA-256 of its bytes in hexadecimal digits."""

    path: Path
    is_arrow: bool
    digest: str

    @property
    def kind(self) -> str:
        return "an Arrow stream" if self.is_arrow else "a Parquet file"


def rows_of_file(delivery: Delivery, dataset: DatasetInfo | None, body: Body, limits: Settings) -> Content:
    """Rows of a Parquet file or an Arrow stream.

    Raises:
        InvalidBody: the file is damaged, cut short, or has columns that no dataset can have.
        InvalidRows: a value does not fit; names row, column and value.
        BatchTooLarge: unpacked, it is more than an ingest may bring.
    """
    small: list[pa.RecordBatch] | None = []
    try:
        with _opened(body, limits) as (schema, pieces):
            survey = _Survey(schema, _fields_of(schema), dataset)
            for piece in _ahead(pieces):
                survey.add(piece)
                check_limits(survey.rows, survey.byte_count, limits)
                if survey.rows > SMALL_ROWS or survey.byte_count > SMALL_BYTES:
                    small = None
                elif small is not None:
                    small.append(piece)
    except (pa.ArrowException, OSError) as error:
        raise InvalidBody(f"the body can't be read as {body.kind}: {str(error)[:300]}") from error
    survey.check_any()
    if small is not None:
        return _content_of_table(delivery, dataset, pa.Table.from_batches(small, schema), survey.fields)
    return _content_of_file(delivery, dataset, body, survey)


def rows_of_arrow(delivery: Delivery, dataset: DatasetInfo | None, table: pa.Table) -> Content:
    """Rows of an Arrow table that is in memory already.

    Raises:
        InvalidBody: it has columns that no dataset can have.
        InvalidRows: a value does not fit; names row, column and value.
    """
    survey = _Survey(table.schema, _fields_of(table.schema), dataset)
    for piece in table.to_batches(PIECE_ROWS):
        survey.add(piece)
    survey.check_any()
    return _content_of_table(delivery, dataset, table, survey.fields)


def _content_of_table(
    delivery: Delivery, dataset: DatasetInfo | None, table: pa.Table, fields: Sequence[Field]
) -> Content:
    columns = [_converted(each, table[each.name]) for each in fields]
    return rows_of_table(delivery, dataset, fields, pa.table(columns, [each.name for each in fields]))


def _content_of_file(delivery: Delivery, dataset: DatasetInfo | None, body: Body, survey: "_Survey") -> Content:
    stored, selected = list[Field](), list[str]()
    for each in survey.fields:
        known = dataset.schema.find(each.name) if dataset else None
        stored.append(replace(each, name=known.name) if known else each)
        selected.append(f"{_reading(each, survey.schema)} AS {quote(stored[-1].name)}")
    for name, value in delivery.partition_key.items():
        if any(each.name.lower() == name.lower() for each in stored):
            message = f"{name!r} is a column of the file and a partition key; leave it out of one of them"
            raise InvalidBody(message, pointers=[(f"/partition/key/{name}", message)])
        known = dataset.schema.find(name) if dataset else None
        if dataset and name in dataset.partition_keys:
            check_folders(name, pa.array([value]))
        stored.append(known or Field(name, "string", is_key=True))
        selected.append(f"{literal(value)} AS {quote(stored[-1].name)}")
    source = File(body.path, body.is_arrow, ", ".join(selected), survey.rows, survey.byte_count)
    return Content(tuple(stored), source, survey.span, survey.statistics)


@contextmanager
def _opened(body: Body, limits: Settings) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    with body.path.open("rb") as file:
        if body.is_arrow:
            _check_end(file)
            with pa.ipc.open_stream(file) as stream:
                yield stream.schema, iter(stream)
        else:
            _check_footer(file)
            metadata = pq.read_metadata(file)
            _check_size(metadata, limits)
            # Texts that a dictionary repeats stay in it until it is known how many bytes they are.
            with pq.ParquetFile(file, metadata=metadata, read_dictionary=_repeated_texts(metadata)) as parquet:
                yield parquet.schema_arrow, parquet.iter_batches(PIECE_ROWS)


def _ahead(pieces: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same pieces; while one is looked at, the next is unpacked."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, pieces, None)
        while (piece := following.result()) is not None:
            following = pool.submit(next, pieces, None)
            yield piece


def _check_end(file: io.BufferedIOBase) -> None:
    """A stream that ends between two of its messages reads as if it were whole; only its last bytes tell."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - len(END_OF_STREAM)))
    if file.read() != END_OF_STREAM:
        raise InvalidBody("the Arrow stream is cut short: it has no end-of-stream marker; send it whole")
    file.seek(0)


def _check_footer(file: io.BufferedIOBase) -> None:
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 8))
    footer = file.read()
    length = int.from_bytes(footer[:4], "little")
    if footer[4:] != MAGIC or length > min(LARGEST_FOOTER, size - 8):
        raise InvalidBody("the Parquet file is damaged or cut short: its footer is not where it should be")
    file.seek(0)


def _repeated_texts(metadata: pq.FileMetaData) -> list[str]:
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    chunks = [group.column(index) for group in groups for index in range(group.num_columns)]
    return sorted(
        {
            chunk.path_in_schema
            for chunk in chunks
            if chunk.physical_type == "BYTE_ARRAY" and any("DICTIONARY" in each for each in chunk.encodings)
        }
    )


def _check_size(metadata: pq.FileMetaData, limits: Settings) -> None:
    unpacked = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    check_limits(metadata.num_rows, unpacked, limits)


def check_limits(rows: int, unpacked: int, limits: Settings) -> None:
    """Raises BatchTooLarge."""
    if rows > limits.ingest_max_rows:
        raise BatchTooLarge(f"{rows} rows; one ingest takes at most {limits.ingest_max_rows} (APPHUB_INGEST_MAX_ROWS)")
    if unpacked > limits.ingest_max_bytes:
        raise BatchTooLarge(
            f"{unpacked} bytes when unpacked; one ingest takes at most {limits.ingest_max_bytes}"
            " (APPHUB_INGEST_MAX_BYTES)"
        )


class _Survey:
    """Checks pieces while they pass, and keeps what it finds out about them.

    Raises:
        InvalidRows: the rows have no column of times.
    """

    def __init__(self, schema: pa.Schema, fields: tuple[Field, ...], dataset: DatasetInfo | None) -> None:
        self.schema, self.fields = schema, fields
        self.rows = self.byte_count = 0
        self.statistics: Json = {each.name: {"type": each.type, "rowCount": 0, "nullCount": 0} for each in fields}
        self._time = timestamp_column(fields, dataset)
        self._keys = {name.lower(): name for name in dataset.partition_keys} if dataset else {}
        self._first, self._last = LAST_US, FIRST_US

    @property
    def span(self) -> TimeRange:
        """From the earliest row to the latest."""
        ends = (pa.scalar(each, pa.timestamp("us")).as_py() for each in (self._first, self._last))
        return TimeRange(*(each.replace(tzinfo=UTC) for each in ends))

    def add(self, piece: pa.RecordBatch) -> None:
        """Raises InvalidRows when a value does not fit, pyarrow's own error when the piece is damaged."""
        # Offsets from outside may point anywhere.
        piece.validate(full=True)
        for each in self.fields:
            self._check(each, piece.column(each.name))
        self.rows += piece.num_rows
        self.byte_count += sum(map(_unpacked_bytes, piece.columns))

    def check_any(self) -> None:
        """Raises InvalidRows when nothing passed."""
        if not self.rows:
            raise InvalidRows("there are no rows; send at least one", pointers=[("/rows", "there are no rows")])

    def _check(self, field: Field, column: pa.Array) -> None:
        found = self.statistics[field.name]
        found["rowCount"] += len(column)
        found["nullCount"] += column.null_count
        if field.type == "double":
            self._refuse_where(pc.invert(pc.is_finite(column)), field, column, "is not finite; send null instead")
        elif pa.types.is_uint64(column.type):
            self._refuse_where(
                pc.greater(column, pa.scalar(2**63 - 1, pa.uint64())), field, column, "does not fit 64 bits with a sign"
            )
        elif field.type == "timestamp":
            self._check_times(field, column)
        elif field.children and any(pc.any(pc.invert(pc.is_finite(leaf))).as_py() for leaf in _doubles(column)):
            finite = pa.array([_is_finite(value) for value in column.to_pylist()])
            self._refuse_where(pc.invert(finite), field, column, "has a number that is not finite; send null instead")
        if key := self._keys.get(field.name.lower()):
            check_folders(key, column, self.rows)
        if field.type in {"double", "integer"} and column.null_count < len(column):
            span = pc.min_max(column).as_py()
            found["min"] = min(found.get("min", span["min"]), span["min"])
            found["max"] = max(found.get("max", span["max"]), span["max"])

    def _check_times(self, field: Field, column: pa.Array) -> None:
        if field.name == self._time and column.null_count:
            self._refuse_where(column.is_null(), field, column, "is no time, and every row needs one")
        try:
            numbers = _microseconds(column)
        except pa.ArrowInvalid:  # seconds that are too many to be microseconds
            numbers = None
        if numbers is None:
            message = f"column {field.name!r}: a time is outside of the years 1 to 9999"
            raise InvalidRows(f"{message}; nothing was written", pointers=[(f"/rows/{field.name}", message)])
        outside = pc.or_(pc.less(numbers, FIRST_US), pc.greater(numbers, LAST_US))
        self._refuse_where(outside, field, numbers, "microseconds are outside of the years 1 to 9999")
        if field.name == self._time and len(numbers):
            span = pc.min_max(numbers).as_py()
            self._first, self._last = min(self._first, span["min"]), max(self._last, span["max"])

    def _refuse_where(self, bad: pa.Array, field: Field, column: pa.Array, complaint: str) -> None:
        at = pc.index(bad, True).as_py()
        if at < 0:
            return
        row = self.rows + at
        message = f"row {row}, column {field.name!r}: {column[at].as_py()} {complaint}"
        raise InvalidRows(f"{message}; nothing was written", pointers=[(f"/rows/{row}/{field.name}", message)])


def _fields_of(schema: pa.Schema) -> tuple[Field, ...]:
    """The columns of a file as a dataset has them.

    Raises:
        InvalidDataset: two have one name, or a name can't be one.
        InvalidBody: a type has no place in a dataset.
    """
    return parse_fields([_described(each) for each in schema], "/schema/fields")


def _described(column: pa.Field) -> Json:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    described: Json = {"name": column.name}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return described | {"type": "list", "items": _described(kind.value_field)}
    if pa.types.is_struct(kind):
        return described | {"type": "struct", "fields": [_described(each) for each in kind]}
    if pa.types.is_decimal(kind):
        return described | {"type": f"decimal({kind.precision},{kind.scale})"}
    for is_kind, name in SCALARS_OF_ARROW:
        if is_kind(kind):
            return described | {"type": name}
    message = f"column {column.name!r} has type {kind}, which no dataset has"
    raise InvalidBody(
        f"{message}; use timestamps, dates, strings, floats, integers, booleans, decimals, lists or structs",
        pointers=[("/schema/fields", message)],
    )


SCALARS_OF_ARROW = (
    (pa.types.is_timestamp, "timestamp"),
    (pa.types.is_date, "timestamp"),
    (pa.types.is_integer, "integer"),
    (pa.types.is_floating, "double"),
    (pa.types.is_boolean, "boolean"),
    (pa.types.is_string, "string"),
    (pa.types.is_large_string, "string"),
    (pa.types.is_string_view, "string"),
)


def _unpacked_bytes(column: pa.Array) -> int:
    """How much a column takes when each row has its own copy of a value: dictionaries and views share them."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        values = column.dictionary
        is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
        each = pc.binary_length(values) if is_text else pa.array([values.nbytes // max(len(values), 1)] * len(values))
        return int(column.indices.nbytes) + int(pc.sum(pc.take(each, column.indices)).as_py() or 0)
    if pa.types.is_string_view(kind):
        # Each view of 16 bytes begins with its length.
        views = memoryview(column.buffers()[1]).cast("i")
        return sum(views[4 * column.offset : 4 * (column.offset + len(column)) : 4])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return 4 * len(column) + _unpacked_bytes(column.flatten())
    if pa.types.is_struct(kind):
        return sum(map(_unpacked_bytes, column.flatten()))
    return int(column.nbytes)


def _doubles(column: pa.Array) -> Iterator[pa.Array]:
    """The floating numbers that are nested in a column."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        yield from _doubles(column.flatten())
    elif pa.types.is_struct(column.type):
        for child in column.flatten():
            yield from _doubles(child)
    elif pa.types.is_floating(column.type):
        yield column


def _is_finite(value: Any) -> bool:
    if isinstance(value, list | dict):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _converted(field: Field, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as the lake's type; nanoseconds are cut to microseconds, other values are kept as they are."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if field.type == "timestamp":
        return pa.chunked_array([_microseconds(chunk).cast(pa.timestamp("us")) for chunk in column.chunks])
    return column.cast(arrow_type(field))


def _microseconds(column: pa.Array) -> pa.Array:
    """Times as microseconds since the epoch in UTC, whatever their unit and zone."""
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    options = pc.CastOptions(pa.timestamp("us", tz=column.type.tz), allow_time_truncate=True)
    return column.cast(options=options).cast(pa.int64())


def _reading(field: Field, schema: pa.Schema) -> str:
    """How DuckDB reads a column of the file as the lake's type, with times in UTC."""
    kind, name = schema.field(field.name).type, quote(field.name)
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return f"CAST({name} AS TIMESTAMPTZ) AT TIME ZONE 'UTC'"
    return f"CAST({name} AS {field.sql_type})"
