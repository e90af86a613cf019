"""Postgres, the disk and S3 fail while batches are written: nothing is lost, doubled or half there, and it goes on."""

import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, cycle
from pathlib import Path

import psycopg
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError

from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings
from apphub_assets.timestore.errors import LakeUnavailable
from apphub_assets.timestore.ingest.writing import Outcome, Written
from tests.api.test_errors import check_problem
from tests.api.test_ingest_refusals import as_parquet
from tests.fixtures.faults import Proxy, proxied
from tests.fixtures.postgres import Postgres
from tests.fixtures.s3 import LakeOnS3
from tests.timestore.batches import BULK, SMALL, Host, rows_of, size_of

NUMBERS = count(1)
# Between two faults, so that they meet a commit at its beginning, in its middle, and some commits get through.
PAUSES = (0.05, 0.6, 0.2, 1.5, 0.1, 0.9)

# --- Postgres -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """A durable server of this module's own; not in pytest's folder, whose path is long."""
    with tempfile.TemporaryDirectory(prefix="apphub-pg-") as folder:
        postgres = Postgres(Path(folder) / "pg")
        postgres.start()
        try:
            postgres.migrate()
            yield postgres
        finally:
            postgres.stop()


@pytest.fixture
def base(own_postgres: Postgres) -> str:
    """The name of a new database there."""
    name = f"faults_{next(NUMBERS)}"
    with psycopg.connect(own_postgres.url.replace("/apphub?", "/postgres?"), autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name} TEMPLATE apphub")
    return name


@pytest.fixture
def host_at(tmp_path: Path) -> Iterator[Callable[[str], Host]]:
    """Makes a host that reaches its database by some URL."""
    hosts = list[Host]()

    def make(url: str) -> Host:
        settings = Settings(home=tmp_path / "home", database_url=SecretStr(url))
        hosts.append(Host(settings, Database(settings.sqlalchemy_url)))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()
        host.database.close()


class Sender:
    """A thread that writes batches from 1 on, each until it is in, and keeps what was acknowledged."""

    def __init__(self, host: Host, count: int) -> None:
        self.acknowledged = dict[int, int]()
        self.outcome: Outcome | None = None
        self._host, self._count = host, count
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        return self._thread.is_alive()

    def finish(self) -> None:
        """Wait for the last batch; fails if one was refused."""
        self._thread.join()
        assert isinstance(self.outcome, Written), self.outcome

    def _run(self) -> None:
        for number in range(1, self._count + 1):
            self.outcome = self._deliver(number)
            if not isinstance(self.outcome, Written):
                return
            self.acknowledged[number] = size_of(number)

    def _deliver(self, number: int) -> Outcome:
        """As a client does: again, under the same key, when it is told that the lake is unavailable."""
        until = time.monotonic() + 60
        while True:
            outcome = self._send(number)
            if not isinstance(outcome, LakeUnavailable | OperationalError) or time.monotonic() > until:
                return outcome
            time.sleep(0.1)

    def _send(self, number: int) -> Outcome:
        try:
            return self._host.send(number, size_of(number), seconds=2)
        except OperationalError as error:  # there is no database to ask for the dataset: the API answers 503
            return error


def test_batches_survive_restarts_of_postgres_during_commits(own_postgres: Postgres, base: str, host_at):
    host = host_at(own_postgres.url.replace("/apphub?", f"/{base}?"))
    sender, restarts = Sender(host, 40), 0
    while sender.is_busy:
        time.sleep(PAUSES[restarts % len(PAUSES)])
        own_postgres.kill()
        own_postgres.start()
        restarts += 1
        known = dict(sender.acknowledged)
        assert known.items() <= host.found_if_any().items()
    sender.finish()
    assert restarts > 1
    assert host.found() == {number: size_of(number) for number in range(1, 41)}


def test_batches_survive_connections_that_are_cut_during_commits(own_postgres: Postgres, base: str, host_at):
    with proxied(own_postgres.socket) as proxy:
        sender = Sender(host_at(f"postgresql://postgres@127.0.0.1:{proxy.port}/{base}"), 40)
        for pause in cycle(PAUSES):
            time.sleep(pause)
            proxy.cut()
            if not sender.is_busy:
                break
        sender.finish()
        assert proxy.cuts > 10
    host = host_at(own_postgres.url.replace("/apphub?", f"/{base}?"))
    assert host.found() == {number: size_of(number) for number in range(1, 41)}


