"""A warm fork server: it has loaded what is slow to load, and forks one worker process per job.

It knows nothing of Dagster; `launcher.py` says what a job is. It is single-threaded on purpose: a fork copies
the calling thread alone, so a lock held by any other thread would stay locked in the worker for ever.

One request and one reply per connection, each a line of JSON on a unix socket that only its owner may open:

    {"do": "launch", "name": run id, "job": text}  ->  {"pid": …}
    {"do": "interrupt", "name": run id}            ->  {"state": …}   (SIGINT; SIGKILL after a grace)
    {"do": "look", "name": run id}                 ->  {"state": …, "reason": …}
    {"do": "refresh", "name": ""}                  ->  {"state": …}   (once that is done)
    a launch that is turned down                   ->  {"refused": why}

Workers end with the server, however it ends; so a name that the server does not know has no worker.
"""

import ctypes
import faulthandler
import fcntl
import json
import logging
import math
import os
import resource
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

from apphub_assets.errors import TooMany, Unavailable

log = logging.getLogger(__name__)

Message = dict[str, Any]

ANSWER_TIMEOUT = 60.0  # a server that is still loading has bound its socket and answers when it is warm
REQUEST_TIMEOUT = 1.0  # the server serves one client at a time: a client that stalls is dropped
STOP_GRACE = 2.5
STOP_DEADLINE = 4.0
LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG = 1
CAUGHT = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}


class NobodyListens(Unavailable):
    code, title = "run_server_unavailable", "No fork server for runs"


class WorkersFull(TooMany):
    code, title = "run_workers_full", "Too many run workers"


class State(StrEnum):
    """What the server knows of a worker. A worker that ended well, or that never was, is unknown."""

    RUNNING = "running"
    DIED = "died"
    UNKNOWN = "unknown"


# --- Asking


def ask(path: Path, request: Message, *, patience: float = 0.0) -> Message:
    """Send one request to the server at `path` and return its reply.

    Args:
        path: the server's socket.
        request: what to do; see above.
        patience: seconds to go on trying while nobody listens, for a server that is being started.

    Raises:
        NobodyListens: there is no server, or it ended before it answered.
        WorkersFull: it turned a launch down.
        TimeoutError: it is there and does not answer.
    """
    give_up = time.monotonic() + patience
    while not (line := _exchange(path, json.dumps(request).encode() + b"\n")):
        if time.monotonic() >= give_up:
            raise NobodyListens(f"no fork server answers at {path}; is the stack up?")
        time.sleep(0.02)
    reply: Message = json.loads(line)
    if refused := reply.get("refused"):
        raise WorkersFull(f"the fork server at {path} {refused}")
    return reply


def _exchange(path: Path, line: bytes) -> bytes:
    """Send a line and return the line that answers it; nothing when there is no server, or when it ends meanwhile."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_TIMEOUT)
        try:
            connection.connect(str(path))
            connection.sendall(line)
            return _read_line(connection)
        except (FileNotFoundError, ConnectionError):
            return b""


def _read_line(connection: socket.socket) -> bytes:
    """The bytes up to the first newline; empty when the other side closed before it."""
    received = b""
    while not received.endswith(b"\n"):
        piece = connection.recv(65536)
        if not piece:
            return b""
        received += piece
    return received


# --- Serving


class Door:
    """The socket that clients knock at, and the lock that lets one server at a time answer there.

    Args:
        wait: whether to stand by while another server answers, to take over when it ends.

    Raises:
        BlockingIOError: another server answers, and `wait` is false.
    """

    def __init__(self, path: Path, *, wait: bool) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.with_name(f"{path.name}.lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        path.unlink(missing_ok=True)  # whoever left it is dead: the lock is ours
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        path.chmod(0o600)
        self.socket.listen(128)

    def let_go(self) -> None:
        """Forget the door in a forked child; the server keeps it."""
        self.socket.close()
        self._lock.close()

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        self.let_go()


@dataclass(frozen=True)
class Work:
    """What workers do. The first two functions run in a child of their own, and raise when they fail.

    Args:
        execute: does a job.
        bury: reports that the worker of a job died, and why.
        refresh: brings up to date what later workers find loaded; runs in the server, so it must not raise, and leave
            neither thread nor connection.
    """

    execute: Callable[[str], None]
    bury: Callable[[str, str], None]
    refresh: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Limits:
    """What workers may use.

    Args:
        workers: most at once.
        memory_bytes: most that each allocates beyond what the server had loaded.
        interrupt_grace: seconds that an interrupted one may take to end before it is killed.
    """

    workers: int
    memory_bytes: int
    interrupt_grace: float = 10.0


@dataclass
class Child:
    """A forked process: a worker, or the reporter of a worker's death when it has an obituary."""

    name: str
    job: str
    obituary: str | None = None
    kill_at: float = math.inf


