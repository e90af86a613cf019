"""What ingests brought becomes materialisations of partitions, without a run."""

import json
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Self

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from sqlalchemy.orm import Session

from apphub_assets.resources import Platform
from apphub_assets.timestore import lineage
from apphub_assets.timestore.assets import key_of
from apphub_assets.timestore.lineage import Arrival, Described, shifted, shown_windows, window_name
from apphub_assets.timestore.partitions import last_window, partitions_of
from apphub_assets.timestore.spec import DatasetInfo

# A partition that is written to all the time appears at once, and then this often: Dagster keeps every event for ever.
REPORT_EVERY = timedelta(seconds=30)
MOST_EVENTS = 200
MOST_WAITING = 2000

Spot = tuple[str, datetime]
"""A dataset's id and the start of a window."""


@dataclass(frozen=True)
class Cursor:
    """How far batches were read, what of them was not reported yet, and when partitions were reported last."""

    snapshot: int = 0
    waiting: list[Arrival] = field(default_factory=list)
    told: dict[Spot, datetime] = field(default_factory=dict)

    @classmethod
    def parse(cls, written: str | None) -> Self:
        if not written:
            return cls()
        given = json.loads(written)
        told = {(dataset, _time(window)): _time(when) for dataset, window, when in given["told"]}
        return cls(given["snapshot"], [_arrival(each) for each in given["waiting"]], told)

    def to_json(self) -> str:
        told = [(dataset, window, when) for (dataset, window), when in self.told.items()]
        shown = {"snapshot": self.snapshot, "waiting": [asdict(each) for each in self.waiting], "told": told}
        return json.dumps(shown, default=datetime.isoformat, separators=(",", ":"))


@dataclass(frozen=True)
class Shown:
    """A dataset as the definitions have it, and the windows of which its asset has partitions now."""

    info: DatasetInfo
    first: datetime
    last: datetime


