"""The assets `repository` and `image`, one partition per app. What they do is in ingestion.py and building.py."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
from dagster._core.storage.tags import AUTOMATION_CONDITION_TAG

from apphub_assets.catalog import building, ingestion
from apphub_assets.catalog.errors import AlreadyInProgress
from apphub_assets.catalog.partitions import repositories
from apphub_assets.errors import AppHubError
from apphub_assets.failures import as_failure
from apphub_assets.resources import Platform

# Runs that AppHub itself starts carry this tag; they do nothing when another run was faster. A person's always works.
REASON = "apphub/reason"

DOCKERFILE_PRESENT = dg.AssetCheckSpec("dockerfile_present", asset="repository", description="A Dockerfile was found.")
LOG_COMPLETE = dg.AssetCheckSpec("log_complete", asset="image", description="Nothing of the build log was cut.")


# Both are multi-assets of one, which may end without an output: somebody else did the work, or is at it. In a plain
# asset a check's result is obligatory.
@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            "repository",
            group_name="apps",
            kinds={"git"},
            freshness_policy=dg.FreshnessPolicy.time_window(
                fail_window=timedelta(days=7), warn_window=timedelta(days=2)
            ),
        )
    ],
    partitions_def=repositories,
    pool="ingestion",
    check_specs=[DOCKERFILE_PRESENT],
    can_subset=True,
)
def repository(
    context: dg.AssetExecutionContext, platform: Platform
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """One row per app: what its repository holds at the newest commit, which is the data version."""
    partition = context.partition_key
    try:
        found = ingestion.ingest(
            platform.database,
            platform.settings,
            partition,
            run_id=context.run_id,
            only_if_pending=REASON in context.run.tags,
            progress=context.log.debug,
        )
    except AlreadyInProgress as busy:
        context.log.info(busy.message)
        return
    except AppHubError as error:
        if error.code == "dockerfile_missing":
            yield dg.AssetCheckResult(check_name="dockerfile_present", passed=False, description=error.message)
        raise as_failure(error) from error
    if found is None:
        context.log.info("nothing to do: another run has ingested it")
        return
    yield dg.MaterializeResult(
        data_version=dg.DataVersion(found.commit_sha),
        metadata={
            "commit": found.commit_sha,
            "branch": found.branch or "",
            "dockerfile": dg.MetadataValue.path(found.dockerfile),
            "tags": found.tags,
            "warnings": found.warnings,
            "seconds": round(found.seconds, 3),
            "attempt": found.attempt,
        },
        check_results=[
            dg.AssetCheckResult(check_name="dockerfile_present", passed=True, metadata={"path": found.dockerfile})
        ],
    )


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            "image",
            deps=["repository"],
            group_name="apps",
            kinds={"docker"},
            automation_condition=dg.AutomationCondition.any_deps_match(
                dg.AutomationCondition.data_version_changed() & ~dg.AutomationCondition.will_be_requested()
            ).since_last_handled()
            & ~dg.AutomationCondition.in_progress(),
            freshness_policy=dg.FreshnessPolicy.time_window(
                fail_window=timedelta(days=30), warn_window=timedelta(days=14)
            ),
        )
    ],
    partitions_def=repositories,
    pool="builds",
    check_specs=[LOG_COMPLETE],
    can_subset=True,
)
def image(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[dg.MaterializeResult[None]]:
    """One image per app, made of the commit that `repository` found; a commit that has its image is not built again."""
    try:
        built = building.build_next(
            platform.database,
            platform.engine,
            platform.settings,
            context.partition_key,
            run_id=context.run_id,
            # What was canceled or can't be built is not built again until the commit changes or a person asks.
            only_if_untried=AUTOMATION_CONDITION_TAG in context.run.tags,
            progress=context.log.debug,
        )
    except AlreadyInProgress as busy:
        context.log.info(busy.message)
        return
    except AppHubError as error:
        raise as_failure(error) from error
    if built is None:
        context.log.info("nothing to do: the build of this commit failed or was canceled; ask for one to try again")
        return
    yield dg.MaterializeResult(
        data_version=dg.DataVersion(built.commit_sha),
        metadata={
            "build": built.build_id,
            "image": built.image_tag,
            "digest": built.image_digest,
            "size": dg.MetadataValue.int(built.image_size),
            "seconds": round(built.seconds, 3),
            "log_bytes": built.log_bytes,
            "reused": built.reused,
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="log_complete", passed=built.log_complete, severity=dg.AssetCheckSeverity.WARN
            )
        ],
    )