class ForkServer:
    """Forks, watches and ends workers. `serve` returns after `stop`, SIGTERM or SIGINT, with every child gone.

    Args:
        lifeline: a file descriptor whose end of file ends the server, for one that belongs to another process.
    """

    def __init__(self, door: Door, work: Work, limits: Limits, lifeline: int | None = None) -> None:
        self._door, self._work, self._limits = door, work, limits
        self._children: dict[int, Child] = {}
        self._stop_by: float | None = None
        self._connection: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._signals, self._wakeup = socket.socketpair()
        self._selector.register(door.socket, selectors.EVENT_READ, self._answer)
        self._selector.register(self._signals, selectors.EVENT_READ, self._heed_signals)
        if lifeline is not None:
            self._selector.register(lifeline, selectors.EVENT_READ, self.stop)

    def serve(self) -> None:
        self._catch_signals()
        while not self._over():
            for key, _ in self._selector.select(self._until_next_deadline()):
                key.data()
            self._reap()
            self._kill_overdue()
        for pid in self._children:
            _kill_group(pid)
        self._door.close()

    def stop(self) -> None:
        """Interrupt every worker, and end when they have: at the latest after STOP_DEADLINE seconds."""
        if self._stop_by is not None:
            return
        self._stop_by = time.monotonic() + STOP_DEADLINE
        for pid, child in self._children.items():
            self._interrupt(pid, child, STOP_GRACE)

    def _over(self) -> bool:
        return self._stop_by is not None and (not self._children or time.monotonic() >= self._stop_by)

    def _until_next_deadline(self) -> float | None:
        deadlines = [child.kill_at for child in self._children.values()]
        if self._stop_by is not None:
            deadlines.append(self._stop_by)
        nearest = min(deadlines, default=math.inf)
        return None if nearest == math.inf else max(0.0, nearest - time.monotonic())

    # Signals arrive as bytes on a socket, so that nothing is ever interrupted half-way.

    def _catch_signals(self) -> None:
        self._signals.setblocking(False)
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        for number in CAUGHT:
            signal.signal(number, lambda *_: None)

    def _heed_signals(self) -> None:
        if {signal.SIGTERM, signal.SIGINT} & set(self._signals.recv(4096)):
            self.stop()

    # Requests

    def _answer(self) -> None:
        connection, _ = self._door.socket.accept()
        connection.settimeout(REQUEST_TIMEOUT)
        self._connection = connection
        with connection, suppress(OSError, ValueError, KeyError):  # who went away or talks nonsense gets no answer
            if line := _read_line(connection):
                reply = self._reply(json.loads(line))
                connection.sendall(json.dumps(reply).encode() + b"\n")

    def _reply(self, request: Message) -> Message:
        name = request["name"]
        match request["do"]:
            case "launch":
                return self._launch(Child(name, request["job"]))
            case "interrupt":
                for pid, child in self._named(name):
                    self._interrupt(pid, child, self._limits.interrupt_grace)
            case "refresh":
                self._work.refresh()
        return self._look(name)

    def _named(self, name: str) -> list[tuple[int, Child]]:
        return [(pid, child) for pid, child in self._children.items() if child.name == name]

    def _look(self, name: str) -> Message:
        for _, child in self._named(name):
            return {"state": State.DIED if child.obituary else State.RUNNING, "reason": child.obituary}
        return {"state": State.UNKNOWN, "reason": None}

    def _launch(self, child: Child) -> Message:
        workers = [one for one in self._children.values() if one.obituary is None]
        if self._stop_by is not None:
            return {"refused": "is stopping; try again"}
        if len(workers) >= self._limits.workers:
            return {"refused": f"has {len(workers)} workers, the most it may; raise APPHUB_MAX_CONCURRENT_RUNS"}
        return {"pid": self._fork(child)}

    def _interrupt(self, pid: int, child: Child, grace: float) -> None:
        if child.obituary is None:
            os.kill(pid, signal.SIGINT)
            child.kill_at = min(child.kill_at, time.monotonic() + grace)

    # Children

    def _fork(self, child: Child) -> int:
        """Fork and return the child's pid. Signals wait meanwhile, lest one for the child reaches the server."""
        server = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)
        try:
            pid = os.fork()
            if pid == 0:
                self._be(child, server)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, CAUGHT)
        self._children[pid] = child
        return pid

    def _be(self, child: Child, server: int) -> NoReturn:
        """The life of a forked child."""
        code = 1
        try:
            die_with(server)
            self._let_go()
            if child.obituary is None:
                limit_memory(self._limits.memory_bytes)
                faulthandler.enable()  # who is killed by a library writes down where
                self._work.execute(child.job)
            else:
                self._work.bury(child.job, child.obituary)
            code = 0
        except BaseException:  # noqa: BLE001 - a process's outermost frame: printed, and told by the exit code
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _let_go(self) -> None:
        """Leave the server's session, signals, sockets and standard input to the server."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.default_int_handler)
        self._selector.close()
        for held in (self._signals, self._wakeup, self._connection):
            if held is not None:
                held.close()
        self._door.let_go()
        with Path(os.devnull).open() as nothing:
            os.dup2(nothing.fileno(), 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            _kill_group(pid)  # what a worker started and left behind
            if child := self._children.pop(pid, None):
                self._mourn(child, status)

    def _mourn(self, child: Child, status: int) -> None:
        if (cause := _cause(status)) is None:
            return
        if child.obituary is None:
            self._fork(Child(child.name, child.job, obituary=f"its worker {cause}"))
        else:
            log.error("could not report of run %s that %s: the reporter %s", child.name, child.obituary, cause)

    def _kill_overdue(self) -> None:
        for pid, child in self._children.items():
            if child.kill_at <= time.monotonic():
                os.kill(pid, signal.SIGKILL)
                child.kill_at = math.inf


def _cause(status: int) -> str | None:
    """Why a process ended, from its wait status; nothing when it ended well."""
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return None
    if code > 0:
        return f"ended with exit code {code}"
    return f"was killed by signal {-code} ({signal.Signals(-code).name})"


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        os.killpg(pid, signal.SIGKILL)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent` ends. Linux only; elsewhere a killed server leaves workers."""
    if not LINUX:
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def limit_memory(growth: int) -> None:
    """Let this process allocate `growth` more bytes: beyond, allocation fails; and let the kernel pick it first.

    Counts private writable memory (RLIMIT_DATA), not address space, which databases reserve and never touch.
    """
    if not LINUX:
        return
    allocated = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (allocated + growth, allocated + growth))
    Path("/proc/self/oom_score_adj").write_text("500")
