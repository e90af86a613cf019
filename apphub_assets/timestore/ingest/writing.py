"""From prepared batches to a commit of the lake that has each of them exactly once."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import duckdb
import structlog
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from apphub_assets.errors import AppHubError
from apphub_assets.kit.db import Database
from apphub_assets.kit.ids import new_id
from apphub_assets.timestore import repository, store
from apphub_assets.timestore.commits import Commit, committing
from apphub_assets.timestore.errors import (
    BatchTooLarge,
    DatasetInactive,
    IncompatibleSchema,
    KeyReused,
    LakeBusy,
    LakeConflict,
    LakeUnavailable,
)
from apphub_assets.timestore.ingest.evolution import Change, evolve
from apphub_assets.timestore.ingest.sources import Source, merged
from apphub_assets.timestore.lake import Lake, clean
from apphub_assets.timestore.models import Batch
from apphub_assets.timestore.receipt import BatchRow
from apphub_assets.timestore.repository import Stored
from apphub_assets.timestore.spec import DatasetInfo, Field, Granularity, Schema, Status

log = structlog.get_logger()

DEFAULT_TARGET = "default"
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0


@dataclass(frozen=True)
class Caller:
    """On whose behalf something is written."""

    subject: str | None = None
    scopes: tuple[str, ...] = ()
    correlation_id: str | None = None


NOBODY = Caller()


@dataclass(frozen=True)
class Incoming:
    """A batch that was checked as far as that goes without the dataset.

    `key` identifies it within the dataset, `content` is a hash of all that it is made of. `fields` are the columns
    that it has, `timestamp_column` is the dataset's if this batch makes it. Start and end belong to the window.
    """

    slug: str
    fields: tuple[Field, ...]
    timestamp_column: str
    source: Source
    key: str
    content: str
    start: datetime
    end: datetime
    partition_key: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    backfill: bool = False
    dataset_name: str | None = None
    storage_target_id: str | None = None
    caller: Caller = NOBODY
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    id: str = field(default_factory=new_id)


@dataclass(frozen=True)
class Written:
    """A batch that is in the lake; `replayed` when an earlier request had brought it."""

    stored: Stored
    dataset: DatasetInfo
    replayed: bool

    @property
    def batch(self) -> Batch:
        return self.stored.batch


Outcome = Written | Exception


@dataclass(frozen=True)
class Plan:
    """What one commit does to one dataset."""

    dataset: DatasetInfo
    change: Change
    batches: tuple[Incoming, ...]
    is_new: bool


def write(lake: Lake, database: Database, wanted: Sequence[Incoming], *, until: float) -> dict[str, Outcome]:
    """Bring the batches into the lake with as few commits as that takes.

    What fails in a way that may pass is tried again until the clock `time.monotonic` says `until`. A commit whose end
    is unknown is no danger: each round first looks which batches are there already.

    Returns:
        By id of the batch, what became of it.
    """
    outcomes: dict[str, Outcome] = {}
    pause = FIRST_PAUSE
    while waiting := [batch for batch in wanted if batch.id not in outcomes]:
        try:
            plans = _plans(database, waiting, outcomes)
            if plans:
                _commit(lake, database, plans)
        except (LakeBusy, LakeConflict, LakeUnavailable, OperationalError, PoolTimeout) as error:
            if time.monotonic() > until:
                return outcomes | dict.fromkeys((batch.id for batch in waiting), _gave_up(error))
            log.info("ingest.retried", reason=clean(error))
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        except (AppHubError, duckdb.Error, DBAPIError) as error:
            outcomes |= _apart(lake, database, waiting, until, error)
    return outcomes


def _gave_up(error: Exception) -> Exception:
    """What is told when time is up: an attempt whose end is unknown may have written the batch."""
    if isinstance(error, LakeBusy | LakeConflict):
        return error
    return LakeUnavailable(
        f"the batch could not be written in time, or it is not known that it was: {clean(error)};"
        " send it again as it is, it will not be there twice",
        retry_after=5,
    )


def _apart(
    lake: Lake, database: Database, waiting: Sequence[Incoming], until: float, error: Exception
) -> dict[str, Outcome]:
    """One batch can't be written: find out which, so that it fails alone."""
    if len(waiting) == 1:
        log.warning("ingest.failed", dataset=waiting[0].slug, reason=clean(error))
        return {waiting[0].id: _told(error)}
    outcomes: dict[str, Outcome] = {}
    for batch in waiting:
        outcomes |= write(lake, database, [batch], until=until)
    return outcomes


