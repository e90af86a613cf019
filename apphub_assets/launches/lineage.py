"""Tells Dagster what became of launches, so that its lineage runs from commit to image to preview.

Level-triggered like the keeper: each row says which of its states Dagster was told last, and what differs is reported
until Dagster has taken it, also what changed while nobody reported. Nobody waits for it: a thread of its own looks once
a second.
"""

import threading

import structlog
from sqlalchemy.exc import SQLAlchemyError

from apphub_assets.catalog import builds
from apphub_assets.errors import AppHubError
from apphub_assets.kit.db import Database
from apphub_assets.launches import repository
from apphub_assets.launches.models import Launch
from apphub_assets.launches.spec import LaunchStatus
from apphub_assets.orchestrator import Orchestrator, OrchestratorUnavailable

log = structlog.get_logger()
ASSET = "preview"
EVERY_SECONDS = 1.0


class Lineage:
    """Reports the newest launch of each app that changed. Every API process has one; one of them reports at a time."""

    def __init__(self, database: Database, orchestrator: Orchestrator) -> None:
        self._database = database
        self._orchestrator = orchestrator
        self._reason = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="launch-lineage", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=2)

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_SECONDS):
            try:
                with self._database.lock("launch-lineage") as mine:
                    if mine:
                        self._report_all()
            except (AppHubError, SQLAlchemyError) as error:
                self._note_trouble(error)

    def _report_all(self) -> None:
        """Report every app with news; one that Dagster refuses does not hold up the others."""
        with self._database.transaction() as session:
            news = repository.unreported(session)
        refused = ""
        for repository_id, launches in news.items():
            try:
                self._report(repository_id)
            except OrchestratorUnavailable:
                raise
            except AppHubError as error:
                refused = refused or error.message
                self._note_trouble(error)
                continue
            with self._database.transaction() as session:
                repository.note_reported(session, launches)
        self._reason = refused

    def _report(self, repository_id: str) -> None:
        with self._database.transaction() as session:
            launch = repository.representative(session, repository_id)
            # An app that was deleted meanwhile took its launches and its partition with it.
            if launch is None or launch.build_id is None:
                return
            commit = builds.show(session, launch.build_id).commit_sha or ""
        running = launch.status == LaunchStatus.RUNNING
        report = self._orchestrator.report_materialization if running else self._orchestrator.report_observation
        report(ASSET, repository_id, commit, _metadata(launch))

    def _note_trouble(self, error: Exception) -> None:
        """Log the reason once; what could not be reported is tried again in a second."""
        if self._reason != (reason := str(error).splitlines()[0]):
            self._reason = reason
            log.warning("preview.not_reported", reason=reason)


def _metadata(launch: Launch) -> dict[str, str | None]:
    return {
        "launch": launch.id,
        "status": launch.status,
        "reason": launch.reason,
        "build": launch.build_id,
        "image": launch.image_tag,
    }
