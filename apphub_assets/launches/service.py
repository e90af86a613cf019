"""What people do with launches: ask for one, look at it, stop it. The keeper makes it true."""

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from apphub_assets.catalog import builds
from apphub_assets.catalog import service as catalog
from apphub_assets.catalog.errors import BuildNotFound
from apphub_assets.catalog.spec import BuildStatus
from apphub_assets.catalog.views import BuildView
from apphub_assets.events import service as events
from apphub_assets.kit.ids import new_id
from apphub_assets.launches import repository, states
from apphub_assets.launches.errors import (
    LaunchExists,
    LaunchNotFound,
    LaunchNotRunning,
    NoBuild,
    TooManyLaunches,
    WrongBuild,
)
from apphub_assets.launches.models import Launch
from apphub_assets.launches.spec import LAUNCH_ID, LaunchRequest, LaunchStatus, Reason, ReasonCode
from apphub_assets.launches.states import Ending
from apphub_assets.launches.views import LaunchView, launch_view
from apphub_assets.search import service as search
from apphub_assets.settings import Settings

SOURCE = "launches"
CHANNEL = "apphub_launches"
STOPPABLE = frozenset({LaunchStatus.PENDING, LaunchStatus.STARTING, LaunchStatus.RUNNING})


def launch(
    session: Session, settings: Settings, wanted: LaunchRequest, *, correlation_id: str | None = None
) -> LaunchView:
    """Ask for a launch; one that the pool has ready runs at once, any other is `pending`.

    Raises:
        AppNotFound, BuildNotFound: there is no such app or build.
        WrongBuild, NoBuild: the build is another app's; there is none that has succeeded.
        LaunchExists: the id is taken.
        TooManyLaunches: as many are alive as may be.
    """
    build = _build(session, wanted)
    repository.lock_quota(session)
    if repository.count_live(session) >= settings.launch_max:
        raise TooManyLaunches(settings.launch_max)
    launch_id = wanted.launch_id or new_id()
    if repository.exists(session, launch_id):
        raise LaunchExists(launch_id)
    ready = repository.take_pooled(session, build.id) if wanted.is_plain else None
    if ready is None:
        row = _new(launch_id, wanted, build, correlation_id)
        states.request(row, settings.launch_ttl)
        repository.add(session, row)
    else:
        row = ready
        states.adopt(row, launch_id, settings.launch_ttl, correlation_id)
        row.wake = wanted.wake
    repository.notify(session, CHANNEL)
    view = announce(session, row, settings)
    # After the app's row, which `announce` locks: everybody who changes both takes them in this order.
    search.add_popularity(session, wanted.repository_id)
    return view


def show(session: Session, settings: Settings, launch_id: str) -> LaunchView:
    """One launch.

    Raises:
        LaunchNotFound: there is no such launch.
    """
    return launch_view(existing(session, launch_id), settings)


def page(session: Session, settings: Settings, repository_id: str, limit: int) -> list[LaunchView]:
    """An app's launches, newest first.

    Raises:
        AppNotFound: there is no such app.
    """
    catalog.existing(session, repository_id)
    return [launch_view(row, settings) for row in repository.page(session, repository_id, limit)]


def stop(session: Session, settings: Settings, repository_id: str, launch_id: str) -> LaunchView:
    """Ask for the end of a launch.

    Raises:
        LaunchNotFound: the app has no such launch.
        LaunchNotRunning: it has ended or is about to.
    """
    row = repository.get_for_update(session, launch_id)
    if row is None or row.repository_id != repository_id:
        raise LaunchNotFound(launch_id)
    if row.status not in STOPPABLE:
        raise LaunchNotRunning(launch_id, row.status)
    _stop(session, row)
    return announce(session, row, settings)


def stop_all(session: Session, repository_id: str) -> None:
    """Ask for the end of every launch of an app; what is left when the app goes is removed as nobody's."""
    for row in repository.live_of(session, repository_id):
        _stop(session, row)


