"""Which remotes have moved: asked in turns, not all at once, and a host that fails is left in peace for a while.

Moved is what has another commit than was looked at last, even in vain: a commit that can't be an app is not ingested
again, the push that mends it is.
"""

import random
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import structlog

from apphub_assets import git
from apphub_assets.catalog import repository, service
from apphub_assets.catalog.address import AddressPolicy
from apphub_assets.catalog.models import Repository
from apphub_assets.errors import AppHubError
from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings

log = structlog.get_logger()

BATCH = 100
AT_ONCE = 8
TIMEOUT_SECONDS = 10.0
JITTER = 0.2


@dataclass(frozen=True)
class _Answer:
    repository_id: str
    sha: str | None
    known: str | None

    @property
    def moved(self) -> bool:
        return self.sha is not None and self.sha != self.known


def refresh_moved(database: Database, settings: Settings) -> list[str]:
    """Ask the remotes whose turn it is, and for the ingestion of those that moved; returns the apps of these.

    A remote that can't be asked is unknown, not unchanged: it is counted and asked later and later.
    """
    # Jitter spreads a crowd that was registered in one minute over the whole interval.
    wait = settings.refresh_interval * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 spreads load, guards nothing
    with database.transaction() as session:
        due = repository.due_for_remote_check(session, datetime.now(UTC) - timedelta(seconds=wait), BATCH)
    answers = list(_ask_all(due, AddressPolicy.of(settings)))
    moved = sorted(answer.repository_id for answer in answers if answer.moved)
    with database.transaction() as session:
        for answer in answers:
            repository.note_remote_check(session, answer.repository_id, answer.sha)
        for repository_id in moved:
            service.refresh(session, repository_id, "the remote has a newer commit")
    return moved


def _ask_all(due: Iterable[Repository], policy: AddressPolicy) -> Iterable[_Answer]:
    """Hosts side by side, the repositories of one host one after the other, until it fails."""
    hosts: dict[str, list[Repository]] = {}
    for row in due:
        hosts.setdefault(urlsplit(row.repo_url).netloc, []).append(row)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for answers in pool.map(lambda rows: _ask_host(rows, policy), hosts.values()):
            yield from answers


def _ask_host(rows: list[Repository], policy: AddressPolicy) -> list[_Answer]:
    answers: list[_Answer] = []
    away = False
    for row in rows:
        sha = None
        if not away:
            try:
                sha = git.remote_head(row.repo_url, row.git_ref, policy, TIMEOUT_SECONDS)
            except AppHubError as error:
                away = error.retryable
                log.info("remote.unknown", repository=row.id, code=error.code)
        answers.append(_Answer(row.id, sha, row.remote_sha))
    return answers
