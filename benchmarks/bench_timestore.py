"""Datasets: ingests and queries over HTTP, each beside the raw engine in the same run, on a durable Postgres.

Targets on two cores: small batches (10 rows, JSON, 32 clients) ≥ 150/s with p99 ≤ 500 ms; JSON of 10,000 rows ≥ 150,000
rows/s; Parquet and Arrow ≥ 1,000,000 rows/s and ≥ 0.5 of DuckDB writing the same Parquet; at 50,000,000 rows a day of
one series and an hourly downsample p95 ≤ 1.5 × DuckDB + 10 ms, an aggregate of all ≤ 1.2 ×; the same query at 10 and
at 10,000 files within 2 × after compaction; an API process ≤ 1 GB. `--rows 1000000 --seconds 3` is a quick look.
"""

import argparse
import asyncio
import io
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import duckdb
import httpx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings, with_driver
from apphub_assets.stack.throwaway import throwaway_database
from apphub_assets.timestore import repository
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.upkeep import compaction

CLIENTS = 32
SITES = 500
# More than are inlined.
ROWS_OF_A_FILE = 1500
START = "2026-01-01"
FIELDS = [
    {"name": "timestamp", "type": "timestamp"},
    {"name": "site", "type": "string"},
    {"name": "value", "type": "double"},
    {"name": "count", "type": "integer"},
]
Json = dict[str, Any]


@dataclass(frozen=True)
class Hub:
    """An API process on a lake, and what is behind it."""

    url: str
    process: psutil.Process
    settings: Settings

    def megabytes(self) -> int:
        return int(self.process.memory_info().rss / 2**20)


@contextmanager
def running(database_url: str, home: Path) -> Iterator[Hub]:
    """The API's real process; Dagster is away."""
    port = free_port()
    environment = os.environ | {
        "APPHUB_DATABASE_URL": database_url,
        "APPHUB_HOME": str(home),
        "APPHUB_PORT": str(port),
        "APPHUB_DAGSTER_PORT": "1",
        "APPHUB_POOL_MEMORY_BYTES": "0",
        "APPHUB_LOG_LEVEL": "error",
    }
    process = subprocess.Popen([sys.executable, "-m", "apphub_api.server"], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        until_answered(f"{url}/health")
        yield Hub(url, psutil.Process(process.pid), Settings(home=home, database_url=database_url))  # type: ignore[arg-type]
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until_answered(url: str) -> None:
    for _ in range(600):
        try:
            httpx.get(url)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"{url} does not answer")


# --- small batches


def send_small(url: str, seconds: float, results: "multiprocessing.Queue[list[float]]") -> None:
    """What clients do, in a process of their own."""
    results.put(asyncio.run(small_batches(url, seconds)))


async def small_batches(url: str, seconds: float) -> list[float]:
    taken: list[float] = []
    until = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as http:

        async def client(number: int) -> None:
            for attempt in range(1_000_000):
                if time.monotonic() > until:
                    return
                body = small_body(number, attempt)
                headers = {"Content-Type": "application/json", "Idempotency-Key": f"{number}-{attempt}"}
                began = time.perf_counter()
                answer = await http.post("/datasets/small/ingest", content=body, headers=headers)
                answer.raise_for_status()
                taken.append(time.perf_counter() - began)

        await asyncio.gather(*map(client, range(CLIENTS)))
    return taken


def small_body(client: int, attempt: int) -> bytes:
    rows = [
        {"timestamp": f"{START}T00:00:{second:02}Z", "site": f"s{client}", "value": second * 0.5, "count": attempt}
        for second in range(10)
    ]
    return json.dumps({"schema": {"fields": FIELDS}, "rows": rows}).encode()


