"""Errors of the catalog."""

from apphub_assets.catalog.tree import clean
from apphub_assets.errors import AppHubError, Conflict, NotFound


class AppNotFound(NotFound):
    code, title = "app_not_found", "App not found"

    def __init__(self, app_id: str) -> None:
        super().__init__(f"app not found: {app_id!r}; `apphub app list` shows those that exist")


class BuildNotFound(NotFound):
    code, title = "build_not_found", "Build not found"

    def __init__(self, build_id: str) -> None:
        super().__init__(f"build not found: {build_id!r}")


class BuildNotFinished(Conflict):
    code, title = "build_not_finished", "Build not finished"


class BuildFinished(Conflict):
    code, title = "build_finished", "Build already finished"


class AlreadyInProgress(Conflict):
    """Another worker holds the repository; whoever comes second has nothing to do."""

    code, title, retryable = "already_in_progress", "Already in progress", True


class NotReady(Conflict):
    code, title = "app_not_ready", "App not ready"


def as_written(error: Exception) -> AppHubError:
    """What the row of failed work says: our own errors as they are, any other as an internal one that names it."""
    if isinstance(error, AppHubError):
        return error
    return AppHubError(clean(f"{type(error).__name__}: {error}", 1000))
