"""`apphub up`, as people and accidents treat it."""

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing

import httpx
import psutil
import psycopg
import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from apphub_assets.orchestrator import LOCK_HEADER, Orchestrator, OrchestratorRefused
from tests.fixtures.stack import STOPS_WITHIN, Stack


def exports(stack: Stack) -> dict[str, str]:
    """What `eval "$(apphub env)"` would set."""
    lines = shlex.split(stack.apphub("env").stdout)
    return dict(word.split("=", 1) for word in lines if word != "export")


class TestARunningStack:
    def test_is_ready_with_every_part_it_needs(self, running_stack: Stack) -> None:
        checks = httpx.get(f"{running_stack.url}/ready", timeout=10).json()["checks"]

        assert {check["name"] for check in checks if check["status"] == "ok"} >= {"postgres", "dagster"}
        assert set(running_stack.children()) == {"postgres", "api", "runs", "code", "dagster", "daemon"}

    def test_a_second_one_on_the_same_state_says_which_runs_and_leaves_it_alone(self, running_stack: Stack) -> None:
        second = running_stack.apphub("up")

        assert running_stack.process is not None
        assert second.returncode == 1
        assert f"process {running_stack.process.pid}" in second.stderr
        assert running_stack.url in second.stderr
        assert running_stack.is_ready()

    @pytest.mark.parametrize("setting", ["APPHUB_PORT", "APPHUB_DAGSTER_PORT"])
    def test_a_taken_port_is_named_with_the_setting_that_moves_it(
        self, running_stack: Stack, make_stack: Callable[[], Stack], setting: str
    ) -> None:
        taken, other = running_stack.environment[setting], make_stack()

        refused = other.apphub("up", **{setting: taken})

        assert refused.returncode == 1
        assert f"port {taken} " in refused.stderr
        assert f"set {setting} " in refused.stderr
        assert not (other.home / "postgres").exists()

    def test_prints_the_variables_with_which_other_programs_work_on_it(self, running_stack: Stack) -> None:
        variables = exports(running_stack)

        with psycopg.connect(variables["APPHUB_DATABASE_URL"]) as connection:
            tables = connection.execute("SELECT to_regclass('catalog.repositories'), to_regclass('dagster.runs')")
            assert None not in (tables.fetchone() or [None])

    def test_its_variables_bring_the_dagster_command_to_the_same_instance(self, running_stack: Stack) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "dagster", "instance", "info"]

        shown = subprocess.run(command, env=os.environ | exports(running_stack), capture_output=True, text=True)

        assert "WarmRunLauncher" in shown.stdout, shown.stderr

    def test_the_doctor_finds_nothing_wrong_with_it(self, running_stack: Stack) -> None:
        findings = {one["id"]: one for one in json.loads(running_stack.apphub("admin", "doctor", "-o", "json").stdout)}

        for check in ("python", "git", "state folder", "ports", "database", "clock", "code location", "identity"):
            assert findings[check]["status"] == "ok", findings[check]

    @pytest.mark.parametrize("child", ["api", "runs", "code", "postgres"])
    def test_a_child_that_is_killed_is_replaced_and_all_of_it_works_again(
        self, running_stack: Stack, child: str
    ) -> None:
        victim = running_stack.children()[child]

        victim.kill()

        running_stack.until(lambda: running_stack.children().get(child, victim) != victim)
        running_stack.until(running_stack.is_ready)


