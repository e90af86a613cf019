"""What a worker does with the builds that people and ingestions ask for.

A worker holds the lock `image:<id>` while it builds, so one image per repository is made at a time and a dead
worker's build is recognised at once. One that loses the lock stops, and what it made counts only while the build is
still in its attempt. The image's name carries the commit, and a commit that has its image is not built again unless a
person asks, or names another Dockerfile.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from apphub_assets import containers, git
from apphub_assets.catalog import builds, logs, repository, service
from apphub_assets.catalog.address import AddressPolicy
from apphub_assets.catalog.dockerfile import dockerfile_text
from apphub_assets.catalog.errors import AlreadyInProgress, NotReady, as_written
from apphub_assets.catalog.ingestion import check_out
from apphub_assets.catalog.models import Build
from apphub_assets.catalog.remote_sources import check_remote_sources
from apphub_assets.catalog.spec import BuildStatus
from apphub_assets.catalog.tree import Tree
from apphub_assets.catalog.workplace import workplace
from apphub_assets.errors import AppHubError
from apphub_assets.kit.db import Database, Held
from apphub_assets.settings import Settings

MAX_ATTEMPTS = 5


@dataclass(frozen=True)
class Built:
    """An image and the commit it was made of. `reused` when it was there already."""

    build_id: str
    commit_sha: str
    image_tag: str
    image_digest: str
    image_size: int
    seconds: float
    log_bytes: int
    log_complete: bool
    reused: bool


def build_next(
    database: Database,
    engine: containers.Engine,
    settings: Settings,
    repository_id: str,
    *,
    run_id: str | None = None,
    only_if_untried: bool = False,
    progress: Callable[[str], None] = lambda _line: None,
) -> Built | None:
    """Do every pending build of a repository, oldest first; without any, make sure the newest commit has its image.

    With `only_if_untried` a commit whose build failed or was canceled is left to people.

    Returns: the last build done, or the existing image; None when there is nothing to do.

    Raises:
        AlreadyInProgress: another worker builds this repository.
        NotReady: it was not ingested yet.
        AppHubError: the build failed; its row and log say why.
    """
    with database.lock(lock_name(repository_id)) as lock:
        if not lock:
            raise AlreadyInProgress(f"an image of {repository_id!r} is being built by another run")
        last: Built | None = None
        while build := _claim(database, repository_id, run_id, first=last is None, untried=only_if_untried):
            if build.status == BuildStatus.SUCCEEDED:
                return _reused(build)
            last = _Work(database, lock, engine, settings, build, progress).run()
        return last


def unclaimed(database: Database) -> list[Build]:
    """Builds that no living worker has; those a dead one left are put back or failed."""
    with database.transaction() as session:
        waiting = repository.unfinished_builds(session)
    return [build for build in waiting if build.status == BuildStatus.PENDING or _reclaim(database, build)]


def lock_name(repository_id: str) -> str:
    return f"image:{repository_id}"


def image_name(build: Build) -> str:
    """`apphub/<id>:<commit>-<build>`: sorts by commit, unique per build, so that a rebuild replaces nothing in use."""
    return f"apphub/{build.repository_id}:{(build.commit_sha or 'head')[:12]}-{build.id[-8:]}"


class _Work:
    """One build on its way from pending to a final state."""

    def __init__(
        self,
        database: Database,
        lock: Held,
        engine: containers.Engine,
        settings: Settings,
        build: Build,
        progress: Callable[[str], None],
    ) -> None:
        self._database = database
        self._lock = lock
        self._engine = engine
        self._settings = settings
        self._build = build
        self._progress = progress
        self._log = logs.BuildLog(database, build.id, settings.build_log_bytes)

    def run(self) -> Built:
        started = time.monotonic()
        try:
            image = self._make()
            ports = self._engine.image_info(image.id).ports
        except OperationalError:  # there is nowhere to write it; whoever comes next finds the lock free
            raise
        except Exception as error:
            failure = as_written(error)
            self._write(failure.message)
            self._log.flush()
            self._fail(failure)
            raise
        self._log.flush()
        return self._succeed(image, ports, time.monotonic() - started)

    def _make(self) -> containers.BuiltImage:
        with workplace(self._settings, lock_name(self._build.repository_id)) as folder:
            checkout = self._check_out(folder / "tree")
            tag = image_name(self._build)
            self._write(f"Building {tag} from {checkout.commit_sha}")
            spec = self._spec(checkout.path, tag)
            check_remote_sources(dockerfile_text(Tree(spec.context), spec.dockerfile), AddressPolicy.of(self._settings))
            return containers.build(self._engine, spec, self._write, self._is_cancelled)

    def _spec(self, context: Path, tag: str) -> containers.BuildSpec:
        settings, build = self._settings, self._build
        return containers.BuildSpec(
            context=context,
            dockerfile=build.dockerfile_path or "Dockerfile",
            tag=tag,
            owner=f"{settings.stack_id}.{build.repository_id}",
            limits=containers.BuildLimits(
                memory_bytes=settings.build_memory_bytes,
                cpus=settings.build_cpus,
                disk_bytes=settings.build_disk_bytes,
                timeout=settings.build_timeout,
            ),
            labels={
                "apphub.repository": build.repository_id,
                "apphub.build": build.id,
                "apphub.correlation-id": build.correlation_id or "",
            },
        )

    def _check_out(self, into: Path) -> git.Checkout:
        with self._database.transaction() as session:
            url = service.existing(session, self._build.repository_id).repo_url
        checkout = check_out(self._settings, url, self._build.git_ref, into, self._progress)
        # The branch may have moved since the build was asked for: what is built is what is recorded.
        with self._database.transaction() as session:
            build = self._locked(session)
            build.commit_sha, build.git_branch = checkout.commit_sha, checkout.branch or build.git_branch
            self._build = build
        return checkout

    def _write(self, lines: str) -> None:
        self._log.write(f"{lines}\n")

    def _is_cancelled(self) -> bool:
        """Asked twice a second from another thread: also the moment to show what a silent step printed last."""
        self._lock.check()
        self._log.flush()
        with self._database.transaction() as session:
            build = repository.get_build(session, self._build.id)
            return build is None or build.cancel_requested

    def _succeed(self, image: containers.BuiltImage, ports: tuple[int, ...], seconds: float) -> Built:
        with self._database.transaction() as session:
            build = self._locked(session)
            build.status = BuildStatus.SUCCEEDED
            build.image_tag, build.image_digest, build.image_size = image_name(build), image.id, image.size_bytes
            facts = service.existing(session, build.repository_id).facts
            build.exposed_port = facts.get("port") or next(iter(ports), None)
            build.completed_at = datetime.now(UTC)
            service.announce_build(session, build)
            service.announce(session, build.repository_id)
        return _built(build, seconds, reused=False)

    def _fail(self, error: AppHubError) -> None:
        with self._database.transaction() as session:
            build = self._locked(session)
            again = error.retryable and build.attempts < MAX_ATTEMPTS and not build.cancel_requested
            canceled = isinstance(error, containers.BuildCancelled)
            build.status = BuildStatus.CANCELED if canceled else BuildStatus.PENDING if again else BuildStatus.FAILED
            build.error_message, build.error_code = error.message, error.code
            build.completed_at = None if again else datetime.now(UTC)
            service.announce_build(session, build)
            service.announce(session, build.repository_id)

    def _locked(self, session: Session) -> Build:
        build = builds.locked(session, self._build.id)
        if build.status != BuildStatus.RUNNING or build.attempts != self._build.attempts:
            raise AlreadyInProgress(f"build {build.id} was taken over by another worker, who found its lock free")
        return build


def _claim(
    database: Database, repository_id: str, run_id: str | None, *, first: bool, untried: bool = False
) -> Build | None:
    """The next build to do, marked running; the finished one when there is nothing to do."""
    with database.transaction() as session:
        # Locked, so that an ingestion sees the build either waiting or with the Dockerfile that it takes.
        row = service.locked(session, repository_id)
        # We have the lock, so nobody is at a build that runs: its worker died.
        for left in repository.running_builds(session, repository_id):
            _put_back(session, left)
        build = repository.next_pending_build(session, repository_id)
        if build is None and not first:
            return None
        if build is None:
            if row.commit_sha is None:
                raise NotReady(f"app {repository_id!r} has no commit to build; ingest it first")
            done = repository.build_of_newest(session, row)
            if done is not None:
                return done
            if untried and repository.was_tried(session, row):
                return None
            build = builds.add(session, row, correlation_id=row.correlation_id)
        builds.forget(session, build)
        build.status = BuildStatus.RUNNING
        build.attempts += 1
        build.started_at = datetime.now(UTC)
        build.run_id = run_id
        build.dockerfile_path = row.dockerfile
        service.announce_build(session, build)
        return build


def _reclaim(database: Database, build: Build) -> bool:
    with database.lock(lock_name(build.repository_id)) as had:
        if not had:
            return False
        with database.transaction() as session:
            return _put_back(session, builds.locked(session, build.id))


def _put_back(session: Session, build: Build) -> bool:
    if build.status != BuildStatus.RUNNING:
        return build.status == BuildStatus.PENDING
    again = build.attempts < MAX_ATTEMPTS and not build.cancel_requested
    ended = BuildStatus.CANCELED if build.cancel_requested else BuildStatus.FAILED
    build.status = BuildStatus.PENDING if again else ended
    build.error_message, build.error_code = f"the worker of attempt {build.attempts} died", "worker_lost"
    build.completed_at = None if again else datetime.now(UTC)
    service.announce_build(session, build)
    return again


def _reused(build: Build) -> Built:
    return _built(build, 0.0, reused=True)


def _built(build: Build, seconds: float, *, reused: bool) -> Built:
    return Built(
        build_id=build.id,
        commit_sha=build.commit_sha or "",
        image_tag=build.image_tag or "",
        image_digest=build.image_digest or "",
        image_size=build.image_size or 0,
        seconds=seconds,
        log_bytes=build.log_size,
        log_complete=build.log_kept == build.log_size,
        reused=reused,
    )
