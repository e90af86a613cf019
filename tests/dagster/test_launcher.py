"""Runs are forked from a warm server, and a worker that dies is noticed, whoever dies."""

import os
import signal
import threading

import psutil
import pytest
from dagster import AssetKey, DagsterInstance
from dagster._core.launcher import WorkerStatus
from dagster_stack import MODULE, DagsterStack, Runs, wait_for

from apphub_assets.orchestrator import RunStatus


def latest_metadata(instance: DagsterInstance, asset: str) -> dict[str, object]:
    event = instance.get_latest_materialization_event(AssetKey(asset))
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def worker_of(runs: Runs, run_id: str) -> int:
    """The process id that a run of `sleeping` logs when it has begun to sleep."""
    return int(runs.until_log(run_id, "pid ").removeprefix("pid "))


def test_a_run_executes_in_a_child_of_the_fork_server(
    stack: DagsterStack, runs: Runs, instance: DagsterInstance
) -> None:
    runs.until(runs.submit("quick"), RunStatus.SUCCESS)
    assert latest_metadata(instance, "quick")["parent"] == stack.processes["fork_server"].pid


def test_a_killed_worker_fails_its_run_and_the_signal_is_named(runs: Runs) -> None:
    run_id = runs.submit("sleeping")
    os.kill(worker_of(runs, run_id), signal.SIGKILL)
    run = runs.until(run_id, RunStatus.FAILURE)
    assert run.failure == "The run failed: its worker was killed by signal 9 (SIGKILL)."


def test_a_canceled_run_ends_canceled_and_its_worker_with_it(runs: Runs, instance: DagsterInstance) -> None:
    run_id = runs.submit("sleeping")
    pid = worker_of(runs, run_id)
    instance.run_launcher.terminate(run_id)
    runs.until(run_id, RunStatus.CANCELED)
    wait_for(lambda: not psutil.pid_exists(pid), "the end of the worker")


def test_a_run_that_allocates_too_much_fails_and_its_neighbour_lives(runs: Runs) -> None:
    neighbour = runs.submit("sleeping")
    worker_of(runs, neighbour)
    run = runs.until(runs.submit("greedy"), RunStatus.FAILURE)
    assert "MemoryError" in str(run.failure)
    runs.until(neighbour, RunStatus.STARTED)


def test_a_worker_is_healthy_while_it_lives_and_unknown_afterwards(runs: Runs, instance: DagsterInstance) -> None:
    run_id = runs.submit("sleeping")
    worker_of(runs, run_id)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert instance.run_launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
    instance.run_launcher.terminate(run_id)
    runs.until(run_id, RunStatus.CANCELED)
    wait_for(
        lambda: instance.run_launcher.check_run_worker_health(run).status is WorkerStatus.NOT_FOUND,
        "the fork server to forget the worker",
    )


def test_a_run_uses_the_source_as_it_is_now(stack: DagsterStack, runs: Runs, instance: DagsterInstance) -> None:
    source = stack.code / f"{MODULE}.py"
    before = source.read_text()
    times = (source.stat().st_atime_ns, source.stat().st_mtime_ns)
    try:
        source.write_text(before.replace("VERSION = 1", "VERSION = 2"))
        runs.until(runs.submit("quick"), RunStatus.SUCCESS)
        assert latest_metadata(instance, "quick")["version"] == 2
    finally:
        source.write_text(before)
        os.utime(source, ns=times)
    runs.until(runs.submit("quick"), RunStatus.SUCCESS)
    assert latest_metadata(instance, "quick")["version"] == 1


@pytest.mark.usefixtures("daemon")
def test_a_killed_fork_server_takes_its_workers_along_and_their_runs_fail(stack: DagsterStack, runs: Runs) -> None:
    run_id = runs.submit("sleeping")
    pid = worker_of(runs, run_id)
    stack.end_fork_server(signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(pid), "the end of the worker")
    stack.start_fork_server()
    run = runs.until(run_id, RunStatus.FAILURE)
    assert "the fork server has no worker for the run" in str(run.failure)
    runs.until(runs.submit("quick"), RunStatus.SUCCESS)


def test_a_launch_waits_for_a_fork_server_that_crashed_and_is_being_restarted(stack: DagsterStack, runs: Runs) -> None:
    stack.end_fork_server(signal.SIGKILL)
    supervisor = threading.Timer(1.0, stack.start_fork_server)
    supervisor.start()
    runs.until(runs.submit("quick"), RunStatus.SUCCESS)
    supervisor.join()


def test_without_a_fork_server_the_launcher_starts_one_of_its_own(stack: DagsterStack, runs: Runs) -> None:
    stack.end_fork_server(signal.SIGTERM)
    runs.until(runs.submit("quick"), RunStatus.SUCCESS)
    web = psutil.Process(stack.processes["web"].pid)
    own = [child for child in web.children() if "--on-demand" in child.cmdline()]
    assert len(own) == 1
    stack.start_fork_server()


def test_the_server_of_the_real_definitions_is_one_thread_without_connections(stack: DagsterStack) -> None:
    path = stack.folder / "real.sock"
    server = stack.start("real", "apphub_assets.launcher", "--socket", str(path))
    log = stack.folder / "real.log"
    wait_for(lambda: "fork server ready" in log.read_text(), "the real definitions to be loaded")
    process = psutil.Process(server.pid)
    assert process.num_threads() == 1
    assert process.net_connections("inet") == []
    # Its own socket, and the pair that signals arrive through.
    assert sorted(one.laddr for one in process.net_connections("unix")) == ["", "", str(path)]
