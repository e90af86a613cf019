"""What a person waits for starts at once, as long as every limit allows it; the rest goes through the queue."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import MAX_RUNS
from dagster import DagsterEventType, DagsterInstance
from dagster_stack import DagsterStack, Runs, wait_for
from sqlalchemy import create_engine, text

from apphub_assets.orchestrator import RunStatus


def was_queued(instance: DagsterInstance, run_id: str) -> bool:
    return bool(instance.all_logs(run_id, of_type=DagsterEventType.RUN_ENQUEUED))


def test_a_run_that_a_person_submits_starts_without_the_daemon(runs: Runs, instance: DagsterInstance) -> None:
    run_id = runs.submit("quick")
    runs.until(run_id, RunStatus.SUCCESS)
    assert not was_queued(instance, run_id)


@pytest.mark.parametrize("tag", ["backfill", "sensor_name", "schedule_name", "from_automation_condition"])
def test_a_run_that_nobody_waits_for_is_queued(runs: Runs, tag: str) -> None:
    run_id = runs.submit("quick", **{tag: "x"})
    assert runs.status(run_id) is RunStatus.QUEUED


def test_a_run_is_queued_while_as_many_as_allowed_are_active(runs: Runs) -> None:
    active = [runs.submit("sleeping") for _ in range(MAX_RUNS)]
    assert [runs.status(run_id) for run_id in active].count(RunStatus.QUEUED) == 0
    assert runs.status(runs.submit("quick")) is RunStatus.QUEUED


def test_a_run_is_queued_while_its_pool_is_full(runs: Runs, instance: DagsterInstance) -> None:
    instance.event_log_storage.set_concurrency_slots("narrow", 1)
    assert runs.status(runs.submit("pooled")) is not RunStatus.QUEUED
    assert runs.status(runs.submit("pooled")) is RunStatus.QUEUED


def test_a_run_is_queued_while_another_process_is_the_first_to_use_its_pool(
    runs: Runs, instance: DagsterInstance, stack: DagsterStack
) -> None:
    instance.event_log_storage.delete_concurrency_limit("narrow")
    insert = text("INSERT INTO concurrency_limits (concurrency_key, \"limit\") VALUES ('narrow', 4)")
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    database = create_engine(stack.environment["APPHUB_DAGSTER_DATABASE_URL"])
    with ThreadPoolExecutor(1) as person, database.connect() as other:
        other.execute(insert)
        run = person.submit(runs.submit, "pooled")
        wait_for(lambda: other.scalar(waiting), "the webserver, which writes the same row")
        other.commit()
        run_id = run.result()
    database.dispose()
    assert was_queued(instance, run_id)


def test_a_queued_run_can_be_canceled(runs: Runs, instance: DagsterInstance) -> None:
    run_id = runs.submit("quick", backfill="x")
    instance.run_coordinator.cancel_run(run_id)
    runs.until(run_id, RunStatus.CANCELED)


@pytest.mark.usefixtures("daemon")
def test_the_daemon_starts_what_is_queued_when_there_is_room(runs: Runs, instance: DagsterInstance) -> None:
    run_id = runs.submit("quick", backfill="x")
    runs.until(run_id, RunStatus.SUCCESS)
    assert was_queued(instance, run_id)
