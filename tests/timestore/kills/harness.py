"""Kills, one after the other, and what is looked at after each."""

import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from pydantic import SecretStr

from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.upkeep.sweeping import sweep
from tests.fixtures.postgres import Postgres
from tests.timestore.kills.clients import Batch, Clients, Ledger
from tests.timestore.kills.points import OF_API, OF_UPKEEP, Plan, Point

PATIENCE = 120.0
LATEST_DELAY = 0.06


@dataclass
class Findings:
    """What a run of the harness has seen; `orphans` and `bodies` are files that the dead have left behind."""

    kills: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    acknowledged: int = 0
    rows: int = 0
    repeats: int = 0
    replays: int = 0
    only_committed: int = 0
    orphans: int = 0
    bodies: int = 0
    seconds: float = 0.0


class Nursery:
    """A process that forks one child at a time, quickly."""

    def __init__(self, settings: Settings, role: str, *arguments: int) -> None:
        command = [sys.executable, "-m", "tests.timestore.kills.nursery", role, *map(str, arguments)]
        self._process = subprocess.Popen(
            command, env=_environment(settings), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            pass_fds=arguments,
        )  # fmt: skip
        self.child: int | None = None

    def await_ready(self) -> None:
        assert self._line() == "ready"

    def start(self, plan: Plan) -> None:
        assert self._process.stdin is not None
        print(json.dumps(asdict(plan)), file=self._process.stdin, flush=True)
        self.child = int(self._line())

    def await_end(self) -> int:
        """Wait for the child's end, and return its exit code."""
        code = int(self._line())
        self.child = None
        return code

    def end_child(self, number: int) -> int | None:
        """Send a signal to the child if there is one, and return its exit code."""
        if self.child is None:
            return None
        os.kill(self.child, number)
        return self.await_end()

    def close(self) -> None:
        """End it; its child, if there is one, ends with it."""
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the nursery has ended"
        return line


