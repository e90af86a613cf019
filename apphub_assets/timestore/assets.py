"""One asset per dataset, `timestore/<slug>`, made from the rows of `timestore.datasets`. All share one function."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from apphub_assets.errors import AppHubError
from apphub_assets.failures import as_failure
from apphub_assets.resources import Platform
from apphub_assets.timestore.lineage import Described
from apphub_assets.timestore.partitions import partitions_of, run_window
from apphub_assets.timestore.resources import LakeResource

GROUP = "timestore"
MOST_MINUTES = 60 * 24 * 366 * 10


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
        # Brings DuckDB and its threads, which the fork server must not have.
        from apphub_assets.timestore.sealing import reseal

        window = run_window(info, context.partition_keys)
        try:
            sealed = reseal(lake.lake, platform.database, info.id, window)
        except AppHubError as error:
            raise as_failure(error) from error
        if sealed.compacted.postponed:
            context.log.info("not all is merged: %s", sealed.compacted.postponed)
        yield dg.MaterializeResult(
            # Rows are the same before and after: who follows the data has nothing to do.
            data_version=dg.DataVersion(str(sealed.version)),
            metadata={
                "rows": sealed.rows,
                "bytes": sealed.files.bytes,
                "files": sealed.files.count,
                "merged_files": sealed.compacted.merged,
                "snapshot": sealed.snapshot,
                "dataset_rows": sealed.totals.rows,
            },
        )

    return seal


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