def bench_small(hub: Hub, seconds: float) -> None:
    # The first batch makes the dataset and opens the lake, once per process.
    httpx.post(f"{hub.url}/datasets/small/ingest", content=small_body(0, 0), timeout=60).raise_for_status()
    results: multiprocessing.Queue[list[float]] = multiprocessing.get_context("spawn").Queue()
    worker = multiprocessing.get_context("spawn").Process(target=send_small, args=(hub.url, seconds, results))
    worker.start()
    taken = results.get()
    worker.join()
    rate, percentiles = len(taken) / seconds, quantiles(taken, n=100)
    raw = raw_commits(hub.settings, seconds / 2)
    print(
        f"small batches: {rate:.0f}/s durable, p50 {median(taken) * 1e3:.0f} ms, p99 {percentiles[98] * 1e3:.0f} ms"
        f"   one bare DuckLake writer: {raw:.0f} commits/s   ratio {rate / raw:.1f}   API {hub.megabytes()} MB"
    )


def raw_commits(settings: Settings, seconds: float) -> float:
    """How many batches of 10 rows DuckLake alone commits per second, one after the other."""
    lake = Lake(settings)
    with closing(lake), lake.writing() as connection:
        connection.execute("CREATE TABLE lake.raw (timestamp TIMESTAMP, site VARCHAR, value DOUBLE, count BIGINT)")
        began, commits = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            connection.execute(f"INSERT INTO lake.raw SELECT TIMESTAMP '{START}', 's', i, i FROM range(10) t(i)")
            commits += 1
        return commits / (time.monotonic() - began)


# --- bulk


def bench_json(hub: Hub, batches: int) -> None:
    rows = [
        {
            "timestamp": f"{START}T{i // 3600:02}:{i // 60 % 60:02}:{i % 60:02}Z",
            "site": f"s{i % 50}",
            "value": i * 0.5,
            "count": i,
        }
        for i in range(10_000)
    ]
    body = json.dumps({"schema": {"fields": FIELDS}, "rows": rows}).encode()
    with httpx.Client(base_url=hub.url, timeout=60) as http:
        seconds = [
            timed(lambda number=number: post(http, "json", body, "application/json", f"j{number}"))
            for number in range(batches)
        ]
    print(f"10,000 rows as JSON: {10_000 / median(seconds):10,.0f} rows/s, {median(seconds) * 1e3:.0f} ms each")


def bench_bulk(hub: Hub, rows: int) -> None:
    table = pa.table(
        {
            "timestamp": pa.array(range(rows), pa.timestamp("ms")).cast(pa.timestamp("us")),
            "site": pa.array([f"s{i % SITES}" for i in range(rows)]),
            "value": pa.array([i * 0.5 for i in range(rows)]),
            "count": pa.array(range(rows), pa.int64()),
        }
    )
    parquet, arrow = io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet)
    with pa.ipc.new_stream(arrow, table.schema) as stream:
        stream.write_table(table)
    with httpx.Client(base_url=hub.url, timeout=300) as http:
        for kind, body, media, write_bare in (
            ("Parquet", parquet, "application/vnd.apache.parquet", write_parquet),
            ("Arrow", arrow, "application/vnd.apache.arrow.stream", write_arrow),
        ):
            bare = min(timed(lambda w=write_bare, b=body: w(b.getvalue())) for _ in range(3))
            taken = min(
                timed(lambda n=n, b=body, m=media, k=kind: post(http, f"bulk-{k.lower()}", b.getvalue(), m, f"b{n}"))
                for n in range(3)
            )
            print(
                f"{rows:,} rows as {kind}: {rows / taken:12,.0f} rows/s   bare DuckDB: {rows / bare:,.0f}"
                f"   ratio {bare / taken:.2f}   API {hub.megabytes()} MB"
            )


def write_parquet(body: bytes) -> None:
    """What DuckDB alone does with it: from one Parquet file to the next."""
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as connection:
        source = Path(folder) / "in.parquet"
        source.write_bytes(body)
        connection.execute(f"COPY (SELECT * FROM '{source}') TO '{folder}/out.parquet'")


