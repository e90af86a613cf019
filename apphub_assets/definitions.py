"""The Dagster code location: every slice's definitions, merged; nothing else."""

import dagster as dg

from apphub_assets import retention
from apphub_assets.catalog import definitions as catalog
from apphub_assets.launches import definitions as launches
from apphub_assets.resources import Platform
from apphub_assets.search import definitions as search
from apphub_assets.timestore import definitions as timestore
from apphub_assets.timestore.upkeep import assets as upkeep

# The one Definitions in sight here: Dagster refuses a module that shows it several.
defs = dg.Definitions.merge(
    catalog.defs,
    launches.defs,
    retention.defs,
    search.defs,
    timestore.load(),
    upkeep.defs,
    dg.Definitions(resources={"platform": Platform()}, executor=dg.in_process_executor),
)
