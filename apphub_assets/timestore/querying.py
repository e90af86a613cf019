"""Queries of a dataset: compile what is asked to one SQL statement, and run it.

Values are bound, never written into the text; DuckLake rules out files by bound values just as well. Times in the
answer are UTC.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa

from apphub_assets.kit.cursor import FOREIGN, InvalidCursor, decode_cursor, encode_cursor
from apphub_assets.timestore.buckets import Buckets
from apphub_assets.timestore.errors import InvalidQuery, LakeConflict
from apphub_assets.timestore.lake import Lake, clean, literal
from apphub_assets.timestore.query import (
    Aggregation,
    Downsample,
    Fill,
    Fn,
    GapFill,
    Kind,
    LastValue,
    Predicate,
    Query,
    invalid,
)
from apphub_assets.timestore.spec import DatasetInfo, Field, Json, Schema, TimeRange, quote

SYMBOLS = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
NUMBERS = {"integer", "double"}
# What identifies a row of a table for as long as it lives, through flushes and compactions.
ROW_ID = "rowid"
TIME = "timestamp"
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 as in the lake: UTC
# Names that no column has, for they can't be printed: what a page has beside its columns, and a series' last time.
PAGE_TIME, PAGE_ROW, NEWEST = "\x01time", "\x01row", "\x01newest"
INT64 = range(-(2**63), 2**63)


class Parameters(list[Any]):
    """Values of a statement, by the numbers they are bound to."""

    def bind(self, value: Any) -> str:
        self.append(value)
        return f"${len(self)}"


@dataclass(frozen=True)
class Source:
    """What is read: a table as it is or was, its columns then, and which of them is the time."""

    relation: str
    schema: Schema
    time: Field
    keys: tuple[str, ...]

    def field(self, name: str, pointer: str) -> Field:
        """Raises InvalidQuery: there is no such column."""
        found = self.schema.find(name)
        if found is None:
            known = ", ".join(field.name for field in self.schema.fields[:50])
            raise invalid(pointer, f"unknown column {name[:120]!r}: there are {known}")
        return found


@dataclass(frozen=True)
class Plan:
    """A statement, and what its columns are; a page has `rowid` after them and one row more than `page` of them.

    `columns` are those that the contract lists. `identity` is what a cursor of another query has not.
    """

    sql: str
    parameters: Sequence[Any]
    fields: tuple[Field, ...]
    columns: tuple[str, ...]
    mode: str = "raw"
    page: int | None = None
    warnings: tuple[str, ...] = ()
    identity: str = ""
    time: str = TIME


def plan_query(query: Query, dataset: DatasetInfo, lake: Lake) -> Plan:
    """Compile a query of a dataset; the lake is asked only for the columns of an earlier state.

    Raises:
        InvalidQuery: it names what the dataset has not, or compares what can't be compared.
        InvalidCursor: the cursor is another query's.
    """
    if not dataset.schema.fields:
        empty = Field(dataset.timestamp_column, "timestamp")
        sql = f"SELECT NULL::TIMESTAMP AS {quote(empty.name)} WHERE false"
        return Plan(sql, (), (empty,), query.columns or (), warnings=("the dataset has no rows yet",))
    source = _source(query, dataset, lake)
    parameters = Parameters()
    where = _where(query, source, parameters)
    if query.downsample:
        return _downsampled(query, query.downsample, source, where, parameters)
    if query.last_value:
        return _newest(query, query.last_value, source, where, parameters)
    return _raw(query, source, where, parameters, dataset)


def _source(query: Query, dataset: DatasetInfo, lake: Lake) -> Source:
    relation, schema = dataset.relation, dataset.schema
    if query.as_of is not None:
        relation = f"{relation} AT ({_at(query.as_of)})"
        schema = _schema_as_of(lake, relation, dataset)
    name = query.timestamp_column or dataset.timestamp_column
    field = schema.find(name)
    if field is None or field.type != "timestamp":
        times = ", ".join(field.name for field in schema.fields if field.type == "timestamp")
        raise invalid("/timestampColumn", f"{name[:120]!r} is no column of times; there are {times}")
    return Source(relation, schema, field, dataset.partition_keys)


def _at(moment: int | datetime) -> str:
    """DuckLake takes no parameters here."""
    if isinstance(moment, int):
        return f"VERSION => {moment}"
    return f"TIMESTAMP => TIMESTAMPTZ '{moment.isoformat(sep=' ')}+00'"


def _schema_as_of(lake: Lake, relation: str, dataset: DatasetInfo) -> Schema:
    try:
        with lake.query(f"SELECT * FROM {relation} LIMIT 0") as reader:
            columns = reader.schema
    except (duckdb.InvalidInputException, duckdb.CatalogException) as error:
        raise invalid("/asOf", f"there is no such state of dataset {dataset.slug}: {clean(error)[:200]}") from None
    return Schema(tuple(_field_of(column, dataset.schema.find(column.name)) for column in columns))


def _field_of(column: Any, known: Field | None) -> Field:
    """A column of an earlier state; JSON is told from text by what it is now."""
    is_key = known is not None and known.is_key
    if known is not None and known.type == "json" and pa.types.is_string(column.type):
        return known
    kind = column.type
    if pa.types.is_list(kind):
        return Field(column.name, "list", (_field_of(kind.value_field.with_name("element"), None),), is_key)
    if pa.types.is_struct(kind):
        return Field(column.name, "struct", tuple(_field_of(child, None) for child in kind), is_key)
    if pa.types.is_decimal(kind):
        return Field(column.name, f"decimal({kind.precision},{kind.scale})", (), is_key)
    names = {pa.timestamp("us"): "timestamp", pa.float64(): "double", pa.int64(): "integer", pa.bool_(): "boolean"}
    return Field(column.name, names.get(kind, "string"), (), is_key)


def _where(query: Query, source: Source, parameters: Parameters) -> list[str]:
    """The conditions; plain comparisons of columns, by which DuckLake rules out files."""
    time = quote(source.time.name)
    conditions = []
    if query.range:
        conditions += [
            f"{time} >= {parameters.bind(query.range.start)}",
            f"{time} <= {parameters.bind(query.range.end)}",
        ]
    for predicate in query.key_filters:
        if predicate.column.lower() not in {key.lower() for key in source.keys}:
            keys = ", ".join(source.keys) or "none"
            raise invalid(predicate.pointer, f"unknown partition key {predicate.column[:120]!r}: there are {keys}")
        conditions += _conditions(predicate, source, parameters)
    for predicate in query.filters:
        conditions += _conditions(predicate, source, parameters)
    return conditions or ["true"]


def _conditions(predicate: Predicate, source: Source, parameters: Parameters) -> list[str]:
    field = source.field(predicate.column, predicate.pointer)
    kind = _kind(field)
    if kind is None:
        raise invalid(predicate.pointer, f"column {field.name!r} is a {field.type}, which can't be filtered by")
    column = quote(field.name)
    if predicate.kind not in (None, kind):
        if not (field.is_key and predicate.kind in (Kind.NUMBER, Kind.TIMESTAMP)):
            given = f"column {field.name!r} is a {field.type}, the predicate is of a {predicate.kind}; write {kind}"
            raise invalid(f"{predicate.pointer}/type", given)
        # Values of undeclared keys are text; what is no number or time is not what was asked for.
        kind = predicate.kind
        field = Field(field.name, "double" if kind == Kind.NUMBER else "timestamp")
        column = f"TRY_CAST({column} AS {field.sql_type})"
    typed = predicate.typed(kind) if predicate.kind is None else predicate
    return [_comparison(field, column, operator, value, parameters) for operator, value in typed.terms]


def _kind(field: Field) -> Kind | None:
    if field.type in NUMBERS or field.type.startswith("decimal"):
        return Kind.NUMBER
    return Kind(field.type) if field.type in {"string", "timestamp", "boolean"} else None


def _comparison(field: Field, column: str, operator: str, value: Any, parameters: Parameters) -> str:
    values = value if operator == "in" else (value,)
    if _kind(field) == Kind.NUMBER:
        fitting = [_fitted(field, each) for each in values]
        if None in fitting:
            # No file can be ruled out by it; but what can't be in such a column is hardly asked for.
            column, fitting = f"CAST({column} AS DOUBLE)", [float(each) for each in values]
        values = tuple(fitting)
    bound = [parameters.bind(each) for each in values]
    if operator == "in":
        return f"{column} IN ({', '.join(bound)})"
    condition = f"{column} {SYMBOLS[operator]} {bound[0]}"
    # DuckDB takes NaN for the largest number there is.
    return f"{condition} AND NOT isnan({column})" if field.type == "double" and operator in ("gt", "gte") else condition


def _fitted(field: Field, value: float) -> int | float | Decimal | None:
    """A number as the column's type has it, or None if it has none that is equal."""
    if field.type == "double":
        return float(value)
    if field.type == "integer":
        return value if isinstance(value, int) and value in INT64 else None
    precision, scale = (int(part) for part in field.type[len("decimal(") : -1].split(","))
    exact = Decimal(str(value))
    _, digits, exponent = exact.as_tuple()
    fits = isinstance(exponent, int) and -exponent <= scale and len(digits) + exponent <= precision - scale
    return exact if fits else None


