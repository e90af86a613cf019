"""Checks on datasets. They run with every sealing of a partition, once a day, and when asked.

Those of a partition's run look at its window, others at the newest.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
from sqlalchemy.orm import Session

from apphub_assets.errors import AppHubError
from apphub_assets.failures import as_failure
from apphub_assets.resources import Platform
from apphub_assets.timestore import lineage, repository
from apphub_assets.timestore.assets import key_of, op_name
from apphub_assets.timestore.errors import DatasetNotFound
from apphub_assets.timestore.lineage import Described, Window, shifted, window_start
from apphub_assets.timestore.partitions import window_of
from apphub_assets.timestore.resources import LakeResource
from apphub_assets.timestore.spec import DatasetInfo

ROWS, SCHEMA, GAPS, NULLS = "rows_monotone", "schema_as_declared", "no_gaps", "null_share"
DESCRIPTIONS = {
    ROWS: "No row is gone that was told of, unless retention or somebody took it out.",
    SCHEMA: "The lake's table has the columns of the dataset's schema version.",
    GAPS: "No window between the first and the last is empty, and rows come as often as expectedIntervalSeconds says.",
    NULLS: "No column has more nulls than maxNullShare allows (half, where nothing is said).",
}
WARNINGS = {GAPS, NULLS}


def checks_of(dataset: Described) -> dg.AssetChecksDefinition:
    """All checks of a dataset in one step, of which any may be chosen."""
    key, dataset_id = key_of(dataset.info.slug), dataset.info.id

    @dg.multi_asset_check(
        name=op_name("check", dataset_id),
        specs=[dg.AssetCheckSpec(name, asset=key, description=text) for name, text in DESCRIPTIONS.items()],
        can_subset=True,
    )
    def look(
        context: dg.AssetCheckExecutionContext, platform: Platform, lake: LakeResource
    ) -> Iterator[dg.AssetCheckResult]:
        # Brings DuckDB and its threads, which the fork server must not have.
        from apphub_assets.timestore import inspection

        try:
            with platform.database.transaction() as session:
                info = repository.get_dataset(session, dataset_id)
                if info is None:
                    raise DatasetNotFound(dataset_id)
                window = _window(session, info, context.run.tags.get("dagster/partition"))
                told = _told(context.instance, key)
                verdicts = {
                    ROWS: lambda: inspection.rows_monotone(session, info, told),
                    SCHEMA: lambda: inspection.schema_as_declared(lake.lake, info),
                    GAPS: lambda: inspection.no_gaps(session, lake.lake, info, window),
                    NULLS: lambda: inspection.null_share(lake.lake, info, window),
                }
                for chosen in context.selected_asset_check_keys:
                    passed, found, metadata = verdicts[chosen.name]()
                    severity = dg.AssetCheckSeverity.WARN if chosen.name in WARNINGS else dg.AssetCheckSeverity.ERROR
                    yield dg.AssetCheckResult(
                        asset_key=key,
                        check_name=chosen.name,
                        passed=passed,
                        severity=severity,
                        description=found,
                        metadata=metadata,
                    )
        except AppHubError as error:
            raise as_failure(error) from error

    return look


def _window(session: Session, info: DatasetInfo, partition: str | None) -> Window | None:
    if partition is not None:
        return window_of(info.granularity, partition)
    newest = lineage.newest_moment(session, info.id)
    if newest is None:
        return None
    start = window_start(info.granularity, newest)
    return start, shifted(info.granularity, start, 1)


def _told(instance: dg.DagsterInstance, key: dg.AssetKey) -> lineage.Told | None:
    event = instance.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        return None
    rows = event.asset_materialization.metadata.get("dataset_rows")
    if not isinstance(rows, dg.IntMetadataValue) or rows.value is None:
        return None
    return lineage.Told(rows.value, datetime.fromtimestamp(event.timestamp, UTC))
