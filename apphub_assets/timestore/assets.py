"""One asset per dataset, `timestore/<slug>`, made from the rows of `timestore.datasets`. All share one function."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from apphub_assets.errors import AppHubError
from apphub_assets.failures import as_failure
from apphub_assets.kit.db import Database
from apphub_assets.resources import Platform
from apphub_assets.timestore import lineage, repository
from apphub_assets.timestore.commits import exclusive
from apphub_assets.timestore.errors import DatasetNotFound
from apphub_assets.timestore.lake import Lake, literal
from apphub_assets.timestore.lineage import Described
from apphub_assets.timestore.partitions import Window, partitions_of, run_window
from apphub_assets.timestore.resources import LakeResource
from apphub_assets.timestore.spec import DatasetInfo, quote

GROUP = "timestore"
MOST_MINUTES = 60 * 24 * 366 * 10


@dataclass(frozen=True)
class Sealed:
    """What a window of a dataset holds: `version` is the commit that last brought something to it.

    `files` may hold rows of other windows too.
    """

    rows: int
    files: lineage.Files
    version: int
    snapshot: int
    totals: lineage.Totals


def key_of(slug: str) -> dg.AssetKey:
    return dg.AssetKey([GROUP, slug])


def op_name(kind: str, dataset_id: str) -> str:
    """Slugs may have characters that names of ops can't, and several would become the same."""
    return f"{kind}_{dataset_id.replace('-', '')}"


def asset_of(dataset: Described, now: datetime) -> dg.AssetsDefinition:
    """The asset of a dataset. A run of it seals partitions anew; what brings rows is an ingest, never a run."""
    info = dataset.info

    @dg.multi_asset(
        name=op_name("seal", info.id),
        specs=[
            dg.AssetSpec(
                key_of(info.slug),
                group_name=GROUP,
                kinds={"ducklake"},
                description=dataset.description or dataset.name,
                metadata=_metadata(dataset),
                freshness_policy=freshness_of(info.metadata),
            )
        ],
        partitions_def=partitions_of(dataset, now),
        pool="compaction",
    )
    def seal(
        context: dg.AssetExecutionContext, platform: Platform, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        window = run_window(info, context.partition_keys)
        try:
            sealed = reseal(lake.lake, platform.database, info.id, window)
        except AppHubError as error:
            raise as_failure(error) from error
        yield dg.MaterializeResult(
            # Rows are the same before and after: who follows the data has nothing to do.
            data_version=dg.DataVersion(str(sealed.version)),
            metadata={
                "rows": sealed.rows,
                "bytes": sealed.files.bytes,
                "files": sealed.files.count,
                "snapshot": sealed.snapshot,
                "dataset_rows": sealed.totals.rows,
            },
        )

    return seal


def reseal(lake: Lake, database: Database, dataset_id: str, window: Window) -> Sealed:
    """Write to files what waits in Postgres, and tell what the window holds.

    Raises:
        DatasetNotFound: it was deleted since the definitions were loaded.
        LakeBusy, LakeConflict, LakeUnavailable: the lake can't be written now.
    """
    with database.transaction() as session:
        info = repository.get_dataset(session, dataset_id)
    if info is None:
        raise DatasetNotFound(dataset_id)
    flush(lake, database, info)
    with database.transaction() as session:
        files = lineage.files_in(session, info, window)
        version = lineage.version_of(session, info, window)
        totals = lineage.totals(session, info.id)
    with lake.query(
        f"SELECT count(*), (SELECT max(snapshot_id) FROM ducklake_snapshots('lake')) FROM {info.relation}"
        f" WHERE {in_window(info)}", naive(window),
    ) as found:  # fmt: skip
        rows, snapshot = found.read_all().to_pylist()[0].values()
    return Sealed(rows, files, version, snapshot, totals)


def flush(lake: Lake, database: Database, info: DatasetInfo) -> None:
    """Write a dataset's rows that wait in Postgres to files."""
    with exclusive(database), lake.writing() as connection:
        connection.execute(
            f"CALL ducklake_flush_inlined_data('lake', schema_name => {literal(info.area)},"
            f" table_name => {literal(info.table)})"
        )


def in_window(info: DatasetInfo) -> str:
    """A condition on the dataset's rows, with start and end of a window as its parameters."""
    time = quote(info.timestamp_column)
    return f"{time} >= ? AND {time} < ?"


def naive(window: Window) -> list[datetime]:
    """Both ends as the lake has them: UTC without saying so."""
    return [moment.replace(tzinfo=None) for moment in window]


def freshness_of(metadata: dict[str, Any]) -> dg.FreshnessPolicy | None:
    """From `{"freshness": {"failMinutes": number, "warnMinutes"?: smaller number}}`; None for anything else.

    Dagster takes no less than a minute.
    """
    wanted = metadata.get("freshness")
    fail, warn = (_minutes(wanted, name) for name in ("failMinutes", "warnMinutes"))
    if fail is None:
        return None
    return dg.FreshnessPolicy.time_window(fail_window=fail, warn_window=warn if warn and warn < fail else None)


def _minutes(given: Any, name: str) -> timedelta | None:
    value = given.get(name) if isinstance(given, dict) else None
    return timedelta(minutes=value) if isinstance(value, int | float) and 1 <= value <= MOST_MINUTES else None


def _metadata(dataset: Described) -> dict[str, Any]:
    info = dataset.info
    columns = [dg.TableColumn(field.name, field.sql_type) for field in info.schema.fields]
    return {
        "id": info.id,
        "slug": info.slug,
        "table": info.relation,
        "timestamp_column": info.timestamp_column,
        "schema_version": info.schema_version,
        "dagster/column_schema": dg.TableSchema(columns),
    }
