"""Builds as people ask for them: request, retry, cancel, look at."""

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from apphub_assets.catalog import repository, service
from apphub_assets.catalog.errors import BuildFinished, BuildNotFinished, BuildNotFound
from apphub_assets.catalog.models import Build, Repository
from apphub_assets.catalog.spec import BuildStatus, check_ref
from apphub_assets.catalog.views import BuildView, build_view
from apphub_assets.kit.ids import new_id

FINISHED = {BuildStatus.SUCCEEDED, BuildStatus.FAILED, BuildStatus.CANCELED}


def request(
    session: Session, repository_id: str, *, ref: str | None = None, branch: str | None = None,
    correlation_id: str | None = None,
) -> BuildView:  # fmt: skip
    """Ask for a build of a ref, a branch, or the commit that was ingested last.

    Raises:
        AppNotFound, InvalidInput: there is no such app; the ref can't be one.
    """
    row = service.locked(session, repository_id)
    for name in filter(None, (ref, branch)):
        check_ref(name)
    build = add(session, row, ref=ref or branch, branch=branch, correlation_id=correlation_id)
    return service.announce_build(session, build)


def add(
    session: Session,
    row: Repository,
    *,
    ref: str | None = None,
    branch: str | None = None,
    correlation_id: str | None = None,
) -> Build:
    """A pending build of `ref`, or of the commit that was ingested last."""
    build = Build(
        id=new_id(),
        repository_id=row.id,
        status=BuildStatus.PENDING,
        commit_sha=None if ref else row.commit_sha,
        git_branch=branch or row.branch,
        git_ref=ref or row.git_ref,
        correlation_id=correlation_id,
    )
    return repository.add_build(session, build)


def retry(session: Session, build_id: str) -> BuildView:
    """Put a finished build back into the queue, its log emptied; one that succeeded is done again as a new build.

    Its image is in use, and stays until there is another.

    Raises:
        BuildNotFound, BuildNotFinished: there is no such build; it still runs.
    """
    build = locked(session, build_id)
    if build.status not in FINISHED:
        raise BuildNotFinished(f"build {build_id} is {build.status}; cancel it first or wait until it has finished")
    if build.status == BuildStatus.SUCCEEDED:
        return service.announce_build(session, repository.add_build(session, _again(build)))
    build.status = BuildStatus.PENDING
    build.attempts = 0
    forget(session, build)
    return service.announce_build(session, build)


def cancel(session: Session, build_id: str) -> BuildView:
    """Stop a build: at once when nobody has begun it, within a second or two when it runs.

    Raises:
        BuildNotFound, BuildFinished: there is no such build; it is over.
    """
    build = locked(session, build_id)
    if build.status in FINISHED:
        raise BuildFinished(f"build {build_id} is already {build.status}")
    build.cancel_requested = True
    if build.status == BuildStatus.PENDING:
        build.status = BuildStatus.CANCELED
        build.completed_at = datetime.now(UTC)
    return service.announce_build(session, build)


def show(session: Session, build_id: str) -> BuildView:
    """One build.

    Raises:
        BuildNotFound: there is no such build.
    """
    build = repository.get_build(session, build_id)
    if build is None:
        raise BuildNotFound(build_id)
    return build_view(build, repository.log_tails(session, [build_id]).get(build_id))


def page(session: Session, repository_id: str, limit: int, offset: int) -> tuple[list[BuildView], int]:
    """Builds of an app, newest first, and how many there are.

    Raises:
        AppNotFound: there is no such app.
    """
    service.existing(session, repository_id)
    builds, total = repository.builds_of(session, repository_id, limit, offset)
    tails = repository.log_tails(session, [build.id for build in builds])
    return [build_view(build, tails.get(build.id)) for build in builds], total


def count(session: Session) -> dict[str, int]:
    """How many builds there are in each state, none left out."""
    return dict.fromkeys(BuildStatus, 0) | repository.count_builds(session)


def launchable(session: Session, repository_id: str, build_id: str | None = None) -> BuildView | None:
    """The build whose image a launch uses: the one named, or the newest that succeeded."""
    service.existing(session, repository_id)
    if build_id is None:
        build = repository.succeeded_build(session, repository_id)
    else:
        build = repository.get_build(session, build_id)
    return build_view(build) if build else None


def forget(session: Session, build: Build) -> None:
    """Empty what an earlier attempt left."""
    repository.clear_log(session, build.id)
    build.log_size = build.log_kept = 0
    build.error_message = build.error_code = None
    build.started_at = build.completed_at = build.image_removed_at = None
    build.image_tag = build.image_digest = build.image_size = None
    build.cancel_requested = False


def _again(build: Build) -> Build:
    """A pending build of the same ref."""
    return Build(
        id=new_id(),
        repository_id=build.repository_id,
        status=BuildStatus.PENDING,
        git_branch=build.git_branch,
        git_ref=build.git_ref,
        correlation_id=build.correlation_id,
    )


def locked(session: Session, build_id: str) -> Build:
    build = repository.get_build(session, build_id, lock=True)
    if build is None:
        raise BuildNotFound(build_id)
    return build
