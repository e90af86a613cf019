"""What a query reads of a dataset: files, rows, and the time it takes to find out which."""

import json
import time
from collections.abc import Iterator

from apphub_assets.timestore.lake import Lake, literal
from apphub_assets.timestore.query.language import Query
from apphub_assets.timestore.query.selection import at
from apphub_assets.timestore.query.service import Plan
from apphub_assets.timestore.spec import DatasetInfo, Json


def explain(lake: Lake, dataset: DatasetInfo, query: Query, plan: Plan) -> Json:
    """What a plan reads, by running it. Sizes are in bytes, times in milliseconds; what is not known is None.

    Raises:
        LakeBusy, LakeUnavailable, QueryTooLong, QueryTooBig: see `Lake.query`.
    """
    began = time.perf_counter()
    _ask(lake, f"EXPLAIN {plan.sql}", plan)
    planned = time.perf_counter() - began
    profile = json.loads(_ask(lake, f"EXPLAIN (ANALYZE, FORMAT json) {plan.sql}", plan)["explain_value"])
    scans = list(_scans(profile))
    # The newest rows are looked for in one scan and fetched by another.
    scanned = max((int(scan["extra_info"].get("Total Files Read", 0)) for scan in scans), default=0)
    stored = _stored(lake, dataset, query) if dataset.schema.fields else {"files": 0, "bytes": 0, "inlined": 0}
    total = stored["files"]
    return {
        "sql": plan.sql,
        "files": {"total": total, "scanned": scanned, "pruned": total - scanned, "bytes": stored["bytes"]},
        "inlinedRows": stored["inlined"],
        # What scans give after the filters that they apply themselves: DuckLake does not count what they look at.
        "rowsRead": sum(int(scan["operator_cardinality"]) for scan in scans),
        "planningMs": round(planned * 1000, 3),
        "executionMs": round(profile["latency"] * 1000, 3),
    }


def _stored(lake: Lake, dataset: DatasetInfo, query: Query) -> Json:
    """What there is of the dataset: its files, their bytes, and the rows that are not in files yet."""
    moment = None if query.as_of is None else at(query.as_of)
    # The function's parameters are called snapshot_version and snapshot_time.
    as_of = "" if moment is None else f", snapshot_{moment.replace('TIMESTAMP =>', 'time =>')}"
    state = "" if moment is None else f" AT ({moment})"
    table, area = literal(dataset.table), literal(dataset.area)
    inlined = f"SELECT count(*) FROM {dataset.relation}{state} WHERE starts_with(filename, 'ducklake_inlined_data_')"
    if dataset.schema.find("filename"):
        # Where the dataset has a column of that name, nothing says which file a row is from.
        inlined = "SELECT NULL::BIGINT"
    return _ask(
        lake,
        f"SELECT count(*) AS files, coalesce(sum(data_file_size_bytes), 0)::BIGINT AS bytes, ({inlined}) AS inlined"
        f" FROM ducklake_list_files('lake', {table}, schema => {area}{as_of})",
    )


def _ask(lake: Lake, sql: str, plan: Plan | None = None) -> Json:
    """The first row of an answer."""
    with lake.query(sql, plan.parameters if plan else ()) as reader:
        row: Json = reader.read_all().slice(0, 1).to_pylist()[0]
    return row


def _scans(profile: Json) -> Iterator[Json]:
    if profile.get("operator_type") == "TABLE_SCAN":
        yield profile
    for child in profile.get("children", []):
        yield from _scans(child)
