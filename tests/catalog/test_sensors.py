"""Nothing waits unseen: when the sensor starts a run, and when it leaves that to one there is."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from apphub_assets.catalog import ingestion, sensors
from apphub_assets.catalog.assets import REASON
from apphub_assets.resources import Platform
from tests.fixtures.catalog import Catalog

MADE, STARTING, STARTED = dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED

Tick = Callable[[], dg.SensorResult]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance whose fork server is dead."""
    config = {"socket": str(tmp_path / "none.sock"), "module": "apphub_assets.definitions"}
    launcher = {"module": "apphub_assets.launcher", "class": "WarmRunLauncher", "config": config}
    with dg.instance_for_test(overrides={"run_launcher": launcher}) as instance:
        yield instance


@pytest.fixture
def tick(instance: dg.DagsterInstance, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> Tick:
    monkeypatch.setenv("APPHUB_DATABASE_URL", catalog.settings.database_url.get_secret_value())
    monkeypatch.setenv("APPHUB_HOME", str(catalog.settings.home))

    def look() -> dg.SensorResult:
        with dg.build_sensor_context(instance=instance, resources={"platform": Platform()}) as context:
            return sensors.unfinished_work(context)

    return look


@pytest.fixture
def waiting(catalog: Catalog, make_repository) -> str:
    """An app that waits to be ingested."""
    return catalog.register("curves", make_repository(files={"README.md": "# Curves"}).url).id


def partitions(result: dg.SensorResult) -> list[str]:
    return [request.partition_key for request in result.run_requests]


def run_of(instance: dg.DagsterInstance, partition: str, status: dg.DagsterRunStatus) -> None:
    create_run_for_test(instance, status=status, tags={"dagster/partition": partition})


def test_what_nobody_works_on_gets_a_run_that_carries_its_correlation_id(catalog, waiting, tick):
    with catalog.database.transaction() as session:
        ingestion.service.refresh(session, waiting, "asked to", correlation_id="trace-me")

    request = tick().run_requests[0]

    assert request.partition_key == waiting
    assert request.tags[REASON] == "unfinished"
    assert request.tags["apphub/correlation-id"] == "trace-me"


@pytest.mark.parametrize("status", [MADE, STARTING])
def test_a_run_that_is_being_launched_is_waited_for(instance, waiting, tick, status):
    run_of(instance, waiting, status)

    assert partitions(tick()) == []


@pytest.mark.parametrize("status", [MADE, STARTING, STARTED])
def test_a_run_without_a_worker_is_not_waited_for(instance, waiting, tick, monkeypatch, status):
    run_of(instance, waiting, status)
    monkeypatch.setattr(sensors, "LAUNCHING", timedelta(0))

    assert partitions(tick()) == [waiting]


def test_what_a_living_worker_holds_gets_no_second_run(catalog, waiting, tick):
    ingestion._begin(catalog.database, waiting, None, False)

    with catalog.database.lock(ingestion.lock_name(waiting)):
        assert partitions(tick()) == []

    assert partitions(tick()) == [waiting]


def test_partitions_follow_the_apps(instance, catalog, waiting, tick):
    instance.add_dynamic_partitions("repositories", ["forgotten"])

    changes = tick().dynamic_partitions_requests

    assert [(type(change).__name__, change.partition_keys) for change in changes] == [
        ("AddDynamicPartitionsRequest", [waiting]),
        ("DeleteDynamicPartitionsRequest", ["forgotten"]),
    ]
