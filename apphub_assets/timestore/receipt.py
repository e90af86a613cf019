"""What a commit of the lake brings along: rows of our tables that exist if, and only if, the commit does.

It travels as JSON in DuckLake's commit message, and the trigger `timestore.write_receipt` writes it in the transaction
that makes the snapshot. Its members are named as the columns they become.
"""

from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import Any

import orjson

from apphub_assets.kit.ids import new_id

AUTHOR = "apphub"
SOURCE = "timestore.ingest"

Json = dict[str, Any]


@dataclass(frozen=True)
class BatchRow:
    """A row of `timestore.batches`; what the trigger fills in is not here."""

    id: str
    dataset_id: str
    key: str
    content: str
    schema_version: int
    shard: date
    partition_key: dict[str, str]
    attributes: dict[str, str]
    start_at: datetime
    end_at: datetime
    row_count: int
    byte_count: int
    statistics: Json
    actor: str | None
    received_at: datetime
    manifest_id: str


@dataclass(frozen=True)
class Retired:
    """Batches whose rows the commit took out: those that lie in [start_at, end_at) as a whole."""

    dataset_id: str
    end_at: datetime
    start_at: datetime | None = None
    partition_key: dict[str, str] | None = None


@dataclass(frozen=True)
class Receipt:
    """Filled while the transaction is open."""

    datasets: list[Json] = field(default_factory=list)
    schemas: list[Json] = field(default_factory=list)
    moves: list[Json] = field(default_factory=list)
    purged: list[Json] = field(default_factory=list)
    batches: list[BatchRow] = field(default_factory=list)
    retired: list[Retired] = field(default_factory=list)
    events: list[Json] = field(default_factory=list)
    accesses: list[Json] = field(default_factory=list)

    def add_event(self, kind: str, payload: Json, *, source: str = SOURCE, correlation_id: str | None = None) -> None:
        event = {"id": new_id(), "type": kind, "source": source, "payload": payload, "correlation_id": correlation_id}
        self.events.append(event)

    def to_json(self) -> str:
        return orjson.dumps(asdict(self), option=orjson.OPT_UTC_Z).decode()
