"""Datasets as Dagster shows them while everything runs: soon there, with what ingests brought, and to be sealed."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.e2e.hub import RECOVERY, Hub
from tests.fixtures.launches import eventually

pytestmark = pytest.mark.engine

# A dataset is seen in a few seconds; how long it takes on a machine at full load says nothing.
SOON = RECOVERY
DAY = datetime(2026, 3, 2, 12, tzinfo=UTC)

NODE = """
query Node($asset: AssetKeyInput!) {
  result: assetNodeOrError(assetKey: $asset) {
    __typename
    ... on AssetNode {
      groupName
      partitionKeys
      assetMaterializations(limit: 1000) {
        runId
        partition
        metadataEntries { label ... on IntMetadataEntry { intValue } }
      }
    }
  }
}"""

RELOAD = """
mutation Reload($name: String!) {
  result: reloadRepositoryLocation(repositoryLocationName: $name) {
    __typename
    ... on WorkspaceLocationEntry { loadStatus locationOrLoadError { __typename } }
  }
}"""


def ingest(hub: Hub, slug: str, *moments: datetime) -> None:
    rows = [{"timestamp": at.isoformat(), "value": 1.5} for at in moments]
    fields = [{"name": "timestamp", "type": "timestamp"}, {"name": "value", "type": "double"}]
    body = {"schema": {"fields": fields}, "rows": rows, "idempotencyKey": f"{slug}-{time.monotonic_ns()}"}
    response = hub.http.post(f"/datasets/{slug}/ingest", json=body)
    assert response.status_code == 201, response.text


def node(hub: Hub, slug: str) -> dict[str, Any] | None:
    """The dataset's asset as the UI sees it."""
    found = hub.graphql(NODE, asset={"path": ["timestore", slug]})
    return found if found["__typename"] == "AssetNode" else None


def events(hub: Hub, slug: str) -> list[dict[str, Any]]:
    """Materialisations of the dataset's asset, newest first: partition, run and the numbers in the metadata."""
    found = node(hub, slug)
    return [
        {"partition": each["partition"], "run": each["runId"]}
        | {entry["label"]: entry["intValue"] for entry in each["metadataEntries"] if "intValue" in entry}
        for each in (found["assetMaterializations"] if found else [])
    ]


def seconds_until(fact: Callable[[], object], what: str) -> float:
    started = time.monotonic()
    eventually(fact, what, RECOVERY)
    return time.monotonic() - started


def test_a_dataset_that_an_ingest_made_is_an_asset_soon(hub: Hub) -> None:
    ingest(hub, "gauges", DAY)
    assert seconds_until(lambda: node(hub, "gauges"), "the asset") < SOON
    found = node(hub, "gauges")
    assert found is not None
    assert found["groupName"] == "timestore"
    assert found["partitionKeys"][0] == "2026-03-02"
    assert found["partitionKeys"][-1] == f"{datetime.now(UTC):%Y-%m-%d}"


def test_what_it_brought_is_a_materialisation_of_its_partition_without_a_run(hub: Hub) -> None:
    eventually(lambda: events(hub, "gauges"), "the materialisation", RECOVERY)
    (event,) = events(hub, "gauges")
    assert (event["partition"], event["rows"], event["batches"], event["run"]) == ("2026-03-02", 1, 1, "")


def test_many_ingests_per_second_are_few_materialisations_and_every_row_is_in_one(hub: Hub) -> None:
    def send(_: int) -> None:
        ingest(hub, "busy", datetime.now(UTC))

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(send, range(200)))
    ingest(hub, "busy", DAY)

    def told() -> list[dict[str, Any]]:
        return [event for event in events(hub, "busy") if event["partition"] != "2026-03-02"]

    eventually(lambda: sum(event["batches"] for event in told()) == 200, "all batches", 2 * RECOVERY)
    assert len(told()) <= 4


def test_a_dataset_survives_a_reload_of_the_code_location(hub: Hub) -> None:
    reloaded = hub.graphql(RELOAD, name="apphub")
    assert reloaded["locationOrLoadError"]["__typename"] == "RepositoryLocation"
    assert node(hub, "gauges")


def test_a_dataset_survives_the_death_of_the_code_server(hub: Hub) -> None:
    code = hub.stack.children()["code"]
    code.kill()
    ingest(hub, "meanwhile", DAY)
    eventually(lambda: node(hub, "meanwhile") and node(hub, "gauges"), "both assets", RECOVERY)


@pytest.mark.timeout(360)
def test_a_backfill_seals_partitions_in_warm_workers(hub: Hub) -> None:
    ingest(hub, "tides", *(DAY + timedelta(days=day) for day in range(3)))
    # The daemon hears of the asset a moment after the UI, and fails a backfill of what it does not know yet.
    eventually(lambda: events(hub, "tides"), "what the ingest brought", RECOVERY)
    server = hub.stack.children()["runs"]
    backfill = hub.backfill(["timestore/tides"], ["2026-03-02", "2026-03-04"])
    hub.backfilled(backfill)
    sealed = {event["partition"]: event for event in events(hub, "tides") if event["run"]}
    assert {key: (event["rows"], event["files"]) for key, event in sealed.items()} == {
        "2026-03-02": (1, 1),
        "2026-03-04": (1, 1),
    }
    assert hub.stack.children()["runs"].pid == server.pid


def test_a_renamed_or_deleted_dataset_leaves_the_definitions_soon(hub: Hub) -> None:
    ingest(hub, "shortlived", DAY)
    eventually(lambda: node(hub, "shortlived"), "the asset", RECOVERY)
    assert hub.http.delete("/admin/datasets/shortlived").is_success
    assert seconds_until(lambda: not (node(hub, "shortlived") or {}).get("partitionKeys"), "its end") < SOON


def test_nothing_reloads_for_ingests_into_what_is_there(hub: Hub) -> None:
    code = hub.stack.home / "logs" / "code.log"
    before = code.read_text().count("definitions were built anew")
    for _ in range(5):
        ingest(hub, "gauges", DAY)
        time.sleep(0.5)
    time.sleep(3)
    assert code.read_text().count("definitions were built anew") == before
