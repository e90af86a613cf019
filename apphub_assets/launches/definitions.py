"""The launches' part of the code location."""

import dagster as dg

from apphub_assets.launches.assets import preview
from apphub_assets.launches.checks import image_runs

defs = dg.Definitions(assets=[preview], asset_checks=[image_runs])