def _raw(query: Query, source: Source, where: list[str], parameters: Parameters, dataset: DatasetInfo) -> Plan:
    fields = _with_time(_asked(query, source), source)
    time, way = quote(source.time.name), _way(query)
    identity = hashlib.sha256(f"{dataset.id} {query.shape}".encode()).hexdigest()[:16]
    if query.cursor is not None:
        moment, row = _position(query.cursor, identity)
        past, beyond = ("<", "<=") if query.descending else (">", ">=")
        at = parameters.bind(moment)
        where = [*where, f"{time} {beyond} {at}", f"({time} {past} {at} OR {ROW_ID} {past} {parameters.bind(row)})"]
    limit = "" if query.limit is None else f" LIMIT {query.limit + 1}"
    shown = ", ".join([*(quote(field.name) for field in fields), ROW_ID])
    sql = (
        f"SELECT {shown} FROM {source.relation} WHERE {' AND '.join(where)} ORDER BY {time}{way}, {ROW_ID}{way}{limit}"
    )
    return Plan(
        sql, parameters, fields, _listed(query, fields), page=query.limit, identity=identity, time=source.time.name
    )


def _newest(query: Query, last: LastValue, source: Source, where: list[str], parameters: Parameters) -> Plan:
    """The newest row of each series; of several with the same time the one that came last."""
    named = source.keys if last.by is None else last.by
    by = [source.field(name, f"/lastValue/by/{index}") for index, name in enumerate(named)]
    asked = _with_time(_asked(query, source), source)
    fields = (*(field for field in by if field not in asked), *asked)
    columns = [quote(field.name) for field in fields]
    time, way, conditions = quote(source.time.name), _way(query), " AND ".join(where)
    limit = "" if query.limit is None else f" LIMIT {query.limit}"
    if not by:
        sql = (
            f"SELECT {', '.join(columns)} FROM {source.relation} WHERE {conditions}"
            f" ORDER BY {time} DESC, {ROW_ID} DESC LIMIT 1"
        )
        return Plan(sql, parameters, fields, _listed(query, fields))
    keys = [quote(field.name) for field in by]
    same = " AND ".join(f"rows.{key} IS NOT DISTINCT FROM newest.{key}" for key in keys)
    sql = (
        f"WITH newest AS (SELECT {', '.join(keys)}, max({time}) AS {quote(NEWEST)} FROM {source.relation}"
        f" WHERE {conditions} GROUP BY {', '.join(keys)}),"
        f" rows AS NOT MATERIALIZED (SELECT *, {ROW_ID} FROM {source.relation} WHERE {conditions})"
        f" SELECT {', '.join(f'rows.{column}' for column in columns)} FROM rows"
        f" JOIN newest ON rows.{time} = newest.{quote(NEWEST)} AND {same}"
        f" QUALIFY row_number() OVER (PARTITION BY {', '.join(f'rows.{key}' for key in keys)}"
        f" ORDER BY rows.{ROW_ID} DESC) = 1 ORDER BY rows.{time}{way}, rows.{ROW_ID}{way}{limit}"
    )
    return Plan(sql, parameters, fields, _listed(query, fields))


