"""The catalog's part of the code location."""

import dagster as dg

from apphub_assets.catalog.assets import image, repository
from apphub_assets.catalog.schedules import clean_images, clean_images_daily
from apphub_assets.catalog.sensors import moved_remotes, unfinished_work

defs = dg.Definitions(
    assets=[repository, image],
    sensors=[
        unfinished_work,
        moved_remotes,
        dg.AutomationConditionSensorDefinition(
            "automation",
            target=dg.AssetSelection.groups("apps"),
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=10,
        ),
    ],
    jobs=[clean_images],
    schedules=[clean_images_daily],
)
