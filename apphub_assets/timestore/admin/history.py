"""What became of a dataset: its manifests and their partitions, versions of its schema, snapshots, audit log."""

from datetime import date, datetime, timedelta
from itertools import groupby

from sqlalchemy import Row
from sqlalchemy.orm import Session

from apphub_assets.kit.cursor import encode_cursor
from apphub_assets.timestore import repository
from apphub_assets.timestore.errors import DatasetNotFound, ManifestNotFound
from apphub_assets.timestore.models import Dataset
from apphub_assets.timestore.paging import AccessQuery, BatchQuery, batch_cursor
from apphub_assets.timestore.views import (
    AccessView,
    ManifestView,
    SchemaChangeView,
    SnapshotView,
    access_view,
    manifest_view,
)


def manifests(session: Session, dataset: Dataset, query: BatchQuery) -> tuple[list[ManifestView], str | None]:
    """The days of a page of batches, newest first, and the cursor of the next page.

    Raises:
        ManifestNotFound: the dataset, or the day that was asked for, has no batches.
    """
    found = repository.batch_page(session, dataset.id, query)
    batches = found[: query.limit]
    if not batches and query.before is None:
        raise _nothing(dataset, query.shard)
    days = repository.manifests(session, dataset.id, {batch.shard for batch in batches})
    schemas = {version.version: version for version in repository.schema_versions(session, dataset.id)}
    views = [
        manifest_view(dataset, days[shard], of_the_day, schemas)
        for shard, of_the_day in groupby(batches, key=lambda batch: batch.shard)
        if shard in days
    ]
    return views, batch_cursor(batches[-1]) if len(found) > len(batches) else None


def schemas(session: Session, dataset: Dataset) -> list[SchemaChangeView]:
    """Every version of a dataset's schema, newest first."""
    return [SchemaChangeView.model_validate(version) for version in repository.schema_versions(session, dataset.id)]


def snapshots(
    session: Session, dataset: Dataset, before: int | None, limit: int
) -> tuple[list[SnapshotView], str | None]:
    """Commits of the lake that touched a dataset, newest first; those that expired are not there any more."""
    if dataset.schema_version == 0:
        return [], None
    rows = repository.snapshots_of(session, dataset, before, limit + 1)
    views = [_snapshot_view(row) for row in rows[:limit]]
    return views, encode_cursor([views[-1].id]) if len(rows) > limit else None


def accesses(session: Session, id_or_slug: str, query: AccessQuery) -> tuple[list[AccessView], str | None]:
    """A dataset's audit log, newest first; a deleted dataset has one too.

    Raises:
        DatasetNotFound: there is none.
    """
    dataset = repository.row_even_deleted(session, id_or_slug)
    if dataset is None:
        raise DatasetNotFound(id_or_slug)
    rows = repository.accesses(session, dataset.id, query)
    views = [access_view(row) for row in rows[: query.limit]]
    return views, encode_cursor([rows[len(views) - 1].id]) if len(rows) > len(views) else None


def expire_accesses(session: Session, days: float, now: datetime) -> int:
    """Forget entries of the audit logs that are older than that; returns how many."""
    return repository.delete_accesses_before(session, now - timedelta(days=days))


def _nothing(dataset: Dataset, shard: date | None) -> ManifestNotFound:
    if shard is None:
        return ManifestNotFound(f"no published manifests: dataset {dataset.slug} has no batches")
    return ManifestNotFound(f"manifest shard '{shard}' not found: dataset {dataset.slug} has no batches of that day")


def _snapshot_view(row: Row[tuple[object, ...]]) -> SnapshotView:
    changes = [entry.partition(":")[0] for entry in row.changes_made.split(",")]
    return SnapshotView(
        id=row.id,
        created_at=row.created_at,
        author=row.author,
        message=row.message,
        changes=list(dict.fromkeys(changes)),
        batches=row.batches,
        rows=row.rows,
    )
