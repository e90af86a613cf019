"""Tells Dagster what became of launches, so that its lineage runs from commit to image to preview.

Level-triggered like the keeper: each turn's launches are compared with what Dagster was told, and what differs is
reported until Dagster has taken it. Nobody waits for it: a thread of its own reports, once a second at most.
"""

import threading
from collections.abc import Sequence

import structlog
from sqlalchemy.exc import SQLAlchemyError

from apphub_assets.catalog import builds
from apphub_assets.errors import AppHubError, NotFound
from apphub_assets.kit.db import Database
from apphub_assets.launches import repository
from apphub_assets.launches.models import Launch
from apphub_assets.launches.spec import LIVE, LaunchStatus
from apphub_assets.orchestrator import Orchestrator

log = structlog.get_logger()
ASSET = "preview"
EVERY_SECONDS = 1.0

State = tuple[str, LaunchStatus]


class Lineage:
    """Reports the newest launch of each app that changed."""

    def __init__(self, database: Database, orchestrator: Orchestrator) -> None:
        self._database = database
        self._orchestrator = orchestrator
        self._lock = threading.Lock()
        self._changed: set[str] = set()
        self._told: dict[str, State] = {}
        self._reason = ""
        self._some = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="launch-lineage", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._some.set()
        self._thread.join(timeout=2)

    def see(self, launches: Sequence[Launch]) -> None:
        """Take note of the live launches, oldest first; whatever else is not live any more."""
        told = dict(self._told)
        live = {launch.repository_id: _state(launch) for launch in launches if not launch.pooled}
        changed = {app for app, state in live.items() if told.get(app) != state}
        ended = {app for app, (_, status) in told.items() if status in LIVE and app not in live}
        if changed | ended:
            with self._lock:
                self._changed |= changed | ended
            self._some.set()

    def _run(self) -> None:
        while self._some.wait() and not self._stopping.wait(EVERY_SECONDS):
            self._some.clear()
            with self._lock:
                changed, self._changed = sorted(self._changed), set()
            for repository_id in changed:
                self._try_report(repository_id)

    def _try_report(self, repository_id: str) -> None:
        """A report that fails is tried again with the keeper's next turn; the log has the reason once."""
        try:
            self._report(repository_id)
            self._reason = ""
        except NotFound:  # the app was deleted meanwhile, and its partition with it
            self._told.pop(repository_id, None)
        except (AppHubError, SQLAlchemyError) as error:
            if self._reason != (reason := str(error).splitlines()[0]):
                self._reason = reason
                log.warning("preview.not_reported", repository=repository_id, reason=reason)

    def _report(self, repository_id: str) -> None:
        with self._database.transaction() as session:
            launch = repository.representative(session, repository_id)
            if launch is None or launch.build_id is None:
                self._told.pop(repository_id, None)
                return
            commit = builds.show(session, launch.build_id).commit_sha or ""
        metadata = {
            "launch": launch.id,
            "status": launch.status,
            "reason": launch.reason,
            "build": launch.build_id,
            "image": launch.image_tag,
        }
        running = launch.status == LaunchStatus.RUNNING
        report = self._orchestrator.report_materialization if running else self._orchestrator.report_observation
        report(ASSET, repository_id, commit, metadata)
        self._told[repository_id] = _state(launch)


def _state(launch: Launch) -> State:
    return launch.id, LaunchStatus(launch.status)
