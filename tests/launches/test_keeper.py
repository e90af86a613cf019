"""The keeper on a real engine and a real database."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from apphub_assets.catalog import service as catalog
from apphub_assets.containers import ResourceProfile, SandboxSpec
from apphub_assets.events import service as events
from apphub_assets.events.spec import EventQuery
from apphub_assets.kit.ids import new_id
from apphub_assets.launches import logs, service
from apphub_assets.launches.models import Launch
from apphub_assets.launches.spec import EnvVar, LaunchStatus, Profile, ReasonCode
from apphub_assets.launches.views import LaunchView
from tests.fixtures.launches import PAGE, Launches, docker, eventually, seconds_ago

pytestmark = pytest.mark.engine


@pytest.fixture
def launches(engine_launches: Launches) -> Launches:
    return engine_launches


RUNNING, STOPPED, FAILED, EXPIRED = (
    LaunchStatus.RUNNING,
    LaunchStatus.STOPPED,
    LaunchStatus.FAILED,
    LaunchStatus.EXPIRED,
)
SOON = 5.0


def logs_of(launches: Launches, launch: LaunchView) -> str:
    with launches.database.transaction() as session:
        return logs.read(session, launches.sandboxes, launch.id).logs


class TestLifeCycle:
    def test_a_launch_runs_when_it_answers_and_ends_without_a_trace(self, launches: Launches) -> None:
        launch = launches.launch()
        assert (launch.status, launch.reason.code) == (LaunchStatus.PENDING, ReasonCode.REQUESTED)

        launches.keep()
        running = launches.until(launch, RUNNING)
        assert launches.page_of(running) == PAGE + "\n"
        assert (running.reason.code, running.internal_port) == (ReasonCode.ANSWERED, 8080)
        assert running.instance_url == f"http://127.0.0.1:4000/preview/{launch.id}/"

        launches.stop(launch)
        stopped = launches.until(launch, STOPPED)
        assert (stopped.reason.code, stopped.port, stopped.instance_url) == (ReasonCode.STOPPED, None, None)
        assert launches.leftovers() == []

    def test_every_state_is_told_once_and_kept_beside_the_app(self, launches: Launches) -> None:
        launches.keep()
        launch = launches.started()
        launches.stop(launch)
        launches.until(launch, STOPPED)
        told = events.find(launches.database, EventQuery(type="launch.updated")).events
        with launches.database.transaction() as session:
            app = catalog.show(session, "app")
        states = [event.payload["launch"]["status"] for event in reversed(told)]
        assert list(dict.fromkeys(states)) == ["pending", "starting", "running", "stopping", "stopped"]
        assert app.latest_launch is not None
        assert app.latest_launch["status"] == "stopped"

    def test_environment_command_and_limits_arrive(self, launches: Launches) -> None:
        launches.keep()
        command = "sh -c 'mkdir /tmp/w; echo $GREETING $PORT > /tmp/w/index.html; httpd -f -p 8080 -h /tmp/w'"
        launch = launches.started(command=command, env=[EnvVar("GREETING", "hello")], profile=Profile.SMALL)
        assert launches.page_of(launch) == "hello 8080\n"
        name = launches.container(launch)
        limits = docker("inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}", name).split()
        assert limits == [str(128 * 1024 * 1024), "64"]

    def test_what_it_printed_is_kept_after_its_end(self, launches: Launches) -> None:
        launches.keep()
        launch = launches.started(command="sh -c 'echo ready; mkdir /tmp/w; exec httpd -f -p 8080 -h /tmp/w'")
        assert logs_of(launches, launch) == "ready"
        launches.stop(launch)
        launches.until(launch, STOPPED)
        assert logs_of(launches, launch) == "ready"

    def test_of_a_long_log_the_last_64_kib_are_kept(self, launches: Launches) -> None:
        launches.keep()
        launch = launches.launch(command="sh -c 'seq -w 1 20000; exit 1'")
        launches.until(launch, FAILED)
        kept = logs_of(launches, launch)
        assert kept.endswith("\n19999\n20000")
        assert len(kept) <= 64 * 1024

    def test_a_launch_stopped_before_it_began_never_has_a_container(self, launches: Launches) -> None:
        launch = launches.launch()
        launches.stop(launch)
        launches.keep()
        assert launches.until(launch, STOPPED).started_at is None

    def test_a_launch_is_stopped_while_it_starts(self, launches: Launches) -> None:
        launches.keep()
        launch = launches.launch(command="sleep 1000")
        launches.until(launch, LaunchStatus.STARTING)
        launches.stop(launch)
        launches.until(launch, STOPPED)
        eventually(lambda: launches.leftovers() == [], "an engine without leftovers")


class TestBadApps:
    def test_one_that_exits_at_once_has_failed_with_its_code_and_log(self, launches: Launches) -> None:
        launches.keep()
        launch = launches.until(launches.launch(command="sh -c 'echo no config; exit 3'"), FAILED)
        assert (launch.reason.code, launch.exit_code) == (ReasonCode.EXITED, 3)
        assert "exit code 3" in (launch.error_message or "")
        assert logs_of(launches, launch) == "no config"
        eventually(lambda: launches.leftovers() == [], "an engine without leftovers")

    def test_one_that_never_listens_has_failed_after_its_time_to_start(self, launches: Launches) -> None:
        launches.keep(launch_start_timeout=2)
        launch = launches.until(launches.launch(command="sleep 1000"), FAILED)
        assert launch.reason.code == ReasonCode.NEVER_ANSWERED
        assert "0.0.0.0:$PORT" in launch.reason.message

    def test_one_that_listens_late_is_waited_for(self, launches: Launches) -> None:
        launches.keep()
        launch = launches.launch(command="sh -c 'sleep 3; mkdir /tmp/w; exec httpd -f -p 8080 -h /tmp/w'")
        assert launches.until(launch, LaunchStatus.STARTING).instance_url is None
        assert launches.until(launch, RUNNING).reason.code == ReasonCode.ANSWERED

    def test_one_that_leaks_memory_has_failed_for_that_reason(self, launches: Launches) -> None:
        launches.keep()
        leak = """awk 'BEGIN { s = "x"; while (1) s = s s }'"""
        launch = launches.until(launches.launch(command=leak, profile=Profile.SMALL), FAILED)
        assert launch.reason.code == ReasonCode.OUT_OF_MEMORY

    def test_one_that_ends_by_itself_after_answering_has_stopped(self, launches: Launches) -> None:
        launches.keep()
        ends = """sh -c 'trap "exit 0" USR1; mkdir /tmp/w; httpd -p 8080 -h /tmp/w; sleep 1000 & wait'"""
        launch = launches.started(command=ends)
        docker("kill", "--signal", "USR1", launches.container(launch))
        assert launches.until(launch, STOPPED).reason.code == ReasonCode.EXITED

    def test_a_command_that_is_not_there_is_named(self, launches: Launches) -> None:
        launches.keep()
        launch = launches.until(launches.launch(command="/no/such/program"), FAILED)
        assert launch.reason.code == ReasonCode.START_FAILED
        assert "/no/such/program" in launch.reason.message

    def test_an_image_that_was_removed_is_named(self, launches: Launches) -> None:
        launches.add_app("gone", image="apphub/never-built:1")
        launches.keep()
        launch = launches.until(launches.launch("gone"), FAILED)
        assert launch.reason.code == ReasonCode.IMAGE_MISSING
        assert "apphub/never-built:1" in launch.reason.message


class TestTime:
    def test_a_launch_expires_when_its_time_is_over(self, launches: Launches) -> None:
        launches.keep()
        launch = launches.started()
        with launches.database.transaction() as session:
            session.merge(Launch(id=launch.id, expires_at=seconds_ago(1)))
        assert launches.until(launch, EXPIRED).reason.code == ReasonCode.TTL
        assert launches.leftovers() == []

    def test_a_launch_that_nobody_asks_for_expires(self, launches: Launches) -> None:
        launches.keep(launch_idle_timeout=1)
        expired = launches.until(launches.launch(), EXPIRED)
        assert (expired.reason.code, expired.started_at is None) == (ReasonCode.IDLE, False)

    def test_a_launch_in_use_does_not_expire(self, launches: Launches) -> None:
        keeper = launches.keep(launch_idle_timeout=2)
        used = launches.launch()
        with keeper.visits.during(used.id):
            launches.until(used, RUNNING)
            launches.until(launches.launch(), EXPIRED)
            assert launches.show(used).status == RUNNING

    def test_an_expired_launch_wakes_under_the_same_id(self, launches: Launches) -> None:
        launches.keep()
        launch = launches.started(wake=True)
        with launches.database.transaction() as session:
            session.merge(Launch(id=launch.id, expires_at=seconds_ago(1)))
        launches.until(launch, EXPIRED)
        with launches.database.transaction() as session:
            service.wake(session, launches.settings, launch.id)
        again = launches.until(launch, RUNNING)
        assert launches.page_of(again) == PAGE + "\n"
        assert again.expires_at is not None
        assert again.expires_at > datetime.now(UTC) + timedelta(seconds=launches.settings.launch_ttl - 60)


class TestBadLuck:
    def test_a_container_killed_from_outside_is_seen_soon(self, launches: Launches) -> None:
        launches.keep()
        launch = launches.started()
        docker("kill", launches.container(launch))
        failed = launches.until(launch, FAILED, SOON)
        assert (failed.reason.code, failed.exit_code) == (ReasonCode.EXITED, 137)
        assert "SIGKILL" in failed.reason.message

    def test_a_container_removed_from_outside_is_seen_soon(self, launches: Launches) -> None:
        launches.keep()
        launch = launches.started()
        docker("rm", "-f", launches.container(launch))
        assert launches.until(launch, FAILED, SOON).reason.code == ReasonCode.CONTAINER_LOST
        eventually(lambda: launches.leftovers() == [], "an engine without leftovers")

    def test_a_keeper_that_starts_again_takes_over_what_runs(self, launches: Launches) -> None:
        first = launches.keep()
        launch = launches.started()
        container = launches.container(launch)
        first.stop()
        launches.keep()
        other = launches.started()
        assert (launches.show(launch).status, launches.container(launch)) == (RUNNING, container)
        assert launches.page_of(launch) == launches.page_of(other)

    def test_what_ended_while_nobody_kept_it_is_seen_at_the_next_start(self, launches: Launches) -> None:
        first = launches.keep()
        launch = launches.started()
        first.stop()
        docker("rm", "-f", launches.container(launch))
        launches.keep()
        launches.until(launch, FAILED, SOON)

    def test_a_start_whose_worker_died_is_done_again(self, launches: Launches) -> None:
        launch = launches.launch()
        with launches.database.transaction() as session:
            session.merge(
                Launch(id=launch.id, status="starting", sandbox_id=new_id(), internal_port=8080, reason_code="started")
            )
        launches.keep()
        launches.until(launch, RUNNING)

    def test_containers_that_belong_to_no_launch_are_removed(self, launches: Launches) -> None:
        profile = ResourceProfile(64 << 20, 0.25, 32, 8 << 20)
        launches.sandboxes.start(SandboxSpec(new_id(), "busybox:1.36", 8080, {}, profile, ["sleep", "1000"]))
        assert launches.leftovers() != []
        launches.keep()
        eventually(lambda: launches.leftovers() == [], "an engine without leftovers")

    def test_the_launches_of_a_deleted_app_go_with_it(self, launches: Launches) -> None:
        launches.keep()
        launches.started()
        with launches.database.transaction() as session:
            service.stop_all(session, "app")
            catalog.delete(session, "app")
        eventually(lambda: launches.leftovers() == [], "an engine without leftovers")

    def test_two_keepers_start_each_launch_once(self, launches: Launches) -> None:
        launches.keep()
        launches.keep()
        wanted = [launches.launch() for _ in range(3)]
        for launch in wanted:
            launches.until(launch, RUNNING)
        apps = docker("ps", "-q", "--filter", f"label=apphub.stack={launches.settings.stack_id}").split()
        assert len(apps) == 2 * len(wanted)  # each with its relay

    def test_a_keeper_whose_connections_were_cut_goes_on(self, launches: Launches) -> None:
        launches.keep()
        launch = launches.started()
        with launches.database.engine.connect() as connection:
            cut = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database()"
            connection.execute(text(f"{cut} AND pid <> pg_backend_pid()"))
        docker("kill", launches.container(launch))
        launches.until(launch, FAILED, SOON)
        launches.started()
