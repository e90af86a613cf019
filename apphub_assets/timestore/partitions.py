"""Partitions of datasets' assets: windows of time in UTC, from the oldest data to the current window or beyond."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta

import dagster as dg

from apphub_assets.timestore.lineage import FORMATS, Described, Window, shifted, shown_windows, window_start, windows
from apphub_assets.timestore.spec import DatasetInfo, Granularity

CRONS = {Granularity.HOUR: "0 * * * *", Granularity.DAY: "0 0 * * *", Granularity.MONTH: "0 0 1 * *"}


def partitions_of(dataset: Described, now: datetime) -> dg.TimeWindowPartitionsDefinition:
    """From the window of the oldest data, without any that of the creation, to the current one or the newest data's.

    What lies further back or ahead than Dagster can show has no partition.
    """
    granularity = dataset.info.granularity
    earliest, latest = shown_windows(granularity, now)
    oldest = dataset.created_at if dataset.first is None else _midnight(dataset.first)
    newest = now
    if dataset.last is not None and dataset.last > now.date():
        newest = min(_midnight(dataset.last) + timedelta(hours=23), latest)
    ahead = sum(1 for _ in windows(granularity, window_start(granularity, now), newest))
    return dg.TimeWindowPartitionsDefinition(
        start=max(window_start(granularity, min(oldest, now)), earliest),
        fmt=FORMATS[granularity],
        cron_schedule=CRONS[granularity],
        end_offset=ahead,
        timezone="UTC",
    )


def last_window(partitions: dg.TimeWindowPartitionsDefinition, granularity: Granularity, now: datetime) -> datetime:
    """Start of the last window that has a partition now."""
    return shifted(granularity, window_start(granularity, now), partitions.end_offset - 1)


def window_of(granularity: Granularity, key: str) -> Window:
    """The window of a partition key."""
    start = datetime.strptime(key, FORMATS[granularity]).replace(tzinfo=UTC)
    return start, shifted(granularity, start, 1)


def run_window(dataset: DatasetInfo, keys: Iterable[str]) -> Window:
    """From the start of the first of a run's partitions to the end of the last."""
    found = [window_of(dataset.granularity, key) for key in keys]
    return min(start for start, _ in found), max(end for _, end in found)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
