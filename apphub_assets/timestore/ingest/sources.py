"""Where the rows of a batch are until they are in the lake: in memory, or in a file that DuckDB reads."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from apphub_assets.timestore import store
from apphub_assets.timestore.errors import InvalidBody
from apphub_assets.timestore.lake import Connection, literal
from apphub_assets.timestore.spec import DatasetInfo

INCOMING = "incoming"
# DuckDB's threads take a piece each.
PIECE_ROWS = 65_536


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

    @property
    def relation(self) -> str:
        """What to SELECT from, while it is `opened`."""
        return INCOMING if self.is_arrow else f"read_parquet({literal(str(self.path))})"

    @contextmanager
    def opened(self, connection: Connection) -> Iterator[None]:
        """Let the connection read the file from its start."""
        if not self.is_arrow:
            yield
            return
        with pa.OSFile(str(self.path)) as file, pa.ipc.open_stream(file) as reader:
            pieces = (batch.slice(first, PIECE_ROWS) for batch in reader for first in range(0, len(batch), PIECE_ROWS))
            connection.register(INCOMING, pa.RecordBatchReader.from_batches(reader.schema, pieces))
            try:
                yield
            finally:
                connection.unregister(INCOMING)

    def append_to(self, connection: Connection, dataset: DatasetInfo) -> None:
        """Add them to the dataset's table; columns are matched by name.

        Raises:
            InvalidBody: it has other rows than those that were checked.
        """
        with self.opened(connection):
            rows = store.append_from(connection, dataset, f"SELECT {self.columns} FROM {self.relation}")
        if rows != self.row_count:
            # Its readers disagree about a file that was made to be read in two ways.
            raise InvalidBody(f"the file has {rows} rows in its pages and {self.row_count} by its footer")


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
