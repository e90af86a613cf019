"""Ingestion: read a repository at its newest commit and write down what is found.

A worker holds the lock `repository:<id>` while it works. So a row that says `processing` while its lock is free has
lost its worker, however that died, and can be given to another. What a worker found counts only while the row is still
in the attempt that it began: somebody may have asked anew since, for another address or for a newer commit.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from apphub_assets import git
from apphub_assets.catalog import builds, repository, service
from apphub_assets.catalog.address import AddressPolicy
from apphub_assets.catalog.errors import AlreadyInProgress, as_written
from apphub_assets.catalog.inspection import Inspection, inspect
from apphub_assets.catalog.models import Repository
from apphub_assets.catalog.spec import IngestStatus, Tag, TagSource
from apphub_assets.catalog.tiles import preview_tiles
from apphub_assets.catalog.workplace import workplace
from apphub_assets.errors import AppHubError
from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings

BACK_OFF_SECONDS = 15.0
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Ingested:
    """What an ingestion leaves behind. `commit_sha` is the asset's data version."""

    repository_id: str
    commit_sha: str
    branch: str | None
    dockerfile: str
    tags: int
    warnings: int
    seconds: float
    attempt: int


def ingest(
    database: Database,
    settings: Settings,
    repository_id: str,
    *,
    run_id: str | None = None,
    only_if_pending: bool = False,
    progress: Progress = lambda _line: None,
) -> Ingested | None:
    """Clone, inspect and record one repository; `None` when `only_if_pending` and somebody already did it.

    Raises:
        AppNotFound: it was deleted.
        AlreadyInProgress: another worker has it.
        AppHubError: the repository can't be read as an app; the row says why, and a retryable one waits for its turn.
    """
    with database.lock(lock_name(repository_id)) as had:
        if not had:
            raise AlreadyInProgress(f"repository {repository_id!r} is being ingested by another run")
        while row := _begin(database, repository_id, run_id, only_if_pending):
            if found := _attempt(database, settings, row, progress):
                return found
            only_if_pending = True
        return None


def unclaimed(database: Database, settings: Settings) -> list[Repository]:
    """Repositories that wait for an ingestion and that no living worker holds, put back into `pending`."""
    with database.transaction() as session:
        waiting = repository.unfinished_repositories(session, datetime.now(UTC))
    return [row for row in waiting if row.ingest_status == IngestStatus.PENDING or _reclaim(database, settings, row)]


def lock_name(repository_id: str) -> str:
    return f"repository:{repository_id}"


def _begin(database: Database, repository_id: str, run_id: str | None, only_if_pending: bool) -> Repository | None:
    with database.transaction() as session:
        row = service.locked(session, repository_id)
        if only_if_pending and row.ingest_status != IngestStatus.PENDING:
            return None
        row.ingest_status = IngestStatus.PROCESSING
        row.ingest_attempts += 1
        row.run_id = run_id or row.run_id
        service.add_history(session, row, f"attempt {row.ingest_attempts}")
        service.announce(session, repository_id)
        return row


def _attempt(database: Database, settings: Settings, row: Repository, progress: Progress) -> Ingested | None:
    """One attempt; `None` when it was overtaken by a newer request."""
    started = time.monotonic()
    try:
        return _read(database, settings, row, started, progress)
    except OperationalError:  # there is nowhere to write it; whoever comes next finds the lock free
        raise
    except Exception as error:
        if _fail(database, settings, row, as_written(error), started):
            raise
        return None


def _read(
    database: Database, settings: Settings, row: Repository, started: float, progress: Progress
) -> Ingested | None:
    with workplace(settings, lock_name(row.id)) as folder:
        checkout = check_out(settings, row.repo_url, row.git_ref, folder / "tree", progress)
        progress(f"checked out {checkout.commit_sha}")
        with database.transaction() as session:
            repository.note_remote_check(session, row.id, checkout.commit_sha)
        found = inspect(checkout.path, row.dockerfile_path)
    seconds = time.monotonic() - started
    with database.transaction() as session:
        now = service.locked(session, row.id)
        if not _is_of(row, now):
            return None
        _record(session, now, checkout, found, seconds)
    return Ingested(
        row.id, checkout.commit_sha, checkout.branch, found.dockerfile.path, len(found.tags),
        len(found.warnings), seconds, row.ingest_attempts,
    )  # fmt: skip


