"""POST /admin/datasets/{id}/migrate."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response

Json = dict[str, Any]


@pytest.fixture
def readings(api: TestClient) -> TestClient:
    """The API with a dataset of three readings, one of which is no number."""
    rows = [
        {"timestamp": f"2026-01-0{day}", "v": value, "note": "x"} for day, value in ((1, "1.5"), (2, "2"), (3, "?"))
    ]
    assert api.post("/datasets/readings/ingest", json={"rows": rows}).status_code == 201
    return api


def migrate(api: TestClient, *steps: Json, dry: bool = False) -> Response:
    return api.post("/admin/datasets/readings/migrate", json={"steps": steps, "dryRun": dry})


def stored(api: TestClient, sql: str) -> list[tuple]:
    with api.app.state.platform.lake.query(sql) as found:
        return [tuple(row.values()) for row in found.read_all().to_pylist()]


def columns(api: TestClient) -> list[str]:
    return [name for name, *_ in stored(api, "DESCRIBE lake.main.readings")]


def test_a_dry_run_tells_what_would_happen_and_changes_nothing(readings: TestClient):
    steps = {"action": "drop", "column": "note"}, {"action": "transform", "column": "v", "type": "double"}
    answer = migrate(readings, *steps, dry=True).json()
    assert answer["applied"] is False
    assert answer["plan"] == [
        {"action": "drop", "column": "note", "values": 3},
        {"action": "transform", "column": "v", "type": "double", "rows": 3, "unfit": 1, "samples": ["?"]},
    ]
    assert columns(readings) == ["timestamp", "v", "note"]


def test_values_that_do_not_fit_stop_all_of_it(readings: TestClient):
    refused = migrate(
        readings, {"action": "drop", "column": "note"}, {"action": "transform", "column": "v", "type": "double"}
    )
    assert (refused.status_code, refused.json()["code"]) == (409, "migration_loses_values")
    assert columns(readings) == ["timestamp", "v", "note"]


def test_a_column_is_transformed_by_an_expression(readings: TestClient):
    step = {"action": "transform", "column": "v", "type": "double", "using": "TRY_CAST(v AS DOUBLE) * 10"}
    assert migrate(readings, step).status_code == 200
    assert stored(readings, "SELECT v FROM lake.main.readings ORDER BY timestamp") == [(15.0,), (20.0,), (None,)]
    later = {"rows": [{"timestamp": "2026-01-04", "v": 0.5}]}
    assert readings.post("/datasets/readings/ingest", json=later).status_code == 201


def test_what_is_sent_under_the_old_name_is_refused_with_the_new_one(readings: TestClient):
    assert migrate(readings, {"action": "rename", "column": "v", "to": "value"}).status_code == 200
    refused = readings.post("/datasets/readings/ingest", json={"rows": [{"timestamp": "2026-01-04", "v": "3"}]})
    assert (refused.status_code, refused.json()["code"]) == (409, "incompatible_schema")
    assert "renamed to 'value'" in refused.json()["detail"]
    assert stored(readings, "SELECT count(value) FROM lake.main.readings") == [(3,)]


def test_earlier_snapshots_keep_what_was_dropped(readings: TestClient):
    ((before,),) = stored(readings, "SELECT max(snapshot_id) FROM ducklake_snapshots('lake')")
    assert migrate(readings, {"action": "drop", "column": "note"}).status_code == 200
    assert columns(readings) == ["timestamp", "v"]
    assert stored(readings, f"SELECT DISTINCT note FROM lake.main.readings AT (VERSION => {before})") == [("x",)]


def test_a_migration_is_a_version_an_event_and_an_entry_of_the_audit(readings: TestClient):
    migrate(readings, {"action": "rename", "column": "v", "to": "value"})
    assert readings.get("/admin/datasets/readings").json()["dataset"]["schemaVersion"] == 2
    events = readings.get("/admin/events", params={"type": "timestore.schema.migrated"}).json()["data"]["events"]
    assert [event["payload"]["steps"] for event in events] == [[{"action": "rename", "column": "v", "to": "value"}]]
    assert readings.get("/admin/datasets/readings/audit").json()["events"][0]["action"] == "admin.dataset.migrated"


@pytest.mark.parametrize(
    ("step", "pointer"),
    [
        ({"action": "drop", "column": "nothing"}, "/steps/0/column"),
        ({"action": "drop", "column": "timestamp"}, "/steps/0/column"),
        ({"action": "rename", "column": "v", "to": "note"}, "/steps/0/to"),
        ({"action": "rename", "column": "v", "to": "row_id"}, "/steps/0/to"),
        ({"action": "transform", "column": "v", "type": "double", "using": "v FROM x; DROP TABLE y"}, "/steps/0/using"),
        ({"action": "transform", "column": "v", "type": "string", "using": "getenv('HOME')"}, "/steps/0/using"),
        ({"action": "transform", "column": "v", "type": "string", "using": "nothing + 1"}, "/steps/0/using"),
        ({"action": "transform", "column": "v", "type": "number"}, "/steps/0/type"),
    ],
)
def test_a_step_that_can_not_be_done_is_named(readings: TestClient, step: Json, pointer: str):
    refused = migrate(readings, step)
    assert refused.status_code == 400, refused.text
    assert [error["pointer"] for error in refused.json()["errors"]] == [pointer]
    assert columns(readings) == ["timestamp", "v", "note"]