def _downsampled(
    query: Query, downsample: Downsample, source: Source, where: list[str], parameters: Parameters
) -> Plan:
    # Without a range there is no downsampling: the query has checked it.
    span = query.range or TimeRange(EPOCH, EPOCH)
    buckets = Buckets(downsample, span)
    dimensions = [field for field in _dimensions(query, source) if field != source.time]
    totals = [_total(aggregation, source) for aggregation in downsample.aggregations]
    _check_names(downsample, dimensions, totals)
    keys = [quote(field.name) for field in dimensions]
    groups = ", ".join(str(index + 1) for index in range(len(keys) + 1))
    shown = ", ".join([*keys, *(f"{sql} AS {quote(field.name)}" for field, sql in totals)])
    grouped = (
        f"SELECT {buckets.label(quote(source.time.name))} AS {quote(TIME)}, {shown} FROM {source.relation}"
        f" WHERE {' AND '.join(where)} GROUP BY {groups}"
    )
    fields = [field for field, _ in totals]
    if downsample.gap_fill:
        grouped, fields = _filled(downsample, downsample.gap_fill, buckets, grouped, keys, fields)
    names = ", ".join([*keys, *(quote(field.name) for field in fields)])
    order = ", ".join([f"1{_way(query)}", *(str(index + 2) for index in range(len(keys)))])
    limit = "" if query.limit is None else f" LIMIT {query.limit}"
    sql = f"SELECT {buckets.start(quote(TIME))} AS {quote(TIME)}, {names} FROM ({grouped}) ORDER BY {order}{limit}"
    answered = (Field(TIME, "timestamp"), *dimensions, *fields)
    return Plan(sql, parameters, answered, tuple(field.name for field in answered), mode="downsampled")