def ingested_partitions(datasets: Iterable[Described], built_at: datetime) -> dg.SensorDefinition:
    """A sensor for these datasets.

    What comes for others, or for windows without a partition, waits until definitions with them are loaded: Dagster
    forgets what happens to partitions that it does not know.
    """
    partitions = {each.info.id: (each.info, partitions_of(each, built_at)) for each in datasets}

    @dg.sensor(
        name="ingested_partitions",
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reports what ingests brought as materialisations of the partitions they reach into.",
    )
    def report(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
        now = datetime.now(UTC)
        shown = {
            dataset_id: Shown(info, found.start, last_window(found, info.granularity, now))
            for dataset_id, (info, found) in partitions.items()
        }
        with platform.database.transaction() as session:
            cursor = absorb(session, Cursor.parse(context.cursor), shown, now)
            taken, waiting = take(cursor, shown, now)
            events = list(materialisations(session, context.instance, taken, shown))
        told = {spot: when for spot, when in cursor.told.items() if now - when < REPORT_EVERY}
        cursor = replace(cursor, waiting=waiting, told=told | dict.fromkeys(taken, now))
        return dg.SensorResult(asset_events=events, cursor=cursor.to_json())

    return report


def absorb(session: Session, cursor: Cursor, shown: Container[str], now: datetime) -> Cursor:
    """Read what was committed since, unless enough waits already; what can't be reported now is no hindrance."""
    known = lineage.granularities(session)
    waiting = [each for each in cursor.waiting if each.dataset_id in known]
    if sum(each.dataset_id in shown for each in waiting) >= MOST_WAITING:
        return replace(cursor, waiting=waiting)
    # A database that was restored to an earlier state has less than was seen.
    after = min(cursor.snapshot, lineage.newest_snapshot(session))
    fresh, snapshot = lineage.arrivals(session, after)
    for arrival in fresh:
        earliest, latest = shown_windows(known[arrival.dataset_id], now)
        clipped = replace(arrival, first=max(arrival.first, earliest), last=min(arrival.last, latest))
        if clipped.first <= clipped.last:
            waiting.append(clipped)
    return replace(cursor, snapshot=snapshot, waiting=merged(waiting))


def merged(arrivals: Iterable[Arrival]) -> list[Arrival]:
    """One arrival per dataset and span of windows, in the order of the first of each."""
    found: dict[tuple[str, datetime, datetime], Arrival] = {}
    for each in arrivals:
        span = (each.dataset_id, each.first, each.last)
        found[span] = _sum([found[span], each]) if span in found else each
    return list(found.values())


def take(cursor: Cursor, shown: Mapping[str, Shown], now: datetime) -> tuple[dict[Spot, list[Arrival]], list[Arrival]]:
    """Divide what waits into partitions to report now, at most MOST_EVENTS, and what goes on waiting."""
    taken: dict[Spot, list[Arrival]] = {}
    rest: list[Arrival] = []

    def may_take(spot: Spot, dataset: Shown) -> bool:
        if spot in taken:
            return True
        told = cursor.told.get(spot)
        due = told is None or now - told >= REPORT_EVERY
        return due and len(taken) < MOST_EVENTS and dataset.first <= spot[1] <= dataset.last

    for arrival in cursor.waiting:
        window, dataset = arrival.first, shown.get(arrival.dataset_id)
        while dataset and window <= arrival.last and may_take(spot := (arrival.dataset_id, window), dataset):
            taken.setdefault(spot, []).append(arrival)
            window = shifted(dataset.info.granularity, window, 1)
        if window <= arrival.last:
            rest.append(replace(arrival, first=window))
    return taken, rest


def materialisations(
    session: Session, instance: dg.DagsterInstance, taken: Mapping[Spot, list[Arrival]], shown: Mapping[str, Shown]
) -> Iterator[dg.AssetMaterialization]:
    """An event for each partition. Its data version is the commit that last brought something to it.

    By that version, what a tick that was cut short has reported is not reported again.
    """
    for dataset_id in dict.fromkeys(dataset_id for dataset_id, _ in taken):
        info = shown[dataset_id].info
        windows = {window_name(info.granularity, window): window for each, window in taken if each == dataset_id}
        versions = known_versions(instance, info, list(windows))
        dataset_rows = lineage.totals(session, dataset_id).rows
        for key, window in windows.items():
            brought = _sum(taken[dataset_id, window])
            if (known := versions.get(key, 0)) >= brought.oldest_snapshot:
                ends = (window, shifted(info.granularity, window, 1))
                brought = lineage.arrived(session, info, ends, known, brought.newest_snapshot)
            if brought.batches:
                yield _materialisation(info, key, brought, dataset_rows)


def known_versions(instance: dg.DagsterInstance, info: DatasetInfo, keys: list[str]) -> dict[str, int]:
    """The data versions that partitions were last materialised with, as far as they are commits."""
    tags = instance.event_log_storage.get_latest_tags_by_partition(
        key_of(info.slug), dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG], keys
    )
    versions = {key: found.get(DATA_VERSION_TAG, "") for key, found in tags.items()}
    return {key: int(version) for key, version in versions.items() if version.isdecimal()}


def _materialisation(info: DatasetInfo, key: str, brought: Arrival, dataset_rows: int) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        key_of(info.slug),
        partition=key,
        description=f"{brought.rows} rows in {brought.batches} ingested batches",
        metadata={
            "rows": brought.rows,
            "bytes": brought.bytes,
            "batches": brought.batches,
            "snapshot": brought.newest_snapshot,
            "dataset_rows": dataset_rows,
        },
        tags={DATA_VERSION_TAG: str(brought.newest_snapshot)},
    )


def _sum(arrivals: list[Arrival]) -> Arrival:
    return replace(
        arrivals[0],
        batches=sum(each.batches for each in arrivals),
        rows=sum(each.rows for each in arrivals),
        bytes=sum(each.bytes for each in arrivals),
        oldest_snapshot=min(each.oldest_snapshot for each in arrivals),
        newest_snapshot=max(each.newest_snapshot for each in arrivals),
    )


def _arrival(written: dict[str, str | int]) -> Arrival:
    times = {name: _time(str(written[name])) for name in ("first", "last")}
    return Arrival(**(written | times))  # type: ignore[arg-type]  # as `to_json` wrote it


def _time(written: str) -> datetime:
    return datetime.fromisoformat(written)