def _told(error: Exception) -> Exception:
    if not isinstance(error, duckdb.OutOfMemoryException):
        return error
    return BatchTooLarge(
        "writing the batch takes more memory than there is for it (APPHUB_WRITE_MEMORY_BYTES); nothing was written,"
        " send it in parts of fewer rows"
    )


def _plans(database: Database, waiting: Sequence[Incoming], outcomes: dict[str, Outcome]) -> list[Plan]:
    """What there is to do; what needs nothing, or can't be done, goes straight to the outcomes."""
    with database.reading() as session:
        known = {dataset.slug: dataset for dataset in repository.find_datasets(session, {b.slug for b in waiting})}
        keys = [(known[batch.slug].id, batch.key) for batch in waiting if batch.slug in known]
        there = {(row.batch.dataset_id, row.batch.key): row for row in repository.batches_by_key(session, keys)}
        plans = []
        by_slug = groupby(sorted(waiting, key=lambda batch: batch.slug), key=lambda batch: batch.slug)
        for slug, group in by_slug:
            dataset = known.get(slug)
            left = group if dataset is None else _unsettled(dataset, group, there, outcomes)
            # The same key twice in one round: the second is answered in the next.
            fresh = list({batch.key: batch for batch in reversed(list(left))}.values())
            if not fresh:
                continue
            is_new = dataset is None
            if dataset is None:
                dataset = new_dataset(session, fresh[0])
            plan = evolved(Plan(dataset, Change(dataset.schema), tuple(fresh), is_new), outcomes)
            plans.append(plan if is_new or not plan.change.added else _up_to_date(session, plan, outcomes))
    return [plan for plan in plans if plan.batches]


def _unsettled(
    dataset: DatasetInfo,
    group: Iterable[Incoming],
    there: dict[tuple[str, str], Stored],
    outcomes: dict[str, Outcome],
) -> Iterator[Incoming]:
    """Answer the batches that are in the lake already, and yield the others."""
    for batch in group:
        row = there.get((dataset.id, batch.key))
        if row is not None and row.batch.content != batch.content:
            outcomes[batch.id] = KeyReused(
                f"this idempotency key was used for other content on {row.batch.received_at:%Y-%m-%d %H:%M}Z; "
                "send new content under a new key"
            )
        elif row is not None:
            outcomes[batch.id] = Written(row, dataset, replayed=row.batch.id != batch.id)
        else:
            try:
                check_active(dataset)
            except DatasetInactive as error:
                outcomes[batch.id] = error
            else:
                yield batch


def find_written(database: Database, dataset: DatasetInfo, key: str, content: str) -> Written | None:
    """The batch of that key and content, if it is in the lake already."""
    with database.reading() as session:
        found = repository.batches_by_key(session, [(dataset.id, key)])
    return Written(found[0], dataset, replayed=True) if found and found[0].batch.content == content else None


def check_active(dataset: DatasetInfo) -> None:
    """Raises DatasetInactive."""
    if dataset.status is not Status.ACTIVE:
        raise DatasetInactive(f"dataset {dataset.slug} is archived; set its status to active first")


def new_dataset(session: Session, first: Incoming) -> DatasetInfo:
    dataset_id, target = new_id(), first.storage_target_id or DEFAULT_TARGET
    return DatasetInfo(
        id=dataset_id,
        slug=first.slug,
        table=repository.free_table(session, first.slug, dataset_id),
        area=repository.area_of(session, target),
        storage_target_id=target,
        status=Status.ACTIVE,
        timestamp_column=first.timestamp_column,
        partition_keys=(),
        granularity=Granularity.DAY,
        schema=Schema(()),
        schema_version=0,
        metadata={},
    )


