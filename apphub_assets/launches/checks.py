"""Checks on images that cost a container, so they run when asked, or by schedule."""

import dagster as dg

from apphub_assets.catalog import builds
from apphub_assets.catalog.partitions import repositories
from apphub_assets.containers import ImageMissing, LaunchFailed
from apphub_assets.launches.trial import Trial, try_build
from apphub_assets.resources import Platform


@dg.asset_check(
    asset="image",
    partitions_def=repositories,
    description="The newest image starts in a sandbox and answers HTTP on the port that it declares.",
)
def image_runs(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
    """Runs the image as a launch would, and removes it."""
    with platform.database.transaction() as session:
        build = builds.launchable(session, context.partition_key)
    if build is None or build.image_tag is None:
        return dg.AssetCheckResult(passed=False, description="no image was built")
    try:
        trial = try_build(platform.database, platform.engine, platform.settings, build)
    except (ImageMissing, LaunchFailed) as error:
        return dg.AssetCheckResult(passed=False, description=error.message)
    return dg.AssetCheckResult(passed=trial.seconds is not None, description=trial.verdict, metadata=_metadata(trial))


def _metadata(trial: Trial) -> dict[str, int | float | str]:
    if trial.seconds is not None:
        return {"port": trial.port, "seconds_to_first_answer": trial.seconds}
    ended = {} if trial.exit_code is None else {"exit_code": trial.exit_code}
    return {"port": trial.port, **ended, "log": trial.log}
