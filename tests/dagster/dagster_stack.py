"""Dagster's processes as AppHub runs them, on this repository's dagster.yaml and a small code location."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import psycopg
import yaml

from apphub_assets.errors import Unavailable
from apphub_assets.orchestrator import Orchestrator, Run, RunStatus

HERE = Path(__file__).parent
DAGSTER_YAML = HERE.parents[1] / "dagster_home" / "dagster.yaml"
MODULE = "sample_definitions"
PATIENCE = 60.0

T = TypeVar("T")


def wait_for(look: Callable[[], T], what: str) -> T:
    """Look again until there is something to see, and return it; fail when there is nothing for a minute."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        if seen := look():
            return seen
        time.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE:.0f} s in vain for {what}")


class DagsterStack:
    """Processes that share a folder, a database schema and an environment; what each prints goes to `<name>.log`.

    Args:
        folder: an empty folder with a short path, for sockets live in it.
        database_url: `postgresql://…` with its parameters; the schema `dagster` in it is dropped and made anew.
        max_runs: runs at once.
        changes: top-level entries of dagster.yaml to replace.
    """

    def __init__(self, folder: Path, database_url: str, max_runs: int = 8, **changes: object) -> None:
        self.folder, self.socket, self.code = folder, folder / "run.sock", folder / "code"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._make_schema(database_url)
        self._write_files(changes)
        separator = "&" if "?" in database_url else "?"
        driver_url = database_url.replace("postgresql://", "postgresql+psycopg2://")
        self.environment = {
            "DAGSTER_HOME": str(folder / "home"),
            "PYTHONPATH": str(self.code),
            "APPHUB_DAGSTER_DATABASE_URL": f"{driver_url}{separator}options=-csearch_path%3Ddagster",
            "APPHUB_DAGSTER_STATE": str(folder / "state"),
            "APPHUB_RUN_SOCKET": str(self.socket),
            "APPHUB_MAX_CONCURRENT_RUNS": str(max_runs),
        }

    def _make_schema(self, database_url: str) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA IF EXISTS dagster CASCADE")
            connection.execute("CREATE SCHEMA IF NOT EXISTS dagster")

    def _write_files(self, changes: dict[str, object]) -> None:
        (self.folder / "home").mkdir(parents=True)
        self.code.mkdir()
        shutil.copy(HERE / f"{MODULE}.py", self.code)
        configuration = yaml.safe_load(DAGSTER_YAML.read_text().replace("apphub_assets.definitions", MODULE))
        (self.folder / "home" / "dagster.yaml").write_text(yaml.safe_dump(configuration | changes))
        code_server = f"- grpc_server: {{host: localhost, socket: {self.folder}/code.sock, location_name: apphub}}"
        (self.folder / "workspace.yaml").write_text(f"load_from:\n  {code_server}\n")

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `python -m <arguments>` in the stack's environment."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env=os.environ | self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self.processes[name]

    def start_fork_server(self) -> subprocess.Popen[bytes]:
        """Start a fork server; whoever asks it before it has loaded waits."""
        server = self.start("fork_server", "apphub_assets.launcher", "--socket", str(self.socket), "--module", MODULE)
        wait_for(self.socket.exists, "the fork server's socket")
        return server

    def end_fork_server(self, number: signal.Signals) -> None:
        """Send a signal to the fork server and wait until it is gone."""
        server = self.processes.pop("fork_server")
        server.send_signal(number)
        server.wait()

    def start_code_server(self) -> None:
        self.start("code", "dagster", "api", "grpc", "--socket", f"{self.folder}/code.sock", "-m", MODULE)
        wait_for((self.folder / "code.sock").exists, "the code server's socket")

    def start_webserver(self, name: str, workspace: Path) -> Orchestrator:
        """Start a webserver and return a client of it."""
        port = str(free_port())
        self.start(name, "dagster_webserver", "-w", str(workspace), "-p", port, "--path-prefix", "/dagster")
        return Orchestrator(f"http://127.0.0.1:{port}/dagster", timeout=3 * PATIENCE)

    def start_web(self) -> Orchestrator:
        """Start the code server and a webserver, and return a client when both are up."""
        self.start_code_server()
        orchestrator = self.start_webserver("web", self.folder / "workspace.yaml")
        wait_for(lambda: is_ready(orchestrator), "the webserver")
        return orchestrator

    def start_daemon(self) -> None:
        self.start("daemon", "dagster._daemon", "run", "-w", f"{self.folder}/workspace.yaml")

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


class Runs:
    """Runs of the partition `one`, submitted through the API's door to Dagster."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator
        self._submitted: list[str] = []

    def submit(self, asset: str, **tags: str) -> str:
        tags = {f"dagster/{name}": value for name, value in tags.items()}
        run_id = self._orchestrator.submit([asset], "one", tags)
        self._submitted.append(run_id)
        return run_id

    def status(self, run_id: str) -> RunStatus:
        return self._orchestrator.run_status(run_id).status

    def until(self, run_id: str, status: RunStatus) -> Run:
        """Wait for a run to be in a status; fail when it ended in another."""

        def look() -> Run | None:
            run = self._orchestrator.run_status(run_id)
            if run.status.finished or run.status is status:
                return run
            return None

        run = wait_for(look, f"run {run_id} to be {status}")
        assert run.status is status, run
        return run

    def until_log(self, run_id: str, text: str) -> str:
        """Wait for a line that contains `text` in a run's log, and return it."""

        def look() -> list[str]:
            return [line.message for line in self._orchestrator.run_logs(run_id).lines if text in line.message]

        return wait_for(look, f"{text!r} in the log of run {run_id}")[0]

    def cancel_all(self) -> None:
        for run_id in self._submitted:
            self._orchestrator.cancel(run_id)
        for run_id in self._submitted:
            wait_for(partial(self._is_finished, run_id), f"the end of run {run_id}")

    def _is_finished(self, run_id: str) -> bool:
        return self.status(run_id).finished


def is_ready(orchestrator: Orchestrator) -> bool:
    try:
        return orchestrator.ready() > 0
    except Unavailable:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
