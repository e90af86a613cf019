"""POST /datasets/{slug}/ingest: what is accepted, and that it is there once."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from httpx import Response

Json = dict[str, Any]

FIELDS = [{"name": "timestamp", "type": "timestamp"}, {"name": "value", "type": "double"}]


def batch(*values: float | None, day: str = "2026-01-01", fields: list[Json] | None = None, **members) -> Json:
    rows = [{"timestamp": f"{day}T00:00:{second:02}Z", "value": value} for second, value in enumerate(values)]
    window = {"start": f"{day}T00:00:00Z", "end": f"{day}T00:01:00Z"}
    partition = {"key": {"site": "north"}, "timeRange": window}
    return {"schema": {"fields": fields or FIELDS}, "partition": partition, "rows": rows} | members


def ingest(api: TestClient, body: Json, slug: str = "readings", **headers: str) -> Response:
    return api.post(f"/datasets/{slug}/ingest", json=body, headers=headers)


def manifest(answer: Response) -> Json:
    assert answer.status_code == 201, answer.text
    return answer.json()["manifest"]


def stored(api: TestClient, sql: str, slug: str = "readings") -> list[tuple]:
    with api.app.state.platform.lake.query(sql.format(f'lake.main."{slug}"')) as found:
        return [tuple(row.values()) for row in found.read_all().to_pylist()]


def test_the_first_ingest_makes_the_dataset(api: TestClient):
    answer = ingest(api, batch(1.5, None))
    body, made = answer.json(), manifest(answer)
    assert (body["mode"], body["flushPending"], body["dataset"]["slug"]) == ("inline", False, "readings")
    assert body["storageTarget"]["id"] == "default"
    assert (made["partitionCount"], made["totalRows"], made["manifestShard"]) == (1, 2, "2026-01-01")
    assert made["partitions"][0]["columnStatistics"]["value"] == {
        "type": "double", "rowCount": 2, "nullCount": 1, "min": 1.5, "max": 1.5,
    }  # fmt: skip
    assert stored(api, "SELECT value, site FROM {} ORDER BY timestamp") == [(1.5, "north"), (None, "north")]


def test_the_same_content_again_is_answered_again_and_not_written(api: TestClient):
    first, again = ingest(api, batch(1.5)), ingest(api, batch(1.5))
    assert manifest(first)["partitions"] == manifest(again)["partitions"]
    assert again.headers["idempotency-replayed"] == "true"
    assert stored(api, "SELECT count(*) FROM {}") == [(1,)]


def test_the_same_content_under_another_key_is_another_batch(api: TestClient):
    ingest(api, batch(1.5), **{"Idempotency-Key": "one"})
    ingest(api, batch(1.5), **{"Idempotency-Key": "two"})
    assert stored(api, "SELECT count(*) FROM {}") == [(2,)]


def test_a_key_with_other_content_is_refused(api: TestClient):
    ingest(api, batch(1.5, idempotencyKey="one"))
    refused = ingest(api, batch(2.5, idempotencyKey="one"))
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert stored(api, "SELECT value FROM {}") == [(1.5,)]


def test_a_batch_that_is_there_is_answered_again_whatever_its_dataset_has_become(api: TestClient):
    body = batch(1.0, 2.0, idempotencyKey="first")
    first = ingest(api, body)
    steps = [{"action": "transform", "column": "value", "type": "string"}]
    assert api.post("/admin/datasets/readings/migrate", json={"steps": steps}).status_code == 200
    assert api.patch("/admin/datasets/readings", json={"slug": "renamed"}).status_code == 200
    assert api.patch("/admin/datasets/renamed", json={"status": "inactive"}).status_code == 200
    again = ingest(api, body, slug="renamed")
    assert manifest(again)["partitions"] == manifest(first)["partitions"]
    assert again.headers["Idempotency-Replayed"] == "true"


def test_eight_clients_with_one_key_write_one_batch(api: TestClient):
    ingest(api, batch(0.5))
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: ingest(api, batch(1.5, idempotencyKey="one")), range(8)))
    assert len({manifest(answer)["partitions"][0]["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 7
    assert stored(api, "SELECT count(*) FROM {}") == [(2,)]


def test_eight_first_ingests_at_once_make_one_dataset(api: TestClient):
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda value: ingest(api, batch(value)), range(8)))
    assert len({answer.json()["dataset"]["id"] for answer in answers}) == 1
    assert stored(api, "SELECT count(*), count(DISTINCT value) FROM {}") == [(8, 8)]


def test_batches_of_a_day_add_up_in_one_manifest(api: TestClient):
    made = [manifest(ingest(api, batch(*range(n)))) for n in (10, 20, 30)]
    assert [each["totalRows"] for each in made] == [10, 30, 60]
    assert [each["partitionCount"] for each in made] == [1, 2, 3]
    assert len({each["id"] for each in made}) == 1


def test_each_day_has_its_manifest(api: TestClient):
    made = [manifest(ingest(api, batch(1, day=day))) for day in ("2026-01-01", "2026-01-02")]
    assert [each["manifestShard"] for each in made] == ["2026-01-01", "2026-01-02"]
    assert made[0]["id"] != made[1]["id"]


def test_a_new_column_is_added_and_old_rows_show_its_default(api: TestClient):
    old = manifest(ingest(api, batch(1)))
    body = batch(2, fields=[*FIELDS, {"name": "unit", "type": "string"}, {"name": "note", "type": "string"}])
    body["schema"]["evolution"] = {"defaults": {"unit": "C"}}
    new = manifest(ingest(api, body))
    assert new["id"] == old["id"]
    assert new["schemaVersionId"] != old["schemaVersionId"]
    assert new["metadata"]["schemaEvolution"]["addedColumns"] == ["unit", "note"]
    assert stored(api, "SELECT value, unit, note FROM {} ORDER BY value") == [(1, "C", None), (2, None, None)]


def test_a_writer_of_an_older_schema_goes_on(api: TestClient):
    ingest(api, batch(1, fields=[*FIELDS, {"name": "unit", "type": "string"}]))
    assert manifest(ingest(api, batch(2)))["totalRows"] == 2


def test_integers_widen_to_doubles(api: TestClient):
    integers = [FIELDS[0], {"name": "value", "type": "integer"}]
    ingest(api, batch(1, fields=integers))
    ingest(api, batch(2.5))
    ingest(api, batch(3, fields=integers))
    assert stored(api, "SELECT value FROM {} ORDER BY value") == [(1.0,), (2.5,), (3.0,)]


def test_a_type_that_does_not_hold_the_old_values_is_refused_with_a_plan(api: TestClient):
    ingest(api, batch(1))
    body = batch(2, fields=[FIELDS[0], {"name": "value", "type": "string"}])
    body["rows"] = [{"timestamp": "2026-01-01T00:00:00Z", "value": "two"}]
    refused = ingest(api, body)
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (409, "incompatible_schema")
    assert "column 'value' changed type from 'double' to 'string'" in problem["detail"]
    assert problem["plan"] == [{"action": "transform", "column": "value", "from": "double", "to": "string"}]
    assert stored(api, "SELECT value FROM {}") == [(1.0,)]


def test_a_wrong_value_is_named_and_nothing_is_written(api: TestClient):
    ingest(api, batch(1))
    body = batch(2, 3, 4)
    body["rows"][1]["value"] = "three"
    refused = ingest(api, body)
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (400, "invalid_rows")
    assert problem["errors"] == [
        {"pointer": "/rows/1/value", "detail": "row 1, column 'value': \"three\" is no number"}
    ]
    assert stored(api, "SELECT count(*) FROM {}") == [(1,)]


def test_values_that_no_column_takes_are_told(api: TestClient):
    body = batch(1)
    body["rows"][0]["extra"] = 1
    assert ingest(api, body).json()["warnings"] == ["column 'extra' is not in the schema and was not stored"]


@pytest.mark.parametrize(
    ("given", "as_utc"),
    [
        ("2026-01-01T01:00:00+01:00", "2026-01-01T00:00:00"),
        ("2026-01-01T00:00:00.123456Z", "2026-01-01T00:00:00.123456"),
        ("2026-01-01T00:00:00", "2026-01-01T00:00:00"),
        ("2026-01-01", "2026-01-01T00:00:00"),
        (1767225600000, "2026-01-01T00:00:00"),
    ],
)
def test_times_are_kept_in_utc(api: TestClient, given: str | int, as_utc: str):
    body = batch(1, 2)
    body["rows"][0]["timestamp"] = given
    assert ingest(api, body).status_code == 201
    assert stored(api, "SELECT timestamp FROM {} ORDER BY value")[0][0].isoformat() == as_utc


MIDNIGHT = datetime.fromisoformat("2026-01-01T00:00:00")
STRUCT = [{"name": "x", "type": "integer"}, {"name": "y", "type": "string"}, {"name": "at", "type": "timestamp"}]


def test_every_type_comes_back_as_it_went_in(api: TestClient):
    fields = [
        {"name": "timestamp", "type": "timestamp"},
        {"name": "s", "type": "string"},
        {"name": "i", "type": "integer"},
        {"name": "b", "type": "boolean"},
        {"name": "d", "type": "decimal(12,3)"},
        {"name": "l", "type": "list", "items": {"type": "double"}},
        {"name": "t", "type": "struct", "fields": STRUCT},
        {"name": "j", "type": "json"},
    ]
    row = {
        "timestamp": "2026-01-01T00:00:00Z", "s": "ü'\"\\\u0000", "i": -(2**63), "b": True, "d": "123456789.125",
        "l": [1.5, None], "t": {"x": 1, "y": "it's", "at": "2026-01-01T00:00:00Z"}, "j": {"a": [1, None]},
    }  # fmt: skip
    empty = {"timestamp": "2026-01-02T00:00:00Z"}
    assert ingest(api, {"schema": {"fields": fields}, "rows": [row, empty]}).status_code == 201
    first, second = stored(api, "SELECT s, i, b, CAST(d AS VARCHAR), l, t, j FROM {} ORDER BY timestamp")
    assert first == (
        "ü'\"\\\0",
        -(2**63),
        True,
        "123456789.125",
        [1.5, None],
        {"x": 1, "y": "it's", "at": MIDNIGHT},
        '{"a":[1,null]}',
    )
    assert second == (None,) * 7


@pytest.mark.parametrize(
    ("items", "value", "shown"),
    [
        ({"type": "string"}, ["a\0b", "]", "it's"], ["a\0b", "]", "it's"]),
        ({"type": "json"}, [{"a": "b"}, "c"], ['{"a":"b"}', '"c"']),
        ({"type": "list", "items": {"type": "string"}}, [["]", "'"]], [["]", "'"]]),
    ],
)
def test_texts_within_lists_come_back_as_they_went_in(api: TestClient, items: Json, value: list, shown: list):
    fields = [{"name": "timestamp", "type": "timestamp"}, {"name": "l", "type": "list", "items": items}]
    rows = [{"timestamp": "2026-01-01T00:00:00Z", "l": value}]
    assert ingest(api, {"schema": {"fields": fields}, "rows": rows}).status_code == 201
    assert stored(api, "SELECT l FROM {}") == [(shown,)]


def test_ndjson_and_csv_need_no_schema(api: TestClient):
    lines = [{"timestamp": "2026-01-01T00:00:00Z", "value": 1, "site": "a"}, {"timestamp": "2026-01-01", "value": 2.5}]
    ndjson = "\n".join(map(json.dumps, lines))
    table = "timestamp,value,site\n2026-01-02T00:00:00Z,3,\n2026-01-02T00:00:01Z,,b\n"
    for content_type, body in (("application/x-ndjson", ndjson), ("text/csv", table)):
        answer = api.post("/datasets/readings/ingest", content=body, headers={"Content-Type": content_type})
        assert answer.status_code == 201, answer.text
    assert stored(api, "SELECT value, site FROM {} ORDER BY timestamp, value") == [
        (1.0, "a"), (2.5, None), (3.0, None), (None, "b"),
    ]  # fmt: skip


def parquet(table: pa.Table) -> tuple[str, bytes]:
    file = io.BytesIO()
    pq.write_table(table, file)
    return "application/vnd.apache.parquet", file.getvalue()


def arrow(table: pa.Table) -> tuple[str, bytes]:
    file = io.BytesIO()
    with pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    return "application/vnd.apache.arrow.stream", file.getvalue()


@pytest.mark.parametrize("form", [parquet, arrow])
@pytest.mark.parametrize("rows", [10, 50_000])
def test_parquet_and_arrow_bring_their_schema(api: TestClient, form, rows: int):
    table = pa.table(
        {
            "timestamp": pa.array(range(rows), pa.timestamp("ns", tz="Europe/Berlin")),
            "n": pa.array(range(rows), pa.int32()),
            "kind": pa.array(["a", "b"] * (rows // 2)).dictionary_encode(),
        }
    )
    content_type, body = form(table)
    answer = api.post(
        "/datasets/readings/ingest?partitionKey=site=north", content=body, headers={"Content-Type": content_type}
    )
    assert manifest(answer)["totalRows"] == rows
    found = "SELECT count(*), sum(n)::BIGINT, count(DISTINCT kind), min(site), min(timestamp)::VARCHAR FROM {}"
    assert stored(api, found) == [(rows, rows * (rows - 1) // 2, 2, "north", "1970-01-01 00:00:00")]


def test_a_batch_is_an_event_and_an_entry_of_the_audit(api: TestClient):
    ingest(api, batch(1))
    events = api.get("/admin/events", params={"type": "timestore.partition.created"}).json()["data"]["events"]
    assert [(each["payload"]["rowCount"], each["payload"]["partitionKey"]) for each in events] == [(1, "site=north")]
    entries = api.get("/admin/datasets/readings/audit").json()["events"]
    assert [entry["action"] for entry in entries] == ["ingest", "admin.dataset.created"]