# --- disk ---------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: str = "8m") -> Iterator[None]:
    """Mount a file system of that size on a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Take what is left of a disk."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return filler


def stored(database: Database) -> tuple[object, ...]:
    """How many batches and files the catalog has, and which snapshot is its newest."""
    with psycopg.connect(database.url.replace("+psycopg", "", 1)) as postgres:
        found = postgres.execute(
            "SELECT (SELECT count(*) FROM timestore.batches), (SELECT count(*) FROM timestore.ducklake_data_file),"
            " (SELECT max(snapshot_id) FROM timestore.ducklake_snapshot)"
        ).fetchone()
    assert found is not None
    return found


def bulk_of(number: int) -> dict[str, object]:
    return as_parquet(rows_of(number, BULK))


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("storage", id="the lake's folder"),
        pytest.param("timestore/staging", id="the folder for bodies"),
    ],
)
def test_a_full_disk_is_a_503_and_no_more(
    serve: Callable[..., TestClient], database: Database, tmp_path: Path, place: str
):
    folder = tmp_path / "state" / place
    with small_disk(folder):
        api = serve(ingest_timeout=1.0)
        assert api.post("/datasets/readings/ingest", **bulk_of(1)).status_code == 201
        filler, before = fill(folder), stored(database)
        answer = api.post("/datasets/readings/ingest", **bulk_of(2))
        problem = check_problem(answer, 503, "lake_unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert problem["retryable"]
        assert "No space left" in problem["detail"]
        assert stored(database) == before
        filler.unlink()
        assert api.post("/datasets/readings/ingest", **bulk_of(2)).status_code == 201
        host = Host(Settings(home=tmp_path / "state", database_url=database.url), database)
        assert host.found() == {1: BULK, 2: BULK}
        host.close()


# --- S3 -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def weak_s3(s3: str, on_s3: LakeOnS3, database: Database) -> Iterator[tuple[Proxy, Host]]:
    """A host whose S3 is behind a proxy, with one batch in it."""
    address = s3.removeprefix("http://").split(":")
    with proxied((address[0], int(address[1]))) as proxy:
        host = Host(on_s3(endpoint=f"http://127.0.0.1:{proxy.port}"), database)
        assert isinstance(host.send(0, BULK), Written)
        yield proxy, host
        host.close()


def break_off(proxy: Proxy) -> None:
    proxy.cut_after = 100_000


def refuse(proxy: Proxy) -> None:
    proxy.refuses = True


@pytest.mark.parametrize("fault", [refuse, break_off], ids=["answers 503", "drops the connection mid-upload"])
def test_an_s3_that_fails_is_a_clear_error_and_nothing_is_half_there(weak_s3: tuple[Proxy, Host], fault):
    proxy, host = weak_s3
    before = stored(host.database)
    fault(proxy)
    outcome = host.send(1, BULK, seconds=1)
    assert isinstance(outcome, LakeUnavailable), outcome
    assert outcome.retry_after
    assert host.settings.s3_secret_access_key
    assert host.settings.s3_secret_access_key.get_secret_value() not in outcome.message
    assert stored(host.database) == before
    proxy.heal()
    assert isinstance(host.send(1, BULK), Written)
    assert host.found() == {0: BULK, 1: BULK}


@pytest.mark.parametrize("fault", [refuse, break_off], ids=["answers 503", "drops the connection mid-upload"])
def test_an_s3_that_recovers_in_time_is_waited_for(weak_s3: tuple[Proxy, Host], fault):
    proxy, host = weak_s3
    fault(proxy)
    threading.Timer(1.5, proxy.heal).start()
    assert isinstance(host.send(1, BULK, seconds=60), Written)
    assert host.found() == {0: BULK, 1: BULK}


def test_a_slow_s3_holds_up_nobody_else(weak_s3: tuple[Proxy, Host]):
    proxy, host = weak_s3
    proxy.delay = 0.1
    slow = threading.Thread(target=host.send, args=(3, 4 * BULK), kwargs={"seconds": 60})
    started = time.monotonic()
    slow.start()
    time.sleep(0.3)
    # Few rows go to Postgres, which is as fast as ever: the upload is not within the turn to commit.
    assert isinstance(host.send(4, SMALL), Written)
    assert slow.is_alive()
    slow.join()
    assert time.monotonic() - started > 1
    assert host.found() == {0: BULK, 3: 4 * BULK, 4: SMALL}
