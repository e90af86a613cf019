"""Retention at work: rows leave a dataset by age and by size, in whole windows of time, oldest first.

A window goes when all of it is due, for then whole files go, and none has to be written again. Who asks for the past
still sees it, as long as that snapshot is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from apphub_assets.kit.db import Database
from apphub_assets.kit.view import format_instant
from apphub_assets.timestore import store
from apphub_assets.timestore.commits import Commit, committing_alone
from apphub_assets.timestore.ingest.writing import NOBODY, note_access
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.lineage import shifted
from apphub_assets.timestore.receipt import Retired
from apphub_assets.timestore.spec import DatasetInfo, quote
from apphub_assets.timestore.upkeep import files
from apphub_assets.timestore.upkeep.flushing import flush_on
from apphub_assets.timestore.upkeep.retention import Retention

SOURCE = "timestore.retention"


@dataclass(frozen=True)
class Window:
    """A window that is due, and why: `age` or `size`."""

    start: datetime
    end: datetime
    rows: int
    bytes: int
    files: int
    reason: str


@dataclass(frozen=True)
class Trimmed:
    """The windows that were due, and how many rows went: none in a dry run."""

    windows: Sequence[Window]
    rows: int


def due(database: Database, dataset: DatasetInfo, policy: Retention, now: datetime) -> list[Window]:
    """The windows that are due, oldest first; the newest one never is by its size.

    The grace of the policy goes by before rows do: what counts is what was there, and how old it was, by then.
    """
    then = now - policy.grace
    with database.reading() as session:
        partitions = files.partitions(session, dataset, then)
    excess = sum(each.settled for each in partitions) - (policy.max_total_bytes or 0)
    found = []
    for each in partitions:
        end = shifted(dataset.granularity, each.start, 1)
        is_old = policy.max_age is not None and end <= then - policy.max_age
        is_much = policy.max_total_bytes is not None and excess > 0 and each != partitions[-1]
        if not is_old and not is_much:
            break
        excess -= each.settled
        found.append(Window(each.start, end, each.rows, each.bytes, each.files, "age" if is_old else "size"))
    return found


def trim(lake: Lake, database: Database, dataset: DatasetInfo, policy: Retention, now: datetime) -> Trimmed:
    """Take out what is due.

    Raises:
        LakeConflict, LakeUnavailable: the lake can't be changed now; try again later.
    """
    with database.transaction() as session:
        is_waiting = bool(files.waiting(session, dataset.id))
    if not is_waiting and not due(database, dataset, policy, now):
        return Trimmed([], 0)
    with lake.maintaining() as connection:
        if is_waiting:
            # Rows that are in no file yet may be as old, and what is deleted among them makes flushes hard.
            flush_on(connection, database, dataset)
        windows = due(database, dataset, policy, now)
        if not windows:
            return Trimmed([], 0)
        # Every insert at the same time would be a conflict, and there is hardly anything to do: files leave the list.
        with committing_alone(connection, database, f"retention of {dataset.slug}") as commit:
            rows = store.delete_rows(commit.connection, dataset, [_before(dataset, windows[-1].end)])
            _note(commit, dataset, windows, rows)
    return Trimmed(windows, rows)


def _before(dataset: DatasetInfo, end: datetime) -> str:
    return f"{quote(dataset.timestamp_column)} < TIMESTAMP '{end.astimezone(UTC):%Y-%m-%d %H:%M:%S}'"


def _note(commit: Commit, dataset: DatasetInfo, windows: Sequence[Window], rows: int) -> None:
    commit.receipt.retired.append(Retired(dataset.id, windows[-1].end))
    for window in windows:
        payload = {
            "datasetId": dataset.id,
            "datasetSlug": dataset.slug,
            "timeRange": {"start": format_instant(window.start), "end": format_instant(window.end)},
            "rowCount": window.rows,
            "fileSizeBytes": window.bytes,
            "reason": window.reason,
        }
        commit.receipt.add_event("timestore.partition.deleted", payload, source=SOURCE)
    details = {"before": format_instant(windows[-1].end), "rows": rows, "partitions": len(windows)}
    note_access(commit, dataset, NOBODY, "lifecycle.retention", details)
