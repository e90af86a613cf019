"""Runs start in a fraction of a second: a run launcher on a warm fork server, and what that server does.

`WarmRunLauncher` lives in Dagster's webserver and daemon. `python -m apphub_assets.launcher` is the server: it
has imported Dagster and the definitions, and does for each run what `dagster api execute_run` would do cold.
"""

import argparse
import gc
import importlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import dagster as dg
from dagster._cli.api import _execute_run_command_body
from dagster._config.config_schema import UserConfigSchema
from dagster._core.events import JobFailureData, RunFailureReason
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, deserialize_value, serialize_value
from dagster._utils.interrupts import capture_interrupts
from sqlalchemy.exc import SQLAlchemyError

from apphub_assets.forkserver import Door, ForkServer, Limits, Message, NobodyListens, State, Work, ask
from apphub_assets.settings import SettingMissing, Settings, load_settings
from apphub_assets.timestore import definitions as datasets

log = logging.getLogger(__name__)

RESTART_PATIENCE = 15.0
START_PATIENCE = 60.0


class WarmRunLauncher(RunLauncher[dg.DagsterInstance], ConfigurableClass):
    """Hands runs to the fork server at `socket`; where there is none, starts one that ends with this process."""

    def __init__(self, socket: Path, module: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._socket, self._module, self._inst_data = socket, module, inst_data
        self._server: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {
            "socket": dg.Field(dg.StringSource, description="Unix socket of the fork server."),
            "module": dg.Field(dg.StringSource, description="Definitions that a server started here loads."),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        return cls(Path(config_value["socket"]), config_value["module"], inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Fork a worker for the run.

        Raises:
            WorkersFull: the server has all the workers it may have.
            NobodyListens: there is no server and none could be started.
        """
        run = context.dagster_run
        if run.job_code_origin is None:
            raise dg.DagsterInvariantViolationError(f"run {run.run_id} names no code to execute")
        arguments = ExecuteRunArgs(run.job_code_origin, run.run_id, self._instance.get_ref())
        self._launch({"do": "launch", "name": run.run_id, "job": serialize_value(arguments)})

    def terminate(self, run_id: str) -> bool:
        """Interrupt the run's worker; a run without one is canceled on the spot. False when it was over already."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        if self._state({"do": "interrupt", "name": run_id})["state"] == State.UNKNOWN:
            self._instance.report_run_canceled(run, "Canceled; the run had no worker any more.")
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """What the fork server knows. A run that ended well is unknown too: the caller looks at its status again."""
        reply = self._state({"do": "look", "name": run.run_id})
        match reply["state"]:
            case State.RUNNING:
                return CheckRunHealthResult(WorkerStatus.RUNNING)
            case State.DIED:
                return CheckRunHealthResult(WorkerStatus.FAILED, reply["reason"])
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "the fork server has no worker for the run")

    def _state(self, request: Message) -> Message:
        try:
            return ask(self._socket, request)
        except NobodyListens:  # workers end with their server
            return {"state": State.UNKNOWN, "reason": None}

    def _launch(self, request: Message) -> None:
        """A socket that nobody answers is one whose server crashed: its supervisor gets time to bring it back."""
        if self._socket.exists():
            with suppress(NobodyListens):
                ask(self._socket, request, patience=RESTART_PATIENCE)
                return
        self._start_server()
        ask(self._socket, request, patience=START_PATIENCE)

    def _start_server(self) -> None:
        with self._starting:
            if self._server is not None and self._server.poll() is None:
                return
            command = [sys.executable, "-m", "apphub_assets.launcher", "--on-demand"]
            command += ["--socket", str(self._socket), "--module", self._module]
            self._server = subprocess.Popen(command, stdin=subprocess.PIPE)


# --- In the server


@dataclass(frozen=True)
class Warm:
    """Definitions that were loaded, and when their newest source file was changed.

    What they are made of beside the source is the datasets there are, see `apphub_assets.timestore.definitions`.
    """

    module: str
    newest: float

    @classmethod
    def load(cls, module: str) -> Self:
        """Import the definitions and go once through all that is imported late, leaving no connection open."""
        importlib.import_module(module)
        loaded = cls(module, newest_source(module))
        warm_up.execute_in_process(instance=dg.DagsterInstance.ephemeral())
        loaded.settle()
        return loaded

    def settle(self) -> None:
        """Make the rows of pools, and leave little for workers to copy."""
        with dg.DagsterInstance.get() as instance:
            # The first two runs of a pool would both make its row, and one of them fail with a duplicate key;
            # so would a second start here.
            for pool in sorted(pools_of(self.module) - instance.event_log_storage.get_concurrency_keys()):
                instance.event_log_storage.initialize_concurrency_limit_to_default(pool)
        gc.collect()
        gc.freeze()  # a collection in a worker would touch, and so copy, every page it shares with the server

    def refresh(self) -> None:
        """Load the definitions again if datasets came, changed or went; what can't be now, each worker does."""
        try:
            if self.reload_outdated():
                gc.unfreeze()
                self.settle()
        except Exception:
            log.exception("definitions can't be loaded again; each run tries that itself")

    def reload_outdated(self) -> bool:
        """Run the module that lists the definitions again, if that gives others; returns whether it did."""
        try:
            with closing(datasets.connected()) as database:
                outdated = datasets.is_outdated(database)
        except (SettingMissing, SQLAlchemyError):
            return False  # there is no telling: what is loaded is the best there is
        if outdated:
            importlib.reload(sys.modules[self.module])
        return outdated

    def execute(self, job: str) -> None:
        """Execute a run; in a fresh process, slowly, when the source changed since it was loaded.

        Args:
            job: serialised ExecuteRunArgs, the argument of `dagster api execute_run`.
        """
        if newest_source(self.module) != self.newest:
            os.execv(sys.executable, [sys.executable, "-m", "dagster", "api", "execute_run", job])  # noqa: S606
        self.reload_outdated()
        arguments = deserialize_value(job, ExecuteRunArgs)
        with capture_interrupts(), opened_instance(arguments) as instance:
            keep_connections(instance)
            _execute_run_command_body(arguments.run_id, instance, lambda _: None, set_exit_code_on_failure=False)


def bury(job: str, cause: str) -> None:
    """Record that a run's worker died: canceled if that was asked for, else failed. Nothing for a finished run.

    Args:
        job: serialised ExecuteRunArgs.
        cause: what happened to the worker, in words.
    """
    arguments = deserialize_value(job, ExecuteRunArgs)
    with opened_instance(arguments) as instance:
        run = instance.get_run_by_id(arguments.run_id)
        if run is None or run.is_finished:
            return
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, f"Canceled; {cause}.")
        else:
            reason = JobFailureData(error=None, failure_reason=RunFailureReason.UNEXPECTED_TERMINATION)
            instance.report_run_failed(run, f"The run failed: {cause}.", reason)


def opened_instance(arguments: ExecuteRunArgs) -> dg.DagsterInstance:
    """The instance that a run belongs to, for a `with`."""
    if arguments.instance_ref is None:
        raise dg.DagsterInvariantViolationError(f"run {arguments.run_id} came without its instance")
    return dg.DagsterInstance.from_ref(arguments.instance_ref)


def keep_connections(instance: dg.DagsterInstance) -> None:
    """Reuse a Postgres connection for 2 s instead of one per statement: half the time to the first step.

    A connection left alone for longer is replaced, so a run outlives a restart of Postgres.
    """
    for storage in (instance.run_storage, instance.event_log_storage):
        storage.optimize_for_webserver(statement_timeout=60_000, pool_recycle=2, max_overflow=5)


def pools_of(module: str) -> set[str]:
    """The concurrency pools that the assets and jobs of a module name."""
    loaded = vars(sys.modules[module]).values()
    found = [each.get_repository_def() for each in loaded if isinstance(each, dg.Definitions)]
    return {pool for repository in found for job in repository.get_all_jobs() for pool in job.graph.pools}


def newest_source(module: str) -> float:
    """When the newest Python file beside or below a module was changed, in seconds since the epoch."""
    folder = Path(str(sys.modules[module].__file__)).parent
    return max(file.stat().st_mtime for file in folder.rglob("*.py"))


@dg.op
def nothing() -> None:
    """Does nothing."""


@dg.job
def warm_up() -> None:
    """Runs once in the server, for what Dagster imports late."""
    nothing()


def parse(arguments: list[str]) -> argparse.Namespace:
    socket = os.environ.get("APPHUB_RUN_SOCKET")
    parser = argparse.ArgumentParser(prog="python -m apphub_assets.launcher", description="Fork server for runs.")
    parser.add_argument("--module", default="apphub_assets.definitions", help="definitions to load")
    parser.add_argument(
        "--socket", type=Path, default=socket, required=socket is None, help="default: APPHUB_RUN_SOCKET"
    )
    parser.add_argument("--on-demand", action="store_true", help="end with the process that holds standard input")
    return parser.parse_args(arguments)


def limits(settings: Settings) -> Limits:
    """Twice the runs at once: Dagster counts a run out before its worker has left."""
    return Limits(workers=2 * settings.max_concurrent_runs, memory_bytes=settings.run_memory_bytes)


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM. Binds the socket before it loads, so that early clients wait instead of failing."""
    options = parse(arguments)
    try:
        door = Door(options.socket, wait=not options.on_demand)
    except BlockingIOError:
        return  # another process was quicker to start one
    warm = Warm.load(options.module)
    work = Work(execute=warm.execute, bury=bury, refresh=warm.refresh)
    server = ForkServer(door, work, limits(load_settings()), lifeline=0 if options.on_demand else None)
    print(f"fork server ready: {options.module} on {options.socket}", flush=True)  # noqa: T201 - for who waits
    server.serve()


if __name__ == "__main__":
    main(sys.argv[1:])
