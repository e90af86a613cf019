"""A POST with an Idempotency-Key is done once, however often it arrives."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from apphub_api.app import create_app
from apphub_assets.catalog import builds
from apphub_assets.idempotency import service
from apphub_assets.idempotency.service import KEPT
from tests.api.test_errors import check_problem, register
from tests.fixtures.api import bearer
from tests.fixtures.launches import eventually
from tests.fixtures.servers import serving

KEY = {"Idempotency-Key": "one"}
REPLAYED = "idempotency-replayed"


def builds_of(api, app_id="hello") -> list[str]:
    return [build["id"] for build in api.get(f"/apps/{app_id}/builds").json()["data"]]


def ask_build(api, key="one", **body):
    return api.post("/apps/hello/builds", json=body, headers={"Idempotency-Key": key})


@pytest.fixture
def dagster() -> Iterator[tuple[int, list[str]]]:
    """A webserver that is up and down on its luck: its port, and the requests that reached it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_error(503)

        def log_message(self, *arguments: object) -> None:
            """Requests are in `asked`."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1], asked
        server.shutdown()
        thread.join()


def test_the_same_request_again_gets_the_first_answer(api):
    register(api)

    first, again = ask_build(api, ref="main"), ask_build(api, ref="main")

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.content == first.content
    assert again.headers["content-type"] == first.headers["content-type"]
    assert REPLAYED not in first.headers
    assert again.headers[REPLAYED] == "true"
    assert builds_of(api) == [first.json()["data"]["id"]]


def test_status_and_headers_are_replayed_too(api):
    body = {"id": "hello", "name": "Hello", "repoUrl": "https://example.org/h.git"}

    first, again = (api.post("/apps", json=body, headers=KEY) for _ in range(2))

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["location"] == first.headers["location"] == "/apps/hello"
    assert len(api.get("/apps/hello/history").json()["data"]) == 1


@pytest.mark.parametrize("route", ["/apps/hello/retry", "/apps/hello/refresh"])
def test_routes_without_a_body_do_it_once_too(api, route):
    register(api)

    assert REPLAYED not in api.post(route, headers=KEY).headers
    assert api.post(route, headers=KEY).headers[REPLAYED] == "true"

    assert len(api.get("/apps/hello/history").json()["data"]) == 2


def test_a_retried_build_is_retried_once(api):
    register(api)
    build_id = ask_build(api).json()["data"]["id"]
    api.post(f"/builds/{build_id}/cancel")

    first, again = (api.post(f"/builds/{build_id}/retry", headers=KEY) for _ in range(2))

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.headers[REPLAYED] == "true"


def test_a_launch_is_made_once(launches, serve):
    api = serve(engine_url="tcp://127.0.0.1:1")  # a launch is asked for all the same where no engine answers

    for route, body in (("/apps/app/launch", {}), ("/launches", {"repositoryId": "app"})):
        first, again = (api.post(route, json=body, headers=KEY) for _ in range(2))
        assert again.content == first.content
        assert again.headers["location"] == first.headers["location"]
        assert again.headers["retry-after"] == "1"

    assert len(api.get("/apps/app/launches").json()["data"]) == 2


def test_another_body_under_the_same_key_is_refused(api):
    register(api)
    ask_build(api, ref="main")

    body = check_problem(ask_build(api, ref="other"), 422, "idempotency_key_reused")

    assert "'one'" in body["detail"]
    assert len(builds_of(api)) == 1


def test_a_key_belongs_to_its_route_and_path(api):
    register(api)
    register(api, id="other")

    ask_build(api)
    for route in ("/apps/other/builds", "/apps/hello/retry"):
        assert REPLAYED not in api.post(route, json={}, headers=KEY).headers


def test_a_key_belongs_to_its_caller(serve):
    tokens = '[{"token": "ada", "subject": "ada", "scopes": "*"}, {"token": "bob", "subject": "bob", "scopes": "*"}]'
    api = serve(operator_tokens=SecretStr(tokens))
    api.post("/apps", json={"id": "hello", "name": "H", "repoUrl": "https://example.org/h"}, headers=bearer("ada"))

    for token in ("ada", "bob"):
        answer = api.post("/apps/hello/builds", headers={**KEY, **bearer(token)})
        assert answer.status_code == 202
        assert REPLAYED not in answer.headers


def test_without_a_key_it_is_done_every_time(api):
    register(api)

    for _ in range(2):
        assert REPLAYED not in api.post("/apps/hello/builds").headers

    assert len(builds_of(api)) == 2


@pytest.mark.parametrize("key", ["", "x" * 201, "tab\tinside", "caf\xe9"])
def test_a_key_is_1_to_200_printable_characters(api, key):
    register(api)

    answer = api.post("/apps/hello/builds", headers={"Idempotency-Key": key.encode("latin-1")})

    body = check_problem(answer, 400, "invalid_input")
    assert [error["pointer"] for error in body["errors"]] == ["/Idempotency-Key"]
    assert builds_of(api) == []


def test_the_longest_key_will_do(api):
    register(api)

    assert [ask_build(api, "x" * 200).headers.get(REPLAYED) for _ in range(2)] == [None, "true"]


def test_an_error_is_not_kept(api):
    check_problem(ask_build(api), 404, "app_not_found")
    register(api)

    answer = ask_build(api)

    assert answer.status_code == 202
    assert REPLAYED not in answer.headers


def test_a_replay_starts_no_run(serve, dagster):
    port, asked = dagster
    api = serve(dagster_port=port)
    register(api)

    ask_build(api)
    before = len(asked)
    ask_build(api)

    assert before > 1
    assert len(asked) == before


def test_while_the_first_is_being_done_the_second_is_told_to_come_back(api, database):
    register(api)
    with ThreadPoolExecutor(1) as pool, database.transaction() as session:
        # The first request waits for the row of its app, which this transaction holds.
        session.execute(text("SELECT 1 FROM catalog.repositories WHERE id = 'hello' FOR UPDATE"))
        first = pool.submit(ask_build, api)
        eventually(lambda: waiting_for_rows(database), "the first request waits")

        second = ask_build(api)

        assert check_problem(second, 409, "idempotency_in_flight")["retryable"] is True
        assert second.headers["retry-after"] == "1"
        session.rollback()
        assert first.result().status_code == 202
    assert ask_build(api).content == first.result().content
    assert len(builds_of(api)) == 1


def waiting_for_rows(database) -> int:
    with database.transaction() as session:
        return session.scalar(text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))


def test_many_at_once_do_it_once(api):
    register(api)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: ask_build(api), range(6)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert sorted(answer.headers.get(REPLAYED, "") for answer in answers) == [""] + ["true"] * 5
    assert len(builds_of(api)) == 1


def test_a_client_that_missed_its_answer_gets_it_by_asking_again(catalog):
    catalog.register("hello", "https://example.org/h.git")
    settings = catalog.settings.model_copy(update={"dagster_port": 1, "pool_memory_bytes": 0})

    def build_ids() -> list[str]:
        with catalog.database.transaction() as session:
            return [build.id for build in builds.page(session, "hello", 10, 0)[0]]

    with serving(create_app(settings)) as address:
        host, port = address.split(":")
        with socket.create_connection((host, int(port))) as client:
            head = f"POST /apps/hello/builds HTTP/1.1\r\nHost: {address}\r\nIdempotency-Key: one\r\n"
            client.sendall(f"{head}Content-Length: 0\r\n\r\n".encode())
            # It goes away once the work is done, without having read anything.
            [build_id] = eventually(build_ids, "the build is asked for")

        again = httpx.post(f"http://{address}/apps/hello/builds", headers=KEY)

    assert again.headers[REPLAYED] == "true"
    assert again.json()["data"]["id"] == build_id
    assert build_ids() == [build_id]


def test_a_body_that_is_too_large_is_refused_with_a_key_as_without(serve):
    api = serve(max_body_bytes=100)

    def chunks() -> Iterator[bytes]:
        yield b"x" * 200

    check_problem(api.post("/apps/hello/retry", content=chunks(), headers=KEY), 413, "body_too_large")


def test_answers_are_kept_for_a_day(api, database):
    register(api)
    ask_build(api)
    now = datetime.now(UTC)

    def expire(at: datetime) -> int:
        with database.transaction() as session:
            return service.expire(session, at)

    assert expire(now + KEPT - timedelta(minutes=1)) == 0
    assert ask_build(api).headers[REPLAYED] == "true"
    assert expire(now + KEPT + timedelta(minutes=1)) == 1
    assert REPLAYED not in ask_build(api).headers
    assert timedelta(hours=24) <= KEPT


def test_the_documentation_shows_the_header(api):
    paths = api.get("/openapi.json").json()["paths"]
    done_once = {
        path
        for path, methods in paths.items()
        if any(parameter["name"] == "Idempotency-Key" for parameter in methods.get("post", {}).get("parameters", []))
    }

    assert {path for path in done_once if not path.startswith("/datasets")} == {
        "/admin/datasets",
        "/admin/datasets/{dataset}/archive",
        "/admin/datasets/{dataset}/restore",
        "/apps",
        "/apps/{app_id}/retry",
        "/apps/{app_id}/refresh",
        "/apps/{app_id}/builds",
        "/apps/{app_id}/launch",
        "/builds/{build_id}/retry",
        "/launches",
    }
