"""Use cases of people who administer datasets (contract C.1).

Each change is one transaction, with its event and its entry in the dataset's audit log.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from apphub_assets.errors import Stale
from apphub_assets.events import service as events
from apphub_assets.identity.spec import Identity
from apphub_assets.kit.db import Database
from apphub_assets.kit.ids import new_id
from apphub_assets.settings import Settings
from apphub_assets.timestore import access, repository, store
from apphub_assets.timestore.admin.declaration import (
    Declaration,
    checked_description,
    checked_name,
    checked_status,
    merged,
)
from apphub_assets.timestore.commits import Commit, committing
from apphub_assets.timestore.errors import (
    DatasetExists,
    DatasetHasRows,
    DatasetNotFound,
    GraceOver,
    LakeConflict,
)
from apphub_assets.timestore.ingest.writing import Caller, note_access, note_schema
from apphub_assets.timestore.lake import Lake, kind_of
from apphub_assets.timestore.models import Access, Dataset, StorageTarget
from apphub_assets.timestore.paging import DatasetQuery, dataset_cursor
from apphub_assets.timestore.spec import DatasetInfo, Schema, Status, parse_slug
from apphub_assets.timestore.upkeep.retention import default_retention, effective_retention, parse_policy
from apphub_assets.timestore.views import (
    DatasetView,
    RemovalView,
    RetentionView,
    StorageTargetView,
    dataset_view,
    format_version,
    storage_target_view,
)

SOURCE = "timestore.api"
CREATED = "admin.dataset.created"
UPDATED = "admin.dataset.updated"
ARCHIVED = "admin.dataset.archived"
DELETED = "admin.dataset.deleted"
RESTORED = "admin.dataset.restored"
RETENTION_UPDATED = "admin.retention.updated"
STORAGE_TARGET_UPDATED = "admin.storage-target.updated"

EVENTS = {
    CREATED: "timestore.dataset.created",
    UPDATED: "timestore.dataset.updated",
    ARCHIVED: "timestore.dataset.archived",
    DELETED: "timestore.dataset.deleted",
    RESTORED: "timestore.dataset.restored",
    RETENTION_UPDATED: "timestore.dataset.updated",
    STORAGE_TARGET_UPDATED: "timestore.dataset.updated",
}

Json = dict[str, Any]


@dataclass(frozen=True)
class Parts:
    """What a use case needs that touches the lake too. The session must hold no row that the lake's commit changes."""

    session: Session
    database: Database
    lake: Lake


# --- look ---------------------------------------------------------------------------------------------------------


def readable(session: Session, id_or_slug: str, identity: Identity) -> Dataset:
    """A dataset that the caller may read.

    Raises:
        DatasetNotFound, DatasetForbidden: there is none; it is not theirs.
    """
    info = repository.get_dataset(session, id_or_slug)
    if info is None:
        raise DatasetNotFound(id_or_slug)
    access.check_read(identity, info)
    return existing(session, info.id)


def existing(session: Session, id_or_slug: str) -> Dataset:
    """Raises DatasetNotFound."""
    row = repository.dataset_row(session, id_or_slug)
    if row is None:
        raise DatasetNotFound(id_or_slug)
    return row


def page(session: Session, query: DatasetQuery) -> tuple[list[DatasetView], str | None]:
    """Datasets, those changed last first, and the cursor of the next page."""
    rows = repository.find_page(session, query)
    shown = rows[: query.limit]
    following = dataset_cursor(shown[-1]) if len(rows) > len(shown) else None
    return [dataset_view(row) for row in shown], following


def storage_targets(session: Session, settings: Settings) -> list[StorageTargetView]:
    """Where datasets may lie, the default first."""
    return [target_view(target, settings) for target in repository.storage_targets(session)]


def target_view(target: StorageTarget, settings: Settings) -> StorageTargetView:
    return storage_target_view(target, *place_of(target, settings))


def place_of(target: StorageTarget, settings: Settings) -> tuple[str, str]:
    """A target's kind and URL; those of the default target are the settings'."""
    url = target.url or settings.storage
    return kind_of(url), url


# --- create -------------------------------------------------------------------------------------------------------


def create(parts: Parts, wanted: Declaration, caller: Caller) -> tuple[DatasetView, bool]:
    """Create a dataset, with its table if a schema was declared; the same again changes nothing.

    Returns:
        The dataset, and whether it is new.

    Raises:
        DatasetExists: there is one with this slug that differs.
        StorageTargetNotFound: there is no such target.
        LakeUnavailable: catalog or storage is away.
    """
    session = parts.session
    _target(parts, wanted.storage_target_id)
    is_new = repository.row_of_slug(session, wanted.slug) is None and _created(parts, wanted, caller)
    row = repository.row_of_slug(session, wanted.slug)
    if row is None:
        raise LakeConflict(f"dataset {wanted.slug} was changed at the same time; try again", retry_after=1)
    if not is_new:
        _check_same(session, row, wanted)
    return dataset_view(row), is_new


