"""Whatever order things happen in, a dataset has the rows that a plain list in Python has, now and at every snapshot.

`PROPERTY_EXAMPLES=500 pytest tests/timestore/test_properties.py` looks longer than the suite does.
"""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydantic import SecretStr
from sqlalchemy import text

from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings
from apphub_assets.timestore import repository
from apphub_assets.timestore.ingest import binary
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.spec import DatasetInfo
from apphub_assets.timestore.upkeep import compaction, expiry, flushing, sweeping, trimming
from apphub_assets.timestore.upkeep.retention import Mode, Retention
from tests.api.test_ingest_refusals import ARROW, PARQUET, arrow_bytes, parquet_bytes
from tests.fixtures.postgres import copy_of
from tests.timestore.kills.harness import MANIFESTS

EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "8"))
STEPS = 20
SLUGS = (f"model-{number}" for number in count(1))
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 4
EXTRAS = ("colour", "Größe", "it's")
FORMS = ("json", "ndjson", "csv", "arrow", "parquet")
MOST_IN_MEMORY = 4

Row = dict[str, Any]


@dataclass
class Model:
    """What a dataset is to have: its rows, the defaults of its columns, the type of `n`, the keys of its batches."""

    rows: list[Row] = field(default_factory=list)
    defaults: dict[str, str | None] = field(default_factory=dict)
    is_wide: bool = False
    batches: dict[str, tuple[dict[str, Any], Any]] = field(default_factory=dict)
    history: dict[int, Counter[str]] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        return ["timestamp", "n", *self.defaults]

    def add_column(self, name: str, default: str | None) -> None:
        """What is there shows the default."""
        self.defaults[name] = default
        for row in self.rows:
            row[name] = default

    def counted(self) -> Counter[str]:
        """The rows, whatever their order."""
        return counted(self.columns, self.rows)


def counted(columns: list[str], rows: list[Row]) -> Counter[str]:
    return Counter(json.dumps([shown(row[name]) for name in columns]) for row in rows)


