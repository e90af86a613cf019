"""What a query reads: a table as it is or was, the columns it may name, and the rows that its filters leave.

Conditions are plain comparisons of columns with bound values, by which DuckLake rules out files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa

from apphub_assets.timestore.lake import Lake, clean
from apphub_assets.timestore.query.language import Kind, Predicate, Query, invalid
from apphub_assets.timestore.spec import DatasetInfo, Field, Schema, quote

SYMBOLS = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
INT64 = range(-(2**63), 2**63)
# The names of Arrow's types; all others are text.
TYPES = {pa.timestamp("us"): "timestamp", pa.float64(): "double", pa.int64(): "integer", pa.bool_(): "boolean"}


class Parameters(list[Any]):
    """Values of a statement, by the numbers they are bound to."""

    def bind(self, value: Any) -> str:
        self.append(value)
        return f"${len(self)}"


@dataclass(frozen=True)
class Selection:
    """Rows of a table, of which `time` is the time; `parameters` are the values of `where`, and more may be bound."""

    relation: str
    schema: Schema
    time: Field
    keys: tuple[str, ...]
    where: str
    parameters: Parameters

    def field(self, name: str, pointer: str) -> Field:
        """Raises InvalidQuery: there is no such column."""
        return _find(self.schema, name, pointer)

    def fields(self, names: Sequence[str], pointer: str) -> tuple[Field, ...]:
        """The columns of a list, each once.

        Raises:
            InvalidQuery: there is no such column.
        """
        return tuple(dict.fromkeys(self.field(name, f"{pointer}/{index}") for index, name in enumerate(names)))


def select_rows(query: Query, dataset: DatasetInfo, lake: Lake) -> Selection:
    """What a query reads of a dataset that has a schema; the lake is asked only for the columns of an earlier state.

    Raises:
        InvalidQuery: it names what the dataset has not, or compares what can't be compared.
    """
    relation, schema = dataset.relation, dataset.schema
    if query.as_of is not None:
        relation = f"{relation} AT ({at(query.as_of)})"
        schema = _schema_as_of(lake, relation, dataset)
    time = schema.find(query.timestamp_column or dataset.timestamp_column)
    if time is None or time.type != "timestamp":
        times = ", ".join(field.name for field in schema.fields if field.type == "timestamp")
        raise invalid("/timestampColumn", f"there is no such column of times; there are {times}")
    parameters = Parameters()
    conditions = _range(query, time, parameters)
    keys = {key.lower() for key in dataset.partition_keys}
    for predicate in query.key_filters:
        if predicate.column.lower() not in keys:
            known = ", ".join(dataset.partition_keys) or "none"
            raise invalid(predicate.pointer, f"unknown partition key {predicate.column[:120]!r}: there are {known}")
    for predicate in (*query.key_filters, *query.filters):
        conditions += _conditions(predicate, schema, parameters)
    where = " AND ".join(conditions) or "true"
    return Selection(relation, schema, time, dataset.partition_keys, where, parameters)


def at(moment: int | datetime) -> str:
    """A state of the lake, by its number or a time in UTC; DuckLake takes no parameters here."""
    if isinstance(moment, int):
        return f"VERSION => {moment}"
    return f"TIMESTAMP => TIMESTAMPTZ '{moment.isoformat(sep=' ')}+00'"


def kind_of(field: Field) -> Kind | None:
    """By what a column is compared; None if by nothing."""
    if field.type in ("integer", "double") or field.type.startswith("decimal"):
        return Kind.NUMBER
    return Kind(field.type) if field.type in ("string", "timestamp", "boolean") else None


def _find(schema: Schema, name: str, pointer: str) -> Field:
    found = schema.find(name)
    if found is None:
        known = ", ".join(field.name for field in schema.fields[:50])
        raise invalid(pointer, f"unknown column {name[:120]!r}: there are {known}")
    return found


def _schema_as_of(lake: Lake, relation: str, dataset: DatasetInfo) -> Schema:
    try:
        with lake.query(f"SELECT * FROM {relation} LIMIT 0") as reader:
            columns = reader.schema
    except (duckdb.InvalidInputException, duckdb.CatalogException) as error:
        raise invalid("/asOf", f"there is no such state of dataset {dataset.slug}: {clean(error)[:200]}") from None
    return Schema(tuple(_field_of(column, dataset.schema.find(column.name)) for column in columns))


def _field_of(column: Any, known: Field | None) -> Field:
    """A column of an earlier state. Arrow has JSON as text: which it is, is told by what it is now."""
    kind, is_key = column.type, known is not None and known.is_key
    if known is not None and known.type == "json" and pa.types.is_string(kind):
        return known
    if pa.types.is_list(kind):
        return Field(column.name, "list", (_field_of(kind.value_field.with_name("element"), None),), is_key)
    if pa.types.is_struct(kind):
        return Field(column.name, "struct", tuple(_field_of(child, None) for child in kind), is_key)
    if pa.types.is_decimal(kind):
        return Field(column.name, f"decimal({kind.precision},{kind.scale})", (), is_key)
    return Field(column.name, TYPES.get(kind, "string"), (), is_key)


def _range(query: Query, time: Field, parameters: Parameters) -> list[str]:
    if query.range is None:
        return []
    column = quote(time.name)
    return [f"{column} >= {parameters.bind(query.range.start)}", f"{column} <= {parameters.bind(query.range.end)}"]


def _conditions(predicate: Predicate, schema: Schema, parameters: Parameters) -> list[str]:
    field = _find(schema, predicate.column, predicate.pointer)
    kind = kind_of(field)
    if kind is None:
        raise invalid(predicate.pointer, f"column {field.name!r} is a {field.type}, which can't be filtered by")
    column = quote(field.name)
    if predicate.kind not in (None, kind):
        if not field.is_key or predicate.kind not in (Kind.NUMBER, Kind.TIMESTAMP):
            message = f"column {field.name!r} is a {field.type}, the predicate of a {predicate.kind}; write {kind}"
            raise invalid(f"{predicate.pointer}/type", message)
        # The values of a key that nobody declared are text; what is no number or time is not what is asked for.
        kind = predicate.kind
        field = Field(field.name, "double" if kind == Kind.NUMBER else "timestamp")
        column = f"TRY_CAST({column} AS {field.sql_type})"
    typed = predicate.typed(kind) if predicate.kind is None else predicate
    return [_comparison(field, column, operator, value, parameters) for operator, value in typed.terms]


def _comparison(field: Field, column: str, operator: str, value: Any, parameters: Parameters) -> str:
    values = list(value if operator == "in" else (value,))
    if kind_of(field) == Kind.NUMBER:
        column, values = _fitted(field, column, values)
    bound = [parameters.bind(each) for each in values]
    if operator == "in":
        return f"{column} IN ({', '.join(bound)})"
    condition = f"{column} {SYMBOLS[operator]} {bound[0]}"
    # DuckDB takes NaN for the largest number there is.
    return f"{condition} AND NOT isnan({column})" if field.type == "double" and operator in ("gt", "gte") else condition


def _fitted(field: Field, column: str, values: list[float]) -> tuple[str, list[Any]]:
    """Numbers as the column has them; if it can't have one of them, all as doubles, by which no file is ruled out."""
    if field.type == "integer" and all(isinstance(value, int) and value in INT64 for value in values):
        return column, values
    if field.type.startswith("decimal"):
        exact = [Decimal(str(value)) for value in values]
        if all(_is_exact(field, value) for value in exact):
            return column, exact
    return column if field.type == "double" else f"CAST({column} AS DOUBLE)", [float(value) for value in values]


def _is_exact(field: Field, value: Decimal) -> bool:
    precision, scale = (int(part) for part in field.type[len("decimal(") : -1].split(","))
    _, digits, exponent = value.as_tuple()
    return isinstance(exponent, int) and -exponent <= scale and len(digits) + exponent <= precision - scale
