"""A dataset at work: what was acknowledged, to compare with what is there."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings
from apphub_assets.timestore import repository
from apphub_assets.timestore.ingest.intake import Delivery, prepare, rows_of_objects
from apphub_assets.timestore.ingest.writing import Written, write
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.spec import DatasetInfo

DAY = datetime(2026, 3, 2, tzinfo=UTC)
SLUG = "readings"

Row = tuple[datetime, str, int]


class Keeper:
    """Writes to one dataset and remembers what must be there."""

    def __init__(self, settings: Settings, lake: Lake, database: Database) -> None:
        self.settings, self.lake, self.database = settings, lake, database
        self.model = Counter[Row]()
        self.batch_rows = 3
        self._next = 0
        self._lock = threading.Lock()

    @property
    def info(self) -> DatasetInfo:
        with self.database.transaction() as session:
            found = repository.find_dataset(session, SLUG)
        assert found is not None
        return found

    def add(
        self, rows: int | None = None, *, at: datetime = DAY, site: str = "a", lake: Lake | None = None, **more
    ) -> int:
        """Ingest rows that nobody else has, one per minute from `at`; returns the snapshot."""
        rows = rows or self.batch_rows
        with self._lock:
            first, self._next = self._next, self._next + rows
        fresh = [(at + timedelta(minutes=n), site, first + n) for n in range(rows)]
        objects = [{"timestamp": when.isoformat(), "n": n, **more} for when, _, n in fresh]
        with self.database.transaction() as session:
            dataset = repository.find_dataset(session, SLUG)
        delivery = Delivery(SLUG, key=f"batch-{first}", partition_key={"site": site})
        batch = prepare(delivery, dataset, rows_of_objects(delivery, dataset, objects), repr(objects))
        written = write(lake or self.lake, self.database, [batch], until=time.monotonic() + 30)[batch.id]
        assert isinstance(written, Written), written
        with self._lock:
            self.model.update((when.replace(tzinfo=None), place, n) for when, place, n in fresh)
        return written.batch.snapshot_id

    def rows(self, snapshot: int | None = None) -> Counter[Row]:
        """What is there, or was at a snapshot."""
        at = f" AT (VERSION => {snapshot})" if snapshot is not None else ""
        with self.lake.query(f'SELECT "timestamp", site, n FROM {self.info.relation}{at}') as found:
            return Counter(tuple(row.values()) for row in found.read_all().to_pylist())

    def check(self) -> None:
        """Nothing is lost, nothing doubled."""
        assert self.rows() == self.model

    def catalog(self, sql: str) -> list[tuple]:
        with self.database.transaction() as session:
            return [tuple(row) for row in session.execute(text(sql))]

    def forget(self, condition: Callable[[Row], bool]) -> None:
        """Rows that were deleted need not be there."""
        self.model = Counter({row: count for row, count in self.model.items() if not condition(row)})

    def live_files(self) -> int:
        return self.catalog("SELECT count(*) FROM timestore.ducklake_data_file WHERE end_snapshot IS NULL")[0][0]

    def snapshots(self) -> list[int]:
        return [row[0] for row in self.catalog("SELECT snapshot_id FROM timestore.ducklake_snapshot ORDER BY 1")]

    def on_disk(self) -> set[str]:
        folder = Path(self.lake.data_path)
        return {str(path.relative_to(folder)) for path in folder.rglob("*.parquet")}

    def state(self) -> tuple:
        """All that a dry run must not change."""
        return (
            self.snapshots(),
            self.on_disk(),
            self.rows(),
            self.catalog("SELECT * FROM timestore.batches ORDER BY id"),
        )

    def while_at_work(self, action: Callable[[], object], *, writers: int = 2, batches: int = 8) -> None:
        """Do something again and again while writers and a reader work, each on a lake of its own.

        At least once while they do, and once after.
        """
        self.add()
        first = threading.Event()
        with ThreadPoolExecutor(writers + 1) as pool:
            writing = [pool.submit(self._write, batches, f"busy{n}", first) for n in range(writers)]
            reading = pool.submit(self._read_during, writing)
            first.wait(60)
            while not all(job.done() for job in writing):
                action()
            for job in (*writing, reading):
                job.result()
        action()
        self.check()

    def _write(self, batches: int, site: str, first: threading.Event) -> None:
        with own_lake(self.settings) as lake:
            for _ in range(batches):
                self.add(site=site, lake=lake)
                first.set()

    def _read_during(self, writing: list[Future[None]]) -> None:
        """Rows that were acknowledged before a look are there in it, and none twice."""
        with own_lake(self.settings) as lake:
            while not all(job.done() for job in writing):
                with self._lock:
                    known = self.model.copy()
                with lake.query(f'SELECT "timestamp", site, n FROM {self.info.relation}') as found:
                    seen = Counter(tuple(row.values()) for row in found.read_all().to_pylist())
                assert known <= seen
                assert all(count == 1 for count in seen.values())


@contextmanager
def own_lake(settings: Settings) -> Iterator[Lake]:
    lake = Lake(settings)
    try:
        yield lake
    finally:
        lake.close()
