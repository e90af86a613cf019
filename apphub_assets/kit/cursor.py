"""Opaque page cursors: base64url of a JSON array, so that clients can't grow fond of what is inside."""

import base64
import json
from typing import Any

from apphub_assets.errors import InvalidInput

FOREIGN = "cursor: not a cursor of this list; leave it out to start at the first page"


class InvalidCursor(InvalidInput):
    code, title = "invalid_cursor", "Invalid cursor"


def encode_cursor(values: list[Any]) -> str:
    """Pack the sort values of a page's last row."""
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, length: int) -> list[Any]:
    """Unpack what `encode_cursor` made.

    Raises:
        InvalidCursor: it is not one of ours, or belongs to another kind of page.
    """
    try:
        values = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list) or len(values) != length:
        raise InvalidCursor(FOREIGN)
    return values


def decode_number(cursor: str) -> int:
    """Unpack a cursor that holds one number of a row.

    Raises:
        InvalidCursor: it holds something else, or what no row has.
    """
    (number,) = decode_cursor(cursor, 1)
    if type(number) is not int or not 0 <= number < 2**63:
        raise InvalidCursor(FOREIGN)
    return number
