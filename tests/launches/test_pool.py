"""The warm pool: what is kept ready, and that a launch gets it."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text

from apphub_assets.launches.models import Launch
from apphub_assets.launches.pool import UNMEASURED_BYTES, plan
from apphub_assets.launches.spec import EnvVar, LaunchStatus
from apphub_assets.search import service as search
from tests.fixtures.launches import Launches, docker, eventually

MIB = 1024 * 1024


def pooled(build: str, status: str = "running", memory: int | None = 10 * MIB, **values: Any) -> Launch:
    return Launch(
        id=f"of-{build}", build_id=build, status=status, memory_bytes=memory, reason_code="answered", **values
    )


class TestPlan:
    def test_the_most_wanted_that_fit_are_added(self) -> None:
        assert plan(["a", "b", "c"], [], 2 * UNMEASURED_BYTES).add == ["a", "b"]

    def test_what_was_measured_counts_as_that(self) -> None:
        assert plan(["a", "b"], [pooled("a"), pooled("b", "stopped", 100 * MIB)], 50 * MIB).add == []
        assert plan(["a", "b"], [pooled("a"), pooled("b", "stopped", 40 * MIB)], 50 * MIB).add == ["b"]

    def test_one_that_does_not_fit_leaves_its_room_to_the_next(self) -> None:
        assert plan(["big", "a"], [pooled("big", "stopped", 100 * MIB)], 50 * MIB).add == ["a"]

    def test_one_that_turns_out_too_big_is_dropped_and_not_added_again(self) -> None:
        assert plan(["big"], [pooled("big", memory=100 * MIB)], 50 * MIB).drop == ["of-big"]
        settled = plan(["big"], [pooled("big", "stopped", 100 * MIB)], 50 * MIB)
        assert (settled.add, settled.drop) == ([], [])

    def test_older_builds_and_less_wanted_apps_are_dropped(self) -> None:
        assert plan(["new"], [pooled("old")], 50 * MIB).drop == ["of-old"]

    def test_an_app_that_does_not_start_by_itself_is_not_tried_again(self) -> None:
        failed = pooled("a", "failed", None)
        failed.reason_code = "never_answered"
        assert plan(["a"], [failed], 50 * MIB).add == []
        failed.reason_code = "engine_restarted"
        assert plan(["a"], [failed], 50 * MIB).add == ["a"]

    def test_without_a_budget_it_is_emptied(self) -> None:
        assert plan([], [pooled("a")], 0).drop == ["of-a"]


def test_a_launch_from_the_pool_waits_for_whoever_changes_the_same_app(launches: Launches) -> None:
    """As an ingestion or a build does: the app's row first, then what search knows of it."""
    build_id = launches.add_build("app")
    launches.stand_in("127.0.0.1:1", pooled=True, build_id=build_id)
    with ThreadPoolExecutor(1) as pool:
        with launches.database.transaction() as session:
            session.execute(text("SELECT FROM catalog.repositories WHERE id = 'app' FOR UPDATE"))
            launching = pool.submit(launches.launch, command=None)
            eventually(lambda: _waits_for_a_lock(launches), "a launch that waits")
            search.add_popularity(session, "app")
        assert launching.result().status == LaunchStatus.RUNNING


def _waits_for_a_lock(launches: Launches) -> bool:
    waiting = (
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with launches.database.transaction() as session:
        return bool(session.scalar(text(waiting)))


@pytest.mark.engine
class TestOnAnEngine:
    @pytest.fixture
    def launches(self, serving_image: str, engine_launches: Launches) -> Launches:
        """An app whose image serves by itself."""
        engine_launches.add_app("web", image=serving_image)
        return engine_launches

    def ready(self, launches: Launches) -> list[Launch]:
        return [row for row in launches.pooled() if row.status == LaunchStatus.RUNNING and row.memory_bytes]

    def test_a_plain_launch_gets_what_was_kept_ready_and_runs_at_once(self, launches: Launches) -> None:
        launches.keep(pool_memory_bytes=64 * MIB)
        launches.started(app_id="web", command=None)
        (kept,) = eventually(lambda: self.ready(launches), "a launch in the pool")
        launch = launches.launch("web", command=None, launch_id="mine")
        assert (launch.id, launch.status, launch.port) == (
            "mine",
            LaunchStatus.RUNNING,
            int(kept.address.split(":")[1]),
        )
        assert launches.row(launch).sandbox_id == kept.sandbox_id
        assert launch.expires_at is not None
        (following,) = eventually(lambda: self.ready(launches), "another one in the pool")
        assert following.sandbox_id != kept.sandbox_id

    def test_what_is_in_the_pool_is_nobodys_to_see(self, launches: Launches) -> None:
        launches.keep(pool_memory_bytes=64 * MIB)
        launch = launches.started(app_id="web", command=None)
        (kept,) = eventually(lambda: self.ready(launches), "a launch in the pool")
        assert launches.ids("web") == [launch.id]
        with pytest.raises(Exception, match="launch not found"):
            launches.row(kept)

    def test_a_launch_with_wishes_of_its_own_does_not_get_it(self, launches: Launches) -> None:
        launches.keep(pool_memory_bytes=64 * MIB)
        launches.started(app_id="web", command=None)
        eventually(lambda: self.ready(launches), "a launch in the pool")
        assert launches.launch("web", command=None, env=[EnvVar("A", "1")]).status == LaunchStatus.PENDING

    def test_a_pool_that_is_turned_off_empties(self, launches: Launches) -> None:
        first = launches.keep(pool_memory_bytes=64 * MIB)
        launches.stop(launches.started(app_id="web", command=None))
        eventually(lambda: self.ready(launches), "a launch in the pool")
        first.stop()
        launches.keep(pool_memory_bytes=0)
        eventually(lambda: launches.leftovers() == [], "an engine without leftovers")

    def test_one_that_was_killed_in_the_pool_is_not_given_away(self, launches: Launches) -> None:
        launches.keep(pool_memory_bytes=64 * MIB)
        launches.started(app_id="web", command=None)
        (kept,) = eventually(lambda: self.ready(launches), "a launch in the pool")
        docker("rm", "-f", f"apphub-{launches.settings.stack_id}-{kept.sandbox_id}-app")
        eventually(lambda: kept.id not in [row.id for row in self.ready(launches)], "the loss of it")
        assert launches.started(app_id="web", command=None).status == LaunchStatus.RUNNING
