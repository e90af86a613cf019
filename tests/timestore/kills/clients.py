"""Clients that send batches of every kind, and each of them under its key until it is acknowledged."""

import io
import json
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

DATASETS = ("engine", "weather")
FIELDS = [
    {"name": name, "type": kind}
    for name, kind in (("timestamp", "timestamp"), ("batch", "integer"), ("row", "integer"), ("value", "double"))
]
FIRST_US = 1_767_225_600_000_000  # 2026-01-01
DAY_US = 86_400_000_000
# More than a batch that is kept in memory may have.
BULK_ROWS = 21_000
# What a server answers that may be asked again.
PASSING = {429, 503}


@dataclass(frozen=True)
class Batch:
    """`number` is in each of its rows, beside the row's own number, counted from 0."""

    number: int
    dataset: str
    form: str
    rows: int

    def request(self) -> dict[str, Any]:
        """What to POST; the same each time."""
        headers = {"Idempotency-Key": str(self.number), "Content-Type": MEDIA_TYPES[self.form]}
        return {"url": f"/datasets/{self.dataset}/ingest", "headers": headers, "content": self._body()}

    def _body(self) -> bytes:
        columns = self._columns()
        if self.form in {"arrow", "parquet"}:
            return _file(self.form, columns)
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        if self.form == "ndjson":
            return "\n".join(map(json.dumps, rows)).encode()
        return json.dumps({"schema": {"fields": FIELDS}, "rows": rows}).encode()

    def _columns(self) -> dict[str, list[Any]]:
        start = (FIRST_US + self.number % 5 * DAY_US) // 1000
        numbers = range(self.rows)
        return {
            "timestamp": [start + row for row in numbers],
            "batch": [self.number] * self.rows,
            "row": list(numbers),
            "value": [row / 2 for row in numbers],
        }


MEDIA_TYPES = {
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}


def _file(form: str, columns: dict[str, list[Any]]) -> bytes:
    table = pa.table(columns)
    table = table.set_column(0, "timestamp", table["timestamp"].cast(pa.timestamp("ms")))
    sink = io.BytesIO()
    if form == "parquet":
        pq.write_table(table, sink)
    else:
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    return sink.getvalue()


@dataclass
class Ledger:
    """What was sent and what was acknowledged, by number of the batch."""

    sent: dict[int, Batch] = field(default_factory=dict)
    acknowledged: set[int] = field(default_factory=set)
    repeats: int = 0
    replays: int = 0
    problems: list[str] = field(default_factory=list)


class Clients:
    """So many clients, each with one batch on its way at any time."""

    def __init__(self, url: str, count: int, seed: int) -> None:
        self.ledger = Ledger()
        self._url, self._stopping = url, threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(client, random.Random(seed + client)), daemon=True)
            for client in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each client get its last batch through; returns when all have."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, client: int, chance: random.Random) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as http:
            for turn in range(1_000_000):
                if self._stopping.is_set() or self.ledger.problems:
                    return
                form = chance.choice(["json", "json", "json", "ndjson", "arrow", "parquet"])
                rows = BULK_ROWS if form in {"arrow", "parquet"} else chance.randint(1, 20)
                batch = Batch(client * 1_000_000 + turn, chance.choice(DATASETS), form, rows)
                self.ledger.sent[batch.number] = batch
                self._deliver(http, batch)

    def _deliver(self, http: httpx.Client, batch: Batch) -> None:
        request = batch.request()
        give_up = time.monotonic() + 120
        while not self.ledger.problems:
            try:
                answer = http.post(**request)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 201:
                self.ledger.replays += "idempotency-replayed" in answer.headers
                self.ledger.acknowledged.add(batch.number)
                return
            if (answer is not None and answer.status_code not in PASSING) or time.monotonic() > give_up:
                self.ledger.problems.append(f"batch {batch}: {answer and answer.text}")
                return
            self.ledger.repeats += 1
            time.sleep(0.02)
