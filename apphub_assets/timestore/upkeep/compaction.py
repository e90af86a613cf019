"""Small files of a partition become one, whose rows are sorted as the table says; every snapshot stays as it was.

Files are merged with others of about their size, as in a log-structured merge tree: so a row is written again a few
times at most, however many small files come, and a partition has few files of each size; one of each once it is past.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings
from apphub_assets.timestore.commits import committing_on
from apphub_assets.timestore.errors import LakeConflict
from apphub_assets.timestore.lake import Connection, Lake, literal
from apphub_assets.timestore.lineage import shifted
from apphub_assets.timestore.spec import DatasetInfo
from apphub_assets.timestore.upkeep import files
from apphub_assets.timestore.upkeep.files import FileTotals, Group

MIB = 1024 * 1024
# Where one tier of sizes ends and the next begins; the last ends at half the target, so that two make one.
FIRST_TIERS = (MIB, 8 * MIB)
# So many files of a tier are worth a merge; in a partition that is past, two are.
ENOUGH = 8
# What one commit merges: more would be lost when another commit is in the way.
COMMIT_BYTES = 256 * MIB
MOST_MERGES = 16
# A file is written again without its deleted rows when so many of them are. DuckLake then dates all of a table's
# deletes to one snapshot, which only those see that expired: it waits until they have.
DELETED_SHARE = 0.3

Window = tuple[datetime, datetime]


@dataclass(frozen=True)
class Budget:
    """When to begin no further merge."""

    seconds: float
    bytes: int

    @classmethod
    def of(cls, settings: Settings) -> "Budget":
        return cls(settings.compact_seconds, settings.compact_bytes)


@dataclass
class Compacted:
    """What was done; `postponed` says why there is more to do, which the next run will."""

    before: FileTotals
    after: FileTotals
    merged: int = 0
    created: int = 0
    rewritten: int = 0
    commits: int = 0
    bytes: int = 0
    seconds: float = 0.0
    postponed: str | None = None


@dataclass(frozen=True)
class Step:
    """Merges of files whose sizes lie in [least, most), with that many bytes in each of the groups."""

    least: int
    most: int
    files: int
    bytes_each: int


@dataclass(frozen=True)
class Plan:
    """What is worth a merge: in which partitions, with how many files at least."""

    tiers: Sequence[int]
    now: datetime
    window: Window | None = None
    refused: set[tuple[int, int]] = field(default_factory=set)

    def wants(self, dataset: DatasetInfo, group: Group) -> bool:
        start = group.start
        if self.window is not None:
            return start is not None and self.window[0] <= start < self.window[1]
        is_past = start is not None and shifted(dataset.granularity, start, 1) < self.now
        return is_past or group.files >= ENOUGH


def compact(
    lake: Lake, database: Database, dataset: DatasetInfo, window: Window | None = None, budget: Budget | None = None
) -> Compacted:
    """Merge a dataset's files as far as the budget goes.

    Args:
        lake: where.
        database: the same Postgres.
        dataset: whose files.
        window: only until the partitions that begin in [start, end) are merged. DuckLake chooses which partitions it
            merges first, so others may be merged on the way.
        budget: when to begin no further merge; 120 s or 2 GiB if there is none.

    Raises:
        LakeUnavailable: catalog or storage is away.
    """
    budget = budget or Budget(120.0, 2048 * MIB)
    started = time.monotonic()
    target = lake.target_bytes
    with database.reading() as session:
        before = files.totals(session, dataset, target // 2)
    done = Compacted(before, before)
    plan = Plan(tiers_of(target), datetime.now(UTC), window)
    try:
        _merge_all(lake, database, dataset, plan, budget, done)
        if done.postponed is None and has_deletes(database, dataset):
            _rewrite(lake, database, dataset, done)
    except LakeConflict as error:
        done.postponed = error.message
    with database.reading() as session:
        done.after = files.totals(session, dataset, target // 2)
    done.seconds = time.monotonic() - started
    return done


def next_step(database: Database, dataset: DatasetInfo, plan: Plan) -> Step | None:
    """The merge to do next, that of the smallest files; None when nothing is worth one."""
    with database.reading() as session:
        groups = [g for g in files.mergeable(session, dataset, plan.tiers) if plan.wants(dataset, g)]
    for least, most in zip((0, *plan.tiers), plan.tiers, strict=False):
        found = [group for group in groups if plan.tiers[group.tier] == most]
        if found and (least, most) not in plan.refused:
            return _step(least, most, found)
    return None


def has_deletes(database: Database, dataset: DatasetInfo) -> bool:
    """Whether files are worth to be written again without their deleted rows."""
    with database.reading() as session:
        return files.rewritable(session, dataset, DELETED_SHARE) > 0


def tiers_of(target: int) -> tuple[int, ...]:
    """The sizes at which one tier of files ends, for files that are to reach `target` bytes."""
    return (*(size for size in FIRST_TIERS if size < target // 2), target // 2)


def _merge_all(
    lake: Lake, database: Database, dataset: DatasetInfo, plan: Plan, budget: Budget, done: Compacted
) -> None:
    until = time.monotonic() + budget.seconds
    if next_step(database, dataset, plan) is None:
        return
    with lake.maintaining() as connection:
        while (step := next_step(database, dataset, plan)) is not None:
            if time.monotonic() > until or done.bytes >= budget.bytes:
                done.postponed = f"{step.files} files are left to merge, and the budget is spent"
                return
            with committing_on(connection, database, f"compact {dataset.slug}") as commit:
                merges = _merge(commit.connection, dataset, step)
            done.merged += sum(files for files, _ in merges)
            done.created += sum(created for _, created in merges)
            done.commits += 1
            done.bytes += step.bytes_each * len(merges)
            if not merges:
                # What looks mergeable here is not to DuckLake; it would be asked again for ever.
                plan.refused.add((step.least, step.most))


def _rewrite(lake: Lake, database: Database, dataset: DatasetInfo, done: Compacted) -> None:
    with (
        lake.maintaining() as connection,
        committing_on(connection, database, f"rewrite {dataset.slug}") as commit,
    ):
        rows = commit.connection.execute(
            f"CALL ducklake_rewrite_data_files('lake', {literal(dataset.table)}, schema => {literal(dataset.area)},"
            f" delete_threshold => {DELETED_SHARE})"
        ).fetchall()
    done.rewritten += sum(row[2] for row in rows)
    done.commits += 1


def _merge(connection: Connection, dataset: DatasetInfo, step: Step) -> list[tuple[int, int]]:
    """For each merge, how many files became how many."""
    merges = max(1, min(MOST_MERGES, COMMIT_BYTES // step.bytes_each))
    rows = connection.execute(
        f"CALL ducklake_merge_adjacent_files('lake', {literal(dataset.table)}, schema => {literal(dataset.area)},"
        f" min_file_size => {step.least}, max_file_size => {step.most}, max_compacted_files => {merges})"
    ).fetchall()
    return [(row[2], row[3]) for row in rows]


def _step(least: int, most: int, groups: Sequence[Group]) -> Step:
    bytes_each = sum(group.bytes for group in groups) // len(groups)
    return Step(least, most, sum(group.files for group in groups), max(bytes_each, 1))
