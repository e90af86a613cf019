"""Where the rows of a batch are until they are in the lake: in memory, or in a file that DuckDB reads."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from apphub_assets.timestore import store
from apphub_assets.timestore.errors import InvalidBody
from apphub_assets.timestore.lake import Connection, literal
from apphub_assets.timestore.spec import DatasetInfo

INCOMING = "incoming"
# DuckDB's threads take a piece each.
PIECE_ROWS = 65_536
# DuckDB holds a hundred thousand rows in hand for each partition that it writes. Where that is much, rows are written
# in parts, which are files of their own until they are merged.
WIDE_ROW_BYTES, PART_BYTES = 512, 16 * 1024 * 1024


@dataclass(frozen=True)
class Rows:
    """Rows in memory."""

    table: pa.Table

    @property
    def row_count(self) -> int:
        return int(self.table.num_rows)

    @property
    def byte_count(self) -> int:
        return int(self.table.nbytes)

    def append_to(self, connection: Connection, dataset: DatasetInfo) -> None:
        """Add them to the dataset's table; columns are matched by name."""
        store.append(connection, dataset, self.table)


@dataclass(frozen=True)
class File:
    """Rows in a Parquet file or an Arrow stream, too many for memory; `columns` is what to SELECT to have them."""

    path: Path
    is_arrow: bool
    columns: str
    row_count: int
    byte_count: int

    def append_to(self, connection: Connection, dataset: DatasetInfo) -> None:
        """Add them to the dataset's table; columns are matched by name.

        Raises:
            InvalidBody: it has other rows than those that were checked.
        """
        is_wide = self.byte_count > self.row_count * WIDE_ROW_BYTES
        rows = self._append_in_parts(connection, dataset) if is_wide else self._append(connection, dataset)
        if rows != self.row_count:
            # Its readers disagree about a file that was made to be read in two ways.
            raise InvalidBody(f"the file has {rows} rows in its pages and {self.row_count} by its footer")

    def _append(self, connection: Connection, dataset: DatasetInfo) -> int:
        if not self.is_arrow:
            relation = f"read_parquet({literal(str(self.path))})"
            return store.append_from(connection, dataset, f"SELECT {self.columns} FROM {relation}")
        with pa.OSFile(str(self.path)) as file, pa.ipc.open_stream(file) as stream:
            pieces = pa.RecordBatchReader.from_batches(stream.schema, _slices(stream, PIECE_ROWS))
            return self._append_registered(connection, dataset, pieces)

    def _append_in_parts(self, connection: Connection, dataset: DatasetInfo) -> int:
        rows = max(1, PART_BYTES * self.row_count // self.byte_count)
        return sum(
            self._append_registered(connection, dataset, pa.Table.from_batches([part])) for part in self._parts(rows)
        )

    def _parts(self, rows: int) -> Iterator[pa.RecordBatch]:
        if self.is_arrow:
            with pa.OSFile(str(self.path)) as file, pa.ipc.open_stream(file) as stream:
                yield from _slices(stream, rows)
        else:
            with pq.ParquetFile(self.path) as parquet:
                yield from parquet.iter_batches(rows)

    def _append_registered(
        self, connection: Connection, dataset: DatasetInfo, rows: pa.Table | pa.RecordBatchReader
    ) -> int:
        connection.register(INCOMING, rows)
        try:
            return store.append_from(connection, dataset, f"SELECT {self.columns} FROM {INCOMING}")
        finally:
            connection.unregister(INCOMING)


def _slices(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    return (batch.slice(first, rows) for batch in batches for first in range(0, len(batch), rows))


Source = Rows | File


def merged(sources: Iterable[Source]) -> Iterator[Source]:
    """The same rows in fewer sources: those in memory that have the same columns become one."""
    in_memory = list[pa.Table]()
    for source in sources:
        if isinstance(source, Rows):
            in_memory.append(source.table)
        else:
            yield source
    for _, tables in groupby(sorted(in_memory, key=_columns), key=_columns):
        yield Rows(pa.concat_tables(tables))


def _columns(table: pa.Table) -> str:
    return str(table.schema)
