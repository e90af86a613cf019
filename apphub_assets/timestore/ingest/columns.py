"""Values as they come in JSON or CSV, turned into Arrow columns: all of a column at once, and one by one if that fails.

Nothing is guessed and nothing rounded: a value is of its column's type, or it is named in the error.
"""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from apphub_assets.timestore.errors import InvalidRows
from apphub_assets.timestore.spec import DECIMAL, Field

TIMESTAMP = pa.timestamp("us")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Years 1 to 9999, as milliseconds since the epoch.
FIRST_MS, LAST_MS = -62_135_596_800_000, 253_402_300_799_999
EXACT = 2**53
MOST_ERRORS = 20

ARROW_TYPES = {
    "timestamp": TIMESTAMP,
    "string": pa.string(),
    "double": pa.float64(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
    "json": pa.string(),
}
# What Python makes of JSON, by the column types that take it without a look at the value.
PLAIN: dict[str, set[type]] = {
    "string": {str, type(None)},
    "double": {float, int, type(None)},
    "integer": {int, type(None)},
    "boolean": {bool, type(None)},
}


class _Unfit(ValueError):
    """A value that is not of its column's type; says what it should be."""


def arrow_type(field: Field) -> pa.DataType:
    """The Arrow type of a column's values."""
    if field.type == "list":
        return pa.list_(arrow_type(field.children[0]))
    if field.type == "struct":
        return pa.struct([pa.field(child.name, arrow_type(child)) for child in field.children])
    if match := DECIMAL.fullmatch(field.type):
        return pa.decimal128(int(match[1]), int(match[2]))
    return ARROW_TYPES[field.type]


def build_column(field: Field, values: Sequence[Any]) -> pa.Array:
    """Values of JSON as a column.

    Raises:
        InvalidRows: some do not fit; names the first of them by row (from 0), column and value.
    """
    try:
        if set(map(type, values)) <= PLAIN.get(field.type, set()):
            return _finite(pa.array(values, ARROW_TYPES[field.type]))
        if field.type == "timestamp":
            return _timestamps(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        pass  # one of them does not fit: which, the loop below finds
    return pa.array(_one_by_one(field, values), arrow_type(field))


def _finite(column: pa.Array) -> pa.Array:
    if (
        pa.types.is_floating(column.type)
        and not pc.all(pc.is_finite(column)).as_py()
        and len(column) > column.null_count
    ):
        raise pa.ArrowInvalid("not finite")
    return column


def _timestamps(values: Sequence[Any]) -> pa.Array:
    """RFC 3339 strings that all name their zone, or all milliseconds since the epoch."""
    kinds = set(map(type, values)) - {type(None)}
    if kinds == {str}:
        times = pa.array(values, pa.string()).cast(pa.timestamp("us", tz="UTC")).cast(TIMESTAMP)
        _check_span(times.cast(pa.int64()), FIRST_MS * 1000, LAST_MS * 1000 + 999)
        return times
    if kinds == {int}:
        numbers = pa.array(values, pa.int64())
        _check_span(numbers, FIRST_MS, LAST_MS)
        return pc.multiply(numbers, 1000).cast(TIMESTAMP)
    raise pa.ArrowInvalid("of several kinds")


def _check_span(numbers: pa.Array, least: int, most: int) -> None:
    span = pc.min_max(numbers).as_py()
    if span["min"] < least or span["max"] > most:
        raise pa.ArrowInvalid("outside of the years 1 to 9999")


def _one_by_one(field: Field, values: Sequence[Any]) -> list[Any]:
    check = _check_of(field)
    fit, problems = [], list[tuple[str, str]]()
    for row, value in enumerate(values):
        try:
            fit.append(None if value is None else check(value))
        except _Unfit as error:
            shown = orjson.dumps(value, default=str).decode()[:80]
            problems.append((f"/rows/{row}/{field.name}", f"row {row}, column {field.name!r}: {shown} {error}"))
            if len(problems) == MOST_ERRORS:
                break
    if problems:
        raise InvalidRows(f"{problems[0][1]}; nothing was written", pointers=problems)
    return fit


def _check_of(field: Field) -> Callable[[Any], Any]:
    """What turns one value into the column's type, or raises _Unfit."""
    if field.type == "list":
        element = _check_of(field.children[0])
        return lambda value: [_optional(element, each) for each in _of(value, list, "is no list")]
    if field.type == "struct":
        checks = {child.name: _check_of(child) for child in field.children}
        return lambda value: _struct(checks, _of(value, dict, "is no object"))
    if match := DECIMAL.fullmatch(field.type):
        precision, scale = int(match[1]), int(match[2])
        return lambda value: _decimal(value, precision, scale)
    return CHECKS[field.type]


def _struct(checks: dict[str, Callable[[Any], Any]], value: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(value.keys() - checks.keys()):
        raise _Unfit(f"has {unknown[0]!r}, which the struct has not")
    return {name: _optional(check, value.get(name)) for name, check in checks.items()}


def _optional(check: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else check(value)


def _of(value: Any, kind: type, complaint: str) -> Any:
    if type(value) is not kind:
        raise _Unfit(complaint)
    return value


def _string(value: Any) -> str:
    return str(_of(value, str, "is no string"))


def _boolean(value: Any) -> bool:
    return bool(_of(value, bool, "is no boolean"))


def _integer(value: Any) -> int:
    # Beyond, not every integer is a double: what was written may have been another.
    if type(value) is float and value.is_integer() and abs(value) <= EXACT:
        value = int(value)
    if not -(2**63) <= _of(value, int, "is no integer") < 2**63:
        raise _Unfit("does not fit 64 bits")
    return int(value)


def _double(value: Any) -> float:
    if type(value) not in {int, float}:
        raise _Unfit("is no number")
    try:
        number = float(value)
    except OverflowError:
        raise _Unfit("is larger than any double") from None
    if not math.isfinite(number):
        raise _Unfit("is not finite; send null for a value that is missing")
    return number


def _decimal(value: Any, precision: int, scale: int) -> Decimal:
    if type(value) not in {int, float, str}:
        raise _Unfit('is no decimal; send a number, or a string such as "1.50"')
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        raise _Unfit("is no decimal") from None
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or -exponent > scale or number.adjusted() + 1 > precision - scale:
        raise _Unfit(f"does not fit decimal({precision},{scale})")
    return number


def _timestamp(value: Any) -> datetime:
    """RFC 3339, taken as UTC when it names no zone; or milliseconds since the epoch."""
    if type(value) is int:
        if not FIRST_MS <= value <= LAST_MS:
            raise _Unfit("milliseconds are outside of the years 1 to 9999")
        return (EPOCH + timedelta(milliseconds=value)).replace(tzinfo=None)
    try:
        moment = datetime.fromisoformat(_of(value, str, "is no time; send RFC 3339 or milliseconds since 1970"))
        return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    except (ValueError, OverflowError) as error:
        if isinstance(error, _Unfit):
            raise
        raise _Unfit("is no time; send RFC 3339, such as 2026-01-31T12:00:00Z") from None


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


CHECKS: dict[str, Callable[[Any], Any]] = {
    "string": _string,
    "boolean": _boolean,
    "integer": _integer,
    "double": _double,
    "timestamp": _timestamp,
    "json": _json,
}


def infer_type(values: Sequence[Any], *, is_time: bool) -> str:
    """The type of a column that no schema names: what all of its values are."""
    kinds = {type(value) for value in values} - {type(None)}
    if is_time:
        return "timestamp"
    if kinds == {bool}:
        return "boolean"
    if kinds and kinds <= {int, float}:
        return "integer" if kinds == {int} else "double"
    return "json" if kinds & {dict, list} else "string"
