"""The keeper while the engine is away and when it is back, on a real engine behind a door."""

from collections.abc import Iterator

import pytest

from apphub_assets.containers import Engine
from apphub_assets.launches.spec import LaunchStatus, ReasonCode
from apphub_assets.launches.views import LaunchView
from tests.fixtures.door import Door
from tests.fixtures.launches import PAGE, Launches, docker, eventually

pytestmark = pytest.mark.engine

SOON = 5.0


def until_reason(launches: Launches, launch: LaunchView, code: ReasonCode) -> LaunchView:
    def there() -> LaunchView | None:
        now = launches.show(launch)
        return now if now.reason.code == code else None

    return eventually(there, f"reason {code}")


@pytest.fixture
def behind_door(door: Door, engine_launches: Launches) -> Iterator[Launches]:
    """Launches on an engine that can go away."""
    engine_launches.engine = Engine(door.url)
    yield engine_launches
    door.open()
    engine_launches.running.close()
    engine_launches.engine.close()


def test_a_launch_waits_for_the_engine_and_says_so(behind_door: Launches, door: Door) -> None:
    door.shut()
    behind_door.keep()
    launch = behind_door.launch()
    held = until_reason(behind_door, launch, ReasonCode.ENGINE_UNAVAILABLE)
    assert held.status == LaunchStatus.PENDING
    assert "apt install docker.io" in held.reason.message
    door.open()
    behind_door.until(launch, LaunchStatus.RUNNING)


def test_a_launch_that_waits_too_long_has_failed(behind_door: Launches, door: Door) -> None:
    door.shut()
    behind_door.keep(launch_start_timeout=1)
    failed = behind_door.until(behind_door.launch(), LaunchStatus.FAILED)
    assert failed.reason.code == ReasonCode.ENGINE_UNAVAILABLE


def test_what_runs_is_held_to_run_and_must_answer_when_the_engine_is_back(behind_door: Launches, door: Door) -> None:
    behind_door.keep()
    launch = behind_door.started()
    door.shut()
    held = until_reason(behind_door, launch, ReasonCode.ENGINE_UNAVAILABLE)
    assert (held.status, behind_door.page_of(launch)) == (LaunchStatus.RUNNING, PAGE + "\n")
    door.open()
    again = until_reason(behind_door, launch, ReasonCode.ANSWERED)
    assert (again.status, again.started_at) == (LaunchStatus.RUNNING, launch.started_at)


def test_what_the_engine_took_with_it_has_failed_for_that_reason(behind_door: Launches, door: Door) -> None:
    behind_door.keep()
    launch = behind_door.started()
    door.shut()
    until_reason(behind_door, launch, ReasonCode.ENGINE_UNAVAILABLE)
    docker("kill", behind_door.container(launch))
    door.open()
    failed = behind_door.until(launch, LaunchStatus.FAILED, SOON)
    assert failed.reason.code == ReasonCode.ENGINE_RESTARTED


def test_what_was_starting_starts_anew(behind_door: Launches, door: Door) -> None:
    behind_door.keep()
    launch = behind_door.launch(command="sh -c 'sleep 4; mkdir /tmp/w; exec httpd -f -p 8080 -h /tmp/w'")
    eventually(lambda: behind_door.row(launch).address, "a container")
    door.shut()
    until_reason(behind_door, launch, ReasonCode.ENGINE_UNAVAILABLE)
    first = behind_door.container(launch)
    docker("kill", first)
    door.open()
    behind_door.until(launch, LaunchStatus.RUNNING)
    assert behind_door.container(launch) != first
    eventually(lambda: len(behind_door.leftovers()) == 3, "one app, one relay, one network")
