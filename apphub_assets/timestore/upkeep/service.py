"""Upkeep of the lake: the operations by name, for one dataset or all, and the report of what they did."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

import duckdb
import structlog

from apphub_assets.errors import AppHubError
from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings
from apphub_assets.timestore import repository
from apphub_assets.timestore.errors import LakeBusy, LakeConflict, LakeUnavailable
from apphub_assets.timestore.lake import Lake, clean
from apphub_assets.timestore.spec import DatasetInfo
from apphub_assets.timestore.upkeep import compaction, expiry, files, flushing, purging, sweeping, trimming
from apphub_assets.timestore.upkeep.lifecycle import Operation
from apphub_assets.timestore.upkeep.retention import effective_retention

log = structlog.get_logger()

Json = dict[str, Any]
# What is listed of many; how many there are is told beside.
MOST_LISTED = 100
MOST_TURNS = 50


@dataclass(frozen=True)
class Task:
    """What to do: to one dataset, or without one to all that need it; a dry run tells what would be done."""

    operations: Sequence[Operation]
    dataset: DatasetInfo | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of an operation: `completed`, `skipped`, `postponed` (a later run goes on) or `failed`."""

    operation: Operation
    status: str
    details: Json


@dataclass
class _Tally:
    """Reports per dataset while an operation goes through them."""

    datasets: list[Json] = field(default_factory=list)
    postponed: int = 0
    failed: int = 0

    def outcome(self, operation: Operation, **more: Any) -> Outcome:
        status = "failed" if self.failed else "postponed" if self.postponed else "completed"
        return Outcome(operation, status, {"datasets": self.datasets, **more})