def _created(parts: Parts, wanted: Declaration, caller: Caller) -> bool:
    """False when somebody else was quicker."""
    dataset_id = new_id()
    table = repository.free_table(parts.session, wanted.slug, dataset_id)
    values = _values(wanted, caller) | {"id": dataset_id, "table_name": table}
    if wanted.schema is not None:
        return _created_with_table(parts, wanted.schema, values, caller)
    if not repository.insert_dataset(parts.session, values):
        return False
    _note(parts.session, existing(parts.session, dataset_id), caller, CREATED, {"createdBy": "api"})
    return True


def _created_with_table(parts: Parts, schema: Schema, values: Json, caller: Caller) -> bool:
    dataset = _info_of(parts.session, schema, values)
    change = {"status": "declared"}
    try:
        with committing(parts.lake, parts.database, f"create dataset {dataset.slug}") as commit:
            store.create_table(commit.connection, dataset)
            commit.receipt.datasets.append(values | {"schema_version": 1})
            note_schema(commit, dataset, change, caller)
            _note_in(commit, dataset, caller, CREATED, {"createdBy": "api"})
    except LakeConflict:
        if repository.row_of_slug(parts.session, dataset.slug) is None:
            raise
        return False
    return True


def _values(wanted: Declaration, caller: Caller) -> Json:
    """The row by column; what is not given stays NULL."""
    values = {
        "slug": wanted.slug,
        "name": wanted.name,
        "description": wanted.description,
        "status": wanted.status,
        "storage_target_id": wanted.storage_target_id,
        "timestamp_column": wanted.timestamp_column,
        "partition_keys": list(wanted.partition_keys),
        "granularity": wanted.granularity,
        "schema_version": 0,
        "retention": wanted.retention,
        "metadata": wanted.metadata,
        "created_by": caller.subject,
    }
    return {name: value for name, value in values.items() if value is not None}


def _info_of(session: Session, schema: Schema, values: Mapping[str, Any]) -> DatasetInfo:
    return DatasetInfo(
        id=values["id"],
        slug=values["slug"],
        table=values["table_name"],
        area=repository.area_of(session, values["storage_target_id"]),
        storage_target_id=values["storage_target_id"],
        status=values["status"],
        timestamp_column=values["timestamp_column"],
        partition_keys=tuple(values["partition_keys"]),
        granularity=values["granularity"],
        schema=schema,
        schema_version=1,
        metadata=values["metadata"],
    )


def _check_same(session: Session, row: Dataset, wanted: Declaration) -> None:
    given = _values(wanted, Caller()) | {"description": wanted.description, "retention": wanted.retention}
    of_the_caller = given.keys() - {"schema_version", "metadata"}
    different = [name for name in of_the_caller if getattr(row, name) != given[name]]
    if row.labels != wanted.metadata:
        different.append("metadata")
    if wanted.schema is not None and repository.schema_at(session, row.id, 1) != wanted.schema:
        different.append("schema")
    if different:
        raise DatasetExists(
            f"dataset {row.slug} already exists, with other {', '.join(sorted(different))};"
            f" PATCH /admin/datasets/{row.slug} changes it"
        )


# --- change -------------------------------------------------------------------------------------------------------


def change(
    session: Session, id_or_slug: str, changes: Json, caller: Caller, expected: datetime | None = None
) -> DatasetView:
    """Change what is given of slug, name, description, status, storage_target_id and metadata (which is merged).

    Raises:
        DatasetNotFound, StorageTargetNotFound: there is no such thing.
        InvalidDataset: a value can't be.
        Stale: the dataset is not what it was at `expected`.
        DatasetExists: another one has the slug.
        DatasetHasRows: it can't be moved, or only by `move`.
    """
    row = _locked(session, id_or_slug, expected)
    wanted = _checked(row, changes)
    changed = {name: value for name, value in wanted.items() if getattr(row, name) != value}
    if not changed:
        return dataset_view(row)
    if "storage_target_id" in changed:
        _check_tableless(session, row, changed["storage_target_id"])
    details: Json = {"changed": sorted("metadata" if name == "labels" else name for name in changed)}
    if "slug" in changed:
        details["previousSlug"] = row.slug
    for name, value in changed.items():
        setattr(row, name, value)
    return _saved(session, row, caller, UPDATED, details)


def archive(
    session: Session, id_or_slug: str, reason: str | None, caller: Caller, expected: datetime | None = None
) -> DatasetView:
    """Let a dataset take no more rows; it can still be read. Once more changes nothing.

    Raises:
        DatasetNotFound, Stale: there is none; it was changed since.
    """
    row = _locked(session, id_or_slug)
    if row.status == Status.INACTIVE:
        return dataset_view(row)
    _check_version(row, expected)
    row.status = Status.INACTIVE
    return _saved(session, row, caller, ARCHIVED, {"reason": reason} if reason else {})


