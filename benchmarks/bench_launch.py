"""From asking for a built image to the first byte of its page: p50 ≤ 1 s cold, ≤ 150 ms from the pool.

Beside them, in the same run: `docker run` of the same image with the same limits, until it answers on a published
port. What a launch does on top of that: a network of its own, a relay, the rows and events, and the preview proxy.
"""

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from apphub_assets.catalog import repository as catalog_rows
from apphub_assets.catalog import service as catalog
from apphub_assets.catalog.models import Build
from apphub_assets.catalog.spec import Registration
from apphub_assets.containers import Engine, Sandboxes, ensure_base_image
from apphub_assets.kit.db import Database
from apphub_assets.kit.ids import new_id
from apphub_assets.launches import repository
from apphub_assets.launches.spec import LaunchStatus
from apphub_assets.settings import Settings, with_driver
from apphub_assets.stack.throwaway import throwaway_database

COLD_P50, POOLED_P50 = 1.0, 0.150
PAUSE = 0.01
APP, IMAGE = "page", "apphub-bench/page:1"
DOCKERFILE = """FROM busybox:1.36
RUN mkdir /www && echo hello > /www/index.html
EXPOSE 8080
CMD ["httpd", "-f", "-p", "8080", "-h", "/www"]
"""
# Any wish keeps a launch out of the pool.
COLD = {"env": [{"key": "COLD", "value": "1"}]}


@dataclass(frozen=True)
class Api:
    """The API under measurement, and the database behind it."""

    port: int
    database: Database

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def launch(self, body: dict[str, Any]) -> float:
        """Seconds until the launch's page came; it is stopped afterwards."""
        started = time.perf_counter()
        status, answer = self.ask("POST", f"/apps/{APP}/launch", body)
        assert status == 202, answer
        launch_id = json.loads(answer)["data"]["launch"]["id"]
        while self.ask("GET", f"/preview/{launch_id}/")[0] != 200:
            time.sleep(PAUSE)
        elapsed = time.perf_counter() - started
        self.ask("POST", f"/apps/{APP}/launches/{launch_id}/stop")
        self.wait_until(lambda: not self._kept(pooled=False))
        return elapsed

    def fill_pool(self) -> None:
        """Wait until the pool has one ready, so that filling it disturbs no measurement."""
        self.wait_until(lambda: self._kept(pooled=True) == [LaunchStatus.RUNNING])

    def wait_until(self, there: Callable[[], bool]) -> None:
        while not there():
            time.sleep(0.05)

    def _kept(self, *, pooled: bool) -> list[str]:
        with self.database.transaction() as session:
            return [row.status for row in repository.kept(session) if row.pooled == pooled]


def docker(*arguments: str, stdin: str | None = None) -> str:
    return subprocess.run(
        ["docker", *arguments], input=stdin, check=True, capture_output=True, text=True
    ).stdout.strip()


def docker_run() -> float:
    """Seconds from `docker run` until the container answers."""
    limits = ["--memory=512m", "--cpus=0.5", "--pids-limit=128", "--read-only", "--cap-drop=ALL"]
    started = time.perf_counter()
    container = docker("run", "-d", "-p", "127.0.0.1::8080", *limits, IMAGE)
    port = int(docker("port", container, "8080").rpartition(":")[2])
    while not answers(port):
        time.sleep(PAUSE)
    elapsed = time.perf_counter() - started
    docker("rm", "-f", container)
    return elapsed


def answers(port: int) -> bool:
    with (
        suppress(OSError, http.client.HTTPException),
        closing(http.client.HTTPConnection("127.0.0.1", port)) as connection,
    ):
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    return False


@contextmanager
def serving() -> Iterator[Api]:
    """The API as a process of its own on a database and an engine, with the app built."""
    with throwaway_database() as url, tempfile.TemporaryDirectory(prefix="launch-bench-") as home:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        database = Database(with_driver(url, "psycopg"))
        add_app(database)
        given = {"DATABASE_URL": url, "HOME": home, "PORT": str(port), "DAGSTER_PORT": "1", "LOG_LEVEL": "error"}
        environment = os.environ | {f"APPHUB_{name}": value for name, value in given.items()}
        process = subprocess.Popen([sys.executable, "-m", "apphub_api.server"], env=environment)
        try:
            api = Api(port, database)
            api.wait_until(lambda: listens(port, process))
            yield api
        finally:
            process.terminate()
            process.wait()
            database.close()
            remove_all(Settings(home=home))  # type: ignore[arg-type]  # pydantic makes it a path


def listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise SystemExit(f"the API ended with {process.returncode}")
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def add_app(database: Database) -> None:
    with database.transaction() as session:
        catalog.register(session, Registration(APP, "Page", "https://git.example.org/page"))
        catalog_rows.add_build(
            session, Build(id=new_id(), repository_id=APP, status="succeeded", image_tag=IMAGE, commit_sha="c0ffee")
        )


def remove_all(settings: Settings) -> None:
    with closing(Engine()) as engine:
        sandboxes = Sandboxes(engine, settings.stack_id, settings.relay_image)
        for sandbox_id in sandboxes.list():
            sandboxes.stop(sandbox_id)


def row(name: str, seconds: list[float], bare: float) -> str:
    middle, p95 = median(seconds), quantiles(seconds, n=20)[-1]
    return f"{name:<28}{len(seconds):>5}{middle * 1000:>10.0f}{p95 * 1000:>10.0f}{middle / bare:>9.2f}"


def measure(api: Api) -> tuple[float, float, float]:
    """In turns, so that whatever else the machine does touches all three alike."""
    api.fill_pool()
    return docker_run(), api.launch(COLD), api.launch({})


def main(count: int) -> None:
    with closing(Engine()) as engine:
        ensure_base_image(engine, "busybox:1.36")
    docker("build", "-q", "-t", IMAGE, "-", stdin=DOCKERFILE)
    try:
        with serving() as api:
            api.launch(COLD)
            rounds = [measure(api) for _ in range(count)]
    finally:
        docker("rmi", IMAGE)
    bare, cold, pooled = (list(column) for column in zip(*rounds, strict=True))
    print("ms from asking to first byte  runs       p50       p95    ratio")
    print(row("docker run", bare, median(bare)))
    print(row("launch, cold", cold, median(bare)))
    print(row("launch, from the pool", pooled, median(bare)))
    print(f"targets: cold p50 {COLD_P50 * 1000:.0f} ms, pooled p50 {POOLED_P50 * 1000:.0f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=15)
    main(parser.parse_args().count)
