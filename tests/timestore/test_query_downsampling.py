"""Downsampling on a real lake: totals, dimensions, gaps."""

from typing import Any

import pytest

from apphub_assets.timestore.errors import InvalidQuery
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.spec import DatasetInfo
from tests.timestore.asking import FIELDS, ROWS, answer, dataset_of, insert, make, planned

NIGHT = {"start": "2025-01-01T00:00:00Z", "end": "2025-01-01T04:59:59Z"}
MIDNIGHT, ONE, TWO, THREE, FOUR = (f"2025-01-01T0{hour}:00:00.000Z" for hour in range(5))


@pytest.fixture
def dataset() -> DatasetInfo:
    return dataset_of(FIELDS)


@pytest.fixture
def readings(lake: Lake, dataset: DatasetInfo) -> DatasetInfo:
    """Five readings: two in the first hour, one in the second and two in the fourth."""
    make(lake, dataset, ROWS)
    return dataset


def hourly(lake: Lake, dataset: DatasetInfo, *aggregations: dict[str, Any], **body: Any) -> dict[str, Any]:
    downsample = {"intervalUnit": "hour", "aggregations": list(aggregations), **body.pop("downsample", {})}
    return answer(lake, dataset, **({"timeRange": NIGHT, "downsample": downsample} | body))


def column(found: dict[str, Any], name: str) -> list[Any]:
    return [row[name] for row in found["rows"]]


def total(fn: str, of: str | None = None, **more: Any) -> dict[str, Any]:
    return {"fn": fn, **({"column": of} if of else {}), **more}


def test_buckets_without_rows_are_not_there(lake: Lake, readings: DatasetInfo):
    found = hourly(lake, readings, total("avg", "price"), total("count"))

    assert found["mode"] == "downsampled"
    assert found["columns"] == ["timestamp", "avg_price", "count"]
    assert found["rows"] == [
        {"timestamp": MIDNIGHT, "avg_price": pytest.approx(1.65), "count": 2},
        {"timestamp": ONE, "avg_price": pytest.approx(3.3), "count": 1},
        {"timestamp": THREE, "avg_price": pytest.approx(4.95), "count": 2},
    ]


@pytest.mark.parametrize(
    ("aggregation", "alias", "expected"),
    [
        (total("min", "price"), "min_price", 4.4),
        (total("max", "n"), "max_n", 9007199254740993),
        (total("sum", "price"), "sum_price", 9.9),
        (total("sum", "n"), "sum_n", 9007199254740997),
        (total("median", "price"), "median_price", pytest.approx(4.95)),
        (total("percentile", "price", percentile=0.95), "p95_price", pytest.approx(5.445)),
        (total("percentile", "price", percentile=0.005), "p1_price", pytest.approx(4.4055)),
        (total("count", "ok"), "count_ok", 1),
        (total("count_distinct", "site"), "count_distinct_site", 2),
        (total("first", "site"), "first_site", "west"),
        (total("last", "site"), "last_site", "east"),
        (total("first", "ok"), "first_ok", False),
        (total("max", "seen"), "max_seen", "2025-02-05T00:00:00.000Z"),
        (total("avg", "value", alias="mean"), "mean", 5.0),
    ],
    ids=str,
)
def test_totals(lake: Lake, readings: DatasetInfo, aggregation: dict[str, Any], alias: str, expected: Any):
    found = hourly(lake, readings, aggregation, order="desc", limit=1)
    assert found["rows"] == [{"timestamp": THREE, alias: expected}]


def test_a_total_that_is_no_number_is_null(lake: Lake, readings: DatasetInfo):
    assert column(hourly(lake, readings, total("avg", "value")), "avg_value") == [2.0, None, 5.0]


def test_columns_are_dimensions_and_partition_keys_are_columns(lake: Lake, readings: DatasetInfo):
    found = hourly(lake, readings, total("count"), columns=["timestamp", "site", "instrument"], limit=4)

    assert found["columns"] == ["timestamp", "site", "instrument", "count"]
    assert [tuple(row.values()) for row in found["rows"]] == [
        (MIDNIGHT, "east", "alpha", 1),
        (MIDNIGHT, "west", "bravo", 1),
        (ONE, "east", "alpha", 1),
        (THREE, "east", "7", 1),
    ]


def test_a_zone_decides_where_days_begin(lake: Lake, readings: DatasetInfo):
    found = hourly(lake, readings, total("count"), downsample={"intervalUnit": "day", "timeZone": "America/New_York"})
    assert found["rows"] == [{"timestamp": "2024-12-31T05:00:00.000Z", "count": 5}]


