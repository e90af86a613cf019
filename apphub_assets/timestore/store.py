"""Every statement that changes tables and rows of the lake."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from apphub_assets.kit.ids import new_id
from apphub_assets.timestore.errors import LakeConflict
from apphub_assets.timestore.ingest.evolution import Change
from apphub_assets.timestore.lake import INLINE_ROWS, Connection, inlining, literal
from apphub_assets.timestore.spec import DatasetInfo, Granularity, quote

# More bytes at once go into a file, however few the rows.
INLINE_BYTES = 512 * 1024

PARTITION_PARTS = {
    Granularity.HOUR: ("year", "month", "day", "hour"),
    Granularity.DAY: ("year", "month", "day"),
    Granularity.MONTH: ("year", "month"),
}


def create_table(connection: Connection, dataset: DatasetInfo) -> None:
    """Make a dataset's table with its schema: files by partition keys and time, rows in them by keys and time.

    Raises:
        LakeConflict: somebody else has made it.
    """
    columns = ", ".join(f"{quote(field.name)} {field.sql_type}" for field in dataset.schema.fields)
    with _as_planned(dataset):
        connection.execute(f"CREATE TABLE {dataset.relation} ({columns})")
    time = quote(dataset.timestamp_column)
    parts = [quote(key) for key in dataset.partition_keys]
    parts += [f"{part}({time})" for part in PARTITION_PARTS[dataset.granularity]]
    connection.execute(f"ALTER TABLE {dataset.relation} SET PARTITIONED BY ({', '.join(parts)})")
    keys = [quote(field.name) for field in dataset.schema.fields if field.is_key]
    connection.execute(f"ALTER TABLE {dataset.relation} SET SORTED BY ({', '.join([*keys, time])})")


def change_table(connection: Connection, dataset: DatasetInfo, change: Change, defaults: dict[str, Any]) -> None:
    """Add and widen columns; rows that are there show the default of a new one, else null."""
    for field in change.added:
        statement = f"ALTER TABLE {dataset.relation} ADD COLUMN {quote(field.name)} {field.sql_type}"
        if defaults.get(field.name) is not None:
            statement += f" DEFAULT {_constant(defaults[field.name])}"
        with _as_planned(dataset):
            connection.execute(statement)
    for field in change.widened:
        with _as_planned(dataset):
            connection.execute(
                f"ALTER TABLE {dataset.relation} ALTER {quote(field.name)} SET DATA TYPE {field.sql_type}"
            )


def drop_table(connection: Connection, dataset: DatasetInfo) -> None:
    """Take a dataset's table away; earlier snapshots still have it."""
    with _as_planned(dataset):
        connection.execute(f"DROP TABLE {dataset.relation}")


def append(connection: Connection, dataset: DatasetInfo, rows: pa.Table) -> None:
    """Add rows; columns are matched by name, and those that are missing take their default."""
    connection.register("incoming", rows)
    try:
        names = ", ".join(quote(name) for name in rows.column_names)
        with _as_planned(dataset), _inlined(connection, few=_may_be_inlined(dataset, rows)):
            connection.execute(f"INSERT INTO {dataset.relation} BY NAME SELECT {names} FROM incoming")
    finally:
        connection.unregister("incoming")


def append_from(connection: Connection, dataset: DatasetInfo, select: str) -> int:
    """Add what a SELECT on this connection gives, and return how many rows; columns are matched by name."""
    with _as_planned(dataset), _inlined(connection, few=False):
        found = connection.execute(f"INSERT INTO {dataset.relation} BY NAME {select}").fetchone()
    return int(found[0]) if found else 0


def rename_column(connection: Connection, dataset: DatasetInfo, column: str, to: str) -> None:
    """Call a column otherwise; no file changes."""
    connection.execute(f"ALTER TABLE {dataset.relation} RENAME COLUMN {quote(column)} TO {quote(to)}")


def drop_column(connection: Connection, dataset: DatasetInfo, column: str) -> None:
    """Take a column away; earlier snapshots keep it."""
    connection.execute(f"ALTER TABLE {dataset.relation} DROP COLUMN {quote(column)}")


def transform_column(connection: Connection, dataset: DatasetInfo, column: str, sql_type: str, expression: str) -> None:
    """Compute a column anew from an expression over the old row, as another type; rewrites every row."""
    computed = quote(new_id())
    connection.execute(f"ALTER TABLE {dataset.relation} ADD COLUMN {computed} {sql_type}")
    with _inlined(connection, few=False):
        connection.execute(f"UPDATE {dataset.relation} SET {computed} = CAST(({expression}) AS {sql_type})")
    drop_column(connection, dataset, column)
    connection.execute(f"ALTER TABLE {dataset.relation} RENAME COLUMN {computed} TO {quote(column)}")


def delete_rows(connection: Connection, dataset: DatasetInfo, conditions: Iterable[str]) -> int:
    """Take out the rows for which all conditions hold; returns how many."""
    with _inlined(connection, few=False):
        found = connection.execute(f"DELETE FROM {dataset.relation} WHERE {' AND '.join(conditions)}").fetchone()
    return int(found[0]) if found else 0


@contextmanager
def _inlined(connection: Connection, *, few: bool) -> Iterator[None]:
    """Whether few rows go into Postgres in the block. Changes of columns never do without, see `lake.INLINE_ROWS`.

    Deletions must not: a merge of the same files would not see them as a conflict, and bring the rows back.
    """
    if few:
        yield
        return
    connection.execute(inlining(0))
    yield
    # Not after an error, which it would hide behind that of an aborted transaction: nobody is lent the instance again.
    connection.execute(inlining(INLINE_ROWS))


def _may_be_inlined(dataset: DatasetInfo, rows: pa.Table) -> bool:
    """Not when they take much room, and not with lists or structs (DuckLake 1.5.5).

    Structs come back damaged; a quoted text within a list makes a table that nobody can read or flush any more.
    """
    return rows.nbytes <= INLINE_BYTES and not any(field.children for field in dataset.schema.fields)


@contextmanager
def _as_planned(dataset: DatasetInfo) -> Iterator[None]:
    """A table or column that is there, or not there, against the plan: a commit since then made or took it away."""
    try:
        yield
    except duckdb.CatalogException as error:
        raise LakeConflict(
            f"the table of dataset {dataset.slug} was changed at the same time", retry_after=1
        ) from error


def _constant(value: Any) -> str:
    """A default: DuckLake keeps literals only, and reads a string as whatever its column's type is."""
    return (
        str(value).lower()
        if isinstance(value, bool)
        else repr(value)
        if isinstance(value, int | float)
        else literal(value)
    )
