"""POST /datasets/{slug}/ingest."""

from fastapi.testclient import TestClient

READINGS = {
    "schema": {"fields": [{"name": "timestamp", "type": "timestamp"}, {"name": "value", "type": "double"}]},
    "partition": {
        "key": {"site": "north"},
        "timeRange": {"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T00:10:00Z"},
    },
    "rows": [
        {"timestamp": "2026-01-01T00:00:00Z", "value": 1.5},
        {"timestamp": "2026-01-01T00:05:00Z", "value": None},
    ],
}


def test_the_first_ingest_makes_the_dataset(api: TestClient):
    answer = api.post("/datasets/readings/ingest", json=READINGS)
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body["mode"] == "inline"
    assert body["dataset"]["slug"] == "readings"
    assert body["storageTarget"]["id"] == "default"
    manifest = body["manifest"]
    assert (manifest["partitionCount"], manifest["totalRows"], manifest["manifestShard"]) == (1, 2, "2026-01-01")
    assert manifest["partitions"][0]["columnStatistics"]["value"] == {
        "type": "double", "rowCount": 2, "nullCount": 1, "min": 1.5, "max": 1.5,
    }  # fmt: skip
