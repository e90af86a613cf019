"""The way to a launch: by path and by host, who may go it, and what is shown while nothing is there."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright
from pydantic import SecretStr
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from apphub_api.app import create_app
from apphub_assets.launches.models import Launch
from apphub_assets.launches.spec import EnvVar
from tests.fixtures.api import TOKENS, bearer
from tests.fixtures.backend import Backend
from tests.fixtures.launches import PAGE, Launches, eventually, seconds_ago
from tests.fixtures.servers import serving

HTML = {"Accept": "text/html,*/*;q=0.8"}
NO_ENGINE = {"engine_url": "tcp://127.0.0.1:1"}


@pytest.fixture(scope="module")
def backend() -> Iterator[tuple[Backend, str]]:
    backend = Backend()
    with serving(backend.app()) as authority:
        yield backend, authority


@pytest.fixture
def launch(launches: Launches, backend: tuple[Backend, str]) -> Launch:
    """A launch that runs: the backend."""
    return launches.stand_in(backend[1])


@contextmanager
def hub(launches: Launches, **values: Any) -> Iterator[httpx.Client]:
    settings = launches.settings.model_copy(update=NO_ENGINE | values)
    with serving(create_app(settings)) as authority, httpx.Client(base_url=f"http://{authority}", timeout=20) as client:
        yield client


@pytest.fixture
def client(launches: Launches) -> Iterator[httpx.Client]:
    with hub(launches) as client:
        yield client


def own_host(client: httpx.Client, launch: Launch) -> str:
    return f"{launch.id}.preview.localhost:{client.base_url.port}"


class TestByPath:
    def test_the_app_is_reached_below_its_prefix(self, client: httpx.Client, launch: Launch) -> None:
        echo = client.get(f"/preview/{launch.id}/a/b?c=1").json()
        assert echo["target"] == "/a/b?c=1"
        assert dict(echo["headers"])["x-forwarded-prefix"] == f"/preview/{launch.id}"

    def test_a_missing_slash_is_added(self, client: httpx.Client, launch: Launch) -> None:
        answer = client.get(f"/preview/{launch.id}?a=1")
        assert (answer.status_code, answer.headers["location"]) == (307, f"/preview/{launch.id}/?a=1")

    def test_an_answer_is_put_into_a_browser_sandbox_beside_the_apps_own_policy(
        self, client: httpx.Client, launch: Launch
    ) -> None:
        answer = client.get(f"/preview/{launch.id}/answer?content-security-policy=img-src%20*")
        own, ours = answer.headers.get_list("content-security-policy")
        assert own == "img-src *"
        assert ours.startswith("sandbox ")
        assert "allow-same-origin" not in ours

    def test_a_page_of_an_opaque_origin_may_talk_to_its_server(self, client: httpx.Client, launch: Launch) -> None:
        page = {"Origin": "null", "Sec-Fetch-Site": "cross-site"}
        asks = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type"}
        allowed = client.options(f"/preview/{launch.id}/x", headers=page | asks).headers
        assert (allowed["access-control-allow-origin"], allowed["access-control-allow-methods"]) == ("null", "PUT")
        assert client.put(f"/preview/{launch.id}/x", headers=page).headers["access-control-allow-origin"] == "null"

    def test_a_body_may_be_larger_than_the_apis_own(self, launches: Launches, launch: Launch) -> None:
        with hub(launches, max_body_bytes=1000) as client:
            assert client.post(f"/preview/{launch.id}/", content=b"x" * 5000).json()["size"] == 5000

    def test_events_stream_through(self, client: httpx.Client, launch: Launch, backend: tuple[Backend, str]) -> None:
        backend[0].gate.clear()
        with client.stream("GET", f"/preview/{launch.id}/drip") as answer:
            lines = answer.iter_lines()
            assert next(lines) == "data: first"
            backend[0].gate.set()
            assert [line for line in lines if line] == ["data: second"]

    def test_a_websocket_goes_through(self, client: httpx.Client, launch: Launch) -> None:
        with connect(f"ws://127.0.0.1:{client.base_url.port}/preview/{launch.id}/talk") as websocket:
            websocket.send("hello")
            assert websocket.recv(timeout=10) == "hello"

    def test_an_unknown_launch_is_not_found(self, client: httpx.Client) -> None:
        answer = client.get("/preview/nope/")
        assert (answer.status_code, answer.json()["code"]) == (404, "launch_not_found")


class TestByHost:
    def test_the_app_is_at_the_root_of_its_own_host(self, client: httpx.Client, launch: Launch) -> None:
        answer = client.get("/a%2Fb?c=1", headers={"Host": own_host(client, launch)})
        headers = dict(answer.json()["headers"])
        assert answer.json()["target"] == "/a%2Fb?c=1"
        assert headers["host"] == own_host(client, launch)
        assert "x-forwarded-prefix" not in headers

    def test_paths_of_our_own_are_the_apps_there(self, client: httpx.Client, launch: Launch) -> None:
        answer = client.get("/apps", headers={"Host": own_host(client, launch)})
        assert answer.json()["target"] == "/apps?"

    def test_it_needs_no_browser_sandbox(self, client: httpx.Client, launch: Launch) -> None:
        answer = client.get("/", headers={"Host": own_host(client, launch)})
        assert "content-security-policy" not in answer.headers

    def test_redirects_and_cookies_stay_as_they_are(self, client: httpx.Client, launch: Launch) -> None:
        target = "/answer?location=/login&set-cookie=a%3D1;%20Path=/"
        headers = client.get(target, headers={"Host": own_host(client, launch)}).headers
        assert (headers["location"], headers["set-cookie"]) == ("/login", "a=1; Path=/")

    def test_a_websocket_goes_through(self, client: httpx.Client, launch: Launch) -> None:
        address = ("127.0.0.1", client.base_url.port)
        with connect(f"ws://{own_host(client, launch)}/talk", address=address) as websocket:
            websocket.send("headers")
            assert json.loads(websocket.recv(timeout=10))["host"] == own_host(client, launch)


class TestWhoMay:
    def test_with_tokens_a_preview_needs_one_that_may_read(self, launches: Launches, launch: Launch) -> None:
        with hub(launches, operator_tokens=SecretStr(json.dumps(TOKENS))) as client:
            page = f"/preview/{launch.id}/"
            assert client.get(page).status_code == 401
            assert client.get(page, headers=bearer("none")).status_code == 403
            answer = client.get(page, headers=bearer("reader"))
            assert answer.status_code == 200
            assert "authorization" not in dict(answer.json()["headers"])

    def test_a_websocket_needs_the_same(self, launches: Launches, launch: Launch) -> None:
        with hub(launches, operator_tokens=SecretStr(json.dumps(TOKENS))) as client:
            url = f"ws://127.0.0.1:{client.base_url.port}/preview/{launch.id}/talk"
            for headers, status in (({}, 401), (bearer("none"), 403)):
                with pytest.raises(InvalidStatus) as refused:
                    connect(url, additional_headers=headers)
                assert refused.value.response.status_code == status
            with connect(url, additional_headers=bearer("reader")):
                pass

    def test_the_launchs_link_opens_it_without_a_token_and_no_other(self, launches: Launches, launch: Launch) -> None:
        with hub(launches, operator_tokens=SecretStr(json.dumps(TOKENS))) as client:
            link = client.get(f"/launches/{launch.id}", headers=bearer("reader")).json()["data"]["previewLink"]
            path = httpx.URL(link).path
            echo = client.get(f"{path}a").json()
            assert dict(echo["headers"])["x-forwarded-prefix"] == path.rstrip("/")
            assert client.get(path.rstrip("/"), follow_redirects=True).status_code == 200
            with connect(f"ws://127.0.0.1:{client.base_url.port}{path}talk"):
                pass

            assert client.get(f"/preview/{launch.id}.{'0' * 32}/").status_code == 401
            assert client.get(f"/preview/{launch.id}.é/").status_code == 401
            assert client.get(path.replace(launch.id, "another")).status_code == 401

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Sec-Fetch-Mode": "navigate", "Referer": "https://evil.example/"}, 200),
            ({"Sec-Fetch-Mode": "no-cors", "Referer": "https://evil.example/"}, 401),
            ({"Sec-Fetch-Mode": "no-cors", "Referer": "http://["}, 401),
            ({"Sec-Fetch-Mode": "cors", "Origin": "https://evil.example"}, 401),
            ({"Sec-Fetch-Mode": "cors", "Origin": "null", "Referer": "https://evil.example/"}, 401),
            ({"Host": "rebound.example"}, 401),
        ],
    )
    def test_other_sites_may_link_to_a_local_preview_and_no_more(
        self, client: httpx.Client, launch: Launch, headers: dict[str, str], status: int
    ) -> None:
        cross_site = {"Sec-Fetch-Site": "cross-site"}
        assert client.get(f"/preview/{launch.id}/", headers=cross_site | headers).status_code == status

    @pytest.mark.parametrize("headers", [{"Sec-Fetch-Mode": "no-cors"}, {"Sec-Fetch-Mode": "cors", "Origin": "null"}])
    def test_a_page_within_the_preview_loads_what_belongs_to_it(
        self, client: httpx.Client, launch: Launch, headers: dict[str, str]
    ) -> None:
        within = headers | {"Sec-Fetch-Site": "cross-site"}
        assert client.get(f"/preview/{launch.id}/style.css", headers=within).status_code == 200

    def test_a_websocket_of_another_site_is_refused(self, client: httpx.Client, launch: Launch) -> None:
        url = f"ws://127.0.0.1:{client.base_url.port}/preview/{launch.id}/talk"
        with pytest.raises(InvalidStatus) as refused:
            connect(url, origin="https://evil.example")  # type: ignore[arg-type]
        assert refused.value.response.status_code == 401


class TestWhileItIsNotThere:
    def test_people_see_a_page_that_looks_again(self, client: httpx.Client, launches: Launches) -> None:
        starting = launches.stand_in("", status="starting", reason="Waiting for <b>it</b>.", reason_code="started")
        answer = client.get(f"/preview/{starting.id}/some/page", headers=HTML)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert '<meta http-equiv="refresh" content="1">' in answer.text
        assert "starting" in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]

    def test_what_an_app_caused_to_be_said_is_text(self, client: httpx.Client, launches: Launches) -> None:
        failed = launches.stand_in("", status="failed", reason="no <script>alert(1)</script>", reason_code="exited")
        page = client.get(f"/preview/{failed.id}/", headers=HTML).text
        assert "no &lt;script&gt;" in page
        assert "<script" not in page

    def test_programs_get_a_problem_document(self, client: httpx.Client, launches: Launches) -> None:
        stopped = launches.stand_in(
            "", status="stopped", reason="Stopped on request.", reason_code="stopped_on_request"
        )
        answer = client.get(f"/preview/{stopped.id}/data.json")
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["launchStatus"]) == (503, "preview_not_running", "stopped")
        assert "Stopped on request." in problem["detail"]
        assert answer.headers["retry-after"] == "5"

    def test_an_app_that_stopped_answering_is_said_so(self, client: httpx.Client, launches: Launches) -> None:
        silent = launches.stand_in("127.0.0.1:1")
        answer = client.get(f"/preview/{silent.id}/", headers=HTML)
        assert (answer.status_code, "does not answer" in answer.text) == (503, True)

    def test_a_websocket_is_told_to_try_later(self, client: httpx.Client, launches: Launches) -> None:
        starting = launches.stand_in("", status="starting", reason="Starting.", reason_code="started")
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{client.base_url.port}/preview/{starting.id}/")
        assert refused.value.response.status_code == 503

    def test_a_request_wakes_a_launch_that_expired_and_was_made_to(
        self, client: httpx.Client, launches: Launches
    ) -> None:
        gone = {"status": "expired", "reason_code": "idle", "reason": "Nobody asked for it."}
        wakes, rests = launches.stand_in("", wake=True, **gone), launches.stand_in("", **gone)
        for row in (wakes, rests):
            assert client.get(f"/preview/{row.id}/", headers=HTML).status_code == 503
        assert launches.row(wakes).status == "pending"
        assert launches.row(rests).status == "expired"

    def test_a_visit_is_noted(self, client: httpx.Client, launches: Launches, launch: Launch) -> None:
        client.get(f"/preview/{launch.id}/")
        eventually(lambda: launches.row(launch).last_request_at, "a noted visit")

    @pytest.mark.parametrize("path", ["/preview/%00", "/preview/%00/", "/launches/%00", "/preview/A_B/"])
    def test_what_can_not_be_an_id_is_not_found_and_spoils_no_visit(
        self, client: httpx.Client, launches: Launches, launch: Launch, path: str
    ) -> None:
        client.get(f"/preview/{launch.id}/")
        assert client.get(path).json()["code"] == "launch_not_found"
        eventually(lambda: launches.row(launch).last_request_at, "a noted visit")

    def test_a_websocket_of_what_can_not_be_an_id_is_not_found(self, client: httpx.Client) -> None:
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{client.base_url.port}/preview/%00/talk")
        assert refused.value.response.status_code == 404


@pytest.mark.engine
class TestOnAnEngine:
    def test_an_expired_preview_comes_back_when_it_is_asked_for(self, engine_launches: Launches) -> None:
        with hub(engine_launches, engine_url=None) as client:
            launch = engine_launches.launch(wake=True)
            page = f"/preview/{launch.id}/"
            eventually(lambda: client.get(page).status_code == 200, "the app")
            with engine_launches.database.transaction() as session:
                session.merge(Launch(id=launch.id, expires_at=seconds_ago(1)))
            eventually(lambda: engine_launches.row(launch).status == "expired", "an expired launch")
            assert client.get(page, headers=HTML).status_code == 503
            eventually(lambda: client.get(page).text == PAGE + "\n", "the app again")


@pytest.mark.engine
@pytest.mark.browser
def test_in_a_browser_the_page_turns_into_the_app_and_the_app_works(engine_launches: Launches) -> None:
    """The app's page loads a script that fetches from its own server; its origin is opaque, so it can't ask ours."""
    page = "<p id=out>no script</p><script src=app.js></script>"
    script = (
        'const out = document.getElementById("out");'
        'fetch("data.txt").then(r => r.text()).then(async text => {'
        'const api = await fetch("/apps").then(r => "open " + r.status, () => "closed");'
        "out.textContent = `${text.trim()}, API ${api}, origin ${self.origin}`; });"
    )
    files = f'sleep 5; cd /tmp; echo "{page}" > index.html; echo hello > data.txt; printf %s "$SCRIPT" > app.js'
    with hub(engine_launches, engine_url=None) as client, sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        tab = browser.new_page()
        launch = engine_launches.launch(
            command=f"sh -c '{files}; exec httpd -f -p $PORT'", env=[EnvVar("SCRIPT", script)]
        )
        tab.goto(f"http://localhost:{client.base_url.port}/preview/{launch.id}/")
        expect(tab.locator("b")).to_have_text("starting")
        expect(tab.locator("#out")).to_have_text("hello, API closed, origin null", timeout=30_000)
        browser.close()
