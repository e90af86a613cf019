"""Deleted datasets whose grace is over: their table leaves the lake, then their rows AppHub's tables."""

from dataclasses import dataclass
from datetime import datetime

from apphub_assets.kit.db import Database
from apphub_assets.timestore import repository, store
from apphub_assets.timestore.commits import committing_alone
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.spec import DatasetInfo
from apphub_assets.timestore.upkeep import files

SOURCE = "timestore.purge"


@dataclass(frozen=True)
class Purged:
    """A deleted dataset, and what its table held; the files go once no snapshot needs them."""

    dataset: DatasetInfo
    rows: int
    files: int
    bytes: int


def due(database: Database, now: datetime) -> list[Purged]:
    """Deleted datasets that can't come back."""
    with database.reading() as session:
        found = []
        for dataset in repository.purgeable(session, now):
            _, rows = repository.totals(session, dataset.id)
            held = files.totals(session, dataset, 0)
            found.append(Purged(dataset, rows, held.files, held.bytes))
        return found


def purge(lake: Lake, database: Database, purged: Purged) -> None:
    """Remove a dataset for good; one that was half removed is removed whole.

    Raises:
        LakeConflict: it was restored meanwhile.
        LakeUnavailable: the lake can't be changed now; try again later.
    """
    dataset = purged.dataset
    with database.reading() as session:
        has_table = files.table_id(session, dataset) is not None
    if has_table:
        with (
            lake.maintaining() as connection,
            committing_alone(connection, database, f"purge {dataset.slug}") as commit,
        ):
            store.drop_table(commit.connection, dataset)
            commit.receipt.purged.append({"dataset_id": dataset.id})
            payload = {"datasetId": dataset.id, "datasetSlug": dataset.slug, "rowCount": purged.rows}
            commit.receipt.add_event("timestore.dataset.purged", payload, source=SOURCE)
    with database.transaction() as session:
        repository.delete_purged(session, dataset.id)
