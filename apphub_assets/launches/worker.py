"""Carries out what was decided for one launch: first the row says what is about to be done, then it is done.

Every action holds the lock `launch:<id>` and looks whether the row is still the one that was decided upon. So actions
of one launch never overlap, in whatever process they run, and one that was decided on old news does nothing.
"""

import http.client
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from apphub_assets.containers import Engine, EngineUnavailable, ImageMissing, Sandboxes, SandboxSpec
from apphub_assets.errors import AppHubError
from apphub_assets.kit.db import Database
from apphub_assets.kit.ids import new_id
from apphub_assets.launches import logs, repository, states
from apphub_assets.launches.decisions import ALIVE, Action, Bury, Hold, Probe, Recheck, Remove, Start, Stop
from apphub_assets.launches.models import Launch
from apphub_assets.launches.service import announce
from apphub_assets.launches.spec import (
    DEFAULT_PORT,
    RESOURCES,
    LaunchStatus,
    Profile,
    Reason,
    ReasonCode,
    port_of,
    split_command,
)
from apphub_assets.launches.states import Ending
from apphub_assets.settings import Settings

GRACE_SECONDS = 2.0
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5
ANSWER_SECONDS = 10.0
FIRST_MOMENT = timedelta(seconds=0.5)


class Worker:
    """Does actions. Safe to share between threads.

    Args:
        database: where the rows are.
        engine: for what is to be known of images.
        sandboxes: where the containers are.
        settings: limits and addresses.
    """

    def __init__(
        self,
        database: Database,
        engine: Engine,
        sandboxes: Sandboxes,
        settings: Settings,
    ) -> None:
        self._database = database
        self._engine = engine
        self._sandboxes = sandboxes
        self._settings = settings

    def do(self, action: Action) -> None:
        """Carry out an action; one on a launch that somebody else works on is left to the next turn.

        Raises:
            EngineUnavailable: the engine went away; what is left to do is decided again when it is back.
        """
        if isinstance(action, Remove):
            self._sandboxes.stop(action.sandbox_id)
            return
        with self._database.lock(f"launch:{action.launch.id}") as had:
            if had:
                self._do(action)

    def _do(self, action: Action) -> None:
        match action:
            case Start(launch):
                self._start(launch)
            case Bury(launch):
                self._bury(launch)
            case Stop(launch, ending):
                self._stop(launch, ending)
            case Recheck(launch):
                self._change(launch, states.recheck)
            case Hold(launch):
                self._change(launch, lambda row: states.hold(row, self._why_away()))

    def probe(self, probe: Probe, cancelled: threading.Event) -> None:
        """Ask until it answers, its time is over, or `cancelled`; it runs when it answered."""
        address, pause = probe.launch.address or "", FIRST_PAUSE
        while not answers(address, _seconds_until(probe.deadline)):
            if cancelled.wait(min(pause, _seconds_until(probe.deadline))) or datetime.now(UTC) >= probe.deadline:
                return
            pause = min(pause * 1.5, LONGEST_PAUSE)
        self._change(probe.launch, states.answer)

    def _start(self, launch: Launch) -> None:
        try:
            port = port_of(self._engine.image_info(launch.image_tag))
            row = self._change(launch, lambda row: states.begin(row, new_id(), port))
            if row is None:
                return
            launch = row
            sandbox = self._sandboxes.start(_spec(launch))
        except EngineUnavailable:
            raise
        except AppHubError as error:
            code = ReasonCode.IMAGE_MISSING if isinstance(error, ImageMissing) else ReasonCode.START_FAILED
            self._end(launch, Ending(LaunchStatus.FAILED, Reason(code, error.message)))
            return
        row = self._change(launch, lambda row: states.locate(row, sandbox))
        if row is not None:
            # Most apps answer within a moment. Those that don't are probed beside other work, from the next turn on.
            self.probe(Probe(row, datetime.now(UTC) + FIRST_MOMENT), threading.Event())

    def _bury(self, launch: Launch) -> None:
        state = self._sandboxes.inspect(launch.sandbox_id or "")
        if state.status not in ALIVE:
            self._end(launch, states.ending_of(launch, state))

    def _stop(self, launch: Launch, ending: Ending) -> None:
        row: Launch | None = launch
        if launch.status != LaunchStatus.STOPPING:
            row = self._change(launch, lambda row: states.stop(row, ending))
        if row is not None:
            self._end(row, ending, grace=GRACE_SECONDS if ending.status != LaunchStatus.FAILED else 0)

    def _end(self, launch: Launch, ending: Ending, grace: float | None = None) -> None:
        """Keep its last words, say that it ended, remove what is left; with `grace`, in the order end, remove, say."""
        sandbox_id = launch.sandbox_id
        tail = logs.tail(self._sandboxes, sandbox_id) if sandbox_id else None
        if sandbox_id and grace is not None:
            self._sandboxes.stop(sandbox_id, grace)
        self._change(launch, lambda row: states.end(row, ending, tail))
        if sandbox_id and grace is None:
            self._sandboxes.stop(sandbox_id)

    def _change(self, seen: Launch, change: Callable[[Launch], None]) -> Launch | None:
        """Change the row unless it changed since it was seen, and tell; returns it as it is then."""
        with self._database.transaction() as session:
            row = repository.get_kept_for_update(session, seen.id)
            if row is None or row.updated_at != seen.updated_at:
                return None
            change(row)
            self._announce(session, row)
        return row

    def _announce(self, session: Session, row: Launch) -> None:
        if not row.pooled:
            announce(session, row, self._settings)
            return
        session.flush()
        session.refresh(row)

    def _why_away(self) -> str:
        try:
            self._engine.ping()
        except EngineUnavailable as error:
            return error.message
        return "The container engine did not answer."


def answers(address: str, seconds: float) -> bool:
    """Whether something at `host:port` answers HTTP, with whatever status, within `seconds` and at most 10."""
    if seconds <= 0:
        return False
    connection = http.client.HTTPConnection(address, timeout=min(seconds, ANSWER_SECONDS))
    try:
        connection.request("GET", "/", headers={"Host": "localhost", "User-Agent": "apphub", "Connection": "close"})
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def _spec(launch: Launch) -> SandboxSpec:
    return SandboxSpec(
        launch_id=launch.sandbox_id or "",
        image=launch.image_tag,
        port=launch.internal_port or DEFAULT_PORT,
        env={variable.key: variable.value for variable in states.env_of(launch)},
        profile=RESOURCES[Profile(launch.resource_profile)],
        command=split_command(launch.command) if launch.command else None,
        correlation_id=launch.correlation_id or "",
    )


def _seconds_until(moment: datetime) -> float:
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
