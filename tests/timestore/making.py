"""Datasets and batches for tests of what is seen of them, made as an ingest makes them."""

import time
from datetime import UTC, datetime, timedelta

from sqlalchemy import update

from apphub_assets.kit.db import Database
from apphub_assets.timestore import repository
from apphub_assets.timestore.ingest.intake import Delivery, prepare, rows_of_objects
from apphub_assets.timestore.ingest.writing import Written, write
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.models import Dataset
from apphub_assets.timestore.spec import DatasetInfo

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


class Maker:
    """Writes to a lake and its database."""

    def __init__(self, lake: Lake, database: Database) -> None:
        self.lake, self.database = lake, database

    def ingest(self, slug: str, *moments: datetime, **columns: object) -> int:
        """Bring a row per moment in one commit, and return its snapshot."""
        rows = [{"timestamp": at.isoformat(), "value": 1.5, **columns} for at in moments or [NOON]]
        dataset = self.find(slug)
        delivery = Delivery(slug, key=str(time.monotonic_ns()))
        batch = prepare(delivery, dataset, rows_of_objects(delivery, dataset, rows), repr(rows))
        outcome = write(self.lake, self.database, [batch], until=time.monotonic() + 20)[batch.id]
        assert isinstance(outcome, Written), outcome
        return outcome.batch.snapshot_id

    def find(self, slug: str) -> DatasetInfo | None:
        with self.database.transaction() as session:
            return repository.find_dataset(session, slug)

    def info(self, slug: str) -> DatasetInfo:
        found = self.find(slug)
        assert found is not None
        return found

    def change(self, slug: str, **values: object) -> None:
        """Set columns of a dataset's row, which has to be there."""
        with self.database.transaction() as session:
            session.execute(update(Dataset).where(Dataset.slug == slug).values(**values))


def days(first: datetime, count: int) -> list[datetime]:
    return [first + timedelta(days=day) for day in range(count)]
