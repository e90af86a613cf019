"""What a page of datasets, batches or audit entries is asked for with."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from apphub_assets.kit.cursor import FOREIGN, InvalidCursor, decode_cursor, encode_cursor
from apphub_assets.timestore.models import Batch, Dataset
from apphub_assets.timestore.spec import Status


@dataclass(frozen=True)
class DatasetQuery:
    """`status` None is every one that is not deleted; `before` is exclusive."""

    limit: int = 20
    status: Status | None = Status.ACTIVE
    search: str | None = None
    before: tuple[datetime, str] | None = None


@dataclass(frozen=True)
class BatchQuery:
    """The batches of a day, or of all; `before` is exclusive."""

    limit: int = 500
    shard: date | None = None
    before: tuple[date, str] | None = None


@dataclass(frozen=True)
class AccessQuery:
    """None and no actions do not filter; both ends belong to it, `before` is an entry's id and exclusive."""

    limit: int = 50
    before: int | None = None
    actions: tuple[str, ...] = ()
    success: bool | None = None
    start: datetime | None = None
    end: datetime | None = None


def dataset_cursor(row: Dataset) -> str:
    return encode_cursor([row.updated_at.astimezone(UTC).isoformat(), row.id])


def read_dataset_cursor(cursor: str) -> tuple[datetime, str]:
    """Raises InvalidCursor."""
    moment, key = _strings(cursor)
    try:
        read = datetime.fromisoformat(moment)
    except ValueError:
        raise InvalidCursor(FOREIGN) from None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)), key


def batch_cursor(row: Batch) -> str:
    return encode_cursor([row.shard.isoformat(), row.id])


def read_batch_cursor(cursor: str) -> tuple[date, str]:
    """Raises InvalidCursor."""
    day, key = _strings(cursor)
    try:
        return date.fromisoformat(day), key
    except ValueError:
        raise InvalidCursor(FOREIGN) from None


def _strings(cursor: str) -> list[Any]:
    values = decode_cursor(cursor, 2)
    if not all(isinstance(value, str) and "\0" not in value for value in values):
        raise InvalidCursor(FOREIGN)
    return values
