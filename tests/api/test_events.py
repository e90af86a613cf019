"""The event stream over WebSocket, SSE and as history."""

import json
import threading

import httpx
import pytest
from starlette.websockets import WebSocketDisconnect

from apphub_api.fanout import Fanout
from apphub_assets.events import service as events
from apphub_assets.kit.db import Database
from tests.api.test_errors import register
from tests.api.test_metrics import without_database
from tests.fixtures.api import bearer
from tests.fixtures.launches import eventually
from tests.fixtures.servers import serving

WS = "ws://127.0.0.1:4000/ws"


def test_a_socket_gets_what_happens_in_the_contracts_frames(api):
    with api.websocket_connect(f"{WS}") as socket:
        assert socket.receive_json()["type"] == "connection.ack"
        socket.send_text("ping")
        assert socket.receive_json()["type"] == "pong"

        register(api)

        frames = [socket.receive_json() for _ in range(2)]
    assert [frame["type"] for frame in frames] == ["repository.ingestion-event", "repository.updated"]
    assert frames[1]["data"]["repository"]["id"] == "hello"
    assert frames[1]["sequence"] == frames[0]["sequence"] + 1
    assert frames[1]["emittedAt"].endswith("Z")


def test_a_socket_resumes_behind_its_last_sequence_and_filters_by_type(api):
    register(api)
    register(api)

    with api.websocket_connect(f"{WS}?after=0&types=repository.updated") as socket:
        socket.receive_json()
        past = [socket.receive_json()["sequence"] for _ in range(2)]
        register(api)
        live = socket.receive_json()["sequence"]

    assert [*past, live] == [2, 4, 6]


@pytest.mark.parametrize("after", ["1000000", "9" * 22, "9" * 5000], ids=["another's", "no bigint", "absurd"])
def test_a_socket_that_has_seen_more_than_there_is_gets_what_comes(api, after):
    with api.websocket_connect(f"{WS}?types=repository.updated&after={after}") as socket:
        socket.receive_json()
        # The first may be earlier than the socket's look at what there is.
        for _ in range(10):
            register(api)
        assert socket.receive_json()["type"] == "repository.updated"


def test_a_socket_is_told_to_come_again_when_the_past_cannot_be_read(api, database_url):
    with without_database(database_url), api.websocket_connect(f"{WS}?after=0") as socket:
        assert socket.receive_json()["type"] == "connection.ack"
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()

    assert closed.value.code == 1013


def test_the_stream_goes_on_after_the_pool_had_no_connection_left(database):
    scarce = Database(database.url, pool_size=1)
    scarce.engine.pool._timeout = 0.1
    fanout = Fanout(scarce)
    fanout.start()
    eventually(lambda: fanout.listening)

    with scarce.engine.connect(), scarce.engine.connect():
        with database.transaction() as session:
            events.append(session, type="load", source="test", payload={})
        eventually(lambda: not fanout.listening)

    eventually(lambda: fanout.listening and fanout.last == 1)
    fanout.stop()
    scarce.close()


def test_a_socket_needs_a_token_with_the_scope(guarded):
    for headers in ({}, bearer("unknown"), bearer("none")):
        with pytest.raises(WebSocketDisconnect), guarded.websocket_connect(f"{WS}", headers=headers):
            pass
    with guarded.websocket_connect(f"{WS}", headers=bearer("reader")) as socket:
        assert socket.receive_json()["type"] == "connection.ack"
    with guarded.websocket_connect(f"{WS}", subprotocols=["bearer.reader"]) as socket:
        assert socket.receive_json()["type"] == "connection.ack"


def test_a_page_of_another_site_gets_no_socket(api):
    with pytest.raises(WebSocketDisconnect), api.websocket_connect(f"{WS}", headers={"Origin": "http://evil.example"}):
        pass


def test_a_stream_resumes_with_last_event_id(api):
    register(api)
    register(api)
    with (
        serving(api.app) as address,
        httpx.stream("GET", f"http://{address}/events/stream", headers={"Last-Event-ID": "2"}) as response,
    ):
        lines = response.iter_lines()
        seen = [next(line for line in lines if line.startswith("id:")) for _ in range(2)]

    assert seen == ["id: 3", "id: 4"]


def test_the_history_is_paged_and_filtered(api):
    for _ in range(3):
        register(api)

    first = api.get("/admin/events", params={"type": "repository.updated", "limit": 2}).json()["data"]
    rest = api.get(
        "/admin/events", params={"type": "repository.updated", "limit": 2, "cursor": first["page"]["nextCursor"]}
    ).json()["data"]

    assert [e["sequence"] for e in first["events"] + rest["events"]] == [6, 4, 2]
    assert rest["page"] == {"nextCursor": None, "hasMore": False, "limit": 2}


def test_subscribers_that_come_and_go_miss_nothing_under_load(api, catalog):
    """Events written from many threads reach a subscriber once each, in order."""

    def write() -> None:
        for _ in range(40):
            with catalog.database.transaction() as session:
                events.append(session, type="load", source="test", payload={})

    with api.websocket_connect(f"{WS}?after=0&types=load") as socket:
        socket.receive_json()
        writers = [threading.Thread(target=write) for _ in range(4)]
        for writer in writers:
            writer.start()
        seen = [json.loads(socket.receive_text())["sequence"] for _ in range(160)]
        for writer in writers:
            writer.join()

    assert seen == list(range(1, 161))