def evolved(plan: Plan, outcomes: dict[str, Outcome]) -> Plan:
    """The plan with the change that its batches ask for, without those that ask for what can't be."""
    schema, kept = plan.dataset.schema, list[Incoming]()
    for batch in plan.batches:
        try:
            check_times(plan.dataset, batch)
            schema = evolve(schema, batch.fields).result
        except (IncompatibleSchema, LakeConflict) as error:
            outcomes[batch.id] = error
        else:
            kept.append(batch)
    return replace(plan, change=_difference(plan.dataset.schema, schema), batches=tuple(kept))


def check_times(dataset: DatasetInfo, batch: Incoming) -> None:
    """Raises LakeConflict when the batch was checked for another column of times: its rows may have none."""
    if batch.timestamp_column.lower() != dataset.timestamp_column.lower():
        raise LakeConflict(
            f"dataset {dataset.slug} was made at the same time, with its times in {dataset.timestamp_column!r} and not"
            f" in {batch.timestamp_column!r}; send the batch again",
            retry_after=1,
        )


def _up_to_date(session: Session, plan: Plan, outcomes: dict[str, Outcome]) -> Plan:
    """The plan without the batches that bring a renamed column back, as who has not heard of it would."""
    renamed = repository.renamed_columns(session, plan.dataset.id)
    for batch in plan.batches:
        for column in batch.fields:
            if plan.dataset.schema.find(column.name) is None and column.name.lower() in renamed:
                outcomes[batch.id] = IncompatibleSchema(
                    f"column {column.name!r} was renamed to {renamed[column.name.lower()]!r}; send it under that name"
                )
    left = tuple(batch for batch in plan.batches if batch.id not in outcomes)
    return plan if len(left) == len(plan.batches) else evolved(replace(plan, batches=left), outcomes)


def _difference(old: Schema, new: Schema) -> Change:
    return evolve(old, new.fields)


def _commit(lake: Lake, database: Database, plans: Sequence[Plan]) -> None:
    rows = sum(batch.source.row_count for plan in plans for batch in plan.batches)
    with committing(lake, database, f"ingest {rows} rows") as commit:
        for plan in plans:
            dataset = shape(commit, plan)
            for batch in plan.batches:
                note(commit, dataset, batch)
            for source in merged([batch.source for batch in plan.batches]):
                source.append_to(commit.connection, dataset)


def shape(commit: Commit, plan: Plan) -> DatasetInfo:
    """Make the table, or bring it to the shape that the batches have; returns the dataset as it becomes."""
    old, change = plan.dataset, plan.change
    if not change:
        return old
    dataset = replace(old, schema=change.result, schema_version=old.schema_version + 1)
    defaults = {name: value for batch in plan.batches for name, value in batch.defaults.items()}
    if old.schema_version == 0:
        store.create_table(commit.connection, dataset)
    else:
        store.change_table(commit.connection, dataset, change, defaults)
    note_schema(commit, dataset, change.to_json(), plan.batches[0].caller)
    if plan.is_new:
        _note_dataset(commit, plan)
    if old.schema_version > 0:
        _note_evolution(commit, dataset, plan, defaults)
    return dataset


def note_schema(commit: Commit, dataset: DatasetInfo, change: dict[str, Any], caller: Caller) -> None:
    """Put the dataset's schema, as it becomes, into the receipt."""
    commit.receipt.schemas.append(
        {
            "id": schema_version_id(dataset.id, dataset.schema_version),
            "dataset_id": dataset.id,
            "version": dataset.schema_version,
            "fields": dataset.schema.to_json(),
            "checksum": dataset.schema.checksum,
            "change": change,
            "created_by": caller.subject,
            "storage_target_id": dataset.storage_target_id,
        }
    )