@dataclass(frozen=True)
class Upkeep:
    """The parts that every operation uses."""

    lake: Lake
    database: Database
    settings: Settings

    def run(self, task: Task, now: datetime) -> list[Outcome]:
        """Do the operations one after the other; what fails is in the outcomes, and holds the others not up."""
        return [self._run(operation, task, now) for operation in task.operations]

    def _run(self, operation: Operation, task: Task, now: datetime) -> Outcome:
        started = time.monotonic()
        # Twice the same at once would be in its own way, whichever process does it.
        with self.database.lock(f"timestore/{operation}") as held:
            if held is None and not task.dry_run:
                return Outcome(operation, "skipped", {"reason": f"{operation} is under way already"})
            try:
                outcome = self._actions[operation](task, now)
            except (AppHubError, duckdb.Error) as error:
                outcome = _failed(operation, error)
        details = {**outcome.details, "dryRun": task.dry_run, "seconds": round(time.monotonic() - started, 3)}
        log.info("upkeep.done", operation=operation, status=outcome.status, seconds=details["seconds"])
        return Outcome(operation, outcome.status, details)

    @property
    def _actions(self) -> dict[Operation, Callable[[Task, datetime], Outcome]]:
        return {
            Operation.FLUSH: self._flush,
            Operation.COMPACTION: self._compact,
            Operation.RETENTION: self._trim,
            Operation.PURGE: self._purge,
            Operation.EXPIRY: self._expire,
            Operation.ORPHANS: self._sweep,
        }

    def _flush(self, task: Task, now: datetime) -> Outcome:
        with self.database.transaction() as session:
            if task.dataset is None:
                waiting = {each.dataset_id: each.rows for each in files.overdue(session, self.settings, now)}
            else:
                waiting = {each.dataset_id: each.rows for each in files.waiting(session, task.dataset.id)}
            datasets = [info for info in _chosen(session, task) if info.id in waiting]

        def flush(info: DatasetInfo) -> Json:
            if task.dry_run:
                return {"rows": waiting[info.id]}
            return asdict(flushing.flush(self.lake, self.database, info))

        return self._each(datasets, flush).outcome(Operation.FLUSH)

    def _compact(self, task: Task, now: datetime) -> Outcome:
        until = time.monotonic() + self.settings.compact_seconds
        left = self.settings.compact_bytes
        with self.database.transaction() as session:
            datasets = _chosen(session, task)

        def compact(info: DatasetInfo) -> Json | None:
            nonlocal left
            plan = compaction.Plan(compaction.tiers_of(self.lake.target_bytes), now)
            step = compaction.next_step(self.database, info, plan)
            if step is None and not compaction.has_deletes(self.database, info):
                return None
            if task.dry_run:
                return {"files": step.files if step else 0}
            budget = compaction.Budget(until - time.monotonic(), left)
            done = compaction.compact(self.lake, self.database, info, budget=budget)
            left -= done.bytes
            return asdict(done)

        return self._each(datasets, compact).outcome(Operation.COMPACTION)

    def _trim(self, task: Task, now: datetime) -> Outcome:
        with self.database.transaction() as session:
            datasets = _chosen(session, task)
            policies = {
                row.id: effective_retention(row.retention, self.settings)
                for info in datasets
                if (row := repository.dataset_row(session, info.id)) is not None
            }

        def trim(info: DatasetInfo) -> Json | None:
            policy = policies[info.id]
            if task.dry_run:
                windows = trimming.due(self.database, info, policy, now)
                done = trimming.Trimmed(windows, sum(window.rows for window in windows))
            else:
                done = trimming.trim(self.lake, self.database, info, policy, now)
            return _trimmed(done) if done.windows else None

        return self._each([info for info in datasets if info.id in policies], trim).outcome(Operation.RETENTION)

    def _purge(self, task: Task, now: datetime) -> Outcome:
        found = {each.dataset.id: each for each in purging.due(self.database, now)}
        before = now - timedelta(days=self.settings.batch_retention_days)

        def purge(info: DatasetInfo) -> Json:
            each = found[info.id]
            if not task.dry_run:
                purging.purge(self.lake, self.database, each)
            return {"rows": each.rows, "files": each.files, "bytes": each.bytes}

        tally = self._each([each.dataset for each in found.values()], purge)
        with self.database.transaction() as session:
            if task.dry_run:
                batches = repository.count_retired_before(session, before)
            else:
                batches = repository.delete_retired_before(session, before)
        return tally.outcome(Operation.PURGE, batches=batches)

    def _expire(self, task: Task, now: datetime) -> Outcome:
        if task.dry_run:
            found = expiry.due(self.database, self.settings, now)
            return Outcome(Operation.EXPIRY, "completed", {"snapshots": len(found.snapshots), "left": found.left})
        gone, left = 0, True
        for _ in range(MOST_TURNS):
            found = expiry.expire(self.lake, self.database, self.settings, now)
            gone, left = gone + len(found.snapshots), found.left
            if not left:
                break
        return Outcome(Operation.EXPIRY, "postponed" if left else "completed", {"snapshots": gone, "left": left})

    def _sweep(self, task: Task, now: datetime) -> Outcome:
        swept = sweeping.sweep(self.database, self.settings, now, dry_run=task.dry_run)
        listed = {name: paths for name, paths in asdict(swept).items() if isinstance(paths, list)}
        counts = {f"{name}Count": len(paths) for name, paths in listed.items()}
        shown = {name: paths[:MOST_LISTED] for name, paths in listed.items()}
        return Outcome(Operation.ORPHANS, "completed", {**shown, **counts, "bytes": swept.bytes})

    def _each(self, datasets: Iterable[DatasetInfo], action: Callable[[DatasetInfo], Json | None]) -> _Tally:
        """Do it to one dataset after the other; the trouble of one is not that of the next."""
        tally = _Tally()
        for info in datasets:
            try:
                details = action(info)
            except (LakeBusy, LakeConflict, LakeUnavailable) as error:
                details = {"postponed": error.message}
            except (AppHubError, duckdb.Error) as error:
                log.exception("upkeep.failed", dataset=info.slug)
                details = {"error": clean(error)}
            if details is not None:
                tally.datasets.append({"datasetId": info.id, "datasetSlug": info.slug, **details})
                tally.postponed += bool(details.get("postponed"))
                tally.failed += "error" in details
        return tally


def _chosen(session: Any, task: Task) -> list[DatasetInfo]:
    datasets = [task.dataset] if task.dataset is not None else repository.list_datasets(session)
    return [info for info in datasets if info.schema_version > 0]


def _trimmed(done: trimming.Trimmed) -> Json:
    windows = [
        {"start": each.start, "end": each.end, "rows": each.rows, "bytes": each.bytes, "reason": each.reason}
        for each in done.windows[:MOST_LISTED]
    ]
    total = sum(each.bytes for each in done.windows)
    return {"rows": done.rows, "bytes": total, "partitions": windows, "partitionCount": len(done.windows)}


def _failed(operation: Operation, error: Exception) -> Outcome:
    is_passing = isinstance(error, LakeBusy | LakeConflict | LakeUnavailable)
    reason = error.message if isinstance(error, AppHubError) else clean(error)
    if not is_passing:
        log.error("upkeep.failed", operation=operation, reason=reason, exc_info=error)
    return Outcome(operation, "postponed" if is_passing else "failed", {"error": reason})
