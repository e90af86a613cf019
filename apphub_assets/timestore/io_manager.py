"""Datasets for people who write assets: a resource to read and write them, and an IO manager that does it for them.

    defs = dg.Definitions(assets=[…], resources={"io_manager": DatasetIOManager(), "timestore": Timestore()})

An asset that returns a pandas, polars or Arrow table, or a DuckDB relation, lands in the dataset that its key names;
`metadata={"dataset": "…"}` names another. With time partitions, each run replaces its window and nothing else, so it
may run any number of times; without, it replaces everything. Assets downstream load the windows that they need.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa
from pydantic import PrivateAttr

from apphub_assets.errors import AppHubError
from apphub_assets.failures import as_failure
from apphub_assets.kit.db import Database
from apphub_assets.settings import load_settings
from apphub_assets.timestore import repository
from apphub_assets.timestore.errors import DatasetNotFound
from apphub_assets.timestore.ingest.intake import Delivery
from apphub_assets.timestore.ingest.replacing import replace_window
from apphub_assets.timestore.ingest.writing import Caller, Written
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.spec import TimeRange, parse_slug, quote

SUBJECT = "dagster"


class Timestore(dg.ConfigurableResource[None]):
    """The timestore of the environment's settings (APPHUB_DATABASE_URL, APPHUB_STORAGE_URL, …); opened at first use."""

    _parts: tuple[Lake, Database] | None = PrivateAttr(None)

    def write(
        self,
        dataset: str,
        rows: Any,
        *,
        window: tuple[datetime, datetime] | None = None,
        partition_key: Mapping[str, str] | None = None,
    ) -> Written:
        """Put a table in the place of all rows in `window` (start, and end that is no part of it; None is all of time).

        Args:
            dataset: its slug; made if there is none.
            rows: a pandas or polars data frame, an Arrow table or reader, or a DuckDB relation, with a column of times.
            window: moments; without a zone they are UTC.
            partition_key: constant columns, which also narrow what is replaced.

        Raises:
            AppHubError: why nothing was written.
        """
        lake, database = self._opened()
        span = None if window is None else TimeRange(*map(_utc, window))
        delivery = Delivery(slug=dataset, partition_key=dict(partition_key or {}), caller=Caller(SUBJECT))
        return replace_window(lake, database, delivery, as_arrow(rows), span)

    def read(
        self,
        dataset: str,
        *,
        window: tuple[datetime, datetime] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """The rows in `window` (as for `write`) in the order of time; times are in UTC, without a zone.

        Raises:
            DatasetNotFound: there is none.
        """
        lake, database = self._opened()
        with database.reading() as session:
            found = repository.find_dataset(session, parse_slug(dataset))
        if found is None or not found.schema_version:
            raise DatasetNotFound(dataset)
        time = quote(found.timestamp_column)
        selected = ", ".join(map(quote, columns or [field.name for field in found.schema.fields]))
        where, bounds = ("", []) if window is None else (f"WHERE {time} >= ? AND {time} < ?", list(map(_naive, window)))
        with lake.query(f"SELECT {selected} FROM {found.relation} {where} ORDER BY {time}", bounds) as answer:
            return answer.read_all()

    def _opened(self) -> tuple[Lake, Database]:
        if self._parts is None:
            settings = load_settings()
            database = Database(settings.sqlalchemy_url, pool_size=2, application_name="apphub-timestore")
            self._parts = Lake(settings), database
        return self._parts

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 Dagster's signature
        """Close what this run opened."""
        if self._parts is not None:
            lake, database = self._parts
            lake.close()
            database.close()
        self._parts = None


class DatasetIOManager(dg.ConfigurableIOManager):
    """Stores what assets return in the timestore, and loads it as what the parameter's annotation asks for."""

    timestore: dg.ResourceDependency[Timestore]

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Replace the window of the run's partitions, or everything when there are none."""
        if obj is None:
            return
        try:
            written = self.timestore.write(_dataset_of(context), obj, window=_window_of(context))
        except AppHubError as error:
            raise as_failure(error) from error
        context.add_output_metadata(
            {
                "dataset": written.dataset.slug,
                "rows": written.batch.row_count,
                "bytes": written.batch.byte_count,
                "snapshot": written.batch.snapshot_id,
            }
        )

    def load_input(self, context: dg.InputContext) -> Any:
        """A pandas or polars data frame, or an Arrow table, which is the default."""
        upstream = context.upstream_output
        dataset = _dataset_of(upstream or context)
        columns = (context.definition_metadata or {}).get("columns")
        try:
            table = self.timestore.read(dataset, window=_window_of(context), columns=columns)
        except AppHubError as error:
            raise as_failure(error) from error
        return as_wanted(table, context.dagster_type.typing_type)


def as_arrow(rows: Any) -> pa.Table:
    """A table, whatever library it comes from; NaN of pandas, which means that a value is missing, becomes null.

    Raises:
        TypeError: it is no table.
    """
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatchReader):
        return rows.read_all()
    if isinstance(rows, duckdb.DuckDBPyRelation):
        return rows.to_arrow_table()
    library = type(rows).__module__.partition(".")[0]
    if library == "pandas":
        return pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata()
    if library == "polars":
        return (rows.collect() if hasattr(rows, "collect") else rows).to_arrow()
    raise TypeError(f"{type(rows)} is no table: return a pandas, polars or Arrow table, or a DuckDB relation")


def as_wanted(table: pa.Table, wanted: Any) -> Any:
    """The table as the annotated type of another library, where that is one."""
    library = getattr(wanted, "__module__", "").partition(".")[0]
    if library == "pandas":
        return table.to_pandas()
    if library == "polars":
        import polars  # only who asks for it has to have it

        frame = polars.from_arrow(table)
        return frame.lazy() if wanted.__name__ == "LazyFrame" else frame  # type: ignore[union-attr]  # a table is no series
    return table


def _dataset_of(context: dg.OutputContext | dg.InputContext) -> str:
    named = (context.definition_metadata or {}).get("dataset")
    return str(named) if named else str(context.asset_key.path[-1])


def _window_of(context: dg.OutputContext | dg.InputContext) -> tuple[datetime, datetime] | None:
    if not context.has_asset_partitions:
        return None
    window = context.asset_partitions_time_window
    return window.start, window.end


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _naive(moment: datetime) -> datetime:
    return _utc(moment).replace(tzinfo=None)
