"""Search's part of the code location."""

import dagster as dg

from apphub_assets.search.sensors import merge_search_index

defs = dg.Definitions(sensors=[merge_search_index])
