"""Processes, kept alive: each child is started, watched, restarted when it dies, and stopped with the others.

Everything happens on the event loop's own thread, above all the forking: the kernel ends a child together with the
*thread* that started it.
"""

import asyncio
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psutil

from apphub_assets.stack.errors import ChildFailed

MARK = "APPHUB_STACK"
LOG_BYTES = 8 * 1024 * 1024
LOG_INTERVAL = 5.0
SHOWN_LINES = 20
# So many deaths within so many seconds mean that restarting does not help; one that never worked gets fewer chances.
DEATHS, DEATHS_AT_START, WINDOW = 4, 2, 60.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0

Report = Callable[[str, str], None]


def _nothing() -> None:
    """Most children need nothing before they start."""


@dataclass(frozen=True)
class Child:
    """One process of the stack.

    `prepare` runs before every start. `ready` asks once, quickly and without raising, whether it works; it has
    `patience` seconds to say yes. `privileges` are arguments of setpriv(1). `grace` is the seconds from `stop_signal`
    to SIGKILL.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ready: Callable[[], bool]
    prepare: Callable[[], None] = _nothing
    privileges: tuple[str, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float = 5
    patience: float = 90


class _Kept:
    """A child together with its current process and the task that replaces it."""

    def __init__(self, child: Child, log: Path) -> None:
        self.child = child
        self.log = log
        self.process: asyncio.subprocess.Process | None = None
        self.keeper: asyncio.Task[None] | None = None
        self.was_ready = False


class Supervisor:
    """Starts children, restarts those that die, stops all.

    Args:
        logs: folder for one bounded log per child.
        mark: value of `APPHUB_STACK` in every child's environment, by which leftovers are found.
        report: told (child, what happened).
    """

    def __init__(self, logs: Path, mark: str, report: Report) -> None:
        self._logs = logs
        self._mark = mark
        self._report = report
        self._batches: list[list[_Kept]] = []

    async def start(self, *children: Child) -> None:
        """Start `children` together and return when all are ready; later batches are stopped before earlier ones.

        Raises:
            ChildFailed: one died again and again, or was not ready in time.
        """
        batch = [_Kept(child, self._logs / f"{child.name}.log") for child in children]
        self._batches.append(batch)
        for kept in batch:
            kept.keeper = asyncio.create_task(self._keep(kept))
        await asyncio.gather(*(self._until_ready(kept) for kept in batch))

    async def watch(self) -> NoReturn:
        """Return never; bound the logs meanwhile.

        Raises:
            ChildFailed: a child died again and again.
        """
        kept = [kept for batch in self._batches for kept in batch]
        keepers = [one.keeper for one in kept if one.keeper]
        while True:
            done, _ = await asyncio.wait(keepers, timeout=LOG_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
            for keeper in done:
                keeper.result()
            for one in kept:
                _bound(one.log)

    async def stop(self, *names: str) -> None:
        """Stop the children of these names; without names all, last batch first, and whatever they left behind."""
        for batch in reversed(self._batches):
            chosen = [kept for kept in batch if not names or kept.child.name in names]
            for kept in chosen:
                if kept.keeper:
                    kept.keeper.cancel()
            await asyncio.gather(*(self._stop(kept) for kept in chosen))
        if not names:
            end_leftovers(self._mark)

    async def _keep(self, kept: _Kept) -> None:
        child, deaths, clock = kept.child, deque[float](maxlen=DEATHS), asyncio.get_running_loop().time
        while True:
            await asyncio.to_thread(child.prepare)
            kept.process = await self._spawn(kept)
            code = await kept.process.wait()
            _kill_group(kept.process.pid)
            deaths.append(clock())
            recent = sum(1 for death in deaths if deaths[-1] - death < WINDOW)
            if recent >= (DEATHS if kept.was_ready else DEATHS_AT_START):
                ending = f"{child.name} ended with {_describe(code)}, {recent} times within {WINDOW:.0f} s"
                raise ChildFailed(f"{ending}; {_last_lines(kept.log)}")
            pause = min(FIRST_PAUSE * 4 ** (len(deaths) - 1), LONGEST_PAUSE)
            self._report(child.name, f"ended with {_describe(code)}; starts again in {pause:.1f} s")
            await asyncio.sleep(pause)

    async def _spawn(self, kept: _Kept) -> asyncio.subprocess.Process:
        child = kept.child
        with kept.log.open("ab", buffering=0) as log:
            log.write(f"--- {child.name} starts: {' '.join(child.command)}\n".encode())
            return await asyncio.create_subprocess_exec(
                *confined(child),
                env=dict(child.environment) | {MARK: self._mark},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Its own group: Ctrl-C in the terminal is ours to pass on, in order.
                start_new_session=True,
            )

    async def _until_ready(self, kept: _Kept) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        self._report(kept.child.name, "starts")
        while kept.process is None or not await asyncio.to_thread(kept.child.ready):
            if kept.keeper and kept.keeper.done():
                kept.keeper.result()
            if clock() - began > kept.child.patience:
                shown = _last_lines(kept.log)
                raise ChildFailed(f"{kept.child.name} was not ready after {kept.child.patience:.0f} s; {shown}")
            await asyncio.sleep(0.05)
        kept.was_ready = True
        self._report(kept.child.name, f"ready after {clock() - began:.1f} s")

    async def _stop(self, kept: _Kept) -> None:
        process = kept.process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(kept.child.stop_signal)
        try:
            await asyncio.wait_for(process.wait(), kept.child.grace)
        except TimeoutError:
            self._report(kept.child.name, f"did not stop within {kept.child.grace:.0f} s; killed")
        _kill_group(process.pid)
        await process.wait()


def end_leftovers(mark: str) -> None:
    """Kill every process that a supervisor with this `mark` started and that still lives."""
    leftovers = [process for process in psutil.process_iter() if _has_mark(process, mark)]
    for process in leftovers:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(leftovers, timeout=3)


def _has_mark(process: psutil.Process, mark: str) -> bool:
    try:
        return process.pid != os.getpid() and process.environ().get(MARK) == mark
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def confined(child: Child) -> tuple[str, ...]:
    """The child's command, arranged to end when its parent does, be that by SIGKILL."""
    if not sys.platform.startswith("linux") or not shutil.which("setpriv"):
        return child.command
    ending = child.stop_signal.name.removeprefix("SIG")
    return ("setpriv", "--pdeathsig", ending, *child.privileges, "--", *child.command)


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _describe(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _last_lines(log: Path) -> str:
    """The end of a log, introduced by its name."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        lines = file.read().decode(errors="replace").splitlines()[-SHOWN_LINES:]
    return f"its last lines ({log}):\n" + "\n".join(f"  | {line}" for line in lines)


def _bound(log: Path) -> None:
    """Move a long log aside. It is emptied in place, since its writer keeps it open for appending."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)
