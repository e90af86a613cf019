"""Datasets for tests of queries, and how they are asked."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.query.language import Query
from apphub_assets.timestore.query.rendering import FORMATS
from apphub_assets.timestore.query.service import Plan, plan_query, run
from apphub_assets.timestore.spec import DatasetInfo, Granularity, Schema, Status, quote

JANUARY = {"start": "2025-01-01T00:00:00Z", "end": "2025-01-31T23:59:59.999Z"}
FIELDS = [
    {"name": "timestamp", "type": "timestamp"},
    {"name": "site", "type": "string"},
    {"name": "value", "type": "double"},
    {"name": "n", "type": "integer"},
    {"name": "ok", "type": "boolean"},
    {"name": "price", "type": "decimal(10,2)"},
    {"name": "seen", "type": "timestamp"},
    {"name": "instrument", "type": "string", "partitionKey": True},
]
ROWS = """
    ('2025-01-01 00:00:00', 'east', 1.5, 1, true, 1.10, '2025-02-01', 'alpha'),
    ('2025-01-01 00:30:00', 'west', 2.5, 2, false, 2.20, '2025-02-02', 'bravo'),
    ('2025-01-01 01:00:00', 'east', 'nan', 3, true, 3.30, '2025-02-03', 'alpha'),
    ('2025-01-01 03:15:00', 'west', 4.5, 4, NULL, 4.40, NULL, 'bravo'),
    ('2025-01-01 03:15:00.000001', 'east', 5.5, 9007199254740993, false, 5.50, '2025-02-05', '7')
"""

Ask = Callable[..., dict[str, Any]]


def dataset_of(fields: list[dict[str, Any]], **values: Any) -> DatasetInfo:
    """A dataset whose table is called `readings`."""
    info = DatasetInfo(
        id="dataset", slug="readings", table="readings", area="main", status=Status.ACTIVE,
        timestamp_column="timestamp", partition_keys=("instrument",), granularity=Granularity.DAY,
        schema=Schema.parse(fields), schema_version=1, metadata={},
    )  # fmt: skip
    return replace(info, **values)


def make(lake: Lake, dataset: DatasetInfo, rows: str = "") -> None:
    """Make the dataset's table, of rows as VALUES or a SELECT has them."""
    columns = ", ".join(f"{quote(field.name)} {field.sql_type}" for field in dataset.schema.fields)
    with lake.writing() as connection:
        connection.execute(f"CREATE TABLE {dataset.relation} ({columns})")
    if rows:
        insert(lake, dataset, rows)


def insert(lake: Lake, dataset: DatasetInfo, rows: str) -> None:
    with lake.writing() as connection:
        values = rows if rows.lstrip().startswith("SELECT") else f"VALUES {rows}"
        connection.execute(f"INSERT INTO {dataset.relation} {values}")


def answer(lake: Lake, dataset: DatasetInfo, **body: Any) -> dict[str, Any]:
    """The JSON answer to a query, of January 2025 unless it says otherwise."""
    return orjson.loads(rendered(lake, planned(lake, dataset, **body)))


def planned(lake: Lake, dataset: DatasetInfo, **body: Any) -> Plan:
    return plan_query(Query.parse({"timeRange": JANUARY} | body), dataset, lake)


def rendered(lake: Lake, plan: Plan, media_type: str = "application/json") -> bytes:
    (wanted,) = (each for each in FORMATS if each.media_type == media_type)
    sink = Bytes()
    with run(lake, plan, wanted.select(plan.fields)) as found:
        wanted.write(found, sink)
    return b"".join(sink.written)


class Bytes:
    """What was written, piece by piece."""

    closed = False

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: Any) -> int:
        self.written.append(bytes(data))
        return len(self.written[-1])

    def flush(self) -> None: ...

    def close(self) -> None: ...