def shown(value: Any) -> Any:
    """Numbers by their value: after widening, an integer is a double of the same."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat()
    return float(value) if isinstance(value, int) else value


class World:
    """An API, a lake and its upkeep, shared by all examples; each has a dataset of its own."""

    def __init__(self, settings: Settings, api: TestClient) -> None:
        self.settings, self.api = settings, api
        self.lake, self.database = Lake(settings), Database(settings.sqlalchemy_url)

    def dataset(self, slug: str) -> DatasetInfo:
        with self.database.reading() as session:
            found = repository.find_dataset(session, slug)
        assert found is not None
        return found

    def read(self, slug: str, columns: list[str], at: str = "") -> Counter[str]:
        with self.lake.query(f'SELECT * FROM lake."{slug}" {at}') as answer:
            table = answer.read_all()
        assert table.column_names == columns
        return counted(columns, table.to_pylist())

    def newest(self) -> int:
        with self.database.reading() as session:
            return int(session.scalar(text("SELECT max(snapshot_id) FROM timestore.ducklake_snapshot")))

    def snapshots(self) -> set[int]:
        with self.database.reading() as session:
            return set(session.scalars(text("SELECT snapshot_id FROM timestore.ducklake_snapshot")))


@pytest.fixture(scope="module")
def world(template_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    from apphub_api.app import create_app

    with copy_of(template_url, "properties") as url, pytest.MonkeyPatch.context() as patch:
        # So that a few rows are enough to be read by DuckDB from their file.
        patch.setattr(binary, "SMALL_ROWS", MOST_IN_MEMORY)
        given = Settings(
            home=tmp_path_factory.mktemp("properties"),
            database_url=SecretStr(url),
            dagster_port=1,
            pool_memory_bytes=0,
            ingest_inline_rows=8,
        )
        host, peer = "http://127.0.0.1:4000", ("127.0.0.1", 50000)
        with TestClient(create_app(given), base_url=host, client=peer, raise_server_exceptions=False) as api:
            world = World(given, api)
            yield world
            world.lake.close()
            world.database.close()


# --- batches --------------------------------------------------------------------------------------------------------

ROWS = st.lists(
    st.tuples(st.integers(0, DAYS - 1), st.integers(0, 86_399), st.integers(-5, 5) | st.none(), st.sampled_from("abc")),
    min_size=1,
    max_size=12,
)


def body_of(form: str, fields: list[dict[str, str]], rows: list[Row], default: dict[str, str]) -> dict[str, Any]:
    """The request of a batch; only JSON has a place for defaults of new columns."""
    if form == "json":
        shape = {"fields": fields, "evolution": {"defaults": default}}
        return {"json": {"schema": shape, "rows": rows}}
    params = {"fields": json.dumps(fields)}
    if form == "ndjson":
        content = "\n".join(map(json.dumps, rows))
        return {"params": params, "content": content, "headers": {"content-type": "application/x-ndjson"}}
    if form == "csv":
        sink = io.StringIO()
        writer = csv.DictWriter(sink, [each["name"] for each in fields])
        writer.writeheader()
        writer.writerows(rows)
        return {"params": params, "content": sink.getvalue(), "headers": {"content-type": "text/csv"}}
    types = {
        "timestamp": pa.timestamp("us", "UTC"),
        "integer": pa.int64(),
        "double": pa.float64(),
        "string": pa.string(),
    }
    columns = {
        each["name"]: pa.array([_for_arrow(row[each["name"]], each["type"]) for row in rows], types[each["type"]])
        for each in fields
    }
    to_bytes, kind = (arrow_bytes, ARROW) if form == "arrow" else (parquet_bytes, PARQUET)
    return {"content": to_bytes(pa.table(columns)), "headers": {"content-type": kind}}


def _for_arrow(value: Any, kind: str) -> Any:
    return datetime.fromisoformat(value) if kind == "timestamp" else value


def machine(world: World) -> type[RuleBasedStateMachine]:  # noqa: C901 one class, which needs the world
    class Dataset(RuleBasedStateMachine):
        """One dataset, what happens to it, and its model."""

        def __init__(self) -> None:
            super().__init__()
            self.slug, self.model, self.keys = next(SLUGS), Model(), count(1)

        # --- what clients do

        @initialize(rows=ROWS, form=st.sampled_from(FORMS))
        def begin(self, rows: list[Any], form: str) -> None:
            self.ingest(rows, form)

        @rule(rows=ROWS, form=st.sampled_from(FORMS), data=st.data())
        def send(self, rows: list[Any], form: str, data: st.DataObject) -> None:
            """A batch of all columns, or of fewer."""
            given = data.draw(st.lists(st.sampled_from(EXTRAS), unique=True).map(sorted))
            self.ingest(rows, form, [name for name in given if name in self.model.defaults])

        @precondition(lambda self: len(self.model.defaults) < len(EXTRAS))
        @rule(rows=ROWS, form=st.sampled_from(FORMS), data=st.data(), default=st.none() | st.sampled_from("xy"))
        def add_column(self, rows: list[Any], form: str, data: st.DataObject, default: str | None) -> None:
            name = data.draw(st.sampled_from([name for name in EXTRAS if name not in self.model.defaults]))
            default = default if form == "json" else None
            self.model.add_column(name, default)
            self.ingest(rows, form, [name])

        @rule(rows=ROWS, form=st.sampled_from(FORMS))
        def widen(self, rows: list[Any], form: str) -> None:
            self.model.is_wide = True
            self.ingest(rows, form)

        @rule(data=st.data())
        def repeat(self, data: st.DataObject) -> None:
            """The same key and content: the first answer, and nothing is written."""
            request, answer = self.model.batches[data.draw(st.sampled_from(sorted(self.model.batches)))]
            before = world.newest()
            again = world.api.post(f"/datasets/{self.slug}/ingest", **request)
            assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
            assert again.json()["manifest"] == answer["manifest"]
            assert world.newest() == before

        @rule(data=st.data())
        def reuse(self, data: st.DataObject) -> None:
            """The same key and other content."""
            key = data.draw(st.sampled_from(sorted(self.model.batches)))
            other = {"rows": [{"timestamp": "2026-01-01T00:00:00Z", "n": 99}], "idempotencyKey": key}
            assert world.api.post(f"/datasets/{self.slug}/ingest", json=other).status_code == 422

        @rule()
        def break_schema(self) -> None:
            fields = [{"name": "timestamp", "type": "timestamp"}, {"name": "n", "type": "boolean"}]
            broken = {"schema": {"fields": fields}, "rows": [{"timestamp": 0, "n": True}]}
            assert world.api.post(f"/datasets/{self.slug}/ingest", json=broken).status_code == 409

        # --- what the upkeep does

        @rule()
        def flush(self) -> None:
            flushing.flush(world.lake, world.database, world.dataset(self.slug))

        @rule()
        def compact(self) -> None:
            compaction.compact(world.lake, world.database, world.dataset(self.slug))

        @rule(day=st.integers(0, DAYS))
        def trim(self, day: int) -> None:
            """Retention: days before that one go."""
            cut = FIRST_DAY + timedelta(days=day)
            now = datetime.now(UTC)
            policy = Retention(Mode.TIME, (now - cut).total_seconds() / 3600, None, 0.0)
            trimming.trim(world.lake, world.database, world.dataset(self.slug), policy, now)
            self.model.rows = [row for row in self.model.rows if row["timestamp"] >= cut]
            self.remember()

        @rule()
        def expire(self) -> None:
            """All snapshots but the newest are old by then."""
            expiry.expire(world.lake, world.database, world.settings, datetime.now(UTC) + timedelta(days=365))
            assert world.snapshots()

        @rule()
        def sweep(self) -> None:
            sweeping.sweep(world.database, world.settings, datetime.now(UTC) + timedelta(days=365))

        # --- what must hold

        @invariant()
        def has_the_rows_of_the_model(self) -> None:
            if self.model.batches:
                assert world.read(self.slug, self.model.columns) == self.model.counted()

        @precondition(lambda self: self.model.history)
        @rule(data=st.data())
        def look_back(self, data: st.DataObject) -> None:
            """Every snapshot that did not expire shows what the model was then."""
            left = sorted(self.model.history.keys() & world.snapshots())
            if left:
                version = data.draw(st.sampled_from(left))
                columns, rows = self.model.history[version]
                assert world.read(self.slug, columns, f"AT (VERSION => {version})") == rows

        def teardown(self) -> None:
            with psycopg.connect(world.settings.sqlalchemy_url.replace("+psycopg", "", 1)) as postgres:
                assert not postgres.execute(MANIFESTS).fetchall()

        # --- helpers

        def ingest(self, drawn: list[Any], form: str, extras: list[str] | None = None) -> None:
            extras = extras or []
            rows = [
                {"timestamp": (FIRST_DAY + timedelta(days=day, seconds=second)).isoformat(), "n": number}
                | dict.fromkeys(extras, letter)
                for day, second, number, letter in drawn
            ]
            kind = "double" if self.model.is_wide else "integer"
            fields = [{"name": "timestamp", "type": "timestamp"}, {"name": "n", "type": kind}]
            fields += [{"name": name, "type": "string"} for name in extras]
            defaults = {name: self.model.defaults[name] for name in extras if self.model.defaults[name] is not None}
            request = body_of(form, fields, rows, defaults)
            key = f"k{next(self.keys)}"
            request.setdefault("headers", {})["idempotency-key"] = key
            answer = world.api.post(f"/datasets/{self.slug}/ingest", **request)
            assert answer.status_code == 201, answer.text
            self.model.batches[key] = request, answer.json()
            for row in rows:
                moment = datetime.fromisoformat(str(row["timestamp"]))
                self.model.rows.append(self.model.defaults | row | {"timestamp": moment})
            self.remember()

        def remember(self) -> None:
            self.model.history[world.newest()] = self.model.columns, self.model.counted()

    return Dataset


@pytest.mark.timeout(120 + 20 * EXAMPLES)
def test_a_dataset_has_the_rows_of_a_plain_list_whatever_happens_to_it(world: World):
    run_state_machine_as_test(
        machine(world),
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck),
            database=None, print_blob=True,
        ),
    )  # fmt: skip
