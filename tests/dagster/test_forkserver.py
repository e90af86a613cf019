"""The fork server by itself: jobs are Python source, which it executes in workers."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from dagster_stack import HERE, wait_for

from apphub_assets.forkserver import Message, NobodyListens, State, WorkersFull, ask

REST = "import signal; signal.pause()"
IGNORE_INTERRUPTS = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {REST}"


class Server:
    """A fork server in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.socket = folder, folder / "run.sock"
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen([sys.executable, HERE / "exec_server.py", folder], stdout=log, stderr=log)

    def launch(self, name: str, job: str) -> int:
        return int(ask(self.socket, {"do": "launch", "name": name, "job": job}, patience=10)["pid"])

    def look(self, name: str) -> Message:
        return ask(self.socket, {"do": "look", "name": name})

    def interrupt(self, name: str) -> Message:
        return ask(self.socket, {"do": "interrupt", "name": name})

    def written(self, name: str) -> str:
        """The content of a file in the folder, once there is any."""
        path = self.folder / name
        return wait_for(lambda: path.exists() and path.read_text(), name) or ""

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.end(signal.SIGKILL)


def until_gone(pid: int) -> None:
    wait_for(lambda: not psutil.pid_exists(pid), f"the end of process {pid}")


def test_what_is_loaded_is_refreshed_in_the_server_for_those_that_come(server: Server) -> None:
    server.launch("a", REST)
    assert ask(server.socket, {"do": "refresh", "name": ""})["state"] == State.UNKNOWN
    assert server.written("refreshed") == str(server.process.pid)
    assert server.look("a")["state"] == State.RUNNING


def test_a_job_runs_in_a_child_of_the_server(server: Server) -> None:
    pid = server.launch("a", "import os; (folder / 'out').write_text(f'{os.getpid()} {os.getppid()}')")
    assert server.written("out") == f"{pid} {server.process.pid}"


def test_a_worker_holds_neither_the_servers_sockets_nor_its_lock(server: Server) -> None:
    read = "[str(fd.readlink()) for fd in Path('/proc/self/fd').iterdir() if fd.exists()]"
    server.launch("a", f"from pathlib import Path; (folder / 'out').write_text(' '.join({read}))")
    held = server.written("out")
    assert "/dev/null" in held
    assert "socket:" not in held
    assert "lock" not in held


def test_a_worker_that_ends_well_is_forgotten(server: Server) -> None:
    until_gone(server.launch("a", "pass"))
    assert server.look("a") == {"state": State.UNKNOWN, "reason": None}
    assert not (server.folder / "deaths").exists()


def test_a_running_worker_is_known(server: Server) -> None:
    server.launch("a", REST)
    assert server.look("a")["state"] == State.RUNNING


@pytest.mark.parametrize(
    ("job", "cause"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "its worker was killed by signal 9 (SIGKILL)"),
        ("import os; os._exit(7)", "its worker ended with exit code 7"),
        ("raise RuntimeError", "its worker ended with exit code 1"),
        ("x = bytearray(2**30)", "its worker ended with exit code 1"),
    ],
)
def test_a_worker_that_ends_badly_is_reported_with_the_cause(server: Server, job: str, cause: str) -> None:
    server.launch("a", job)
    assert server.written("deaths") == f"{job}: {cause}\n"


def test_a_worker_that_a_library_aborts_leaves_where_it_was(server: Server) -> None:
    server.launch("a", "import os\ndef inner(): os.abort()\ninner()")
    assert "SIGABRT" in server.written("deaths")
    assert re.search(r"Fatal Python error: Aborted.*line 2 in inner", server.written("log"), re.DOTALL)


def test_workers_beyond_the_limit_are_refused_naming_the_setting(server: Server) -> None:
    server.launch("a", REST)
    server.launch("b", REST)
    with pytest.raises(WorkersFull, match=r"has 2 workers, the most it may; raise APPHUB_MAX_CONCURRENT_RUNS"):
        server.launch("c", REST)


def test_a_worker_beyond_its_memory_fails_while_another_lives(server: Server) -> None:
    server.launch("neighbour", REST)
    server.launch("greedy", "hoard = [b'x' * 2**20 for _ in range(1000)]")
    assert "exit code 1" in server.written("deaths")
    assert server.look("neighbour")["state"] == State.RUNNING


def test_an_interrupted_worker_that_goes_on_is_killed_after_a_grace(server: Server) -> None:
    server.launch("a", f"(folder / 'begun').write_text('x'); {IGNORE_INTERRUPTS}")
    server.written("begun")
    assert server.interrupt("a")["state"] == State.RUNNING
    assert "SIGKILL" in server.written("deaths")


def test_interrupting_what_is_not_there_says_so(server: Server) -> None:
    server.launch("a", REST)
    assert server.interrupt("b")["state"] == State.UNKNOWN


def test_what_a_worker_started_ends_with_it(server: Server) -> None:
    server.launch("a", "import subprocess; (folder / 'out').write_text(str(subprocess.Popen(['sleep', '300']).pid))")
    until_gone(int(server.written("out")))


def test_workers_end_with_a_killed_server_and_the_next_one_knows_nothing_of_them(server: Server) -> None:
    pid = server.launch("a", IGNORE_INTERRUPTS)
    server.end(signal.SIGKILL)
    until_gone(pid)
    with pytest.raises(NobodyListens):
        server.look("a")
    successor = Server(server.folder)
    successor.launch("b", REST)
    assert successor.look("a")["state"] == State.UNKNOWN
    successor.end(signal.SIGKILL)


def test_sigterm_ends_the_server_and_even_a_worker_that_ignores_interrupts(server: Server) -> None:
    pid = server.launch("a", f"(folder / 'begun').write_text('x'); {IGNORE_INTERRUPTS}")
    server.written("begun")
    server.end(signal.SIGTERM)
    assert server.process.returncode == 0
    assert not psutil.pid_exists(pid)
    assert "SIGKILL" in server.written("deaths")
    assert not server.socket.exists()


def test_a_second_server_stands_by_and_takes_over(server: Server) -> None:
    server.launch("a", REST)
    second = Server(server.folder)
    assert parent(server.launch("b", REST)) == server.process.pid
    server.end(signal.SIGKILL)
    assert parent(second.launch("c", REST)) == second.process.pid
    second.end(signal.SIGKILL)


def parent(pid: int) -> int:
    return psutil.Process(pid).ppid()


def test_a_client_that_says_nothing_does_not_hold_the_others_up_for_long(server: Server) -> None:
    server.launch("a", REST)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(server.socket))
        assert server.look("a")["state"] == State.RUNNING
