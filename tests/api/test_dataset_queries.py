"""POST /datasets/{slug}/query as clients use it."""

import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from apphub_api.app import create_app
from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings
from apphub_assets.timestore import models
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.spec import DatasetInfo
from tests.api.test_errors import check_problem
from tests.fixtures.api import bearer
from tests.fixtures.catalog import Catalog
from tests.fixtures.servers import serving
from tests.timestore.asking import FIELDS, JANUARY, ROWS, dataset_of, make

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
READER = [{"token": "eastern", "subject": "eastern", "scopes": ["timestore:read", "observatory:read"]}]


@pytest.fixture
def readings(catalog: Catalog) -> DatasetInfo:
    """The dataset `readings`, with the five rows of January 2025."""
    lake = Lake(catalog.settings)
    dataset = dataset_of(FIELDS)
    make(lake, dataset, ROWS)
    register(catalog.database, dataset)
    lake.close()
    return dataset


def register(database: Database, dataset: DatasetInfo, **values: Any) -> None:
    """Write a dataset into the catalog."""
    stored = {
        "id": dataset.id, "slug": dataset.slug, "name": dataset.slug, "status": "active",
        "table_name": dataset.table, "storage_target_id": "default", "timestamp_column": dataset.timestamp_column,
        "partition_keys": list(dataset.partition_keys), "granularity": "day",
        "schema_version": dataset.schema_version, "labels": dataset.metadata,
    }  # fmt: skip
    with database.transaction() as session:
        session.add(models.Dataset(**(stored | values)))
        session.flush()
        version = dataset.schema_version
        session.add(
            models.SchemaVersion(
                id="v", dataset_id=dataset.id, version=version, fields=dataset.schema.to_json(), checksum="", change={}
            )
        )


def ask(api: TestClient, accept: str = JSON, slug: str = "readings", **body: Any) -> httpx.Response:
    return api.post(f"/datasets/{slug}/query", json={"timeRange": JANUARY} | body, headers={"Accept": accept})


def test_a_query_answers_rows_columns_mode_and_warnings(api: TestClient, readings: DatasetInfo):
    answered = ask(api, columns=["n", "ok"])

    assert answered.status_code == 200
    assert answered.headers["content-type"] == JSON
    assert answered.json() == {
        "rows": [
            {"timestamp": "2025-01-01T00:00:00.000Z", "n": 1, "ok": True},
            {"timestamp": "2025-01-01T00:30:00.000Z", "n": 2, "ok": False},
            {"timestamp": "2025-01-01T01:00:00.000Z", "n": 3, "ok": True},
            {"timestamp": "2025-01-01T03:15:00.000Z", "n": 4, "ok": None},
            {"timestamp": "2025-01-01T03:15:00.000001Z", "n": 9007199254740993, "ok": False},
        ],
        "columns": ["n", "ok"],
        "mode": "raw",
        "warnings": [],
    }


@pytest.mark.parametrize("prefix", ["", "/v1", "/api"])
def test_ranges_and_percentiles_work_over_http(api: TestClient, readings: DatasetInfo, prefix: str):
    body = {
        "timeRange": JANUARY,
        "filters": {"columns": {"n": {"type": "number", "gt": 1, "lte": 4}}},
        "downsample": {
            "intervalUnit": "day",
            "aggregations": [{"fn": "percentile", "column": "price", "percentile": 0.5}, {"fn": "count"}],
        },
    }
    answered = api.post(f"{prefix}/datasets/readings/query", json=body).json()

    assert answered["mode"] == "downsampled"
    assert answered["columns"] == ["timestamp", "p50_price", "count"]
    assert answered["rows"] == [{"timestamp": "2025-01-01T00:00:00.000Z", "p50_price": 3.3, "count": 3}]


def test_ndjson_is_a_line_per_row(api: TestClient, readings: DatasetInfo):
    answered = ask(api, "application/x-ndjson", columns=["n"])

    assert answered.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line)["n"] for line in answered.text.splitlines()] == [1, 2, 3, 4, 9007199254740993]


