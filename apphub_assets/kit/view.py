"""Views: what leaves the house as JSON, in camelCase, with times in RFC 3339 UTC and milliseconds."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainSerializer
from pydantic.alias_generators import to_camel


def format_instant(moment: datetime) -> str:
    """`2026-11-20T12:00:00.000Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Instant = Annotated[datetime, PlainSerializer(format_instant, return_type=str, when_used="json")]


class View(BaseModel):
    """Base of every view; reads attributes, writes camelCase."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, from_attributes=True, serialize_by_alias=True, frozen=True
    )

    def to_json(self) -> dict[str, Any]:
        """The same object that the API sends, for an event's payload."""
        return self.model_dump(mode="json", by_alias=True)
