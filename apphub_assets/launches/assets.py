"""The asset `preview`: made and observed by the API as launches come and go, never by a run."""

import dagster as dg

from apphub_assets.catalog.partitions import repositories

preview = dg.AssetSpec(
    "preview",
    deps=["image"],
    partitions_def=repositories,
    group_name="apps",
    kinds={"docker"},
    description="An app's newest launch: a running container of its image. The data version is the commit.",
)
