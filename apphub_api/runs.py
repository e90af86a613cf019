"""From a row that is safe to the Dagster run that does its work."""

import structlog

from apphub_api.platform import Platform
from apphub_assets.errors import Unavailable

log = structlog.get_logger()

IMAGE = ["image"]
REPOSITORY_AND_IMAGE = ["repository", "image"]
PARTITIONS = "repositories"


def start_runs(platform: Platform, app_ids: list[str], assets: list[str], reason: str, correlation: str | None) -> None:
    """Ask Dagster for the work after the rows are safe; when it can't be asked, its sensor finds them."""
    tags = {"apphub/reason": reason, "apphub/correlation-id": correlation or ""}
    for app_id in app_ids:
        try:
            platform.orchestrator.add_partition(PARTITIONS, app_id)
            run_id = platform.orchestrator.submit(assets, app_id, tags)
        except Unavailable as error:
            log.warning("run.not_submitted", repository=app_id, reason=error.message)
            return
        log.info("run.submitted", repository=app_id, run=run_id)