def write_arrow(body: bytes) -> None:
    """What DuckDB alone does with it: from a stream in a file to a Parquet file."""
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as connection:
        source = Path(folder) / "in.arrows"
        source.write_bytes(body)
        with pa.OSFile(str(source)) as file, pa.ipc.open_stream(file) as stream:
            connection.register("stream", stream)
            connection.execute(f"COPY (SELECT * FROM stream) TO '{folder}/out.parquet'")


def post(http: httpx.Client, slug: str, body: bytes, media_type: str, key: str) -> None:
    headers = {"Content-Type": media_type, "Idempotency-Key": key}
    http.post(f"/datasets/{slug}/ingest", content=body, headers=headers).raise_for_status()


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# --- queries


def fill(hub: Hub, slug: str, rows: int, *, per_file: int) -> None:
    """Readings of 500 sites, one after the other in time, as compaction would leave them."""
    with httpx.Client(base_url=hub.url, timeout=60) as http:
        http.post("/admin/datasets", json={"slug": slug, "name": slug, "schema": {"fields": FIELDS}}).raise_for_status()
    lake = Lake(hub.settings)
    with closing(lake), lake.writing() as connection:
        for first in range(0, rows, per_file):
            last = min(first + per_file, rows)
            connection.execute(
                f'INSERT INTO lake.main."{slug}" SELECT'
                f" TIMESTAMP '{START}' + INTERVAL (i // {SITES}) MINUTE AS timestamp,"
                f" 's' || (i % {SITES}) AS site, sin(i) AS value, i AS count FROM range({first}, {last}) t(i)"
                " ORDER BY timestamp::DATE, site, timestamp"
            )


def bench_queries(hub: Hub, rows: int, repeats: int) -> None:
    fill(hub, "big", rows, per_file=5_000_000)
    day = {"start": f"{START}T00:00:00Z", "end": f"{START}T23:59:59Z"}
    of_site = {"columns": {"site": {"eq": "s7"}}}
    hourly = {"intervalUnit": "hour", "intervalSize": 1, "aggregations": [{"fn": "avg", "column": "value"}]}
    everything = {"start": "2000-01-01T00:00:00Z", "end": "2060-01-01T00:00:00Z"}
    whole = {"intervalUnit": "month", "intervalSize": 1200, "aggregations": [{"fn": "avg", "column": "value"}]}
    daily = {
        "intervalUnit": "day",
        "aggregations": [{"fn": "avg", "column": "value"}, {"fn": "max", "column": "count"}],
    }
    where = f"timestamp >= '{START}' AND timestamp < '{START}'::TIMESTAMP + INTERVAL 1 DAY AND site = 's7'"
    always = "timestamp >= '2000-01-01' AND timestamp <= '2060-01-01'"
    cases: dict[str, tuple[Json, str, float, float]] = {
        "a day of one series": (
            {"timeRange": day, "filters": of_site, "limit": 500_000},
            f"SELECT * FROM {{}} WHERE {where} ORDER BY timestamp", 1.5, 10,
        ),
        "a day of one series by the hour": (
            {"timeRange": day, "filters": of_site, "downsample": hourly},
            f"SELECT date_trunc('hour', timestamp) AS t, avg(value) FROM {{}} WHERE {where} GROUP BY t ORDER BY t",
            1.5, 10,
        ),
        "all of it in one number": (
            {"timeRange": everything, "downsample": whole},
            f"SELECT avg(value) FROM {{}} WHERE {always}", 1.2, 0,
        ),
        "all of it by the day and site": (
            {"timeRange": everything, "downsample": daily, "columns": ["site"]},
            f"SELECT timestamp::DATE AS t, site, avg(value), max(count) FROM {{}} WHERE {always} GROUP BY t, site",
            1.2, 0,
        ),
    }  # fmt: skip
    files = files_of(hub.settings, "big")
    for name, (query, sql, factor, allowance) in cases.items():
        ours, bare = compare(hub, "big", query, sql.format(f"read_parquet({files})"), repeats)
        verdict = "" if ours <= factor * bare + allowance else "   MISSED"
        print(
            f"{name}: p95 {ours:7.1f} ms   bare DuckDB {bare:7.1f} ms   ratio {ours / bare:.2f}"
            f"   allowed {factor:g} × + {allowance:g} ms{verdict}"
        )
    print(f"API after the queries: {hub.megabytes()} MB")


