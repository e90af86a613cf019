"""Housekeeping of the index that nobody waits for."""

import dagster as dg

from apphub_assets.resources import Platform
from apphub_assets.search import service


@dg.sensor(
    name="merge_search_index",
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def merge_search_index(platform: Platform) -> dg.SkipReason:
    """Merges what was written since into the index, when that is worth it."""
    with platform.database.transaction() as session:
        merged = service.merge(session)
    return dg.SkipReason(f"merged {merged} changes")
