"""Values of the event stream."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Event:
    """The envelope that every consumer sees. `sequence` has no gaps and never goes back."""

    id: str
    sequence: int
    type: str
    source: str
    occurred_at: datetime
    payload: dict[str, Any]
    correlation_id: str | None

    @property
    def severity(self) -> str:
        """Derived from the type and the payload's status: error, warning or info."""
        statuses = {value.get("status") for value in self.payload.values() if isinstance(value, dict)}
        if self.type.endswith(".failed") or "failed" in statuses:
            return "error"
        return "warning" if statuses & {"expired", "canceled"} else "info"


@dataclass(frozen=True)
class EventQuery:
    """Filters of the history; `None` does not filter. `before` is a sequence, exclusive."""

    type: str | None = None
    source: str | None = None
    correlation_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    json_path: str | None = None
    before: int | None = None
    limit: int = 50


@dataclass(frozen=True)
class EventPage:
    events: list[Event]
    next_cursor: str | None