def _note_dataset(commit: Commit, plan: Plan) -> None:
    dataset, first = plan.dataset, plan.batches[0]
    commit.receipt.datasets.append(
        {
            "id": dataset.id,
            "slug": dataset.slug,
            "name": first.dataset_name or dataset.slug,
            "status": dataset.status,
            "table_name": dataset.table,
            "storage_target_id": dataset.storage_target_id,
            "timestamp_column": dataset.timestamp_column,
            "partition_keys": list(dataset.partition_keys),
            "granularity": dataset.granularity,
            "schema_version": 1,
            "metadata": {},
            "created_by": first.caller.subject,
        }
    )
    payload = {"datasetId": dataset.id, "datasetSlug": dataset.slug, "createdBy": "ingest"}
    commit.receipt.add_event("timestore.dataset.created", payload, correlation_id=first.caller.correlation_id)
    note_access(commit, dataset, first.caller, "admin.dataset.created", {"by": "ingest"})


def _note_evolution(commit: Commit, dataset: DatasetInfo, plan: Plan, defaults: dict[str, Any]) -> None:
    payload = {
        "datasetId": dataset.id,
        "datasetSlug": dataset.slug,
        "manifestId": manifest_id(dataset.id, plan.batches[0].start),
        "schemaVersionId": schema_version_id(dataset.id, dataset.schema_version),
        **{name: value for name, value in plan.change.to_json().items() if name != "status"},
        "defaults": {added.name: defaults[added.name] for added in plan.change.added if added.name in defaults},
    }
    correlation = plan.batches[0].caller.correlation_id
    commit.receipt.add_event("timestore.schema.evolved", payload, correlation_id=correlation)
    if any(batch.backfill for batch in plan.batches):
        commit.receipt.add_event("timestore.schema.backfill.requested", payload, correlation_id=correlation)


def note(commit: Commit, dataset: DatasetInfo, batch: Incoming) -> None:
    row = BatchRow(
        id=batch.id,
        dataset_id=dataset.id,
        key=batch.key,
        content=batch.content,
        schema_version=dataset.schema_version,
        shard=batch.start.astimezone(UTC).date(),
        partition_key=batch.partition_key,
        attributes=batch.attributes,
        start_at=batch.start,
        end_at=batch.end,
        row_count=batch.source.row_count,
        byte_count=batch.source.byte_count,
        statistics=batch.statistics,
        actor=batch.caller.subject,
        received_at=batch.received_at,
        manifest_id=manifest_id(dataset.id, batch.start),
    )
    commit.receipt.batches.append(row)
    payload = {
        "datasetId": dataset.id,
        "datasetSlug": dataset.slug,
        "manifestId": row.manifest_id,
        "partitionId": row.id,
        "partitionKey": "|".join(f"{name}={value}" for name, value in sorted(batch.partition_key.items())),
        "partitionKeyFields": batch.partition_key,
        "storageTargetId": dataset.storage_target_id,
        "filePath": file_path(dataset, row.id),
        "rowCount": row.row_count,
        "fileSizeBytes": row.byte_count,
        "checksum": row.content,
        "receivedAt": row.received_at,
        "attributes": batch.attributes,
    }
    commit.receipt.add_event("timestore.partition.created", payload, correlation_id=batch.caller.correlation_id)
    note_access(commit, dataset, batch.caller, "ingest", {"partitionId": row.id, "rowCount": row.row_count})


def note_access(commit: Commit, dataset: DatasetInfo, caller: Caller, action: str, details: dict[str, Any]) -> None:
    commit.receipt.accesses.append(
        {
            "dataset_id": dataset.id,
            "dataset_slug": dataset.slug,
            "actor_id": caller.subject,
            "actor_scopes": list(caller.scopes),
            "action": action,
            "success": True,
            "metadata": details,
        }
    )


def manifest_id(dataset_id: str, start: datetime) -> str:
    """The manifest of the UTC day in which a batch starts; the same in every process."""
    return str(uuid5(NAMESPACE_URL, f"apphub:timestore/{dataset_id}/{start.astimezone(UTC):%Y-%m-%d}"))


def schema_version_id(dataset_id: str, version: int) -> str:
    """The id of a schema's version."""
    return str(uuid5(NAMESPACE_URL, f"apphub:timestore/{dataset_id}/schema/{version}"))


def file_path(dataset: DatasetInfo, batch_id: str) -> str:
    """Where a batch is; its rows share files with others, so no file's name could tell."""
    return f"ducklake://{dataset.table}/{batch_id}"
