"""Errors of launches."""

from apphub_assets.errors import Conflict, InvalidInput, NotFound, TooMany, Unavailable


class LaunchNotFound(NotFound):
    code, title = "launch_not_found", "Launch not found"

    def __init__(self, launch_id: str) -> None:
        super().__init__(f"launch not found: {launch_id!r}")


class LaunchExists(Conflict):
    code, title = "launch_exists", "Launch already exists"

    def __init__(self, launch_id: str) -> None:
        super().__init__(f"launch already exists: {launch_id!r}; leave launchId out to have one made")


class LaunchNotRunning(Conflict):
    code, title = "launch_not_running", "Launch is not running"

    def __init__(self, launch_id: str, status: str) -> None:
        super().__init__(f"launch is not running: {launch_id!r} is {status}")


class NoBuild(Conflict):
    code, title = "no_build", "No successful build"

    def __init__(self, repository_id: str) -> None:
        super().__init__(
            f"no successful build available for launch of {repository_id!r}; "
            f"`apphub app build {repository_id}` asks for one"
        )


class WrongBuild(InvalidInput):
    code, title = "wrong_build", "Build of another app"

    def __init__(self, build_id: str, repository_id: str) -> None:
        message = f"build does not belong to app: {build_id!r} is no build of {repository_id!r}"
        super().__init__(message, pointers=[("/buildId", message)])


class TooManyLaunches(TooMany):
    code, title = "too_many_launches", "Too many launches"

    def __init__(self, most: int) -> None:
        super().__init__(
            f"{most} launches are alive, which is as many as may be (APPHUB_LAUNCH_MAX); stop one and try again",
            retry_after=30,
        )


class NotKept(Unavailable):
    code, title = "launches_not_kept", "Launches are not kept"

    def __init__(self, reason: str) -> None:
        super().__init__(f"launches neither start nor end until this is mended: {reason.splitlines()[0]}")
