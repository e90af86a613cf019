"""The event stream as one client has it, who connects again behind its last event whenever it breaks off."""

import json
import threading

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from tests.e2e.hub import Hub, Json


class EventStream:
    """Collects from now on, on a thread of its own, until `close`."""

    def __init__(self, hub: Hub) -> None:
        self._address = hub.stack.url.replace("http", "ws", 1) + "/ws"
        self._first = self._last = hub.last_sequence()
        self._frames: list[Json] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="event-stream")
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    @property
    def sequences(self) -> list[int]:
        return [frame["sequence"] for frame in self._frames]

    @property
    def complete(self) -> list[int]:
        """What the sequences must be: one after the other, from where it began."""
        return list(range(self._first + 1, self._first + 1 + len(self._frames)))

    def ingestions(self, app_id: str) -> list[str]:
        return self._statuses("repository.ingestion-event", "event", app_id)

    def builds(self, app_id: str) -> list[str]:
        return self._statuses("build.updated", "build", app_id)

    def _statuses(self, kind: str, member: str, app_id: str) -> list[str]:
        told = [frame["data"][member] for frame in list(self._frames) if frame["type"] == kind]
        return [one["status"] for one in told if one["repositoryId"] == app_id]

    def _run(self) -> None:
        while not self._closing.wait(0.1):
            try:
                self._read()
            except (OSError, WebSocketException):
                continue

    def _read(self) -> None:
        with connect(f"{self._address}?after={self._last}", open_timeout=5) as socket:
            while not self._closing.is_set():
                try:
                    frame = json.loads(socket.recv(timeout=0.2))
                except TimeoutError:
                    continue
                if "sequence" in frame:
                    self._frames.append(frame)
                    self._last = frame["sequence"]