def _dimensions(query: Query, source: Source) -> tuple[Field, ...]:
    named = query.columns or ()
    return tuple(dict.fromkeys(source.field(name, f"/columns/{index}") for index, name in enumerate(named)))


def _check_names(downsample: Downsample, dimensions: list[Field], totals: list[tuple[Field, str]]) -> None:
    taken = {TIME, *(field.name.lower() for field in dimensions)}
    for aggregation, (field, _) in zip(downsample.aggregations, totals, strict=True):
        if field.name.lower() in taken:
            raise invalid(f"{aggregation.pointer}/alias", f"{field.name!r} is there already; give another alias")
        taken.add(field.name.lower())


def _total(aggregation: Aggregation, source: Source) -> tuple[Field, str]:
    """An aggregation's column, and the SQL that makes it."""
    if aggregation.column is None:
        return Field(aggregation.alias, "integer"), "count(*)"
    field = source.field(aggregation.column, f"{aggregation.pointer}/column")
    column, time = quote(field.name), quote(source.time.name)
    of_numbers = {
        Fn.AVG: ("double", f"avg({column})"),
        Fn.SUM: (_summed(field), f"sum({column})"),
        Fn.MEDIAN: ("double", f"median({column}::DOUBLE)"),
        Fn.PERCENTILE: ("double", f"quantile_cont({column}::DOUBLE, {aggregation.fraction})"),
    }
    of_anything = {
        Fn.COUNT: ("integer", f"count({column})"),
        Fn.COUNT_DISTINCT: ("integer", f"count(DISTINCT {column})"),
    }
    of_scalars = {
        Fn.MIN: (field.type, f"min({column})"),
        Fn.MAX: (field.type, f"max({column})"),
        Fn.FIRST: (field.type, f"arg_min({column}, {time})"),
        Fn.LAST: (field.type, f"arg_max({column}, {time})"),
    }
    known = of_anything
    if _kind(field) is not None:
        known = known | of_scalars
    if _kind(field) == Kind.NUMBER:
        known = known | of_numbers
    if aggregation.fn not in known:
        message = f"column {field.name!r} is a {field.type}, of which there is no {aggregation.fn}"
        raise invalid(f"{aggregation.pointer}/column", message)
    kind, sql = known[aggregation.fn]
    return Field(aggregation.alias, kind), sql


def _summed(field: Field) -> str:
    """The type of a sum; that of integers can't overflow, it is of 128 bits."""
    if field.type.startswith("decimal"):
        return f"decimal(38,{field.type[:-1].split(',')[1]})"
    return field.type


