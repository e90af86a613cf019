"""/admin/lifecycle: upkeep as an operator asks for it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from fastapi.testclient import TestClient

from tests.fixtures.api import bearer

SLUG = "readings"


@pytest.fixture
def dataset(api: TestClient) -> dict:
    """A dataset with rows of long ago and of now."""
    now = datetime.now(UTC)
    for number, at in enumerate([now.replace(year=now.year - 1, day=1), now]):
        rows = [{"timestamp": at.isoformat(), "value": number}]
        window = {"start": at.isoformat(), "end": at.isoformat()}
        body = {
            "schema": {"fields": [{"name": "timestamp", "type": "timestamp"}, {"name": "value", "type": "double"}]},
            "partition": {"key": {}, "timeRange": window},
            "rows": rows,
        }
        answer = api.post(f"/datasets/{SLUG}/ingest", json=body)
        assert answer.status_code == 201, answer.text
    policy = {"mode": "time", "rules": {"maxAgeHours": 240}}
    assert api.put(f"/admin/datasets/{SLUG}/retention", json=policy).status_code == 200
    return answer.json()["dataset"]


def run(api: TestClient, status: int = 200, **body) -> dict:
    answer = api.post("/admin/lifecycle/run", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_compaction_and_retention_of_a_dataset_are_run_and_reported(api: TestClient, dataset: dict):
    answer = run(api, datasetId=dataset["id"])
    assert answer["status"] == "completed"
    report = answer["report"]
    assert (report["datasetId"], report["datasetSlug"]) == (dataset["id"], SLUG)
    compaction, retention = report["operations"]
    assert (compaction["operation"], compaction["status"]) == ("compaction", "completed")
    (trimmed,) = retention["details"]["datasets"]
    assert (trimmed["rows"], trimmed["partitionCount"], trimmed["partitions"][0]["reason"]) == (1, 1, "age")
    assert [entry["action"] for entry in report["auditLogEntries"]] == [
        "admin.lifecycle.compaction", "admin.lifecycle.retention",
    ]  # fmt: skip
    assert report["jobId"]
    manifests = api.get(f"/admin/datasets/{SLUG}/manifest").json()["manifests"]
    assert sum(manifest["totalRows"] for manifest in manifests) == 1


def test_a_dry_run_tells_and_changes_nothing(api: TestClient, dataset: dict):
    report = run(api, datasetSlug=SLUG, operations=["flush", "retention"], dryRun=True)["report"]
    flush, _ = report["operations"]
    assert flush["details"]["datasets"][0]["rows"] == 2
    assert flush["details"]["dryRun"] is True
    assert report["auditLogEntries"] == []
    manifests = api.get(f"/admin/datasets/{SLUG}/manifest").json()["manifests"]
    assert sum(manifest["totalRows"] for manifest in manifests) == 2


def test_the_whole_lake_is_looked_after(api: TestClient, dataset: dict):
    names = ["flush", "compaction", "retention", "purge", "expiry", "orphans"]
    report = run(api, operations=names)["report"]
    assert [each["operation"] for each in report["operations"]] == names
    assert {each["status"] for each in report["operations"]} == {"completed"}
    assert report["datasetId"] is None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"datasetId": "nobody"}, 404),
        ({"operations": ["vacuum"]}, 400),
        ({"operations": []}, 400),
        ({"mode": "later"}, 400),
        ({"datasetSlug": SLUG, "operations": ["expiry"]}, 400),
        ({"unknown": 1}, 400),
    ],
)
def test_what_can_not_be_done_is_refused(api: TestClient, dataset: dict, body: dict, status: int):
    assert api.post("/admin/lifecycle/run", json=body).status_code == status


def test_only_administrators_may(guarded: TestClient):
    for method, path in [("POST", "run"), ("GET", "status"), ("POST", "reschedule")]:
        answer = guarded.request(method, f"/admin/lifecycle/{path}", json={}, headers=bearer("reader"))
        assert answer.status_code == 403


def test_while_dagster_is_away_nothing_is_queued(api: TestClient, dataset: dict):
    assert api.post("/admin/lifecycle/run", json={"mode": "queue"}).status_code == 503
    assert api.get("/admin/lifecycle/status").status_code == 503


RUN = {
    "runId": "r1", "jobName": "keep_lake", "status": "FAILURE", "creationTime": 1.0, "startTime": 2.0, "endTime": None,
    "tags": [{"key": "apphub/lifecycle", "value": "true"}, {"key": "apphub/operations", "value": "flush,orphans"}],
}  # fmt: skip


class Dagster(BaseHTTPRequestHandler):
    """The webserver's answers, and what it was asked."""

    asked: list[dict]
    run = RUN

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(asked)
        answers = {
            "Launch": {"__typename": "LaunchRunSuccess", "run": {"runId": "r2"}},
            "Relaunch": {"__typename": "LaunchRunSuccess", "run": {"runId": "r3"}},
            "Runs": {"__typename": "Runs", "results": [self.run]},
            "Run": {"__typename": "Run", **self.run},
        }
        name = asked["query"].strip().partition("(")[0].split()[1]
        body = json.dumps({"data": {"result": answers[name]}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def with_dagster(serve: Callable[..., TestClient]):
    Dagster.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Dagster) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield serve(dagster_port=server.server_address[1])
        server.shutdown()


def test_a_queued_run_is_dagsters(with_dagster: TestClient):
    answer = run(with_dagster, 202, mode="queue", operations=["flush"], dryRun=True)
    assert (answer["status"], answer["jobId"], answer["report"]) == ("queued", "r2", None)
    params = Dagster.asked[0]["variables"]["params"]
    assert params["selector"]["jobName"] == "keep_lake"
    assert params["runConfigData"] == {"ops": {"keep": {"config": {"operations": ["flush"], "dry_run": True}}}}
    tags = {tag["key"]: tag["value"] for tag in params["executionMetadata"]["tags"]}
    assert tags["apphub/lifecycle"] == "true"


def test_the_status_shows_runs_and_what_the_lake_is_made_of(with_dagster: TestClient):
    answer = with_dagster.get("/admin/lifecycle/status", params={"limit": 5}).json()
    (job,) = answer["jobs"]
    assert (job["id"], job["status"], job["operations"]) == ("r1", "FAILURE", ["flush", "orphans"])
    assert job["createdAt"] == "1970-01-01T00:00:01.000Z"
    assert answer["metrics"]["datasets"] == []
    assert answer["metrics"]["snapshots"] >= 1
    assert Dagster.asked[0]["variables"]["limit"] == 5


def test_the_metrics_of_a_dataset_are_counted(with_dagster: TestClient):
    rows = [{"timestamp": "2026-01-01T00:00:00Z"}, {"timestamp": "2026-01-01T00:00:01Z"}]
    body = {"schema": {"fields": [{"name": "timestamp", "type": "timestamp"}]}, "rows": rows}
    window = {"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T01:00:00Z"}
    with_dagster.post(f"/datasets/{SLUG}/ingest", json=body | {"partition": {"key": {}, "timeRange": window}})
    assert with_dagster.get("/admin/lifecycle/status").json()["metrics"]["waitingRows"] == 2
    run(with_dagster, operations=["flush"], datasetSlug=SLUG)
    (metrics,) = with_dagster.get("/admin/lifecycle/status").json()["metrics"]["datasets"]
    assert (metrics["files"], metrics["smallFiles"], metrics["waitingRows"]) == (1, 1, 0)
    assert metrics["bytes"] > 0


def test_only_a_run_of_the_upkeep_that_failed_is_run_again(with_dagster: TestClient, monkeypatch):
    def reschedule(job_id: str):
        return with_dagster.post("/admin/lifecycle/reschedule", json={"jobId": job_id})

    assert reschedule("r1").json() == {"status": "queued", "jobId": "r3"}
    assert reschedule("inline-1").status_code == 400
    monkeypatch.setattr(Dagster, "run", RUN | {"status": "STARTED"})
    assert reschedule("r1").status_code == 400
    monkeypatch.setattr(Dagster, "run", RUN | {"tags": []})
    assert reschedule("r1").status_code == 404
