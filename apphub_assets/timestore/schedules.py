"""Datasets by the clock."""

from collections.abc import Iterable

import dagster as dg

from apphub_assets.timestore.assets import key_of
from apphub_assets.timestore.lineage import Described


def check_daily(datasets: Iterable[Described]) -> dg.ScheduleDefinition:
    """Every check of every dataset once a day: ingests alone start no run."""
    keys = [key_of(dataset.info.slug) for dataset in datasets]
    return dg.ScheduleDefinition(
        name="check_datasets_daily",
        job=dg.define_asset_job(
            "check_datasets",
            selection=dg.AssetSelection.checks_for_assets(*keys),
            description="Looks at the newest window of every dataset.",
        ),
        cron_schedule="23 4 * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