class TestDagstersOwnPort:
    """Whoever could ask there would be the operator."""

    @pytest.fixture
    def dagster(self, running_stack: Stack) -> str:
        return f"127.0.0.1:{running_stack.dagster_port}/dagster"

    @pytest.mark.parametrize("headers", [{}, {LOCK_HEADER: ""}, {LOCK_HEADER: "guessed"}], ids=["no", "", "wrong"])
    @pytest.mark.parametrize("path", ["/", "/graphql?query={version}", "/server_info?query={version}"])
    def test_is_closed_without_the_secret(self, dagster: str, path: str, headers: dict[str, str]) -> None:
        assert httpx.get(f"http://{dagster}{path}", headers=headers).status_code == 403

    def test_takes_no_command_without_the_secret(self, dagster: str) -> None:
        refused = pytest.raises(OrchestratorRefused, match="APPHUB_DAGSTER_SECRET")

        with closing(Orchestrator(f"http://{dagster}")) as stranger, refused:
            stranger.add_partition("repositories", "smuggled")

    def test_opens_no_websocket_without_the_secret(self, dagster: str) -> None:
        asking = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        asking |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "graphql-ws"}

        assert httpx.get(f"http://{dagster}/graphql", headers=asking).status_code == 403

    def test_says_to_anybody_that_it_lives(self, dagster: str) -> None:
        assert httpx.get(f"http://{dagster}/server_info").status_code == 200
        assert httpx.post(f"http://{dagster}/server_info").status_code == 403

    def test_is_open_through_the_api_whatever_the_caller_shows(self, running_stack: Stack) -> None:
        url = f"{running_stack.url}/dagster/graphql"

        answer = httpx.post(url, json={"query": "{version}"}, headers={LOCK_HEADER: "guessed"})

        assert answer.json()["data"]["version"]
        with connect(url.replace("http", "ws", 1), subprotocols=[Subprotocol("graphql-ws")]) as socket:
            socket.send('{"type": "connection_init"}')
            assert json.loads(socket.recv(timeout=10)) == {"type": "connection_ack"}

    def test_does_not_open_at_all_when_there_is_no_secret(self) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "apphub_assets.dagster_web", "-p", "0"]

        failed = subprocess.run(command, capture_output=True, text=True)

        assert "APPHUB_DAGSTER_SECRET is not set" in failed.stderr


def test_kill_9_leaves_no_process_the_next_start_works_and_sigterm_leaves_no_lock_either(
    make_stack: Callable[[], Stack],
) -> None:
    stack = make_stack()
    stack.start()
    orphans = stack.processes() + stack.database_processes()
    httpx.post(f"{stack.url}/apps", json={"id": "kept", "name": "Kept", "repoUrl": "https://example.org/kept.git"})

    stack.kill()

    assert psutil.wait_procs(orphans, timeout=30)[1] == []
    stack.start()
    assert httpx.get(f"{stack.url}/apps/kept").status_code == 200

    assert stack.stop() == 0

    assert stack.processes() + stack.database_processes() == []
    assert not (stack.home / "apphub.lock").exists()
    assert "apphub up" in stack.apphub("env").stderr


def test_it_works_and_stops_though_the_engine_takes_requests_and_never_answers(make_stack: Callable[[], Stack]) -> None:
    stack = make_stack()
    address = str(stack.home.parent / "engine.sock")
    stack.environment["APPHUB_ENGINE_URL"] = f"unix://{address}"
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(address)
        engine.listen(1000)

        stack.start()

        assert httpx.get(f"{stack.url}/ready", timeout=10).json()["status"] == "degraded"
        # On a busy machine each part needs its whole grace; requests to the engine have a minute.
        assert stack.stop(within=2 * STOPS_WITHIN) == 0
    assert "too slow to remove every container" in stack.output()


def test_a_part_that_can_not_start_ends_all_with_its_last_lines(make_stack: Callable[[], Stack]) -> None:
    stack = make_stack()

    failed = stack.apphub("up", APPHUB_OPERATOR_TOKENS="not json")

    assert failed.returncode == 1
    assert "api ended with exit code" in failed.stderr
    assert "APPHUB_OPERATOR_TOKENS is not JSON" in failed.stderr
    assert stack.processes() + stack.database_processes() == []


@pytest.mark.parametrize("setting", ["APPHUB_HOST", "APPHUB_DAGSTER_HOST"])
def test_it_refuses_to_listen_beyond_the_machine_without_tokens(make_stack: Callable[[], Stack], setting: str) -> None:
    stack = make_stack()

    refused = stack.apphub("up", **{setting: "0.0.0.0"})

    assert refused.returncode == 1
    assert f"{setting}=0.0.0.0" in refused.stderr
    assert "APPHUB_OPERATOR_TOKENS" in refused.stderr
    assert not stack.home.exists()


def test_a_database_that_does_not_answer_is_named(make_stack: Callable[[], Stack]) -> None:
    refused = make_stack().apphub("up", APPHUB_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")

    assert refused.returncode == 1
    assert "APPHUB_DATABASE_URL" in refused.stderr
