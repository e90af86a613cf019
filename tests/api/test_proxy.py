"""The reverse proxy between real servers: what passes, what is changed, what is held back."""

import hashlib
import http.client
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from apphub_api.proxy import ReverseProxy, Upstream, UpstreamUnreachable
from tests.fixtures.backend import METHODS, Backend
from tests.fixtures.servers import serving

PREFIX = "/preview/one"


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Backend, str, str]]:
    """The app, its address, and that of the proxy before it; once for all tests."""
    backend = Backend()
    with serving(backend.app()) as upstream, serving(_front_app(upstream)) as front:
        yield backend, upstream, front


@pytest.fixture
def backend(servers: tuple[Backend, str, str]) -> Backend:
    servers[0].gate.clear()
    servers[0].left.clear()
    return servers[0]


@pytest.fixture
def upstream(servers: tuple[Backend, str, str]) -> str:
    return servers[1]


@pytest.fixture
def front(servers: tuple[Backend, str, str]) -> str:
    return servers[2]


def _front_app(authority: str) -> Starlette:
    upstream = Upstream(authority, PREFIX)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.proxy = ReverseProxy()
        yield
        await app.state.proxy.close()

    async def http(request: Request) -> Response:
        try:
            proxy: ReverseProxy = request.app.state.proxy
            return await proxy.http(request, upstream)
        except UpstreamUnreachable as error:
            return PlainTextResponse(error.code, error.status)

    async def websocket(websocket: WebSocket) -> None:
        await websocket.app.state.proxy.websocket(websocket, upstream)

    path = PREFIX + "/{path:path}"
    routes = [WebSocketRoute(path, websocket), Route(path, http, methods=METHODS)]
    return Starlette(routes=routes, lifespan=lifespan)


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


@contextmanager
def opened(front: str, target: str, method: str = "GET", body: Any = None, **headers: str) -> Iterator[Any]:
    connection = http.client.HTTPConnection(front, timeout=20)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, PREFIX + target, body=body, headers=names)
    answer = connection.getresponse()
    yield answer
    answer.close()
    connection.close()


def ask(front: str, target: str, method: str = "GET", body: Any = None, **headers: str) -> Answer:
    with opened(front, target, method, body, **headers) as answer:
        return Answer(answer.status, answer.headers, answer.read())


