"""Who uses which launch, collected in memory and written a few times a minute instead of with every request."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime


class Visits:
    """Times of the last requests by launch. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, datetime] = {}
        self._open: Counter[str] = Counter()

    def note(self, launch_id: str) -> None:
        """Somebody asked for it just now."""
        with self._lock:
            self._seen[launch_id] = datetime.now(UTC)

    @contextmanager
    def during(self, launch_id: str) -> Iterator[None]:
        """It is in use as long as this lasts, as with an open WebSocket."""
        with self._lock:
            self._open[launch_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._seen[launch_id] = datetime.now(UTC)
                self._open[launch_id] -= 1
                if not self._open[launch_id]:
                    del self._open[launch_id]

    def take(self) -> dict[str, datetime]:
        """The last use of every launch that was used since the last call."""
        with self._lock:
            now = datetime.now(UTC)
            seen = self._seen | dict.fromkeys(self._open, now)
            self._seen = {}
            return seen
