"""The language of queries, without a dataset."""

from datetime import datetime
from typing import Any

import pytest

from apphub_assets.timestore.errors import InvalidQuery
from apphub_assets.timestore.query.language import Query, parse_instant

RANGE = {"start": "2025-01-01T00:00:00Z", "end": "2025-01-02T00:00:00Z"}
COUNT = [{"fn": "count"}]


def where(column: dict[str, Any]) -> dict[str, Any]:
    return {"filters": {"columns": {"n": column}}}


def total(**aggregation: Any) -> dict[str, Any]:
    return {"downsample": {"aggregations": [aggregation]}}


def buckets(**members: Any) -> dict[str, Any]:
    return {"downsample": {"aggregations": COUNT, **members}}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"timeRange": None}, "/timeRange"),
        ({"timeRange": {"start": RANGE["start"]}}, "/timeRange/end"),
        ({"timeRange": {"start": RANGE["end"], "end": RANGE["start"]}}, "/timeRange/end"),
        ({"timeRange": {**RANGE, "from": 1}}, "/timeRange/from"),
        ({"timeRange": {**RANGE, "start": 1735689600}}, "/timeRange/start"),
        ({"columns": []}, "/columns"),
        ({"columns": ["a", 1]}, "/columns/1"),
        ({"columns": "a"}, "/columns"),
        ({"filters": {"instrument_id": "x"}}, "/filters/instrument_id"),
        ({"filters": []}, "/filters"),
        ({"filters": {"columns": ["n"]}}, "/filters/columns"),
        ({"filters": {"columns": {"n": ["a"]}}}, "/filters/columns/n"),
        ({"filters": {"partitionKey": {"a/b": {}}}}, "/filters/partitionKey/a~1b"),
        ({"filters": {"partitionKey": {"k": "x"}}}, "/filters/partitionKey/k"),
        ({"filters": {"partitionKey": {"k": ["a", 1]}}}, "/filters/partitionKey/k/in/1"),
        (where({}), "/filters/columns/n"),
        (where({"type": "number"}), "/filters/columns/n"),
        (where({"type": "text", "eq": 1}), "/filters/columns/n/type"),
        (where({"ne": 1}), "/filters/columns/n/ne"),
        (where({"type": "string", "gt": "a"}), "/filters/columns/n/gt"),
        (where({"type": "boolean", "eq": "true"}), "/filters/columns/n/eq"),
        (where({"type": "number", "eq": True}), "/filters/columns/n/eq"),
        (where({"type": "number", "eq": float("nan")}), "/filters/columns/n/eq"),
        (where({"type": "number", "eq": 10**400}), "/filters/columns/n/eq"),
        (where({"type": "number", "in": []}), "/filters/columns/n/in"),
        (where({"type": "number", "in": list(range(10_001))}), "/filters/columns/n/in"),
        (where({"type": "string", "eq": "nul\0"}), "/filters/columns/n/eq"),
        (where({"type": "string", "eq": "\ud800"}), "/filters/columns/n/eq"),
        (where({"type": "timestamp", "gt": "yesterday"}), "/filters/columns/n/gt"),
        (buckets(aggregations=[]), "/downsample/aggregations"),
        (buckets(intervalUnit="year"), "/downsample/intervalUnit"),
        (buckets(intervalSize=0), "/downsample/intervalSize"),
        (buckets(intervalSize=1.5), "/downsample/intervalSize"),
        (buckets(timeZone="Mars/Olympus"), "/downsample/timeZone"),
        (buckets(timeZone="../etc/passwd"), "/downsample/timeZone"),
        (buckets(gapFill="nearest"), "/downsample/gapFill"),
        (buckets(gapFill="constant"), "/downsample/gapFill"),
        (buckets(gapFill={"mode": "linear", "value": 1}), "/downsample/gapFill"),
        (buckets(unit="hour"), "/downsample/unit"),
        (total(fn="mode", column="n"), "/downsample/aggregations/0/fn"),
        (total(fn="avg"), "/downsample/aggregations/0/column"),
        (total(fn="percentile", column="n"), "/downsample/aggregations/0/percentile"),
        (total(fn="percentile", column="n", percentile=95), "/downsample/aggregations/0/percentile"),
        (total(fn="avg", column="n", percentile=0.5), "/downsample/aggregations/0/percentile"),
        (total(fn="avg", column="n", alias="a\nb"), "/downsample/aggregations/0/alias"),
        ({"order": "newest"}, "/order"),
        ({"limit": 0}, "/limit"),
        ({"limit": 500_001}, "/limit"),
        ({"limit": True}, "/limit"),
        ({"limit": "10"}, "/limit"),
        ({"cursor": "x"}, "/cursor"),
        ({"cursor": "x", "limit": 1, **buckets()}, "/cursor"),
        ({"asOf": -1}, "/asOf"),
        ({"asOf": "then"}, "/asOf"),
        ({"explain": "yes"}, "/explain"),
        ({"lastValue": False}, "/lastValue"),
        ({"lastValue": {"by": "site"}}, "/lastValue/by"),
        ({"lastValue": True, **buckets()}, "/lastValue"),
        ({"offset": 5}, "/offset"),
    ],
    ids=str,
)
def test_what_is_wrong_is_pointed_at(body: dict[str, Any], pointer: str):
    with pytest.raises(InvalidQuery) as refused:
        Query.parse({"timeRange": RANGE} | body)
    assert refused.value.pointers[0][0] == pointer


@pytest.mark.parametrize("body", [None, [], "x", 1])
def test_a_query_is_an_object(body: Any):
    with pytest.raises(InvalidQuery):
        Query.parse(body)


def test_what_is_null_is_not_asked_for():
    plain = Query.parse({"timeRange": RANGE})
    empty = Query.parse({"timeRange": RANGE, "filters": None, "downsample": None, "limit": None, "lastValue": None})
    assert (empty.filters, empty.downsample, empty.limit) == (plain.filters, plain.downsample, plain.limit)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2025-01-01T00:00:00Z", "2025-01-01 00:00:00"),
        ("2025-01-01T02:00:00.5+02:00", "2025-01-01 00:00:00.500000"),
        ("2024-12-31t18:30:00.123456-0530", "2025-01-01 00:00:00.123456"),
        ("2025-01-01 00:00", "2025-01-01 00:00:00"),
        ("2025-01-01", "2025-01-01 00:00:00"),
    ],
)
def test_times_are_read_as_utc(written: str, expected: str):
    assert parse_instant(written, "") == datetime.fromisoformat(expected)


@pytest.mark.parametrize(
    "written", ["2025-13-01T00:00:00Z", "0001-01-01T00:00:00+01:00", "20250101", "2025-W01-1", "", None, 5, "infinity"]
)
def test_what_is_no_time_is_refused(written: Any):
    with pytest.raises(InvalidQuery):
        parse_instant(written, "/at")