def seen(front: str, target: str, method: str = "GET", body: Any = None, **headers: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(ask(front, target, method, body, **headers).body)
    return document


def seen_headers(front: str, **headers: str) -> dict[str, str]:
    return dict(seen(front, "/", **headers)["headers"])


class TestRequests:
    def test_the_prefix_is_taken_off_and_the_rest_of_the_target_is_untouched(self, front: str) -> None:
        assert seen(front, "/a%2Fb/../c//d?x=%20&y")["target"] == "/a%2Fb/../c//d?x=%20&y"

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    def test_method_and_body_arrive(self, front: str, method: str) -> None:
        echo = seen(front, "/", method, b"hello")
        assert (echo["method"], echo["size"], dict(echo["headers"])["content-length"]) == (method, 5, "5")

    def test_a_chunked_upload_of_unknown_length_arrives_whole(self, front: str) -> None:
        parts = [bytes([n]) * 65_536 for n in range(64)]
        echo = seen(front, "/", "POST", iter(parts))
        assert echo["sha256"] == hashlib.sha256(b"".join(parts)).hexdigest()
        assert dict(echo["headers"])["transfer-encoding"] == "chunked"

    def test_an_upload_streams_instead_of_being_collected(self, front: str, backend: Backend) -> None:
        def parts() -> Iterator[bytes]:
            yield b"first"
            assert backend.gate.wait(10), "the backend did not see the first part while the second was held back"
            yield b"second"

        assert ask(front, "/first-byte", "POST", parts()).body == b"all of it"

    def test_forwarding_headers_say_what_the_proxy_saw(self, front: str) -> None:
        headers = seen_headers(front)
        assert headers["x-forwarded-for"] == "127.0.0.1"
        assert headers["x-forwarded-proto"] == "http"
        assert headers["x-forwarded-host"] == headers["host"] == front
        assert headers["x-forwarded-prefix"] == PREFIX

    def test_forwarding_headers_of_the_caller_are_not_believed(self, front: str) -> None:
        forged = {
            "X_Forwarded_For": "6.6.6.6",
            "X_Forwarded_Port": "1",
            "Forwarded": "for=6.6.6.6",
            "X_Real_IP": "6.6.6",
        }
        assert "6.6.6.6" not in json.dumps(seen_headers(front, **forged))
        assert "x-forwarded-port" not in seen_headers(front, **forged)

    def test_credentials_of_apphub_stay_here_and_those_of_the_app_go_on(self, front: str) -> None:
        headers = seen_headers(front, Authorization="Bearer operator", Cookie="apphub_session=1; theme=dark; a=b")
        assert "authorization" not in headers
        assert headers["cookie"] == "theme=dark; a=b"

    def test_hop_by_hop_headers_and_those_named_by_connection_are_removed(self, front: str) -> None:
        headers = seen_headers(front, Connection="close, X-Mine", X_Mine="1", TE="trailers", Keep_Alive="5", X_Kept="1")
        assert not {"x-mine", "te", "keep-alive"} & headers.keys()
        assert headers["x-kept"] == "1"

    def test_a_caller_who_leaves_ends_the_request_behind(self, front: str, backend: Backend) -> None:
        host, _, port = front.partition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"GET {PREFIX}/silent HTTP/1.1\r\nHost: {front}\r\n\r\n".encode())
            assert backend.gate.wait(10)
        assert backend.left.wait(10)


