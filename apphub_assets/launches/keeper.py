"""The keeper makes launches what their rows want them to be, and the rows what is true.

It is level-triggered: every turn looks at everything that is wanted and everything that is there, and decides the next
step of each launch. What wakes it (a request, a NOTIFY, an event of the engine) only makes the next turn come sooner,
so nothing is lost with a missed one. It keeps nothing in memory that a restart would miss.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

import psycopg
import structlog
from sqlalchemy.exc import SQLAlchemyError

from apphub_assets.containers import ContainerEvent, Engine, EngineUnavailable, Feed, Sandboxes, SandboxStatus
from apphub_assets.errors import AppHubError
from apphub_assets.kit.db import Database
from apphub_assets.launches import repository
from apphub_assets.launches.decisions import Action, Policy, Probe, Remove, decide
from apphub_assets.launches.errors import NotKept
from apphub_assets.launches.lineage import Lineage
from apphub_assets.launches.models import Launch
from apphub_assets.launches.pool import Pool
from apphub_assets.launches.service import CHANNEL
from apphub_assets.launches.spec import LaunchStatus
from apphub_assets.launches.visits import Visits
from apphub_assets.launches.worker import Worker
from apphub_assets.orchestrator import Orchestrator
from apphub_assets.settings import Settings

log = structlog.get_logger()

TURN_SECONDS = 2.0
RETRY_SECONDS = 1.0
LISTEN_SECONDS = 0.5
ACTIONS_AT_ONCE = 4
PROBES_AT_ONCE = 32


class Keeper:
    """The threads around `decide` and `Worker`. Every API process has one; each turn is taken by one of them.

    Args:
        database: where the rows are.
        engine: where the containers are.
        settings: limits and addresses.
        orchestrator: is told of changes, when it listens.
    """

    def __init__(self, database: Database, engine: Engine, settings: Settings, orchestrator: Orchestrator) -> None:
        self.visits = Visits()
        self.sandboxes = Sandboxes(engine, settings.stack_id, settings.relay_image, settings.relay_network)
        self._database = database
        self._policy = Policy(settings.launch_start_timeout, settings.launch_idle_timeout)
        self._lineage = Lineage(database, orchestrator)
        self._worker = Worker(database, engine, self.sandboxes, settings)
        self._pool = Pool(database, self.sandboxes, settings)
        self._troubles: dict[str, str] = {}
        self._busy: set[str] = set()
        self._probes: dict[str, threading.Event] = {}
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._actions = ThreadPoolExecutor(ACTIONS_AT_ONCE, "launch-action")
        self._probing = ThreadPoolExecutor(PROBES_AT_ONCE, "launch-probe")
        self._feed: Feed[ContainerEvent] | None = None
        self._threads = [
            threading.Thread(target=self._repeat, args=(run,), name=f"launch-{run.__name__.strip('_')}", daemon=True)
            for run in (self._keep, self._watch_engine, self._listen)
        ]

    def start(self) -> None:
        """Begin to keep."""
        self._lineage.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish what is being done and rest; what runs goes on running."""
        self._stopping.set()
        self._woken.set()
        if self._feed is not None:
            self._feed.close()
        for cancelled in tuple(self._probes.values()):
            cancelled.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=2 * TURN_SECONDS)
        self._actions.shutdown(cancel_futures=True)
        self._probing.shutdown(cancel_futures=True)
        self._lineage.stop()

    def wake(self) -> None:
        """Take the next turn now; call it after the commit of what it should see."""
        self._woken.set()

    def check(self) -> None:
        """See that launches are kept.

        Raises:
            NotKept: the last turn failed, and why.
        """
        if reason := self._troubles.get(self._keep.__name__):
            raise NotKept(reason)

    def _repeat(self, run: Callable[[], None]) -> None:
        """Run until told to stop, whatever happens; what needs an engine or a database that is away waits for it."""
        while not self._stopping.is_set():
            try:
                run()
                self._troubles.pop(run.__name__, None)
            except Exception as error:  # noqa: BLE001 - a thread that ended would leave every launch as it is
                self._note_trouble(run.__name__, error)
                self._woken.set()
                self._stopping.wait(RETRY_SECONDS)

    def _note_trouble(self, thread: str, error: Exception) -> None:
        """Log why a thread is held up, once, and with where it came from if nobody thought of it."""
        reason = str(error) or repr(error)
        if self._troubles.get(thread) != reason:
            expected = isinstance(error, AppHubError | SQLAlchemyError | psycopg.Error)
            log.warning("launches.keeper.waits", thread=thread, reason=reason, exc_info=None if expected else error)
        self._troubles[thread] = reason

    def _keep(self) -> None:
        self._woken.wait(TURN_SECONDS)
        self._woken.clear()
        if not self._stopping.is_set():
            self._turn()

    def _turn(self) -> None:
        with self._database.transaction() as session:
            repository.note_visits(session, self.visits.take())
        # For a turn, not for life: a lock whose connection was lost would be nobody's without anybody noticing.
        with self._database.lock("launch-keeper") as mine:
            if mine:
                self._look_and_act()

    def _look_and_act(self) -> None:
        # In this order: what was busy before the look may have changed after it, and a container that was seen has
        # its row already.
        busy, probed = frozenset(self._busy), dict(self._probes)
        sandboxes = self._look()
        with self._database.transaction() as session:
            launches = repository.kept(session)
        self._end_probes(probed, launches)
        for action in decide(launches, sandboxes, datetime.now(UTC), self._policy):
            if isinstance(action, Probe):
                self._probe(action)
            elif _key(action) not in busy:
                self._act(action)
        if sandboxes is not None and not any(_in_motion(launch) for launch in launches) and self._pool.tend():
            self.wake()

    def _look(self) -> dict[str, SandboxStatus] | None:
        try:
            return self.sandboxes.list()
        except EngineUnavailable:
            return None

    def _act(self, action: Action) -> None:
        key = _key(action)
        self._busy.add(key)
        self._actions.submit(self._worker.do, action).add_done_callback(
            partial(self._acted, key, type(action).__name__)
        )

    def _acted(self, key: str, name: str, done: "Future[None]") -> None:
        self._busy.discard(key)
        failed = not done.cancelled() and _report(name, key, done)
        # What failed is tried again with the next regular turn, not at once and for ever.
        if not failed:
            self.wake()

    def _probe(self, probe: Probe) -> None:
        sandbox_id = probe.launch.sandbox_id or ""
        if sandbox_id not in self._probes:
            cancelled = self._probes[sandbox_id] = threading.Event()
            done = self._probing.submit(self._worker.probe, probe, cancelled)
            done.add_done_callback(partial(self._probed, sandbox_id))

    def _probed(self, sandbox_id: str, done: "Future[None]") -> None:
        del self._probes[sandbox_id]
        if not done.cancelled():
            _report("Probe", sandbox_id, done)
        self.wake()

    def _end_probes(self, probed: dict[str, threading.Event], launches: list[Launch]) -> None:
        starting = {launch.sandbox_id for launch in launches if launch.status == LaunchStatus.STARTING}
        for sandbox_id, cancelled in probed.items():
            if sandbox_id not in starting:
                cancelled.set()

    def _watch_engine(self) -> None:
        feed = self._feed = self.sandboxes.watch()
        self.wake()
        for _ in feed:
            self.wake()

    def _listen(self) -> None:
        with psycopg.connect(self._database.url.replace("+psycopg", "", 1), autocommit=True) as connection:
            connection.execute(f"LISTEN {CHANNEL}")
            while not self._stopping.is_set():
                if any(True for _ in connection.notifies(timeout=LISTEN_SECONDS, stop_after=1)):
                    self.wake()


def _key(action: Action) -> str:
    return action.sandbox_id if isinstance(action, Remove) else action.launch.id


def _in_motion(launch: Launch) -> bool:
    return launch.status in {LaunchStatus.PENDING, LaunchStatus.STARTING}


def _report(name: str, key: str, done: "Future[None]") -> bool:
    """Log why an action failed, if it did; the next turn decides anew."""
    error = done.exception()
    if isinstance(error, AppHubError | SQLAlchemyError):
        log.warning("launches.action.failed", action=name, launch=key, reason=str(error).splitlines()[0])
    elif error is not None:
        log.error("launches.action.broke", action=name, launch=key, exc_info=error)
    return error is not None
