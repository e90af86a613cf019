"""Buckets of time, in UTC and by the clocks of zones, against a count by hand."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import duckdb
import pytest

from apphub_assets.timestore.errors import InvalidQuery
from apphub_assets.timestore.query.buckets import Buckets
from apphub_assets.timestore.query.language import Downsample
from apphub_assets.timestore.spec import TimeRange

at = datetime.fromisoformat
MINUTE, EPOCH = timedelta(minutes=1), at("1970-01-01")
WIDTHS = [("minute", 15), ("minute", 7), ("hour", 1), ("hour", 2), ("hour", 5), ("hour", 6), ("day", 1), ("day", 3)]
# Each spans a change: forwards, backwards, by half an hour, at midnight, across midnight, and a day that was left out.
CHANGES = [
    ("Europe/Berlin", "2025-03-30 01:00"),
    ("Europe/Berlin", "2025-10-26 01:00"),
    ("America/New_York", "2025-11-02 06:00"),
    ("Australia/Lord_Howe", "2025-04-05 15:00"),
    ("Australia/Lord_Howe", "2025-10-04 15:30"),
    ("Africa/Cairo", "2025-04-24 22:00"),
    ("America/Sao_Paulo", "2018-02-18 02:00"),
    ("America/Sao_Paulo", "2018-11-04 03:00"),
    ("Africa/Casablanca", "2025-02-23 02:00"),
    ("Pacific/Apia", "2011-12-30 10:00"),
    ("Asia/Kathmandu", "2025-06-01 00:00"),
]


def buckets_of(unit: str, size: int, zone: str | None, start: datetime, end: datetime) -> Buckets:
    body = {"intervalUnit": unit, "intervalSize": size, "timeZone": zone, "aggregations": [{"fn": "count"}]}
    return Buckets(Downsample.parse(body, ""), TimeRange(start, end))


def starts(buckets: Buckets, moments: list[datetime]) -> list[datetime]:
    """The starts of the moments' buckets, as the SQL has them."""
    start = buckets.start("label")
    sql = f"SELECT {start} FROM (SELECT {buckets.label('t')} AS label, i FROM moments) ORDER BY i"
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE moments (t TIMESTAMP, i INTEGER)")
        connection.execute("INSERT INTO moments SELECT unnest($1), unnest($2)", [moments, list(range(len(moments)))])
        return [row[0] for row in connection.execute(sql).fetchall()]


def counted(moments: list[datetime], width: timedelta, zone: ZoneInfo) -> list[datetime]:
    """The starts of the moments' buckets: back minute by minute, to where one begins or to an earlier moment."""
    found: dict[datetime, datetime] = {}
    for moment in moments:
        start = moment
        while start not in found and not begins(start, width, zone):
            start -= MINUTE
        found[moment] = found.get(start, start)
    return list(found.values())


def begins(moment: datetime, width: timedelta, zone: ZoneInfo) -> bool:
    """Whether a bucket does: the clock shows a multiple of the width, or begins to show a time of the bucket."""
    label = floor(moment, width, zone)
    is_multiple = width < timedelta(days=1) and local(moment, zone) == label
    return is_multiple or floor(moment - MINUTE, width, zone) != label


@cache
def floor(moment: datetime, width: timedelta, zone: ZoneInfo) -> datetime:
    return EPOCH + (local(moment, zone) - EPOCH) // width * width