def test_csv_has_a_header_and_empty_cells_for_nothing(api: TestClient, readings: DatasetInfo):
    answered = ask(api, "text/csv", columns=["value", "ok", "price"])

    assert answered.headers["content-type"].startswith("text/csv")
    assert answered.text.splitlines()[:4] == [
        '"timestamp","value","ok","price"',
        '"2025-01-01T00:00:00.000Z",1.5,true,1.10',
        '"2025-01-01T00:30:00.000Z",2.5,false,2.20',
        '"2025-01-01T01:00:00.000Z",,true,3.30',
    ]


def test_parquet_and_arrow_have_types(api: TestClient, readings: DatasetInfo):
    parquet = pq.read_table(io.BytesIO(ask(api, PARQUET).content))
    arrow = pa.ipc.open_stream(ask(api, ARROW).content).read_all()

    for table in (parquet, arrow):
        assert table.num_rows == 5
        assert table.column_names == ["timestamp", "site", "value", "n", "ok", "price", "seen"]
        assert table.schema.field("timestamp").type == pa.timestamp("us", "UTC")
        assert table.schema.field("price").type == pa.decimal128(10, 2)
        assert str(table["value"][2]) == "nan"


@pytest.mark.parametrize("accept", [JSON, "application/x-ndjson", "text/csv", PARQUET, ARROW])
def test_no_rows_are_an_answer_in_every_format(api: TestClient, readings: DatasetInfo, accept: str):
    nothing = {"columns": {"n": {"eq": 0}}}
    for body in ({"filters": nothing}, {"filters": nothing, "limit": 3}):
        answered = ask(api, accept, **body)
        assert answered.status_code == 200
        assert "x-next-cursor" not in answered.headers
    if accept == PARQUET:
        assert pq.read_table(io.BytesIO(answered.content)).num_rows == 0


@pytest.mark.parametrize("accept", ["text/csv", ARROW, PARQUET, "application/x-ndjson", JSON])
def test_pages_go_on_in_every_format(api: TestClient, readings: DatasetInfo, accept: str):
    first = ask(api, accept, limit=3, columns=["n"])
    second = ask(api, "application/x-ndjson", limit=3, columns=["n"], cursor=first.headers["x-next-cursor"])

    assert [json.loads(line)["n"] for line in second.text.splitlines()] == [4, 9007199254740993]
    assert "x-next-cursor" not in second.headers


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", JSON),
        ("", JSON),
        ("text/*", "text/csv; charset=utf-8"),
        ("text/html, application/vnd.apache.arrow.stream;q=0.5, */*;q=0.1", ARROW),
        ("application/json;q=0, */*", "application/x-ndjson"),
    ],
)
def test_the_format_is_the_one_the_client_likes_best(
    api: TestClient, readings: DatasetInfo, accept: str, expected: str
):
    assert ask(api, accept).headers["content-type"] == expected


def test_other_formats_are_refused_with_those_there_are(api: TestClient, readings: DatasetInfo):
    problem = check_problem(ask(api, "text/html"), 406, "not_acceptable")
    assert ARROW in problem["detail"]


def test_what_is_wrong_with_a_query_is_told_by_pointers(api: TestClient, readings: DatasetInfo):
    backwards = {"start": JANUARY["end"], "end": JANUARY["start"]}
    for body, pointer in [
        ({"timeRange": backwards}, "/timeRange/end"),
        ({"filters": {"instrument_id": "x"}}, "/filters/instrument_id"),
        ({"wher": 1}, "/wher"),
        ({"limit": 500_001}, "/limit"),
    ]:
        problem = check_problem(ask(api, **body), 400, "invalid_query")
        assert problem["errors"][0]["pointer"] == pointer
    assert check_problem(ask(api, limit=1, cursor="x"), 400, "invalid_cursor")
    assert api.post("/datasets/readings/query", content=b"[]").status_code == 400
    assert api.post("/datasets/readings/query", content=b"[" * 100_000).status_code == 400


