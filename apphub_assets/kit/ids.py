"""Identifiers that sort by the time they were made."""

from uuid_utils.compat import uuid7


def new_id() -> str:
    """A UUIDv7 (RFC 9562) as lower-case text: unique, and sortable by creation time."""
    return str(uuid7())