def set_retention(
    session: Session,
    settings: Settings,
    id_or_slug: str,
    policy: Json,
    caller: Caller,
    expected: datetime | None = None,
) -> RetentionView:
    """Replace a dataset's policy.

    Raises:
        DatasetNotFound, Stale: there is none; it was changed since.
        InvalidDataset: the policy can't be.
    """
    row = _locked(session, id_or_slug, expected)
    wanted = parse_policy(policy)
    if row.retention != wanted:
        row.retention = wanted
        _saved(session, row, caller, RETENTION_UPDATED, {"changed": ["retention"], "policy": wanted})
    return retention_of(row, settings)


def retention_of(row: Dataset, settings: Settings) -> RetentionView:
    """A dataset's policy, what holds, and what holds where there is none."""
    return RetentionView(
        dataset_id=row.id,
        dataset_slug=row.slug,
        policy=row.retention,
        updated_at=row.updated_at if row.retention else None,
        effective_policy=effective_retention(row.retention, settings).to_json(),
        default_policy=default_retention(settings).to_json(),
    )


def move(
    parts: Parts, id_or_slug: str, target_id: str, caller: Caller, expected: datetime | None = None
) -> tuple[DatasetView, StorageTarget]:
    """Give a dataset without rows another storage target.

    Raises:
        DatasetNotFound, StorageTargetNotFound, Stale: there is no such thing; it was changed since.
        DatasetHasRows: it has rows, whose files would have to move.
    """
    row = existing(parts.session, id_or_slug)
    _check_version(row, expected)
    target = _target(parts, target_id)
    details: Json = {"changed": ["storage_target_id"], "storageTargetId": target_id}
    if row.storage_target_id != target_id and row.schema_version == 0:
        row = _locked(parts.session, row.id, expected)
        _check_tableless(parts.session, row, target_id)
        row.storage_target_id = target_id
        return _saved(parts.session, row, caller, STORAGE_TARGET_UPDATED, details), target
    if row.storage_target_id != target_id:
        _check_empty(parts.session, row)
        _move_table(parts, row, target, caller, details)
    return dataset_view(existing(parts.session, row.id)), target


def _move_table(parts: Parts, row: Dataset, target: StorageTarget, caller: Caller, details: Json) -> None:
    """One commit of the lake: the trigger refuses it when the dataset was given rows meanwhile."""
    old = repository.get_dataset(parts.session, row.id)
    if old is None:
        raise DatasetNotFound(row.slug)
    with committing(parts.lake, parts.database, f"move dataset {row.slug} to {target.name}") as commit:
        store.create_table(commit.connection, replace(old, area=target.area))
        store.drop_table(commit.connection, old)
        commit.receipt.moves.append({"dataset_id": row.id, "storage_target_id": target.id})
        _note_in(commit, old, caller, STORAGE_TARGET_UPDATED, details)


# --- delete and restore -------------------------------------------------------------------------------------------


def planned_deletion(session: Session, settings: Settings, id_or_slug: str, now: datetime) -> RemovalView:
    """What deleting would take away, and when.

    Raises:
        DatasetNotFound: there is none.
    """
    row = existing(session, id_or_slug)
    return _removal(session, row, now + _grace(row, settings), dry_run=True)


def delete(
    session: Session,
    settings: Settings,
    id_or_slug: str,
    caller: Caller,
    now: datetime,
    expected: datetime | None = None,
) -> RemovalView:
    """Make a dataset invisible and its slug free; its rows go when the grace is over, and until then it can come back.

    Raises:
        DatasetNotFound, Stale: there is none; it was changed since.
    """
    row = _locked(session, id_or_slug, expected)
    row.status_before, row.status = row.status, Status.DELETED
    row.purge_after = now + _grace(row, settings)
    removal = _removal(session, row, row.purge_after, dry_run=False)
    details = {"purgeAfter": format_version(row.purge_after), "rows": removal.rows, "batches": removal.batches}
    _saved(session, row, caller, DELETED, details)
    return removal


def restore(session: Session, id_or_slug: str, caller: Caller, now: datetime) -> DatasetView:
    """Bring a deleted dataset back as it was; one that is not deleted is left as it is.

    Raises:
        DatasetNotFound: there is none, or its rows are gone.
        GraceOver: its rows are about to go.
        DatasetExists: another dataset has its slug by now.
    """
    row = repository.deleted_row(session, id_or_slug, lock=True)
    if row is None:
        return dataset_view(existing(session, id_or_slug))
    if row.purge_after is None or row.purge_after <= now:
        end = format_version(row.purge_after) if row.purge_after else "its deletion"
        raise GraceOver(f"dataset {row.slug} could be restored until {end}; its rows are being removed")
    if repository.row_of_slug(session, row.slug) is not None:
        raise _taken(row.slug)
    row.status, row.status_before, row.purge_after = row.status_before or Status.ACTIVE, None, None
    return _saved(session, row, caller, RESTORED, {})