def compare(hub: Hub, slug: str, query: Json, sql: str, repeats: int) -> tuple[float, float]:
    """The 95th percentiles of both in milliseconds, asked in turns; Arrow over HTTP, and an Arrow table from DuckDB."""
    ours, bare = [], []
    accept = {"Accept": "application/vnd.apache.arrow.stream"}
    with httpx.Client(base_url=hub.url, timeout=300) as http, duckdb.connect() as connection:
        for _ in range(repeats + 2):
            ours.append(
                timed(lambda: http.post(f"/datasets/{slug}/query", json=query, headers=accept).raise_for_status())
            )
            bare.append(timed(lambda: connection.execute(sql).to_arrow_table()))
    return tuple(quantiles(each[2:], n=20)[18] * 1e3 for each in (ours, bare))  # type: ignore[return-value]


def files_of(settings: Settings, table: str) -> list[str]:
    lake = Lake(settings)
    with closing(lake), lake.reading() as connection:
        found = connection.execute(f"SELECT data_file FROM ducklake_list_files('lake', '{table}')").fetchall()
    return [name for (name,) in found]


def bench_growth(hub: Hub, files: int, repeats: int) -> None:
    """The same rows in few files and in many, then in those that compaction leaves of many."""
    day = {"start": f"{START}T00:00:00Z", "end": f"{START}T23:59:59Z"}
    query = {"timeRange": day, "filters": {"columns": {"site": {"eq": "s7"}}}}
    rows = files * ROWS_OF_A_FILE
    fill(hub, "few", rows, per_file=rows // 10)
    fill(hub, "many", rows, per_file=ROWS_OF_A_FILE)
    times = {slug: ask(hub, slug, query, repeats) for slug in ("few", "many")}
    print(
        f"{len(files_of(hub.settings, 'few'))} files: p95 {times['few']:.1f} ms; {files} files: {times['many']:.1f} ms"
    )
    seconds = timed(lambda: compact(hub.settings, "many"))
    after = ask(hub, "many", query, repeats)
    print(
        f"compacted in {seconds:.1f} s to {len(files_of(hub.settings, 'many'))} files: p95 {after:.1f} ms,"
        f" {after / times['few']:.2f} × that of few{'' if after <= 2 * times['few'] else '   MISSED'}"
    )


def ask(hub: Hub, slug: str, query: Json, repeats: int) -> float:
    with httpx.Client(base_url=hub.url, timeout=300) as http:
        http.post(f"/datasets/{slug}/query", json=query).raise_for_status()
        taken = [
            timed(lambda: http.post(f"/datasets/{slug}/query", json=query).raise_for_status()) for _ in range(repeats)
        ]
        plan = http.post(f"/datasets/{slug}/query", json=query | {"explain": True}).json()["explain"]
    files = plan["files"]
    print(f"  {slug}: {files['scanned']} of {files['total']} files read, planned in {plan['planningMs']:.1f} ms")
    return quantiles(taken, n=20)[18] * 1e3


def compact(settings: Settings, slug: str) -> None:
    lake, database = Lake(settings), Database(with_driver(str(settings.sqlalchemy_url), "psycopg"))
    with closing(lake), closing(database):
        with database.reading() as session:
            dataset = repository.find_dataset(session, slug)
        assert dataset is not None
        compaction.compact(lake, database, dataset, budget=compaction.Budget(600.0, 2**40))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-lake-") as home,
        throwaway_database(durable=True) as url,
        running(url, Path(home)) as hub,
    ):
        bench_small(hub, options.seconds)
        bench_json(hub, 20)
        bench_bulk(hub, 2_000_000)
        bench_queries(hub, options.rows, options.repeats)
        bench_growth(hub, options.files, options.repeats)


if __name__ == "__main__":
    main()
