"""/launches and what of /apps is about launches (contract F.4)."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import httpx
import pytest
import requests
from docker.types import CancellableStream
from fastapi.testclient import TestClient

from apphub_api.launches import lines_of
from apphub_assets.containers import Feed
from apphub_assets.launches import logs
from apphub_assets.launches.models import Launch
from tests.fixtures.launches import SERVE, Launches, eventually
from tests.fixtures.servers import serving

CONTRACT = {
    "id", "status", "buildId", "instanceUrl", "resourceProfile", "env", "command", "errorMessage", "createdAt",
    "updatedAt", "startedAt", "stoppedAt", "expiresAt", "port", "internalPort", "containerIp",
}  # fmt: skip


@pytest.fixture
def hub(serve: Callable[..., TestClient], launches: Launches) -> TestClient:
    """The API with the app `app`, and no engine: what is asked for stays asked for."""
    return serve(engine_url="tcp://127.0.0.1:1")


def launch_of(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 202, answer.text
    launch: dict[str, Any] = answer.json()["data"]["launch"]
    return launch


def refused(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


class TestAsking:
    def test_a_launch_is_accepted_with_its_app_and_its_address(self, hub: TestClient, launches: Launches) -> None:
        answer = hub.post("/apps/app/launch")
        launch = launch_of(answer)
        assert launch.keys() >= CONTRACT
        assert (launch["status"], launch["resourceProfile"]) == ("pending", "medium")
        assert answer.json()["data"]["repository"]["id"] == "app"
        assert answer.json()["data"]["repository"]["latestLaunch"]["id"] == launch["id"]
        assert answer.headers["location"] == f"/launches/{launch['id']}"

    def test_the_app_may_be_named_in_the_body(self, hub: TestClient) -> None:
        assert launch_of(hub.post("/launches", json={"repositoryId": "app"}))["repositoryId"] == "app"

    def test_what_was_asked_for_is_shown_with_secrets_masked(self, hub: TestClient) -> None:
        env = [{"key": "GREETING", "value": "hello"}, {"key": "API_TOKEN", "value": "s3cret"},
               {"key": "DB", "value": "postgres://me:s3cret@db/x"}]  # fmt: skip
        body = {"env": env, "command": "run --fast", "resourceProfile": "small", "launchId": "my-launch", "wake": True}
        launch = launch_of(hub.post("/apps/app/launch", json=body))
        assert (launch["id"], launch["command"], launch["resourceProfile"]) == ("my-launch", "run --fast", "small")
        assert [v["value"] for v in launch["env"]] == ["hello", "********", "********"]
        assert (
            "s3cret"
            not in hub.get("/apps/app/launches").text + hub.get("/admin/events").text + hub.get("/apps/app").text
        )

    def test_a_named_build_is_used(self, hub: TestClient, launches: Launches) -> None:
        older = launches.add_build("app")
        launches.add_build("app")
        assert launch_of(hub.post("/apps/app/launch", json={"buildId": older}))["buildId"] == older

    def test_the_newest_build_that_succeeded_is_the_default(self, hub: TestClient, launches: Launches) -> None:
        newest = launches.add_build("app")
        launches.add_build("app", status="failed", image_tag=None)
        assert launch_of(hub.post("/apps/app/launch"))["buildId"] == newest

    def test_a_launch_counts_for_the_apps_popularity(self, hub: TestClient, launches: Launches) -> None:
        launches.add_app("beta")
        launch_of(hub.post("/apps/beta/launch"))
        found = hub.get("/apps", params={"sort": "popularity"}).json()["data"]
        assert [app["id"] for app in found] == ["beta", "app"]


class TestRefusing:
    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            ({"unknown": 1}, "/unknown"),
            ({"resourceProfile": "huge"}, "/resourceProfile"),
            ({"launchId": "Not An Id"}, "/launchId"),
            ({"launchId": "a" * 65}, "/launchId"),
            ({"command": "x" * 4001}, "/command"),
            ({"command": "echo 'unclosed"}, "/command"),
            ({"env": [{"key": f"K{n}", "value": ""} for n in range(33)]}, "/env"),
            ({"env": [{"key": "PORT", "value": "1"}]}, "/env/0/key"),
            ({"env": [{"key": "1A", "value": ""}]}, "/env/0/key"),
            ({"env": [{"key": "A" * 129, "value": ""}]}, "/env/0/key"),
            ({"env": [{"key": "A", "value": ""}, {"key": "A", "value": ""}]}, "/env/1/key"),
            ({"env": [{"key": "A", "value": "x" * 4097}]}, "/env/0/value"),
            ({"env": [{"key": "A", "value": "\0"}]}, "/env/0/value"),
        ],
    )
    def test_what_can_not_be_right_is_pointed_at(self, hub: TestClient, body: dict[str, Any], pointer: str) -> None:
        answer = hub.post("/apps/app/launch", json=body)
        assert refused(answer) == (400, "invalid_input")
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]

    def test_an_app_that_is_not_there(self, hub: TestClient) -> None:
        assert refused(hub.post("/apps/nothing/launch")) == (404, "app_not_found")
        assert refused(hub.get("/apps/nothing/launches")) == (404, "app_not_found")

    def test_an_app_without_a_successful_build(self, hub: TestClient, launches: Launches) -> None:
        with launches.database.transaction() as session:
            from apphub_assets.catalog import service as catalog
            from apphub_assets.catalog.spec import Registration

            catalog.register(session, Registration("bare", "Bare", "https://git.example.org/bare"))
        failed = launches.add_build("bare", status="failed", image_tag=None)
        for body in ({}, {"buildId": failed}):
            answer = hub.post("/apps/bare/launch", json=body)
            assert refused(answer) == (409, "no_build")
            assert answer.json()["error"].startswith("no successful build available for launch")

    def test_a_build_of_another_app(self, hub: TestClient, launches: Launches) -> None:
        other = launches.add_app("other")
        answer = hub.post("/apps/app/launch", json={"buildId": other})
        assert refused(answer) == (400, "wrong_build")
        assert answer.json()["error"].startswith("build does not belong to app")

    def test_a_build_that_is_not_there(self, hub: TestClient) -> None:
        assert refused(hub.post("/apps/app/launch", json={"buildId": "nope"})) == (404, "build_not_found")

    def test_an_id_that_is_taken(self, hub: TestClient) -> None:
        launch_of(hub.post("/apps/app/launch", json={"launchId": "mine"}))
        assert refused(hub.post("/apps/app/launch", json={"launchId": "mine"})) == (409, "launch_exists")

    def test_more_launches_than_may_be(self, serve: Callable[..., TestClient], launches: Launches) -> None:
        hub = serve(engine_url="tcp://127.0.0.1:1", launch_max=1)
        launch_of(hub.post("/apps/app/launch"))
        answer = hub.post("/apps/app/launch")
        assert refused(answer) == (429, "too_many_launches")
        assert "APPHUB_LAUNCH_MAX" in answer.json()["detail"]
        assert answer.headers["retry-after"] == "30"


class TestLookingAndStopping:
    def test_launches_are_listed_newest_first(self, hub: TestClient) -> None:
        ids = [launch_of(hub.post("/apps/app/launch"))["id"] for _ in range(3)]
        assert [launch["id"] for launch in hub.get("/apps/app/launches").json()["data"]] == ids[::-1]
        assert len(hub.get("/apps/app/launches?limit=2").json()["data"]) == 2
        assert hub.get("/apps/app/launches?limit=51").status_code == 400

    def test_an_older_launch_does_not_replace_the_newest_beside_the_app(self, hub: TestClient) -> None:
        older, newer = (launch_of(hub.post("/apps/app/launch"))["id"] for _ in range(2))
        hub.post(f"/apps/app/launches/{older}/stop")
        assert hub.get("/apps/app").json()["data"]["latestLaunch"]["id"] == newer

    def test_a_launch_is_asked_to_stop_once(self, hub: TestClient) -> None:
        launch = launch_of(hub.post("/apps/app/launch"))
        assert launch_of(hub.post(f"/apps/app/launches/{launch['id']}/stop"))["status"] in {"stopping", "stopped"}
        answer = hub.post(f"/apps/app/launches/{launch['id']}/stop")
        assert refused(answer) == (409, "launch_not_running")
        assert answer.json()["error"].startswith("launch is not running")

    def test_a_launch_is_stopped_by_its_own_app_alone(self, hub: TestClient, launches: Launches) -> None:
        launches.add_app("other")
        launch = launch_of(hub.post("/apps/app/launch"))
        assert refused(hub.post(f"/apps/other/launches/{launch['id']}/stop")) == (404, "launch_not_found")

    def test_a_launch_that_is_not_there(self, hub: TestClient) -> None:
        for path in (
            "/launches/nope",
            "/launches/nope/logs",
            "/launches/nope/logs?follow=true",
            "/launches/nope/stats",
        ):
            assert refused(hub.get(path)) == (404, "launch_not_found")

    def test_without_a_container_there_is_no_log_and_no_use(self, hub: TestClient) -> None:
        launch = launch_of(hub.post("/apps/app/launch"))
        printed = hub.get(f"/launches/{launch['id']}/logs").json()["data"]
        assert (printed["logs"], printed["size"], printed["live"]) == ("", 0, True)
        assert refused(hub.get(f"/launches/{launch['id']}/stats")) == (409, "launch_not_running")


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "launch-log"]


def test_a_log_that_breaks_in_a_way_nobody_thought_of_ends() -> None:
    def broken() -> Iterator[str]:
        yield "one"
        raise ValueError("nobody thought of this")

    async def read() -> list[str]:
        return [line async for line in lines_of(feed)]

    ended = requests.Response()
    ended.raw = BytesIO()
    ended.raw.close()
    feed = Feed(CancellableStream(iter(()), ended), broken(), endless=False)
    assert asyncio.run(asyncio.wait_for(read(), 10)) == ["one"]


@pytest.mark.engine
class TestOnAnEngine:
    def test_from_the_request_to_the_page_to_the_end(self, engine_launches: Launches) -> None:
        from apphub_api.app import create_app

        with serving(create_app(engine_launches.settings)) as authority, httpx.Client(
            base_url=f"http://{authority}", timeout=30
        ) as client:  # fmt: skip
            command = SERVE.replace("mkdir", "echo ready; mkdir", 1)
            launch = launch_of(client.post("/apps/app/launch", json={"command": command, "resourceProfile": "small"}))

            def show() -> dict[str, Any]:
                shown: dict[str, Any] = client.get(f"/launches/{launch['id']}").json()["data"]
                return shown

            eventually(lambda: show()["status"] == "running", "a running launch")
            assert client.get(f"/preview/{launch['id']}/").text == "It works\n"
            assert client.get(f"/launches/{launch['id']}/logs").json()["data"]["logs"] == "ready"
            stats = client.get(f"/launches/{launch['id']}/stats").json()["data"]
            assert 0 < stats["memoryBytes"] < stats["memoryLimitBytes"] == 128 * 1024 * 1024

            with client.stream("GET", f"/launches/{launch['id']}/logs?follow=true") as following:
                lines = following.iter_lines()
                assert next(lines) == "ready"
                launch_of(client.post(f"/apps/app/launches/{launch['id']}/stop"))
                assert list(lines) == []
            eventually(lambda: show()["status"] == "stopped", "a stopped launch")
            assert client.get(f"/launches/{launch['id']}/logs").json()["data"]["logs"] == "ready"
        assert engine_launches.leftovers() == []

    def test_who_stops_reading_a_log_leaves_no_thread_behind(self, engine_launches: Launches) -> None:
        async def read_and_leave(feed: Feed[str]) -> None:
            lines = lines_of(feed)
            assert await anext(lines) == "y"
            await asyncio.sleep(1)  # more is waiting by then than is read ahead
            await lines.aclose()
            await asyncio.to_thread(eventually, lambda: readers() == [], "the end of the reader", 5)

        engine_launches.keep()
        chatty = engine_launches.row(engine_launches.started(command=SERVE.replace("exec", "yes & exec", 1)))
        feed = logs.follow(engine_launches.sandboxes, chatty.sandbox_id or "")
        assert feed is not None
        asyncio.run(read_and_leave(feed))

    def test_a_row_that_makes_no_sense_holds_launches_up_only_until_it_is_mended(
        self, engine_launches: Launches
    ) -> None:
        from apphub_api.app import create_app

        senseless = engine_launches.stand_in("", status="stopping", outcome="nonsense")
        with serving(create_app(engine_launches.settings)) as authority, httpx.Client(
            base_url=f"http://{authority}", timeout=30
        ) as client:  # fmt: skip

            def check() -> dict[str, Any]:
                return next(check for check in client.get("/ready").json()["checks"] if check["name"] == "launches")

            eventually(lambda: check()["status"] == "failed", "the word that launches are not kept")
            assert "nonsense" in check()["reason"]
            with engine_launches.database.transaction() as session:
                session.merge(Launch(id=senseless.id, outcome="stopped"))
            engine_launches.started()
            assert check()["status"] == "ok"
