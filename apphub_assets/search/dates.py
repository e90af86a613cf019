"""Dates of the search language. A day is the whole day, in UTC; ranges are half open inside."""

from datetime import UTC, date, datetime, time, timedelta
from typing import NoReturn

from apphub_assets.errors import InvalidInput
from apphub_assets.search.spec import DateField, DateRange

YEARS = range(1970, 3000)
INSTANT = timedelta(microseconds=1)


def date_range(field: DateField, text: str, excluded: bool, pointer: str) -> DateRange:
    """Understand `>2026-01-01`, `>=`, `<`, `<=`, `2026-01-01..2026-02-01` (ends included, `*` is open) or one day.

    Raises:
        InvalidInput: it is none of these, or ends before it starts.
    """
    start, end = _bounds(text, pointer)
    if start is not None and end is not None and start >= end:
        _refuse(pointer, f"{field}:{text}: ends before it starts")
    return DateRange(field, start, end, excluded)


def after(field: DateField, text: str, pointer: str) -> DateRange:
    """From the day or instant on."""
    return DateRange(field, start=_span(text, pointer)[0])


def before(field: DateField, text: str, pointer: str) -> DateRange:
    """Until the end of the day, or the instant itself."""
    return DateRange(field, end=_span(text, pointer)[1])


def _bounds(text: str, pointer: str) -> tuple[datetime | None, datetime | None]:
    for sign, open_end, side in ((">=", True, 0), ("<=", False, 1), (">", True, 1), ("<", False, 0)):
        if text.startswith(sign):
            bound = _span(text.removeprefix(sign), pointer)[side]
            return (bound, None) if open_end else (None, bound)
    first, dots, last = text.partition("..")
    if not dots:
        return _span(text, pointer)
    return (
        None if first == "*" else _span(first, pointer)[0],
        None if last == "*" else _span(last, pointer)[1],
    )


def _span(text: str, pointer: str) -> tuple[datetime, datetime]:
    """The first instant of a day or time, and the first one after it."""
    try:
        if len(text) <= len("2026-01-01"):
            start, length = datetime.combine(date.fromisoformat(text), time(), UTC), timedelta(days=1)
        else:
            start, length = datetime.fromisoformat(text), INSTANT
    except ValueError:
        _refuse(pointer, f"date {text[:40]!r}: use 2026-01-31 or 2026-01-31T12:00:00Z, after >, >=, <, <= or around ..")
    if start.year not in YEARS:
        _refuse(pointer, f"date {text[:40]!r}: use a year from {YEARS.start} to {YEARS.stop - 1}")
    start = start if start.tzinfo else start.replace(tzinfo=UTC)
    return start, start + length


def _refuse(pointer: str, message: str) -> NoReturn:
    raise InvalidInput(message, pointers=[(pointer, message)])