def _filled(
    downsample: Downsample, gap_fill: GapFill, buckets: Buckets, grouped: str, keys: list[str], fields: list[Field]
) -> tuple[str, list[Field]]:
    """The groups, with the buckets between them for each combination of dimensions that there is."""
    time = quote(TIME)
    same = "".join(f" AND found.{key} IS NOT DISTINCT FROM series.{key}" for key in keys)
    partition = f"PARTITION BY {', '.join(f'series.{key}' for key in keys)} " if keys else ""
    filled = [
        _filling(gap_fill, aggregation, field)
        for aggregation, field in zip(downsample.aggregations, fields, strict=True)
    ]
    shown = ", ".join([*(f"series.{key}" for key in keys), *(f"{sql} AS {quote(field.name)}" for field, sql in filled)])
    # Distance is taken from when buckets begin, not from their labels: linear is by time that has passed.
    sql = (
        f"WITH found AS ({grouped}),"
        f" grid AS (SELECT DISTINCT {buckets.label('t')} AS {time} FROM ({buckets.grid()}))"
        + (f", series AS (SELECT DISTINCT {', '.join(keys)} FROM found)" if keys else "")
        + f" SELECT grid.{time}, {shown} FROM grid"
        + (" CROSS JOIN series" if keys else "")
        + f" LEFT JOIN found ON found.{time} = grid.{time}{same}"
        f" WINDOW line AS ({partition}ORDER BY epoch_us({buckets.start(f'grid.{time}')})),"
        f" before AS ({partition}ORDER BY grid.{time} ROWS UNBOUNDED PRECEDING),"
        f" after AS ({partition}ORDER BY grid.{time} ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)"
    )
    return sql, [field for field, _ in filled]


def _filling(gap_fill: GapFill, aggregation: Aggregation, field: Field) -> tuple[Field, str]:
    """A filled column. How many rows a bucket without any has is no gap: none."""
    value = f"found.{quote(field.name)}"
    if aggregation.fn in (Fn.COUNT, Fn.COUNT_DISTINCT):
        return field, f"coalesce({value}, 0)"
    if gap_fill.fill == Fill.PREVIOUS:
        return field, f"last_value({value} IGNORE NULLS) OVER before"
    if gap_fill.fill == Fill.NULL or _kind(field) != Kind.NUMBER:
        return field, value
    if gap_fill.fill == Fill.CONSTANT:
        return Field(field.name, "double"), f"coalesce({value}::DOUBLE, {gap_fill.value!r}::DOUBLE)"
    # Without a neighbour on each side there is no line.
    ends = f"count({value}) OVER before > 0 AND count({value}) OVER after > 0"
    return Field(field.name, "double"), f"CASE WHEN {ends} THEN fill({value}::DOUBLE) OVER line END"


def _asked(query: Query, source: Source) -> tuple[Field, ...]:
    """The columns that are named, or those that were declared."""
    if query.columns is None:
        return tuple(field for field in source.schema.fields if not field.is_key)
    return _dimensions(query, source)


def _with_time(fields: tuple[Field, ...], source: Source) -> tuple[Field, ...]:
    return fields if source.time in fields else (source.time, *fields)


def _listed(query: Query, fields: tuple[Field, ...]) -> tuple[str, ...]:
    """The contract lists what was asked for, not what came along."""
    if query.columns is None:
        return tuple(field.name for field in fields)
    asked = {name.lower() for name in query.columns}
    return tuple(field.name for field in fields if field.name.lower() in asked)


def _way(query: Query) -> str:
    return " DESC" if query.descending else ""


def _position(cursor: str, identity: str) -> tuple[datetime, int]:
    """Where the page before ended: time and id of its last row."""
    owner, microseconds, row = decode_cursor(cursor, 3)
    if owner != identity:
        raise InvalidCursor("cursor: of another query; send the same query as for the first page, or no cursor")
    try:
        if type(microseconds) is not int or type(row) is not int or row not in INT64:
            raise InvalidCursor(FOREIGN)
        return EPOCH + timedelta(microseconds=microseconds), row
    except OverflowError:
        raise InvalidCursor(FOREIGN) from None


