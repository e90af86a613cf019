"""Assets that return tables, and assets that load them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sqlalchemy import text, update

from apphub_assets.kit.db import Database
from apphub_assets.timestore import DatasetIOManager, Timestore
from apphub_assets.timestore.errors import DatasetInactive, WindowStraddled
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.models import Dataset

DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01", end_date="2026-01-10")
HOURS = 24


def temperatures(day: str, offset: float = 0.0) -> pa.Table:
    start = datetime.fromisoformat(day)
    times = [start + timedelta(hours=hour) for hour in range(HOURS)]
    return pa.table(
        {"timestamp": pa.array(times, pa.timestamp("us")), "value": [offset + hour for hour in range(HOURS)]}
    )


@pytest.fixture
def timestore(lake: Lake, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Timestore]:
    monkeypatch.setenv("APPHUB_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("APPHUB_DATABASE_URL", database.url.replace("+psycopg", ""))
    timestore = Timestore()
    yield timestore
    timestore.teardown_after_execution(None)


def rows_of(timestore: Timestore, dataset: str = "temperatures") -> int:
    return timestore.read(dataset).num_rows


def materialize(assets: list, timestore: Timestore, day: str | None = None) -> dg.ExecuteInProcessResult:
    resources = {"io_manager": DatasetIOManager(timestore=timestore)}
    return dg.materialize(assets, partition_key=day, resources=resources, instance=dg.DagsterInstance.ephemeral())


@pytest.mark.parametrize(
    "made",
    [
        lambda table: table,
        lambda table: table.to_pandas(),
        pl.from_arrow,
        duckdb.from_arrow,
        lambda table: table.to_reader(),
    ],
    ids=["arrow", "pandas", "polars", "duckdb", "reader"],
)
def test_what_an_asset_returns_lands_in_its_dataset(timestore: Timestore, made):
    @dg.asset(name="temperatures")
    def asset():
        return made(temperatures("2026-01-01"))

    result = materialize([asset], timestore)
    metadata = result.asset_materializations_for_node("temperatures")[0].metadata
    assert (metadata["rows"].value, metadata["dataset"].value) == (HOURS, "temperatures")
    assert timestore.read("temperatures")["value"].to_pylist() == list(range(HOURS))


def test_a_partition_is_replaced_and_others_are_left(timestore: Timestore):
    offsets = iter([0.0, 0.0, 100.0])

    @dg.asset(name="temperatures", partitions_def=DAYS)
    def asset(context: dg.AssetExecutionContext):
        return temperatures(context.partition_key, next(offsets))

    for day in ("2026-01-01", "2026-01-02", "2026-01-02"):
        materialize([asset], timestore, day)
    assert timestore.read("temperatures")["value"].to_pylist() == [*range(HOURS), *range(100, 100 + HOURS)]


def test_downstream_loads_only_its_partition(timestore: Timestore):
    seen = {}

    @dg.asset(name="temperatures", partitions_def=DAYS)
    def upstream(context: dg.AssetExecutionContext):
        return temperatures(context.partition_key)

    @dg.asset(partitions_def=DAYS, ins={"temperatures": dg.AssetIn()})
    def warmest(temperatures: pl.DataFrame) -> pd.DataFrame:
        seen["rows"] = temperatures.height
        return temperatures.sort("value").tail(1).to_pandas()

    for day in ("2026-01-01", "2026-01-02"):
        materialize([upstream, warmest], timestore, day)
    assert seen == {"rows": HOURS}
    times = timestore.read("warmest")["timestamp"].to_pylist()
    assert [time.isoformat() for time in times] == ["2026-01-01T23:00:00", "2026-01-02T23:00:00"]


def test_several_partitions_in_one_run_are_one_window(timestore: Timestore):
    @dg.asset(name="temperatures", partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
    def asset(context: dg.AssetExecutionContext):
        return pa.concat_tables(temperatures(day) for day in context.partition_keys)

    tags = {"dagster/asset_partition_range_start": "2026-01-01", "dagster/asset_partition_range_end": "2026-01-03"}
    resources = {"io_manager": DatasetIOManager(timestore=timestore)}
    assert dg.materialize([asset], tags=tags, resources=resources, instance=dg.DagsterInstance.ephemeral()).success
    assert rows_of(timestore) == 3 * HOURS


def test_rows_outside_of_the_window_fail_the_run_and_change_nothing(timestore: Timestore):
    days = iter(["2026-01-01", "2026-01-05"])

    @dg.asset(name="temperatures", partitions_def=DAYS)
    def asset():
        return temperatures(next(days))

    materialize([asset], timestore, "2026-01-01")
    with pytest.raises(dg.Failure, match="not all inside of the window"):
        materialize([asset], timestore, "2026-01-01")
    assert rows_of(timestore) == HOURS


def test_a_window_that_cuts_a_batch_is_not_replaced(timestore: Timestore):
    timestore.write("temperatures", temperatures("2026-01-01"))
    noon, midnight = datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    later = temperatures("2026-01-01").slice(12)
    with pytest.raises(WindowStraddled):
        timestore.write("temperatures", later, window=(noon, midnight))
    assert rows_of(timestore) == HOURS


def test_an_archived_dataset_is_not_replaced(timestore: Timestore, database: Database):
    timestore.write("temperatures", temperatures("2026-01-01"))
    with database.transaction() as session:
        session.execute(update(Dataset).values(status="inactive"))
    with pytest.raises(DatasetInactive):
        timestore.write("temperatures", temperatures("2026-01-01").slice(1))
    assert rows_of(timestore) == HOURS


def test_a_partition_key_narrows_what_is_replaced(timestore: Timestore):
    day = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    for site in ("north", "south", "south"):
        timestore.write("temperatures", temperatures("2026-01-01"), window=day, partition_key={"site": site})
    assert timestore.read("temperatures", columns=["site"])["site"].to_pylist().count("south") == HOURS
    assert rows_of(timestore) == 2 * HOURS


def test_the_manifest_counts_what_is_there(timestore: Timestore, database: Database):
    for _ in range(3):
        timestore.write("temperatures", temperatures("2026-01-01"))
    with database.reading() as session:
        found = session.execute(text("SELECT partition_count, total_rows FROM timestore.manifests")).one()
    assert tuple(found) == (1, HOURS)
