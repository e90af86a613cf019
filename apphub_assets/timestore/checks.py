"""Checks on datasets. They run with every sealing of a partition, once a day, and when asked.

Those of a partition's run look at its window, others at the newest.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from sqlalchemy.orm import Session

from apphub_assets.errors import AppHubError
from apphub_assets.failures import as_failure
from apphub_assets.resources import Platform
from apphub_assets.timestore import lineage, repository
from apphub_assets.timestore.assets import in_window, key_of, naive, op_name
from apphub_assets.timestore.errors import DatasetNotFound
from apphub_assets.timestore.lake import Connection, Lake
from apphub_assets.timestore.lineage import Described, shifted, window_start, windows
from apphub_assets.timestore.partitions import Window, partition_key, window_of
from apphub_assets.timestore.resources import LakeResource
from apphub_assets.timestore.spec import DatasetInfo, quote

ROWS, SCHEMA, GAPS, NULLS = "rows_monotone", "schema_as_declared", "no_gaps", "null_share"
DESCRIPTIONS = {
    ROWS: "No row is gone that was told of, unless retention or somebody took it out.",
    SCHEMA: "The lake's table has the columns of the dataset's schema version.",
    GAPS: "No window between the first and the last is empty, and rows come as often as expectedIntervalSeconds says.",
    NULLS: "No column has more nulls than maxNullShare allows (half, where nothing is said).",
}
WARNINGS = {GAPS, NULLS}
MOST_WINDOWS = 1000
SHOWN = 20
NULL_SHARE = 0.5
# A materialisation is dated when it was stored, which is a moment after its rows were counted.
LATENESS = timedelta(minutes=1)

Verdict = tuple[bool, str, dict[str, Any]]
"""Whether it passed, what was found, and metadata."""


def checks_of(dataset: Described) -> dg.AssetChecksDefinition:
    """All checks of a dataset in one step, of which any may be chosen."""
    key, dataset_id = key_of(dataset.info.slug), dataset.info.id

    @dg.multi_asset_check(
        name=op_name("check", dataset_id),
        specs=[dg.AssetCheckSpec(name, asset=key, description=text) for name, text in DESCRIPTIONS.items()],
        can_subset=True,
    )
    def look(
        context: dg.AssetCheckExecutionContext, platform: Platform, lake: LakeResource
    ) -> Iterator[dg.AssetCheckResult]:
        try:
            with platform.database.transaction() as session:
                info = repository.get_dataset(session, dataset_id)
                if info is None:
                    raise DatasetNotFound(dataset_id)
                window = _window(session, info, context.run.tags.get("dagster/partition"))
                verdicts: dict[str, Callable[[], Verdict]] = {
                    ROWS: lambda: rows_monotone(session, context.instance, info),
                    SCHEMA: lambda: schema_as_declared(lake.lake, info),
                    GAPS: lambda: no_gaps(session, lake.lake, info, window),
                    NULLS: lambda: null_share(lake.lake, info, window),
                }
                for chosen in context.selected_asset_check_keys:
                    passed, found, metadata = verdicts[chosen.name]()
                    severity = dg.AssetCheckSeverity.WARN if chosen.name in WARNINGS else dg.AssetCheckSeverity.ERROR
                    yield dg.AssetCheckResult(
                        asset_key=key,
                        check_name=chosen.name,
                        passed=passed,
                        severity=severity,
                        description=found,
                        metadata=metadata,
                    )
        except AppHubError as error:
            raise as_failure(error) from error

    return look


def rows_monotone(session: Session, instance: dg.DagsterInstance, info: DatasetInfo) -> Verdict:
    """Manifests have no fewer rows than the last materialisation told, less what was taken out since."""
    event = instance.get_latest_materialization_event(key_of(info.slug))
    told = event.asset_materialization.metadata.get("dataset_rows") if event and event.asset_materialization else None
    rows = lineage.totals(session, info.id).rows
    if event is None or told is None or not isinstance(told.value, int):
        return True, "nothing was materialised yet", {"rows": rows}
    since = datetime.fromtimestamp(event.timestamp, UTC) - LATENESS
    taken = lineage.retired_rows(session, info.id, since)
    expected = told.value - taken
    return rows >= expected, f"{rows} rows, at least {expected} expected", {"rows": rows, "taken_out": taken}


def schema_as_declared(lake: Lake, info: DatasetInfo) -> Verdict:
    """Names and types, whatever their order."""
    types = ", ".join(f"typeof(CAST(NULL AS {field.sql_type}))" for field in info.schema.fields)
    with lake.reading() as connection:
        # DuckDB says itself how it writes the declared types.
        written = connection.execute(f"SELECT {types}").fetchone() or ()
        found = columns_of(connection, info)
    declared = dict(zip((field.name for field in info.schema.fields), written, strict=True))
    wrong = sorted(
        f"{name}: {declared.get(name, 'not declared')}, in the lake {found.get(name, 'missing')}"
        for name in declared.keys() | found.keys()
        if declared.get(name) != found.get(name)
    )
    return not wrong, "; ".join(wrong) or f"as in version {info.schema_version}", {"version": info.schema_version}


def columns_of(connection: Connection, info: DatasetInfo) -> dict[str, str]:
    """Types of the columns that a dataset's table has in the lake, by name."""
    rows = connection.execute(
        "SELECT column_name, data_type FROM duckdb_columns()"
        " WHERE database_name = 'lake' AND schema_name = ? AND table_name = ?", [info.area, info.table],
    )  # fmt: skip
    return dict(rows.fetchall())