def test_the_shorthand_that_named_no_filter_is_told_the_right_form(api: TestClient, readings: DatasetInfo):
    problem = check_problem(ask(api, filters={"instrument_id": "x"}), 400, "invalid_query")
    assert '{"columns": {"<column>": {"eq": …}}}' in problem["detail"]


def test_a_dataset_that_is_not_there_is_not_found(api: TestClient, readings: DatasetInfo):
    assert check_problem(ask(api, slug="nothing"), 404, "dataset_not_found")


def test_a_dataset_is_read_with_its_scopes_only(
    serve: Callable[..., TestClient], catalog: Catalog, readings: DatasetInfo
):
    reader = {"token": "reader", "subject": "reader", "scopes": ["timestore:read"]}
    api = serve(operator_tokens=SecretStr(json.dumps([reader, *READER])))
    body = {"timeRange": JANUARY}

    def status(token: str) -> int:
        return api.post("/datasets/readings/query", json=body, headers=bearer(token)).status_code

    assert (status("reader"), status("eastern"), status("unknown")) == (200, 200, 401)
    with catalog.database.transaction() as session:
        session.get_one(models.Dataset, readings.id).labels = {"iam": {"readScopes": ["observatory:read"]}}
    assert (status("reader"), status("eastern")) == (403, 200)


def test_an_explained_query_tells_what_it_read(api: TestClient, readings: DatasetInfo):
    answered = ask(api, explain=True).json()

    assert answered["explain"]["inlinedRows"] == 5
    assert answered["explain"]["files"] == {"total": 0, "scanned": 0, "pruned": 0, "bytes": 0}
    assert answered["rows"] == []


def test_a_query_that_takes_too_long_is_told_so(serve: Callable[..., TestClient], catalog: Catalog, many: DatasetInfo):
    api = serve(query_timeout=0.2)
    slow = [{"fn": "count_distinct", "column": "value"}, {"fn": "percentile", "column": "value", "percentile": 0.3}]

    answered = ask(api, columns=["n"], downsample={"intervalUnit": "second", "aggregations": slow})

    assert check_problem(answered, 422, "query_too_long")


@pytest.fixture
def many(catalog: Catalog) -> DatasetInfo:
    """The dataset `readings`, with a million rows."""
    lake = Lake(catalog.settings)
    dataset = dataset_of(FIELDS)
    row = "TIMESTAMP '2025-01-01' + to_seconds(i), 's' || i % 7, i / 3, i, true, 1.5, NULL, 'k'"
    make(lake, dataset, f"SELECT {row} FROM range(1000000) t(i)")
    register(catalog.database, dataset)
    lake.close()
    return dataset


def test_a_long_answer_is_sent_while_it_is_made(catalog: Catalog, many: DatasetInfo):
    with serving(create_app(apart(catalog.settings))) as address:
        url = f"http://{address}/datasets/readings/query"
        with httpx.stream("POST", url, json={"timeRange": JANUARY}, headers={"Accept": "text/csv"}) as answered:
            assert answered.headers["transfer-encoding"] == "chunked"
            lines = sum(1 for _ in answered.iter_lines())
    assert lines == 1_000_001


def test_an_answer_that_breaks_off_does_not_look_complete(catalog: Catalog, many: DatasetInfo):
    def read(address: str) -> None:
        url = f"http://{address}/datasets/readings/query"
        with httpx.stream("POST", url, json={"timeRange": JANUARY}, headers={"Accept": "text/csv"}) as answered:
            assert answered.status_code == 200
            for _ in answered.iter_bytes():
                pass

    small = apart(catalog.settings, query_temp_bytes=20 * 2**20)
    with serving(create_app(small)) as address, pytest.raises(httpx.RemoteProtocolError):
        read(address)


def apart(settings: Settings, **values: Any) -> Settings:
    """The settings of the `api` fixture, for a server of the test's own."""
    return settings.model_copy(update={"dagster_port": 1, "pool_memory_bytes": 0, **values})