def wake(session: Session, settings: Settings, launch_id: str) -> LaunchView:
    """Start an expired launch again if it was made to wake; any other stays as it is.

    Raises:
        LaunchNotFound: there is no such launch.
        TooManyLaunches: as many are alive as may be.
    """
    repository.lock_quota(session)
    row = repository.get_for_update(session, launch_id)
    if row is None:
        raise LaunchNotFound(launch_id)
    if not row.wake or row.status != LaunchStatus.EXPIRED:
        return launch_view(row, settings)
    if repository.count_live(session) >= settings.launch_max:
        raise TooManyLaunches(settings.launch_max)
    states.request(row, settings.launch_ttl)
    repository.notify(session, CHANNEL)
    return announce(session, row, settings)


def count(session: Session) -> dict[str, int]:
    """How many launches there are in each state, none left out; those in the pool are nobody's yet."""
    return dict.fromkeys(LaunchStatus, 0) | repository.count_by_status(session)


def close_all(session: Session, settings: Settings) -> None:
    """Say that every launch ended with the stack; whoever calls this has removed, or will remove, the containers."""
    ending = Ending(LaunchStatus.STOPPED, Reason(ReasonCode.STACK_STOPPED, "AppHub was stopped."))
    for row in repository.kept(session):
        states.end(row, ending, None)
        if not row.pooled:
            announce(session, row, settings)


def images_in_use(session: Session) -> set[str]:
    """Tags of the images that launches run or will run."""
    return repository.images_in_use(session)


def existing(session: Session, launch_id: str) -> Launch:
    """The row.

    Raises:
        LaunchNotFound: there is no such launch.
    """
    check_id(launch_id)
    row = repository.get(session, launch_id)
    if row is None:
        raise LaunchNotFound(launch_id)
    return row


def check_id(launch_id: str) -> None:
    """Keep from the database what can't be a launch's id, such as a NUL.

    Raises:
        LaunchNotFound: no launch can be called this.
    """
    if not LAUNCH_ID.fullmatch(launch_id):
        raise LaunchNotFound(launch_id)


def announce(session: Session, row: Launch, settings: Settings) -> LaunchView:
    """Tell the world about a launch's state, once its transaction has changed it for the last time."""
    session.flush()
    session.refresh(row)
    view = launch_view(row, settings)
    told = view.model_copy(update={"preview_link": None}).to_json()
    catalog.note_launch(session, row.repository_id, told)
    payload = {"repositoryId": row.repository_id, "launch": told}
    events.append(session, type="launch.updated", source=SOURCE, payload=payload, correlation_id=row.correlation_id)
    return view


def _stop(session: Session, row: Launch) -> None:
    states.stop(row, Ending(LaunchStatus.STOPPED, Reason(ReasonCode.STOPPED, "Stopped on request.")))
    repository.notify(session, CHANNEL)


def _build(session: Session, wanted: LaunchRequest) -> BuildView:
    build = builds.launchable(session, wanted.repository_id, wanted.build_id)
    if build is None and wanted.build_id is not None:
        raise BuildNotFound(wanted.build_id)
    if build is not None and build.repository_id != wanted.repository_id:
        raise WrongBuild(build.id, wanted.repository_id)
    if build is None or build.status != BuildStatus.SUCCEEDED or build.image_tag is None:
        raise NoBuild(wanted.repository_id)
    return build


def _new(launch_id: str, wanted: LaunchRequest, build: BuildView, correlation_id: str | None) -> Launch:
    return Launch(
        id=launch_id,
        repository_id=wanted.repository_id,
        build_id=build.id,
        image_tag=build.image_tag or "",
        resource_profile=wanted.profile,
        env=[{"key": variable.key, "value": variable.value} for variable in wanted.env],
        command=wanted.command,
        wake=wanted.wake,
        correlation_id=correlation_id,
        created_at=datetime.now(UTC),
    )