def _is_of(attempt: Repository, now: Repository) -> bool:
    """Whether the row is still in this attempt."""
    return now.ingest_status == IngestStatus.PROCESSING and now.ingest_attempts == attempt.ingest_attempts


def _record(session: Session, row: Repository, checkout: git.Checkout, found: Inspection, seconds: float) -> None:
    row.ingest_status = IngestStatus.READY
    row.ingest_error = row.ingest_error_code = None
    row.ingest_not_before = None
    row.last_ingested_at = datetime.now(UTC)
    row.commit_sha, row.branch = checkout.commit_sha, checkout.branch
    row.found_dockerfile = found.dockerfile.path
    row.readme, row.owner = found.readme, found.owner
    row.facts = found.facts()
    row.warnings = [asdict(warning) for warning in found.warnings]
    row.preview_tiles = preview_tiles(found.preview, row.repo_url, checkout.commit_sha)
    row.launch_env_templates = [asdict(template) for template in found.env_templates]
    row.version += 1
    for source in (TagSource.AUTHOR, TagSource.AUTO):
        tags = [Tag(tag.key, tag.value) for tag in found.tags if tag.source == source]
        repository.replace_tags(session, row.id, source, tags)
    service.add_history(session, row, f"commit {checkout.commit_sha[:12]}", round(seconds * 1000))
    _ask_build(session, row)
    service.announce(session, row.id)


def _ask_build(session: Session, row: Repository) -> None:
    """The new commit wants an image, unless there is one or one is on its way."""
    if repository.is_built_or_will_be(session, row):
        return
    build = builds.add(session, row, correlation_id=row.correlation_id)
    service.announce_build(session, build)


def _fail(database: Database, settings: Settings, attempt: Repository, error: AppHubError, started: float) -> bool:
    """Write down why it failed; False when nobody waits for this attempt any more."""
    with database.transaction() as session:
        row = service.locked(session, attempt.id)
        if not _is_of(attempt, row):
            return False
        retry = error.retryable and row.ingest_attempts < settings.ingest_max_attempts
        row.ingest_status = IngestStatus.PENDING if retry else IngestStatus.FAILED
        row.ingest_error, row.ingest_error_code = error.message, error.code
        wait = BACK_OFF_SECONDS * 2 ** (row.ingest_attempts - 1)
        row.ingest_not_before = datetime.now(UTC) + timedelta(seconds=wait) if retry else None
        service.add_history(session, row, error.message, round((time.monotonic() - started) * 1000))
        service.announce(session, row.id)
        return True


def _reclaim(database: Database, settings: Settings, row: Repository) -> bool:
    with database.lock(lock_name(row.id)) as had:
        if not had:
            return False
        with database.transaction() as session:
            return _put_back(session, settings, service.locked(session, row.id))


def _put_back(session: Session, settings: Settings, row: Repository) -> bool:
    if row.ingest_status != IngestStatus.PROCESSING:
        return row.ingest_status == IngestStatus.PENDING
    again = row.ingest_attempts < settings.ingest_max_attempts
    row.ingest_status = IngestStatus.PENDING if again else IngestStatus.FAILED
    row.ingest_error = f"the worker of attempt {row.ingest_attempts} died"
    row.ingest_error_code = "worker_lost"
    service.add_history(session, row, row.ingest_error)
    service.announce(session, row.id)
    return again


def check_out(settings: Settings, url: str, ref: str | None, into: Path, progress: Progress) -> git.Checkout:
    """Clone within the limits and the address policy of the settings."""
    return git.clone(url, ref, into, git.Limits.of(settings), AddressPolicy.of(settings), progress)
