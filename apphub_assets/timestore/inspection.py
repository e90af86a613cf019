"""What is found when a dataset is looked at: rows, columns, gaps and nulls."""

from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from apphub_assets.timestore import lineage
from apphub_assets.timestore.lake import Connection, Lake
from apphub_assets.timestore.lineage import Told, Window, shifted, window_name, windows
from apphub_assets.timestore.sealing import in_window, naive
from apphub_assets.timestore.spec import DatasetInfo, quote

MOST_WINDOWS = 1000
SHOWN = 20
NULL_SHARE = 0.5

# A materialisation is dated when it was stored, which is a moment after its rows were counted.
LATENESS = timedelta(minutes=1)

Verdict = tuple[bool, str, dict[str, Any]]
"""Whether it passed, what was found, and metadata."""


def rows_monotone(session: Session, info: DatasetInfo, told: Told | None) -> Verdict:
    """Manifests have no fewer rows than were told of last, less what was taken out since."""
    rows = lineage.totals(session, info.id).rows
    if told is None:
        return True, "nothing was materialised yet", {"rows": rows}
    taken = lineage.retired_rows(session, info.id, told.at - LATENESS)
    expected = told.rows - taken
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
    empty = [window_name(info.granularity, each) for each in between if each not in there]
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


def _number(info: DatasetInfo, name: str) -> float | None:
    given = info.metadata.get(name)
    return float(given) if isinstance(given, int | float) and not isinstance(given, bool) else None