class TestAnswers:
    def test_events_arrive_as_they_are_sent(self, front: str, backend: Backend) -> None:
        with opened(front, "/drip") as answer:
            assert answer.readline() == b"data: first\n"
            backend.gate.set()
            assert answer.read() == b"\ndata: second\n\n"

    def test_a_caller_who_leaves_ends_the_answer_behind(self, front: str, backend: Backend) -> None:
        with opened(front, "/drip") as answer:
            answer.readline()
        assert backend.left.wait(10)
        backend.gate.set()

    @pytest.mark.parametrize(
        ("location", "expected"),
        [
            ("/login?next=/", f"{PREFIX}/login?next=/"),
            ("/", f"{PREFIX}/"),
            ("next", "next"),
            ("?page=2", "?page=2"),
            (f"{PREFIX}/known", f"{PREFIX}/known"),
            ("https://example.org/x", "https://example.org/x"),
            ("//example.org/x", "//example.org/x"),
            ("http://[", "http://["),
        ],
    )
    def test_redirects_stay_under_the_prefix(self, front: str, location: str, expected: str) -> None:
        answer = ask(front, f"/answer?status=302&location={quote(location, safe='')}")
        assert (answer.status, answer.headers["location"]) == (302, expected)

    def test_an_absolute_redirect_to_itself_is_put_under_the_prefix(self, front: str, upstream: str) -> None:
        for host in (front, upstream):
            assert ask(front, f"/answer?location=http://{host}/x").headers["location"] == f"{PREFIX}/x"

    @pytest.mark.parametrize(
        ("cookie", "expected"),
        [
            ("a=1; Path=/; HttpOnly", f"a=1; Path={PREFIX}/; HttpOnly"),
            ("a=1; path=/x; Domain=localhost", f"a=1; path={PREFIX}/x"),
            ("a=1", "a=1"),
            ("apphub_session=stolen; Path=/", None),
        ],
    )
    def test_cookies_reach_their_own_app_alone(self, front: str, cookie: str, expected: str | None) -> None:
        assert ask(front, f"/answer?set-cookie={quote(cookie)}").headers["set-cookie"] == expected

    def test_several_cookies_stay_several(self, front: str) -> None:
        answer = ask(front, "/answer?set-cookie=a%3D1&set-cookie=b%3D2")
        assert answer.headers.get_all("set-cookie") == ["a=1", "b=2"]

    def test_an_app_does_not_decide_for_its_neighbours(self, front: str) -> None:
        target = "/answer?strict-transport-security=max-age%3D1&clear-site-data=%22*%22&x-kept=1"
        headers = ask(front, target).headers
        assert not {"strict-transport-security", "clear-site-data"} & {name.lower() for name in headers}
        assert headers["x-kept"] == "1"

    def test_status_and_content_encoding_pass_through(self, front: str) -> None:
        answer = ask(front, "/answer?status=418&content-encoding=gzip")
        assert (answer.status, answer.headers["content-encoding"], answer.body) == (418, "gzip", b"made")

    def test_nobody_listening_is_said_so(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            authority = f"127.0.0.1:{closed.getsockname()[1]}"
        with serving(_front_app(authority)) as front:
            answer = ask(front, "/")
            assert (answer.status, answer.body) == (502, b"upstream_unreachable")


class TestWebSockets:
    def test_text_and_bytes_go_both_ways(self, front: str) -> None:
        with connect(f"ws://{front}{PREFIX}/talk", max_size=None) as websocket:
            for message in ("hello", b"\0\xff", "x" * 2_000_000, ""):
                websocket.send(message)
                assert websocket.recv(timeout=10) == message

    def test_the_subprotocol_is_the_one_that_the_app_chose(self, front: str) -> None:
        with connect(f"ws://{front}{PREFIX}/talk", subprotocols=["chat.v2", "chat.v1"]) as websocket:  # type: ignore[list-item]
            assert websocket.subprotocol == "chat.v2"

    def test_the_app_sees_forwarding_headers_and_no_credentials(self, front: str) -> None:
        mine = {"Authorization": "Bearer operator", "X-Forwarded-For": "6.6.6.6", "X-Kept": "1"}
        with connect(f"ws://{front}{PREFIX}/talk", additional_headers=mine) as websocket:
            websocket.send("headers")
            headers = json.loads(websocket.recv(timeout=10))
        assert "authorization" not in headers
        assert headers["x-forwarded-for"] == "127.0.0.1"
        assert headers["x-forwarded-prefix"] == PREFIX
        assert (headers["host"], headers["x-kept"]) == (front, "1")

    def test_the_apps_close_code_reaches_the_caller(self, front: str) -> None:
        with connect(f"ws://{front}{PREFIX}/talk") as websocket:
            websocket.send("close")
            with pytest.raises(ConnectionClosed) as closed:
                websocket.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4321, "enough")

    def test_a_caller_who_leaves_closes_the_apps_side(self, front: str, backend: Backend) -> None:
        with connect(f"ws://{front}{PREFIX}/talk"):
            pass
        assert backend.left.wait(10)

    def test_a_refusal_is_passed_on_with_its_status(self, front: str) -> None:
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://{front}{PREFIX}/refuse")
        assert (refused.value.response.status_code, refused.value.response.body) == (403, b"members only")

    @pytest.mark.parametrize("location", [f"{PREFIX}/talk", "/talk", "ws://example.org/talk", "http://["])
    def test_a_redirect_is_passed_on_and_not_followed(self, front: str, location: str) -> None:
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://{front}{PREFIX}/refuse?status=302&location={quote(location, safe='')}")
        assert refused.value.response.status_code == 302

    def test_nobody_listening_is_a_bad_gateway(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            authority = f"127.0.0.1:{closed.getsockname()[1]}"
        with serving(_front_app(authority)) as front, pytest.raises(InvalidStatus) as refused:
            connect(f"ws://{front}{PREFIX}/talk")
        assert refused.value.response.status_code == 502
