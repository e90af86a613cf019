"""Batches for tests of what happens to them, each row of which says which batch and which row it is.

`python -m tests.timestore.batches <first> <count>` writes some to the lake of the environment's settings,
`… keep-up` flushes and merges until its input ends.
"""

import select
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings, load_settings
from apphub_assets.timestore import repository
from apphub_assets.timestore.ingest.binary import Body, rows_of_file
from apphub_assets.timestore.ingest.intake import Delivery, prepare
from apphub_assets.timestore.ingest.writing import Incoming, Outcome, Written, write
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.spec import DatasetInfo
from apphub_assets.timestore.upkeep import compaction, files, flushing

SMALL, BULK = 10, 30_000
SLUG = "readings"


class Host:
    """One process' worth of a lake: what it writes and reads."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database, self.lake = settings, database, Lake(settings)

    def incoming(self, number: int, rows: int) -> Incoming:
        """Batch `number` with so many rows; a bulk of them is staged in a file, as an ingest does it."""
        with self.database.reading() as session:
            dataset = repository.find_dataset(session, SLUG)
        folder = self.settings.state / "staging"
        folder.mkdir(parents=True, exist_ok=True)
        body = Body(folder / f"{number}.parquet", is_arrow=False, digest="")
        pq.write_table(rows_of(number, rows), body.path)
        delivery = Delivery(SLUG, key=str(number))
        content = rows_of_file(delivery, dataset, body, self.settings)
        return prepare(delivery, dataset, content, f"{number}.{rows}")

    def send(self, number: int, rows: int = SMALL, *, seconds: float = 20.0) -> Outcome:
        """Write it, and try again for so long."""
        batch = self.incoming(number, rows)
        return write(self.lake, self.database, [batch], until=time.monotonic() + seconds)[batch.id]

    def dataset(self) -> DatasetInfo:
        with self.database.reading() as session:
            found = repository.find_dataset(session, SLUG)
        assert found is not None
        return found

    def found(self) -> dict[int, int]:
        """By number of each batch in the lake, its rows; fails if one of them is there twice."""
        sql = f"SELECT batch, count(*) AS n, count(DISTINCT row) AS distinct_ FROM lake.{SLUG} GROUP BY batch"
        with self.lake.query(sql) as answer:
            rows = answer.read_all().to_pylist()
        assert all(row["n"] == row["distinct_"] for row in rows), rows
        return {row["batch"]: row["n"] for row in rows}

    def found_if_any(self) -> dict[int, int]:
        """The same, also while there is no dataset yet."""
        with self.database.reading() as session:
            known = repository.find_dataset(session, SLUG)
        return self.found() if known else {}

    def waiting_rows(self) -> int:
        """Rows that wait in Postgres for a flush."""
        with self.database.transaction() as session:
            return sum(each.rows for each in files.waiting(session))

    def keep_up(self) -> None:
        """Flush and merge, if there is anything."""
        with self.database.reading() as session:
            dataset = repository.find_dataset(session, SLUG)
        if dataset is not None:
            flushing.flush(self.lake, self.database, dataset)
            compaction.compact(self.lake, self.database, dataset)

    def close(self) -> None:
        self.lake.close()


def rows_of(number: int, rows: int) -> pa.Table:
    start = (1_767_225_600 + number % 3 * 86_400) * 1_000_000
    return pa.table(
        {
            "timestamp": pa.array(np.arange(rows) + start).cast(pa.timestamp("us")),
            "batch": np.full(rows, number),
            "row": np.arange(rows),
            "noise": np.random.default_rng(number).random(rows),
        }
    )


def size_of(number: int) -> int:
    """How many rows a batch of that number has when nobody says otherwise."""
    return BULK if number % 4 == 3 else SMALL


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def main(first: str, count: str = "") -> None:
    settings = load_settings()
    host = Host(settings, Database(settings.sqlalchemy_url))
    if first == "keep-up":
        while not select.select([sys.stdin], [], [], 0.05)[0]:
            host.keep_up()
        host.keep_up()
        return
    for number in range(int(first), int(first) + int(count)):
        outcome = host.send(number, size_of(number), seconds=60)
        if not isinstance(outcome, Written):
            raise outcome


if __name__ == "__main__":
    main(*sys.argv[1:])