class Harness:
    """An API, an upkeep and clients on one lake; only the API and the upkeep are killed."""

    def __init__(self, settings: Settings, *, clients: int, seed: int) -> None:
        self.findings = Findings()
        self._settings, self._chance = settings, random.Random(seed)
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._api = Nursery(settings, "api", self._socket.fileno())
        self._upkeep = Nursery(settings, "upkeep")
        self._clients = Clients(f"http://127.0.0.1:{self._socket.getsockname()[1]}", clients, seed)
        self._lake = Lake(settings)

    @property
    def ledger(self) -> Ledger:
        return self._clients.ledger

    def run(self, kills: int) -> None:
        """Kill so many times.

        Raises:
            AssertionError: something was lost, doubled, or seen in part.
        """
        started = time.monotonic()
        self._api.await_ready()
        self._upkeep.await_ready()
        self._clients.start()
        for points in itertools.islice(_turns(), kills):
            self._kill(*points)
            self.check()
        self._ensure_api()
        self._clients.stop()
        self.check(final=True)
        self._sweep()
        self.check(final=True)
        code = self._api.end_child(signal.SIGTERM)
        assert code == -signal.SIGTERM, f"after SIGTERM the API ended with {code}"
        self.findings.seconds = time.monotonic() - started

    def close(self) -> None:
        """End everything that runs."""
        for nursery in (self._api, self._upkeep):
            nursery.close()
        self._socket.close()
        self._lake.close()

    def _kill(self, role: str, point: Point) -> None:
        nursery = self._api if role == "api" else self._upkeep
        if point is Point.ANY:
            code = nursery.end_child(signal.SIGKILL)
        else:
            if role == "upkeep":
                self._ensure_api()
            nursery.start(self._plan(point))
            code = nursery.await_end()
        assert code == -signal.SIGKILL, self.ledger.problems
        self.findings.kills[f"{role}: {point}"] += 1

    def _plan(self, point: Point) -> Plan:
        return Plan(point, self._chance.randrange(3), self._chance.uniform(0, LATEST_DELAY))

    def _ensure_api(self) -> None:
        if self._api.child is None:
            self._api.start(Plan())

    def check(self, *, final: bool = False) -> None:
        """Compare one snapshot of the lake with what clients were told before it, and with AppHub's own tables."""
        assert not self.ledger.problems, self.ledger.problems
        acknowledged = set(self.ledger.acknowledged)
        snapshot = self._newest_snapshot()
        found = self._batches_at(snapshot)
        # Sent is looked at last: what was sent since the snapshot is no matter.
        sent = dict(self.ledger.sent)
        assert acknowledged <= found.keys(), f"lost: {sorted(acknowledged - found.keys())[:10]}"
        for number, (dataset, rows, distinct, last) in found.items():
            batch = sent[number]
            assert (dataset, rows, distinct, last) == (batch.dataset, batch.rows, batch.rows, batch.rows - 1), batch
        self._check_tables(snapshot, {number: sent[number] for number in found})
        if final:
            assert acknowledged == found.keys() == sent.keys()
            self.findings.sent, self.findings.acknowledged = len(sent), len(acknowledged)
            self.findings.rows = sum(batch.rows for batch in sent.values())
        else:
            self.findings.only_committed += len(found.keys() - acknowledged - set(self.ledger.acknowledged))

    def _newest_snapshot(self) -> int:
        with self._postgres() as postgres:
            return _one(postgres, "SELECT max(snapshot_id) FROM timestore.ducklake_snapshot")

    def _batches_at(self, snapshot: int) -> dict[int, tuple[str, int, int, int]]:
        """By number of the batch: its dataset, and how many rows, different rows and which last row it has."""
        found: dict[int, tuple[str, int, int, int]] = {}
        for dataset in self._datasets(snapshot):
            sql = (
                f"SELECT batch, count(*), count(DISTINCT row), max(row) FROM lake.{dataset}"
                f" AT (VERSION => {snapshot}) GROUP BY batch"
            )
            with self._lake.query(sql) as answer:
                for batch, rows, distinct, last in (tuple(row.values()) for row in answer.read_all().to_pylist()):
                    assert batch not in found
                    found[batch] = dataset, rows, distinct, last
        return found

    def _datasets(self, snapshot: int) -> list[str]:
        sql = "SELECT table_name FROM timestore.ducklake_table WHERE begin_snapshot <= %s AND end_snapshot IS NULL"
        with self._postgres() as postgres:
            return sorted(name for (name,) in postgres.execute(sql, [snapshot]))

    def _check_tables(self, snapshot: int, there: dict[int, Batch]) -> None:
        """Rows of `batches`, `manifests` and DuckLake's own statistics say what the rows of the lake say."""
        with self._postgres() as postgres:
            postgres.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            batches = postgres.execute(
                "SELECT substr(b.key, 5)::bigint, d.slug, b.row_count FROM timestore.batches b"
                " JOIN timestore.datasets d ON d.id = b.dataset_id WHERE b.snapshot_id <= %s", [snapshot],
            ).fetchall()  # fmt: skip
            assert {number: (slug, rows) for number, slug, rows in batches} == {
                number: (batch.dataset, batch.rows) for number, batch in there.items()
            }
            assert len(batches) == len(there)
            differing = postgres.execute(MANIFESTS).fetchall()
            assert not differing, differing
            named = {Path(path): size for path, size in postgres.execute(FILES)}
        for path, size in named.items():
            # A merge that is committed meanwhile schedules files for removal, and nothing removes them here.
            assert (self._storage / path).stat().st_size == size

    def _sweep(self) -> None:
        """Let a sweep of some days later take what the dead have left, and see that it took just that."""
        orphans = {str(path) for path in self._orphans()}
        database = Database(self._settings.sqlalchemy_url)
        swept = sweep(database, self._settings, datetime.now(UTC) + timedelta(days=30))
        database.close()
        assert set(swept.quarantined) == orphans
        assert not self._orphans()
        assert not any(path.is_file() for path in (self._settings.state / "timestore" / "staging").rglob("*"))
        self.findings.orphans, self.findings.bodies = len(orphans), len(swept.leftovers)
        self.findings.repeats, self.findings.replays = self.ledger.repeats, self.ledger.replays

    def _orphans(self) -> set[Path]:
        with self._postgres() as postgres:
            named = {self._storage / str(path) for path, _ in postgres.execute(FILES)}
        return set(self._storage.rglob("*.parquet")) - named

    @property
    def _storage(self) -> Path:
        return Path(self._lake.data_path)

    @contextmanager
    def _postgres(self) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
        url = self._settings.sqlalchemy_url.replace("+psycopg", "", 1)
        with psycopg.connect(url) as connection:
            yield connection