@pytest.mark.parametrize(
    ("fill", "prices", "sites"),
    [
        ("null", [1.1, 3.3, None, 4.4, None], ["east", "east", None, "west", None]),
        ("previous", [1.1, 3.3, 3.3, 4.4, 4.4], ["east", "east", "east", "west", "west"]),
        ("linear", [1.1, 3.3, pytest.approx(3.85), 4.4, None], ["east", "east", None, "west", None]),
        ({"mode": "constant", "value": -1}, [1.1, 3.3, -1, 4.4, -1], ["east", "east", None, "west", None]),
    ],
    ids=str,
)
def test_gaps_are_filled(lake: Lake, readings: DatasetInfo, fill: Any, prices: list[Any], sites: list[Any]):
    found = hourly(
        lake, readings, total("min", "price"), total("first", "site"), total("count"), downsample={"gapFill": fill}
    )

    assert column(found, "timestamp") == [MIDNIGHT, ONE, TWO, THREE, FOUR]
    assert column(found, "min_price") == prices
    assert column(found, "first_site") == sites
    assert column(found, "count") == [2, 1, 0, 2, 0]


def test_gaps_are_filled_for_each_series_and_not_before_its_first_value(lake: Lake, readings: DatasetInfo):
    insert(lake, readings, "('2025-01-01 02:10', NULL, 0, 8, true, 7, NULL, 'alpha')")
    found = hourly(
        lake, readings, total("max", "price"), columns=["site"], order="desc", downsample={"gapFill": "previous"}
    )

    of_site = {
        site: [row["max_price"] for row in found["rows"] if row["site"] == site] for site in ("east", "west", None)
    }
    assert of_site == {
        "east": [5.5, 5.5, 3.3, 3.3, 1.1],
        "west": [4.4, 4.4, 2.2, 2.2, 2.2],
        None: [7, 7, 7, None, None],
    }


def test_a_line_is_one_by_the_time_that_passes(lake: Lake, dataset: DatasetInfo):
    rows = [("2025-10-25 12:00", 0), ("2025-10-27 12:00", 49)]
    make(lake, dataset, ", ".join(f"('{at}', 's', {value}, 1, true, 1, NULL, 'k')" for at, value in rows))

    found = answer(
        lake,
        dataset,
        timeRange={"start": "2025-10-25T00:00:00Z", "end": "2025-10-27T12:00:00Z"},
        downsample={
            "intervalUnit": "day",
            "timeZone": "Europe/Berlin",
            "gapFill": "linear",
            "aggregations": [total("avg", "value")],
        },
    )

    # The day of the change has 25 hours, the one before 24.
    assert column(found, "avg_value") == [0, pytest.approx(24), pytest.approx(49)]


def test_gaps_of_nothing_are_nothing(lake: Lake, dataset: DatasetInfo):
    make(lake, dataset)
    fill = {"downsample": {"gapFill": "null"}}
    assert column(hourly(lake, dataset, total("count"), **fill), "count") == [0] * 5
    assert hourly(lake, dataset, total("count"), columns=["site"], **fill)["rows"] == []


def test_all_rows_are_in_one_bucket_and_none_in_none(lake: Lake, readings: DatasetInfo):
    century = {"intervalUnit": "month", "intervalSize": 1200}

    def since(start: str, **body: Any) -> list[list[Any]]:
        span = {"start": start, "end": "2060-01-01T00:00:00Z"}
        return hourly(lake, readings, total("count"), timeRange=span, downsample=century, **body)["rows"]

    whole = {"timestamp": "1970-01-01T00:00:00.000Z", "count": 5}
    assert since("2000-01-01T00:00:00Z") == [whole]
    assert since("2000-01-01T00:00:00Z", columns=["site"]) == [
        whole | {"site": "east", "count": 3},
        whole | {"site": "west", "count": 2},
    ]
    assert since("2031-01-01T00:00:00Z") == since("2031-01-01T00:00:00Z", columns=["site"]) == []


@pytest.mark.parametrize(
    ("aggregation", "columns", "pointer"),
    [
        (total("avg", "site"), None, "/downsample/aggregations/0/column"),
        (total("sum", "seen"), None, "/downsample/aggregations/0/column"),
        (total("max", "nope"), None, "/downsample/aggregations/0/column"),
        (total("count", alias="Timestamp"), None, "/downsample/aggregations/0/alias"),
        (total("count", alias="site"), ["site"], "/downsample/aggregations/0/alias"),
        (total("count"), ["nope"], "/columns/0"),
    ],
    ids=str,
)
def test_totals_that_do_not_fit_are_refused(
    lake: Lake, dataset: DatasetInfo, aggregation: dict[str, Any], columns: list[str] | None, pointer: str
):
    with pytest.raises(InvalidQuery) as refused:
        planned(lake, dataset, columns=columns, downsample={"aggregations": [aggregation]})
    assert refused.value.pointers[0][0] == pointer
