"""Bodies that are big, or become big when they are unpacked, take little of the API's memory."""

import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest
from pydantic import SecretStr

from apphub_assets.settings import Settings
from tests.api.test_errors import check_problem
from tests.api.test_ingest_refusals import ARROW, PARQUET, arrow_bytes, parquet_bytes
from tests.fixtures.postgres import copy_of
from tests.timestore.kills.harness import Nursery
from tests.timestore.kills.points import Plan

MIB = 1024 * 1024
# Whatever a test sends, the machine is to survive it.
MOST_ADDRESSES = 6 * 1024 * MIB


class Memory:
    """The largest resident size of a process from one moment on, in bytes."""

    def __init__(self, pid: int) -> None:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._status = Path(f"/proc/{pid}/status")
        self.before = self._read("VmRSS")

    @property
    def growth(self) -> int:
        return self._read("VmHWM") - self.before

    def _read(self, name: str) -> int:
        line = next(line for line in self._status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024


class Api:
    """The process, as a client knows it."""

    def __init__(self, client: httpx.Client, pid: int) -> None:
        self.client, self.pid = client, pid

    def ingest(self, content: object, kind: str = "application/json") -> httpx.Response:
        return self.client.post("/datasets/readings/ingest", content=content, headers={"content-type": kind})


@pytest.fixture(scope="module")
def api(template_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API process that has written a batch, and so has loaded what it needs."""
    with copy_of(template_url, "memory") as url, socket.create_server(("127.0.0.1", 0)) as listener:
        settings = Settings(home=tmp_path_factory.mktemp("home"), database_url=SecretStr(url))
        nursery = Nursery(settings, "api", listener.fileno())
        try:
            nursery.await_ready()
            nursery.start(Plan())
            assert nursery.child is not None
            resource.prlimit(nursery.child, resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
            with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=120) as client:
                api = Api(client, nursery.child)
                assert api.ingest(b'{"rows": [{"timestamp": 0, "text": "a"}]}').status_code == 201
                yield api
        finally:
            nursery.close()


def test_a_json_body_of_200_mb_is_refused_when_16_of_them_have_come(api: Api):
    memory = Memory(api.pid)
    check_problem(api.ingest(b" " * (200 * MIB)), 413, "body_too_large")
    # The same without a length that is told beforehand.
    check_problem(api.ingest(b" " * MIB for _ in range(200)), 413, "body_too_large")
    assert memory.growth < 100 * MIB


def test_an_arrow_stream_of_200_mb_passes_through_a_file(api: Api):
    piece = readings(64 * 1024, pa.array(np.arange(64 * 1024).astype(str)))
    whole = arrow_bytes(pa.concat_tables([piece] * 200))
    assert len(whole) > 200 * MIB
    memory = Memory(api.pid)
    answer = api.ingest(whole, ARROW)
    assert answer.status_code == 201, answer.text
    assert memory.growth < 512 * MIB


def readings(count: int, text: pa.Array) -> pa.Table:
    times = pa.array(np.arange(count) * 1000).cast(pa.timestamp("us"))
    return pa.table({"timestamp": times, "text": text})


def repeated(count: int) -> pa.Table:
    """As many rows, all of which have the same megabyte of text, which is there once."""
    word = pa.DictionaryArray.from_arrays(np.zeros(count, "int8"), ["x" * MIB])
    return readings(count, word)


def test_a_megabyte_that_an_arrow_stream_repeats_by_its_dictionary(api: Api):
    small = arrow_bytes(repeated(1500))
    assert len(small) < 2 * MIB
    memory = Memory(api.pid)
    check_problem(api.ingest(small, ARROW), 413, "batch_too_large")
    assert memory.growth < 512 * MIB


def test_a_megabyte_that_a_parquet_file_repeats_by_its_dictionary(api: Api):
    small = parquet_bytes(repeated(200_000), write_statistics=False, store_schema=False)
    assert len(small) < 2 * MIB
    memory = Memory(api.pid)
    check_problem(api.ingest(small, PARQUET), 413, "batch_too_large")
    assert memory.growth < 512 * MIB


@pytest.mark.parametrize("kind", [PARQUET, ARROW])
def test_many_columns(api: Api, kind: str):
    """DuckDB alone runs out of memory when it partitions and sorts these rows."""
    slug, count = f"wide-{len(kind)}", 100_000
    columns = {f"c{number}": np.full(count, number / 2) for number in range(200)}
    wide = pa.table({"timestamp": pa.array(np.arange(count), pa.timestamp("s"))} | columns)
    content = parquet_bytes(wide) if kind == PARQUET else arrow_bytes(wide)
    answer = api.client.post(f"/datasets/{slug}/ingest", content=content, headers={"content-type": kind})
    assert answer.status_code == 201, answer.text
    span = {"start": "1970-01-01T00:00:00Z", "end": "1971-01-01T00:00:00Z"}
    total = {"intervalUnit": "month", "intervalSize": 1200, "aggregations": [{"fn": "sum", "column": "c7"}]}
    found = api.client.post(f"/datasets/{slug}/query", json={"timeRange": span, "downsample": total}).json()
    assert found["rows"][0]["sum_c7"] == count * 3.5