def no_gaps(session: Session, lake: Lake, info: DatasetInfo, window: Window | None) -> Verdict:
    """Of the newest MOST_WINDOWS windows up to this one."""
    if window is None:
        return True, "no rows yet", {}
    first = shifted(info.granularity, window[0], -MOST_WINDOWS)
    there = lineage.covered(session, info, first, window[0])
    between = windows(info.granularity, min(there), max(there)) if there else ()
    empty = [partition_key(info.granularity, each) for each in between if each not in there]
    found = [f"{len(empty)} empty windows: {', '.join(empty[:SHOWN])}"] if empty else []
    limit, seconds = _number(info, "expectedIntervalSeconds"), longest_pause(lake, info, window)
    if limit is not None and seconds > limit:
        found.append(f"{seconds:g} s without rows, {limit:g} s expected (metadata.expectedIntervalSeconds)")
    return not found, "; ".join(found) or "none", {"empty_windows": len(empty), "longest_pause_seconds": seconds}


def longest_pause(lake: Lake, info: DatasetInfo, window: Window) -> float:
    """Most seconds between two successive timestamps in a window."""
    time = quote(info.timestamp_column)
    sql = (
        f"SELECT max(epoch(pause)) FROM (SELECT {time} - lag({time}) OVER (ORDER BY {time}) AS pause"
        f" FROM {info.relation} WHERE {in_window(info)})"
    )
    with lake.query(sql, naive(window)) as found:
        return float(found.read_all().column(0)[0].as_py() or 0)


def null_share(lake: Lake, info: DatasetInfo, window: Window | None) -> Verdict:
    """Per column, of the window's rows."""
    if window is None:
        return True, "no rows yet", {}
    given = _number(info, "maxNullShare")
    limit = NULL_SHARE if given is None else given
    with lake.reading() as connection:
        names = list(columns_of(connection, info))
        counts = ", ".join(f"count({quote(name)})" for name in names)
        sql = f"SELECT count(*), {counts} FROM {info.relation} WHERE {in_window(info)}"
        total, *filled = connection.execute(sql, naive(window)).fetchone() or (0,)
    shares = {name: round(1 - count / total, 4) if total else 0.0 for name, count in zip(names, filled, strict=True)}
    above = [f"{name}: {share:.0%}" for name, share in shares.items() if share > limit]
    return not above, f"nulls above {limit:.0%}: {', '.join(above)}" if above else "none", {"shares": shares}


def _window(session: Session, info: DatasetInfo, partition: str | None) -> Window | None:
    if partition is not None:
        return window_of(info.granularity, partition)
    newest = lineage.newest_moment(session, info.id)
    if newest is None:
        return None
    start = window_start(info.granularity, newest)
    return start, shifted(info.granularity, start, 1)


def _number(info: DatasetInfo, name: str) -> float | None:
    given = info.metadata.get(name)
    return float(given) if isinstance(given, int | float) and not isinstance(given, bool) else None
