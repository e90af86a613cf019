"""Clean-up by the clock."""

import dagster as dg

from apphub_assets.catalog import cleaning
from apphub_assets.resources import Platform


class CleanConfig(dg.Config):
    """`dry_run` lists what would go and removes nothing."""

    dry_run: bool = False


@dg.op
def remove_stale_images(context: dg.OpExecutionContext, config: CleanConfig, platform: Platform) -> None:
    """Remove images beyond the newest few of their app, or too old, that no launch uses."""
    with platform.database.transaction() as session:
        stale = cleaning.stale_images(session, platform.engine, platform.settings)
    for image in stale:
        context.log.info("stale: %s: %s", image.image_tag, image.reason)
    removed = [] if config.dry_run else cleaning.remove_images(platform.database, platform.engine, stale)
    context.add_output_metadata({"stale": [i.image_tag for i in stale], "removed": [i.image_tag for i in removed]})


@dg.job
def clean_images() -> None:
    """Remove images that nobody needs; `dry_run` shows them."""
    remove_stale_images()


clean_images_daily = dg.ScheduleDefinition(
    name="clean_images_daily",
    job=clean_images,
    cron_schedule="17 3 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
