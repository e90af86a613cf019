"""Children: started, watched, restarted, stopped. They are small Python programs; nothing of AppHub runs here."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from apphub_assets.stack import supervisor as supervision
from apphub_assets.stack.errors import ChildFailed
from apphub_assets.stack.supervisor import Child, Supervisor, end_leftovers

SLEEP = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)
GRANDCHILD = f"import os, subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); time.sleep(600)"


class Reports(list[tuple[str, str]]):
    def __call__(self, child: str, what: str) -> None:
        self.append((child, what))

    def of(self, child: str) -> str:
        return "; ".join(what for name, what in self if name == child)


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def mark(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def supervisor(tmp_path: Path, mark: str, reports: Reports) -> Supervisor:
    return Supervisor(tmp_path, mark, reports)


def program(
    name: str, code: str, *, grace: float = 5, patience: float = 20, ready: Callable[[], bool] = lambda: True
) -> Child:
    command = (sys.executable, "-c", code)
    return Child(name, command, dict(os.environ), ready, grace=grace, patience=patience)


def living(mark: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if supervision._has_mark(process, mark)]


def live(supervisor: Supervisor, children: list[Child], then: Callable[[], Awaitable[None]]) -> None:
    """Start `children` in one batch each, do `then` while they are watched, and stop them."""

    async def scenario() -> None:
        try:
            for child in children:
                await supervisor.start(child)
            watch = asyncio.create_task(supervisor.watch())
            work = asyncio.ensure_future(then())
            done, _ = await asyncio.wait({watch, work}, return_when=asyncio.FIRST_COMPLETED)
            watch.cancel()
            for task in done:
                task.result()
        finally:
            await supervisor.stop()

    asyncio.run(scenario())


async def until(fact: Callable[[], object]) -> None:
    while not fact():
        await asyncio.sleep(0.02)


async def nothing() -> None:
    """The children are up: that was all."""


async def for_ever() -> None:
    await asyncio.Event().wait()


def test_a_child_is_up_only_when_it_says_so(supervisor: Supervisor, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    code = f"import pathlib, time; time.sleep(0.3); pathlib.Path({str(sign)!r}).touch(); time.sleep(600)"

    async def then() -> None:
        assert sign.exists()

    live(supervisor, [program("slow", code, ready=sign.exists)], then)


def test_a_child_that_is_killed_is_started_again(supervisor: Supervisor, mark: str, reports: Reports) -> None:
    async def then() -> None:
        await until(lambda: len(living(mark)) == 1)
        (first,) = living(mark)
        first.kill()
        await until(lambda: [process.pid for process in living(mark)] not in ([], [first.pid]))

    live(supervisor, [program("worker", SLEEP)], then)

    assert "ended with signal SIGKILL; starts again in 0.2 s" in reports.of("worker")


def test_a_child_that_dies_again_and_again_ends_all_and_shows_its_last_lines(
    supervisor: Supervisor, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE", 0.01)
    broken = program("broken", "import sys; print('cannot open shop'); sys.exit(3)")

    with pytest.raises(ChildFailed) as failed:
        live(supervisor, [program("healthy", SLEEP), broken], for_ever)

    assert "broken ended with exit code 3" in failed.value.message
    assert "| cannot open shop" in failed.value.message
    assert living(mark) == []


def test_a_child_that_never_gets_ready_ends_all_and_shows_its_last_lines(
    supervisor: Supervisor, mark: str, tmp_path: Path
) -> None:
    def never() -> bool:
        while "still thinking\n" not in (tmp_path / "thinker.log").read_text():
            time.sleep(0.02)
        return False

    code = f"print('still thinking', flush=True); {SLEEP}"
    thinking = program("thinker", code, patience=1, ready=never)

    with pytest.raises(ChildFailed, match=r"thinker was not ready after 1 s[\s\S]*\| still thinking"):
        live(supervisor, [thinking], nothing)

    assert living(mark) == []


def test_later_batches_stop_before_earlier_ones(supervisor: Supervisor, tmp_path: Path) -> None:
    order = tmp_path / "order"
    code = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n    with open({order!r}, 'a') as file: file.write({name!r}); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); pathlib.Path({up!r}).touch(); time.sleep(600)"
    )

    def child(name: str) -> Child:
        up = tmp_path / f"{name}.up"
        return program(name, code.format(order=str(order), name=name, up=str(up)), ready=up.exists)

    live(supervisor, [child("a"), child("b"), child("c")], nothing)

    assert order.read_text() == "cba"


def test_a_child_that_ignores_the_stop_is_killed(
    supervisor: Supervisor, mark: str, tmp_path: Path, reports: Reports
) -> None:
    def deaf() -> bool:
        return "deaf\n" in (tmp_path / "deaf.log").read_text()

    live(supervisor, [program("deaf", STUBBORN, grace=0.3, ready=deaf)], nothing)

    assert "killed" in reports.of("deaf")
    assert living(mark) == []


def test_what_a_child_started_goes_with_it(supervisor: Supervisor, mark: str) -> None:
    async def then() -> None:
        await until(lambda: len(living(mark)) == 2)

    live(supervisor, [program("parent", GRANDCHILD)], then)

    assert living(mark) == []


def test_children_end_with_a_supervisor_that_is_killed(tmp_path: Path, mark: str) -> None:
    code = (
        "import asyncio, os, signal, sys\nfrom pathlib import Path\n"
        "from apphub_assets.stack.supervisor import Child, Supervisor\n"
        # As in a stack, which handles it: what the runner of this test ignores, its children would ignore too.
        "signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        "async def main():\n"
        "    supervisor = Supervisor(Path(sys.argv[1]), sys.argv[1], lambda *_: None)\n"
        "    began = Path(sys.argv[1], 'began')\n"
        f"    command = (sys.executable, '-c', 'import sys; open(sys.argv[1], \"w\").close(); {SLEEP}', str(began))\n"
        "    await supervisor.start(Child('orphan', command, dict(os.environ), began.exists))\n"
        "    print('up', flush=True)\n    await supervisor.watch()\n"
        "asyncio.run(main())"
    )
    with subprocess.Popen([sys.executable, "-c", code, mark], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        orphans = living(mark)
        parent.kill()

    assert orphans
    assert psutil.wait_procs(orphans, timeout=10)[1] == []


def test_leftovers_of_an_earlier_supervisor_are_found_and_ended(mark: str) -> None:
    environment = dict(os.environ) | {supervision.MARK: mark}
    with subprocess.Popen([sys.executable, "-c", STUBBORN], env=environment, stdout=subprocess.PIPE) as leftover:
        assert leftover.stdout is not None
        leftover.stdout.readline()

        end_leftovers(mark)

        assert living(mark) == []


def test_a_log_stays_bounded(supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "LOG_BYTES", 10_000)
    monkeypatch.setattr(supervision, "LOG_INTERVAL", 0.05)
    log, aside = tmp_path / "chatty.log", tmp_path / "chatty.log.1"

    async def then() -> None:
        await until(lambda: aside.exists() and log.stat().st_size < 10_000)

    live(supervisor, [program("chatty", f"print('x' * 20_000, flush=True); {SLEEP}")], then)

    assert aside.stat().st_size > 20_000
