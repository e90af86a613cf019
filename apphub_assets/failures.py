"""AppHub's errors as Dagster failures: what happened, what to do, and whether a retry can help."""

import dagster as dg

from apphub_assets.errors import AppHubError


def as_failure(error: AppHubError) -> dg.Failure:
    """A failure that carries the error's code, and that Dagster retries only when that can help."""
    return dg.Failure(
        description=error.message,
        metadata={"code": error.code, "retryable": error.retryable},
        allow_retries=error.retryable,
    )