def _removal(session: Session, row: Dataset, purge_after: datetime, *, dry_run: bool) -> RemovalView:
    batches, rows = repository.totals(session, row.id)
    # Before there is a table there may not even be a lake.
    files, size = repository.files_of(session, row) if row.schema_version else (0, 0)
    return RemovalView(
        dataset_id=row.id,
        dataset_slug=row.slug,
        dry_run=dry_run,
        rows=rows,
        batches=batches,
        files=files,
        bytes=size,
        purge_after=purge_after,
    )


def _grace(row: Dataset, settings: Settings) -> timedelta:
    return effective_retention(row.retention, settings).grace


# --- the audit log ------------------------------------------------------------------------------------------------


def note_refusal(session: Session, id_or_slug: str, action: str, caller: Caller, code: str) -> None:
    """Write into a dataset's audit log what was tried and refused; where there is no such dataset, nothing."""
    row = repository.row_even_deleted(session, id_or_slug)
    if row is not None:
        repository.add_access(session, _access(row, caller, action, {"code": code}, success=False))


def _note(session: Session, row: Dataset, caller: Caller, action: str, details: Json) -> None:
    payload = {"datasetId": row.id, "datasetSlug": row.slug, "status": row.status, **details}
    events.append(session, type=EVENTS[action], source=SOURCE, payload=payload, correlation_id=caller.correlation_id)
    repository.add_access(session, _access(row, caller, action, details, success=True))


def _note_in(commit: Commit, dataset: DatasetInfo, caller: Caller, action: str, details: Json) -> None:
    """The same, for a change that is a commit of the lake."""
    payload = {"datasetId": dataset.id, "datasetSlug": dataset.slug, "status": dataset.status, **details}
    commit.receipt.add_event(EVENTS[action], payload, source=SOURCE, correlation_id=caller.correlation_id)
    note_access(commit, dataset, caller, action, details)


def _access(row: Dataset, caller: Caller, action: str, details: Json, *, success: bool) -> Access:
    return Access(
        dataset_id=row.id,
        dataset_slug=row.slug,
        actor_id=caller.subject,
        actor_scopes=list(caller.scopes),
        action=action,
        success=success,
        details=details,
    )


# --- shared -------------------------------------------------------------------------------------------------------


def _locked(session: Session, id_or_slug: str, expected: datetime | None = None) -> Dataset:
    row = repository.dataset_row(session, id_or_slug, lock=True)
    if row is None:
        raise DatasetNotFound(id_or_slug)
    _check_version(row, expected)
    return row


def _check_version(row: Dataset, expected: datetime | None) -> None:
    if expected is not None and row.updated_at != expected:
        raise Stale("dataset was modified since last read", etag=format_version(row.updated_at))


def _saved(session: Session, row: Dataset, caller: Caller, action: str, details: Json) -> DatasetView:
    slug = row.slug
    try:
        repository.save(session, row)
    except IntegrityError as error:
        raise _taken(slug) from error
    _note(session, row, caller, action, details)
    return dataset_view(row)


def _checked(row: Dataset, changes: Json) -> Json:
    """The changes by attribute of the row."""
    checks: dict[str, Callable[[Any], Any]] = {
        "slug": parse_slug,
        "name": checked_name,
        "description": checked_description,
        "status": checked_status,
        "storage_target_id": str,
        "metadata": lambda patch: merged(row.labels, patch),
    }
    checked = {name: checks[name](value) for name, value in changes.items()}
    if "metadata" in checked:
        checked["labels"] = checked.pop("metadata")
    return checked


def _target(parts: Parts, target_id: str) -> StorageTarget:
    parts.lake.prepare()  # which adds those of the settings
    return repository.storage_target(parts.session, target_id)


def _check_tableless(session: Session, row: Dataset, target_id: str) -> None:
    repository.storage_target(session, target_id)
    if row.schema_version > 0:
        _check_empty(session, row)
        raise DatasetHasRows(
            f"dataset {row.slug} has a table already; move it with PUT /admin/datasets/{row.slug}/storage-target"
        )


def _check_empty(session: Session, row: Dataset) -> None:
    if repository.has_batches(session, row.id):
        raise DatasetHasRows(
            f"dataset {row.slug} has rows on storage target {row.storage_target_id}; create another dataset with"
            " defaultStorageTargetId, ingest the rows there, and delete this one"
        )


def _taken(slug: str) -> DatasetExists:
    return DatasetExists(f"dataset {slug} already exists; choose another slug, or rename or delete that one first")