class Answer:
    """Rows as they come; `next_cursor` is known when they have all been read."""

    def __init__(self, plan: Plan, reader: pa.RecordBatchReader) -> None:
        self.plan = plan
        self.schema = reader.schema
        self.next_cursor: str | None = None
        self._reader = reader

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Batches without the row that only tells that there are more."""
        left = self.plan.page
        last: pa.RecordBatch | None = None
        for batch in self._reader:
            if left is None:
                yield batch
                continue
            if batch.num_rows > left:
                last = batch.slice(left - 1, 1) if left else last
                self.next_cursor = self._cursor_after(last)
                batch = batch.slice(0, left)  # noqa: PLW2901 the rest is of the next page
            left -= batch.num_rows
            if batch.num_rows:
                last = batch.slice(batch.num_rows - 1, 1)
                yield batch

    def _cursor_after(self, last: pa.RecordBatch | None) -> str | None:
        if last is None:
            return None
        moment, row = last.column(PAGE_TIME), last.column(PAGE_ROW)
        return encode_cursor([self.plan.identity, moment.cast(pa.int64())[0].as_py(), row[0].as_py()])


@contextmanager
def run(lake: Lake, plan: Plan, select: str) -> Iterator[Answer]:
    """Answer a plan, with `select` of its columns.

    Raises:
        InvalidQuery: a number became too large on the way.
        LakeConflict: the dataset's columns changed between the plan and its execution.
        LakeBusy, LakeUnavailable, QueryTooLong, QueryTooBig: see `Lake.query`.
    """
    extra = f", {quote(plan.time)} AS {quote(PAGE_TIME)}, {ROW_ID} AS {quote(PAGE_ROW)}" if plan.page else ""
    try:
        with lake.query(f"SELECT {select}{extra} FROM ({plan.sql})", plan.parameters) as reader:
            yield Answer(plan, reader)
    except (duckdb.BinderException, duckdb.CatalogException) as error:
        raise LakeConflict(f"the dataset's columns changed meanwhile: {clean(error)}", retry_after=1) from error
    except (duckdb.OutOfRangeException, duckdb.ConversionException) as error:
        raise InvalidQuery(f"the query can't be computed: {clean(error)}") from error


def explain(lake: Lake, dataset: DatasetInfo, query: Query, plan: Plan) -> Json:
    """What a query reads, by running it: files and rows scanned and ruled out, and how long it took to plan.

    Sizes are in bytes, times in milliseconds.
    """
    began = time.perf_counter()
    with lake.query(f"EXPLAIN {plan.sql}", plan.parameters) as reader:
        reader.read_all()
    planned = time.perf_counter() - began
    with lake.query(f"EXPLAIN (ANALYZE, FORMAT json) {plan.sql}", plan.parameters) as reader:
        profile = json.loads(reader.read_all().column(1)[0].as_py())
    scans = list(_scans(profile))
    files, size = _files(lake, dataset, query)
    scanned = max((int(scan["extra_info"].get("Total Files Read", 0)) for scan in scans), default=0)
    return {
        "sql": plan.sql,
        "files": {"total": files, "scanned": scanned, "pruned": files - scanned, "bytes": size},
        "rowsScanned": sum(int(scan["operator_rows_scanned"]) for scan in scans),
        "inlinedRows": _inlined_rows(lake, dataset, query),
        "planningMs": round(planned * 1000, 3),
        "executionMs": round(profile["latency"] * 1000, 3),
    }


def _scans(profile: Json) -> Iterator[Json]:
    if profile.get("operator_type") == "TABLE_SCAN":
        yield profile
    for child in profile.get("children", []):
        yield from _scans(child)


def _files(lake: Lake, dataset: DatasetInfo, query: Query) -> tuple[int, int]:
    """How many files the dataset has, and their bytes."""
    at = ""
    if isinstance(query.as_of, int):
        at = f", snapshot_version => {query.as_of}"
    elif query.as_of is not None:
        at = f", snapshot_time => TIMESTAMPTZ '{query.as_of.isoformat(sep=' ')}+00'"
    sql = (
        "SELECT count(*) AS files, coalesce(sum(data_file_size_bytes), 0)::BIGINT AS bytes"
        f" FROM ducklake_list_files('lake', {literal(dataset.table)}, schema => {literal(dataset.area)}{at})"
    )
    with lake.query(sql) as reader:
        found = reader.read_all().to_pylist()[0]
    return found["files"], found["bytes"]


def _inlined_rows(lake: Lake, dataset: DatasetInfo, query: Query) -> int:
    """How many rows are not in files yet."""
    at = "" if query.as_of is None else f" AT ({_at(query.as_of)})"
    sql = f"SELECT count(*) FROM {dataset.relation}{at} WHERE starts_with(filename, 'ducklake_inlined_data_')"
    with lake.query(sql) as reader:
        return int(reader.read_all().column(0)[0].as_py())
