"""Queries of a dataset: compile what is asked to one SQL statement, and run it."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa

from apphub_assets.kit.cursor import FOREIGN, InvalidCursor, decode_cursor, encode_cursor
from apphub_assets.timestore.errors import InvalidQuery, LakeConflict
from apphub_assets.timestore.lake import Lake, clean
from apphub_assets.timestore.query.downsampling import downsampled
from apphub_assets.timestore.query.language import Downsample, LastValue, Query
from apphub_assets.timestore.query.selection import INT64, Selection, select_rows
from apphub_assets.timestore.spec import DatasetInfo, Field, TimeRange, quote

# What identifies a row of a table for as long as it lives, through flushes and compactions.
ROW_ID = "rowid"
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 as in the lake: UTC
# Names that no column has, for they can't be printed: what a page has beside its columns, and a series' last time.
PAGE_TIME, PAGE_ROW, NEWEST = "\x01time", "\x01row", "\x01newest"


@dataclass(frozen=True)
class Plan:
    """A statement, what its columns are, and which of them the contract lists."""

    sql: str
    parameters: Sequence[Any]
    fields: tuple[Field, ...]
    columns: tuple[str, ...]
    mode: str = "raw"
    page: "Page | None" = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """Where a plan's statement has one row more than `limit`, to tell whether there are more, and its rows' ids.

    `query` is what a cursor of another query has not; `time` is the column by whose order the pages follow each other.
    """

    limit: int
    query: str
    time: str


def plan_query(query: Query, dataset: DatasetInfo, lake: Lake) -> Plan:
    """Compile a query of a dataset.

    Raises:
        InvalidQuery: it names what the dataset has not, or compares or totals what can't be.
        InvalidCursor: the cursor is another query's.
    """
    if not dataset.schema.fields:
        time = Field(dataset.timestamp_column, "timestamp")
        sql = f"SELECT NULL::TIMESTAMP AS {quote(time.name)} WHERE false"
        return Plan(sql, (), (time,), query.columns or (), warnings=("the dataset has no rows yet",))
    selection = select_rows(query, dataset, lake)
    if query.downsample and query.range:
        return _downsampled(query, query.downsample, query.range, selection)
    if query.last_value:
        return _newest(query, query.last_value, selection)
    return _raw(query, selection, dataset)


def _downsampled(query: Query, downsample: Downsample, span: TimeRange, selection: Selection) -> Plan:
    asked = selection.fields(query.columns or (), "/columns")
    dimensions = tuple(field for field in asked if field != selection.time)
    sql, fields = downsampled(downsample, span, dimensions, selection)
    order = ", ".join([f"1{_way(query)}", *(str(2 + index) for index in range(len(dimensions)))])
    names = tuple(field.name for field in fields)
    return Plan(f"{sql} ORDER BY {order}{_limit(query)}", selection.parameters, fields, names, mode="downsampled")


def _raw(query: Query, selection: Selection, dataset: DatasetInfo) -> Plan:
    fields = _fields(query, selection)
    column, way, where = quote(selection.time.name), _way(query), selection.where
    page = None
    if query.limit is not None:
        shape = hashlib.sha256(f"{dataset.id} {query.shape}".encode()).hexdigest()[:16]
        page = Page(query.limit, shape, selection.time.name)
        where += _after(query, page, selection)
    shown = ", ".join([*(quote(field.name) for field in fields), ROW_ID])
    sql = f"SELECT {shown} FROM {selection.relation} WHERE {where} ORDER BY {column}{way}, {ROW_ID}{way}"
    return Plan(sql + _limit(query, more=1), selection.parameters, fields, _listed(query, fields), page=page)


def _after(query: Query, page: Page, selection: Selection) -> str:
    """The condition of rows after the page before, of which the first part rules out files."""
    if query.cursor is None:
        return ""
    moment, row = (selection.parameters.bind(each) for each in _position(query.cursor, page))
    column, past = quote(page.time), "<" if query.descending else ">"
    return f" AND {column} {past}= {moment} AND ({column} {past} {moment} OR {ROW_ID} {past} {row})"


def _position(cursor: str, page: Page) -> tuple[datetime, int]:
    """Where the page before ended: time and id of its last row."""
    owner, microseconds, row = decode_cursor(cursor, 3)
    if owner != page.query:
        raise InvalidCursor("cursor: of another query; send the same query as for the first page, or no cursor")
    try:
        if type(microseconds) is not int or type(row) is not int or row not in INT64:
            raise InvalidCursor(FOREIGN)
        return EPOCH + timedelta(microseconds=microseconds), row
    except OverflowError:
        raise InvalidCursor(FOREIGN) from None


def _newest(query: Query, last: LastValue, selection: Selection) -> Plan:
    """The newest row of each series; of several with the same time one of the batch that came last."""
    by = selection.fields(selection.keys if last.by is None else last.by, "/lastValue/by")
    asked = _fields(query, selection)
    fields = (*(field for field in by if field not in asked), *asked)
    source = f"FROM {selection.relation} WHERE {selection.where}"
    columns, keys = ([quote(field.name) for field in each] for each in (fields, by))
    time, way = quote(selection.time.name), _way(query)
    if by:
        same = " AND ".join(f"latest.{key} IS NOT DISTINCT FROM candidate.{key}" for key in keys)
        sql = (
            f"WITH latest AS (SELECT {', '.join(keys)}, max({time}) AS {quote(NEWEST)} {source} GROUP BY ALL)"
            f" SELECT {', '.join(f'candidate.{column}' for column in columns)}"
            f" FROM (SELECT *, {ROW_ID} {source}) AS candidate"
            f" JOIN latest ON candidate.{time} = latest.{quote(NEWEST)} AND {same}"
            f" QUALIFY row_number() OVER (PARTITION BY {', '.join(f'candidate.{key}' for key in keys)}"
            f" ORDER BY candidate.{ROW_ID} DESC) = 1"
            f" ORDER BY candidate.{time}{way}, candidate.{ROW_ID}{way}{_limit(query)}"
        )
    else:
        sql = f"SELECT {', '.join(columns)} {source} ORDER BY {time} DESC, {ROW_ID} DESC LIMIT 1"
    return Plan(sql, selection.parameters, fields, _listed(query, fields))


def _fields(query: Query, selection: Selection) -> tuple[Field, ...]:
    """The columns that are named, or those that were declared; and the time."""
    if query.columns is None:
        fields = tuple(field for field in selection.schema.fields if not field.is_key)
    else:
        fields = selection.fields(query.columns, "/columns")
    return fields if selection.time in fields else (selection.time, *fields)


def _listed(query: Query, fields: tuple[Field, ...]) -> tuple[str, ...]:
    """The contract lists what was asked for, not what came along."""
    asked = None if query.columns is None else {name.lower() for name in query.columns}
    return tuple(field.name for field in fields if asked is None or field.name.lower() in asked)


def _way(query: Query) -> str:
    return " DESC" if query.descending else ""


def _limit(query: Query, more: int = 0) -> str:
    return "" if query.limit is None else f" LIMIT {query.limit + more}"


class Answer:
    """Rows as they come; `next_cursor` is known when they have all been read."""

    def __init__(self, plan: Plan, reader: pa.RecordBatchReader) -> None:
        self.plan = plan
        self.schema = reader.schema
        self.next_cursor: str | None = None
        self._reader = reader

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Batches of the rows that were asked for."""
        if self.plan.page is None:
            yield from self._reader
        else:
            yield from self._batches_of(self.plan.page)

    def _batches_of(self, page: Page) -> Iterator[pa.RecordBatch]:
        left = page.limit
        last: Any = None
        for batch in self._reader:
            shown = batch.slice(0, left)
            left -= len(shown)
            if len(shown):
                last = shown.slice(len(shown) - 1)
                yield shown
            if len(batch) > len(shown):
                moment, row = last.column(PAGE_TIME).cast(pa.int64()), last.column(PAGE_ROW)
                self.next_cursor = encode_cursor([page.query, moment[0].as_py(), row[0].as_py()])


@contextmanager
def run(lake: Lake, plan: Plan, select: str) -> Iterator[Answer]:
    """Answer a plan, with `select` of its columns.

    Raises:
        InvalidQuery: a number became too large on the way.
        LakeConflict: the dataset's columns changed between the plan and its execution.
        LakeBusy, LakeUnavailable, QueryTooLong, QueryTooBig: see `Lake.query`.
    """
    if plan.page:
        select += f", {quote(plan.page.time)} AS {quote(PAGE_TIME)}, {ROW_ID} AS {quote(PAGE_ROW)}"
    try:
        with lake.query(f"SELECT {select} FROM ({plan.sql})", plan.parameters) as reader:
            yield Answer(plan, reader)
    except (duckdb.BinderException, duckdb.CatalogException) as error:
        raise LakeConflict(f"the dataset's columns changed meanwhile: {clean(error)}", retry_after=1) from error
    except (duckdb.OutOfRangeException, duckdb.ConversionException) as error:
        raise InvalidQuery(f"the query can't be computed: {clean(error)}") from error