def local(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.replace(tzinfo=UTC).astimezone(zone).replace(tzinfo=None)


def around(change: str) -> Iterator[datetime]:
    middle = at(change)
    for minutes in range(-48 * 60, 48 * 60, 13):
        yield middle + timedelta(minutes=minutes)


@pytest.mark.parametrize(("zone", "change"), CHANGES)
def test_buckets_follow_the_clocks_of_a_zone(zone: str, change: str):
    moments = list(around(change))
    for unit, size in WIDTHS:
        buckets = buckets_of(unit, size, zone, moments[0], moments[-1])
        width = timedelta(**{f"{unit}s": size})
        assert starts(buckets, moments) == counted(moments, width, ZoneInfo(zone)), (unit, size)


@pytest.mark.parametrize(("zone", "change"), CHANGES)
def test_a_grid_has_every_bucket_of_its_range(zone: str, change: str):
    moments = list(around(change))
    for unit, size in [("minute", 15), ("hour", 1), ("hour", 5), ("day", 1), ("week", 1)]:
        buckets = buckets_of(unit, size, zone, moments[0], moments[-1])
        with duckdb.connect() as connection:
            grid = [row[0] for row in connection.execute(buckets.grid()).fetchall()]
        assert set(starts(buckets, grid)) == set(starts(buckets, moments)), (unit, size)


def test_an_hour_that_the_clock_shows_twice_is_two_buckets():
    moments = [at(f"2025-10-26 0{hour}:30") for hour in range(3)]
    found = starts(buckets_of("hour", 1, "Europe/Berlin", moments[0], moments[-1]), moments)
    assert found == [at(f"2025-10-26 0{hour}:00") for hour in range(3)]


def test_days_weeks_and_months_begin_at_local_midnight():
    summer = [at("2025-07-16 12:00")]
    for unit, expected in [
        ("day", at("2025-07-15 22:00")),
        ("week", at("2025-07-13 22:00")),
        ("month", at("2025-06-30 22:00")),
    ]:
        assert starts(buckets_of(unit, 1, "Europe/Berlin", summer[0], summer[0]), summer) == [expected]
    # The year of this month began in winter.
    assert starts(buckets_of("month", 12, "Europe/Berlin", summer[0], summer[0]), summer) == [at("2024-12-31 23:00")]


def test_in_utc_buckets_are_counted_from_the_epoch_and_weeks_from_monday():
    moments = [at("1969-12-31 23:59"), at("2025-01-01 00:03:07")]
    for unit, size, expected in [
        ("second", 10, [at("1969-12-31 23:59"), at("2025-01-01 00:03")]),
        ("minute", 7, [at("1969-12-31 23:53"), at("2024-12-31 23:58")]),
        ("hour", 6, [at("1969-12-31 18:00"), at("2025-01-01")]),
        ("week", 1, [at("1969-12-29"), at("2024-12-30")]),
        ("week", 2, [at("1969-12-22"), at("2024-12-23")]),
        ("month", 3, [at("1969-10-01"), at("2025-01-01")]),
    ]:
        for zone in (None, "UTC"):
            assert starts(buckets_of(unit, size, zone, *moments), moments) == expected, (unit, size, zone)


def test_a_range_without_ends_is_a_range():
    start, end = at("0001-01-01"), at("9999-12-31")
    moments = [at("2025-07-16 12:00"), at("1890-01-01"), at("2200-01-01")]
    for unit in ("hour", "day", "month"):
        found = starts(buckets_of(unit, 1, "Europe/Berlin", start, end), moments)
        assert all(bucket <= moment for bucket, moment in zip(found, moments, strict=True))


def test_a_grid_of_too_many_buckets_is_refused():
    buckets = buckets_of("second", 1, None, at("2025-01-01"), at("2025-02-01"))
    with pytest.raises(InvalidQuery, match="more than 100000 buckets") as refused:
        buckets.grid()
    assert refused.value.pointers[0][0] == "/downsample/gapFill"


@pytest.mark.parametrize("unit", ["second", "minute", "hour", "day", "week", "month"])
@pytest.mark.parametrize("size", [1, 7, 1200])
def test_a_range_within_one_bucket_has_the_same_one(unit: str, size: int):
    for moment in (at("0001-01-01"), at("1969-12-31T23:59:59"), at("1970-01-05"), at("2026-02-28T12:30:15")):
        alone = buckets_of(unit, size, None, moment, moment)
        among = buckets_of(unit, size, None, at("0001-01-01"), at("9999-12-31"))
        assert starts(alone, [moment]) == starts(among, [moment]), moment
