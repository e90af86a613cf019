"""The API's one door to Dagster, against a real webserver."""

import subprocess
import sys
from contextlib import closing

import pytest
from dagster import AssetKey, DagsterInstance
from dagster_stack import DagsterStack, Runs, free_port, wait_for

from apphub_assets.orchestrator import (
    LOG_PAGE,
    Orchestrator,
    OrchestratorRefused,
    OrchestratorUnavailable,
    RunNotFound,
    RunStatus,
)

NOWHERE = "00000000-0000-0000-0000-000000000000"


def test_it_does_not_import_dagster() -> None:
    source = "import sys, apphub_assets.orchestrator; sys.exit('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0


def test_a_submitted_run_carries_its_partition_and_tags(
    orchestrator: Orchestrator, runs: Runs, instance: DagsterInstance
) -> None:
    run_id = runs.submit("quick", correlation="c-1")
    run = runs.until(run_id, RunStatus.SUCCESS)
    assert run.started_at is not None
    assert run.ended_at is not None
    assert run.created_at <= run.started_at <= run.ended_at
    assert run.failure is None
    tags = instance.get_run_by_id(run_id).tags
    assert (tags["dagster/partition"], tags["dagster/correlation"]) == ("one", "c-1")


def test_a_failed_run_says_why(runs: Runs) -> None:
    run = runs.until(runs.submit("failing"), RunStatus.FAILURE)
    assert "ValueError: the well is dry" in str(run.failure)


def test_canceling_ends_a_run_and_is_false_for_one_that_is_over(orchestrator: Orchestrator, runs: Runs) -> None:
    run_id = runs.submit("sleeping")
    runs.until_log(run_id, "pid ")
    assert orchestrator.cancel(run_id)
    runs.until(run_id, RunStatus.CANCELED)
    assert not orchestrator.cancel(run_id)


def test_a_run_that_is_just_being_started_is_canceled_too(orchestrator: Orchestrator, runs: Runs) -> None:
    run_id = runs.submit("sleeping")
    assert orchestrator.cancel(run_id)
    runs.until(run_id, RunStatus.CANCELED)


def test_a_log_continues_after_its_cursor(orchestrator: Orchestrator, runs: Runs) -> None:
    run_id = runs.submit("sleeping")
    runs.until_log(run_id, "pid ")
    first = orchestrator.run_logs(run_id)
    assert len(first.lines) < LOG_PAGE
    assert not first.more
    orchestrator.cancel(run_id)
    runs.until(run_id, RunStatus.CANCELED)
    rest = orchestrator.run_logs(run_id, first.cursor)
    assert rest.lines[0].at >= first.lines[-1].at
    assert "RunCanceledEvent" in [line.kind for line in rest.lines]
    assert "RunStartEvent" not in [line.kind for line in rest.lines]


@pytest.mark.parametrize("ask", ["cancel", "run_status", "run_logs"])
def test_a_run_that_is_not_there_is_named(orchestrator: Orchestrator, ask: str) -> None:
    with pytest.raises(RunNotFound, match=NOWHERE):
        getattr(orchestrator, ask)(NOWHERE)


def test_an_unknown_asset_is_refused(orchestrator: Orchestrator) -> None:
    with pytest.raises(OrchestratorRefused, match="nonesuch"):
        orchestrator.submit(["nonesuch"], "one")


def test_partitions_are_added_and_deleted_any_number_of_times(
    orchestrator: Orchestrator, instance: DagsterInstance
) -> None:
    for _ in range(2):
        orchestrator.add_partition("repositories", "two")
    assert "two" in instance.get_dynamic_partitions("repositories")
    for _ in range(2):
        orchestrator.delete_partition("repositories", "two")
    assert "two" not in instance.get_dynamic_partitions("repositories")


def test_a_materialization_is_reported_with_its_data_version(
    orchestrator: Orchestrator, instance: DagsterInstance
) -> None:
    orchestrator.report_materialization("quick", "one", "abc123", {"launch": "l-1"})
    event = instance.get_latest_materialization_event(AssetKey("quick"))
    assert event is not None
    made = event.asset_materialization
    assert made is not None
    assert (made.partition, made.tags["dagster/data_version"]) == ("one", "abc123")
    assert made.metadata["launch"].value == "l-1"


def test_an_observation_is_reported(orchestrator: Orchestrator, instance: DagsterInstance) -> None:
    orchestrator.report_observation("quick", "one", "def456", {})
    seen = instance.fetch_observations(AssetKey("quick"), limit=1).records[0].asset_observation
    assert seen is not None
    assert (seen.partition, seen.tags["dagster/data_version"]) == ("one", "def456")


def test_readiness_is_a_latency(orchestrator: Orchestrator) -> None:
    assert 0 < orchestrator.ready() < 30


def test_a_webserver_that_is_away_is_unavailable() -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/dagster"
    with closing(Orchestrator(nowhere)) as away, pytest.raises(OrchestratorUnavailable, match=nowhere) as caught:
        away.ready()
    assert (caught.value.status, caught.value.code, caught.value.retryable) == (503, "orchestrator_unavailable", True)


def test_definitions_that_do_not_load_are_told_from_a_webserver_that_is_away(stack: DagsterStack) -> None:
    (stack.code / "broken.py").write_text("raise RuntimeError('no such luck')")
    workspace = stack.folder / "broken.yaml"
    workspace.write_text("load_from: [{python_module: {module_name: broken, location_name: apphub}}]")
    with closing(stack.start_webserver("broken", workspace)) as broken:
        message = wait_for(lambda: complaint(broken, "does not load"), "the webserver with broken definitions")
    assert message == "the code location 'apphub' does not load: RuntimeError: no such luck"


def complaint(orchestrator: Orchestrator, about: str) -> str | None:
    with pytest.raises(OrchestratorUnavailable) as caught:
        orchestrator.ready()
    return caught.value.message if about in caught.value.message else None