FILES = """
    SELECT s.path || t.path || f.path, f.file_size_bytes
    FROM (SELECT table_id, path, file_size_bytes FROM timestore.ducklake_data_file
        UNION ALL SELECT table_id, path, file_size_bytes FROM timestore.ducklake_delete_file) f
    JOIN timestore.ducklake_table t USING (table_id) JOIN timestore.ducklake_schema s USING (schema_id)
"""
MANIFESTS = """
    SELECT * FROM (SELECT id, partition_count, total_rows, total_bytes FROM timestore.manifests) m
    FULL JOIN (
        SELECT manifest_id AS id, count(*) AS batches, sum(row_count) AS rows, sum(byte_count) AS bytes
        FROM timestore.batches WHERE retired_at IS NULL GROUP BY manifest_id
    ) b USING (id)
    WHERE (partition_count, total_rows, total_bytes)
        IS DISTINCT FROM (coalesce(b.batches, 0), coalesce(b.rows, 0), coalesce(b.bytes, 0))
"""


def _turns() -> Iterator[tuple[str, Point]]:
    """Who is killed where: the API at its points one after the other, and by and by the upkeep beside it."""
    of_upkeep = itertools.cycle(OF_UPKEEP)
    for number, point in enumerate(itertools.cycle(OF_API), 1):
        yield "api", point
        if number % 3 == 0:
            yield "upkeep", next(of_upkeep)
            yield "api", Point.ANY


def _one(postgres: psycopg.Connection[tuple[object, ...]], sql: str) -> int:
    row = postgres.execute(sql).fetchone()
    assert row is not None
    return int(str(row[0]))


def _environment(settings: Settings) -> dict[str, str]:
    assert settings.database_url is not None
    return os.environ | {
        "APPHUB_HOME": str(settings.home),
        "APPHUB_DATABASE_URL": settings.database_url.get_secret_value(),
        "APPHUB_DAGSTER_PORT": "1",
        "APPHUB_ENGINE_URL": "unix:///nowhere.sock",
        "APPHUB_POOL_MEMORY_BYTES": "0",
    }


@contextmanager
def killing(folder: Path, *, clients: int = 4, seed: int = 0) -> Iterator[Harness]:
    """A harness on a Postgres and a folder of its own, both in `folder`; its path should be short."""
    with ExitStack() as stack:
        postgres = Postgres(folder / "pg")
        stack.callback(postgres.stop)
        postgres.start()
        postgres.migrate()
        settings = Settings(home=folder / "home", database_url=SecretStr(postgres.url))
        Lake(settings).prepare()
        harness = Harness(settings, clients=clients, seed=seed)
        stack.callback(harness.close)
        yield harness


def report(findings: Findings) -> str:
    """The findings for people."""
    points = [f"{count:4} x {point}" for point, count in sorted(findings.kills.items())]
    return "\n".join(
        [
            *points,
            f"{findings.kills.total()} kills in {findings.seconds:.0f} s",
            f"{findings.acknowledged} of {findings.sent} batches acknowledged, each there once ({findings.rows} rows)",
            f"{findings.repeats} requests repeated, {findings.replays} of them answered with what had been written",
            f"{findings.only_committed} batches seen that were committed and not acknowledged, all of them whole",
            f"{findings.orphans} orphan files and {findings.bodies} bodies were left behind, and swept",
        ]
    )
