"""/sql as clients use it (contract C.1)."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from pydantic import SecretStr
from sqlalchemy import text

from tests.api.test_errors import check_problem
from tests.api.test_ingest import batch, ingest
from tests.fixtures.api import bearer

Json = dict[str, Any]

TOKENS = [
    {"token": "analyst", "subject": "ann", "scopes": ["timestore:sql:read", "timestore:read"]},
    {
        "token": "owner",
        "subject": "olga",
        "scopes": ["timestore:sql:read", "timestore:read", "timestore:write", "jobs:run"],
    },
    {"token": "sql-only", "subject": "sam", "scopes": ["timestore:sql:read"]},
    {"token": "reader", "subject": "rea", "scopes": ["timestore:read"]},
]


def read(api: TestClient, sql: str, params: Any = None, form: str | None = None, token: str | None = None) -> Response:
    body = {"sql": sql} | ({} if params is None else {"params": params})
    return api.post(
        "/sql/read",
        json=body,
        params={} if form is None else {"format": form},
        headers=bearer(token) if token else {},
    )


def rows(answer: Response) -> list[Json]:
    assert answer.status_code == 200, answer.text
    return answer.json()["rows"]


@pytest.fixture
def filled(api: TestClient) -> TestClient:
    """The datasets `readings` and `lab.my-data`."""
    return fill(api)


@pytest.fixture(scope="module")
def unchanged(shared_api: TestClient) -> TestClient:
    """The same for all tests that only read."""
    return fill(shared_api)


def fill(api: TestClient) -> TestClient:
    assert ingest(api, batch(1.5, 2.5, None)).status_code == 201
    assert ingest(api, batch(7.0), slug="lab.my-data").status_code == 201
    return api


@pytest.fixture
def guarded(serve: Callable[..., TestClient]) -> TestClient:
    """As `filled`, with the tokens above; `lab.my-data` is for those with jobs:run only."""
    api = serve(operator_tokens=SecretStr(json.dumps(TOKENS)))
    for slug in ("readings", "lab.my-data"):
        assert ingest(api, batch(7.0), slug=slug, **bearer("owner")).status_code == 201
    with api.app.state.platform.database.transaction() as session:
        restricted = json.dumps({"iam": {"readScopes": ["jobs:run"]}})
        session.execute(
            text("UPDATE timestore.datasets SET metadata = :m WHERE slug = 'lab.my-data'"), {"m": restricted}
        )
    return api


def test_a_statement_is_answered_with_columns_rows_and_statistics(unchanged: TestClient):
    answer = read(unchanged, "SELECT site, count(*) AS n, avg(value) AS mean FROM readings GROUP BY ALL").json()

    assert answer["rows"] == [{"site": "north", "n": 3, "mean": 2.0}]
    assert answer["columns"] == [
        {"name": "site", "type": "VARCHAR"},
        {"name": "n", "type": "BIGINT"},
        {"name": "mean", "type": "DOUBLE"},
    ]
    assert (answer["truncated"], answer["warnings"], answer["statistics"]["rowCount"]) == (False, [], 1)
    assert answer["executionId"]
    assert answer["statistics"]["elapsedMs"] > 0


def test_slugs_with_dots_and_dashes_are_quoted_and_case_does_not_matter(unchanged: TestClient):
    assert rows(read(unchanged, 'SELECT d.value FROM "lab.my-data" d')) == [{"value": 7.0}]
    assert rows(read(unchanged, 'SELECT "Lab.My-Data".value FROM "Lab.My-Data"')) == [{"value": 7.0}]
    check_problem(read(unchanged, "FROM lab.my-data"), 400, "invalid_sql")


def test_parameters_times_and_joins(unchanged: TestClient):
    sql = 'SELECT r.timestamp FROM readings r JOIN "lab.my-data" d USING (timestamp) WHERE d.value > ?'
    assert rows(read(unchanged, sql, [5])) == [{"timestamp": "2026-01-01T00:00:00.000Z"}]
    assert rows(read(unchanged, "SELECT $x + 1 AS y", {"x": 1})) == [{"y": 2}]


def test_csv_and_table(unchanged: TestClient):
    csv = read(unchanged, "SELECT value FROM readings ORDER BY 1", form="csv")
    table = read(unchanged, "SELECT value FROM readings ORDER BY 1", form="table")

    assert csv.headers["content-type"] == "text/csv; charset=utf-8"
    assert csv.text == "value\r\n1.5\r\n2.5\r\n\r\n"
    assert csv.headers["x-truncated"] == "false"
    assert table.headers["content-type"] == "text/plain; charset=utf-8"
    assert table.text == "value\n-----\n1.5\n2.5\n\n(3 rows)\n"
    assert table.headers["x-execution-id"]


def test_what_is_cut_off_is_said(serve: Callable[..., TestClient]):
    answer = read(serve(sql_max_rows=2), "FROM range(5)").json()

    assert (answer["truncated"], answer["statistics"]["rowCount"], len(answer["rows"])) == (True, 2, 2)
    assert "APPHUB_SQL_MAX_ROWS" in answer["warnings"][0]


@pytest.mark.parametrize(
    ("sql", "status", "code"),
    [
        ("SELEC 1", 400, "invalid_sql"),
        ("SELECT 1; SELECT 2", 400, "invalid_sql"),
        ("SELECT nope FROM readings", 400, "invalid_sql"),
        ("SELECT 'x'::INT", 400, "invalid_sql"),
        ("SELECT \0", 400, "invalid_sql"),
        ("DROP TABLE readings", 400, "sql_not_allowed"),
        ("SELECT getenv('HOME')", 400, "sql_not_allowed"),
        ("FROM lake.main.readings", 400, "sql_not_allowed"),
        ("FROM nothing", 400, "sql_unknown_dataset"),
        ("SELECT '" + "x" * 10_000 + "'", 413, "sql_too_long"),
    ],
)
def test_what_is_refused(unchanged: TestClient, sql: str, status: int, code: str):
    check_problem(read(unchanged, sql), status, code)


@pytest.mark.parametrize("params", ['["\\ud800"]', '{"\\ud800": 1}'])
def test_parameters_that_are_no_values_are_refused(unchanged: TestClient, params: str):
    content = f'{{"sql": "SELECT $1", "params": {params}}}'
    answer = unchanged.post("/sql/read", content=content, headers={"content-type": "application/json"})

    check_problem(answer, 400, "invalid_sql")


def test_a_parameter_may_be_nested_deeply(unchanged: TestClient):
    nested: list[Any] = [1]
    for _ in range(400):
        nested = [nested]

    assert read(unchanged, "SELECT len(?) AS n", params=[nested]).json()["rows"] == [{"n": 1}]


def test_an_error_points_at_its_place(unchanged: TestClient):
    body = check_problem(read(unchanged, "SELECT nope FROM readings"), 400, "invalid_sql")

    assert body["position"] == 7
    assert body["errors"][0]["pointer"] == "/sql"
    assert 'Referenced column "nope" not found' in body["detail"]


@pytest.mark.parametrize("body", [{}, {"sql": 1}, {"sql": "SELECT 1", "params": "x"}, {"sql": "SELECT '\ud800'"}])
def test_a_malformed_body_is_refused(unchanged: TestClient, body: Json):
    content = json.dumps(body).encode()
    answer = unchanged.post("/sql/read", content=content, headers={"content-type": "application/json"})
    check_problem(answer, 400, "invalid_input")


def test_another_format_is_not_acceptable(unchanged: TestClient):
    check_problem(read(unchanged, "SELECT 1", form="xml"), 406, "not_acceptable")


def test_an_archived_dataset_can_still_be_read_and_a_deleted_one_is_gone(filled: TestClient):
    def set_status(status: str) -> None:
        with filled.app.state.platform.database.transaction() as session:
            session.execute(text("UPDATE timestore.datasets SET status = :s WHERE slug = 'readings'"), {"s": status})

    set_status("inactive")
    assert rows(read(filled, "SELECT count(*) AS n FROM readings")) == [{"n": 3}]
    set_status("deleted")
    check_problem(read(filled, "FROM readings"), 400, "sql_unknown_dataset")


def test_a_dataset_without_a_schema_is_empty(api: TestClient):
    assert api.post("/admin/datasets", json={"slug": "bare", "name": "Bare"}).status_code == 201

    assert rows(read(api, "FROM bare")) == []
    (table,) = api.get("/sql/schema").json()["tables"]
    assert (table["name"], table["columns"]) == ("bare", [])


class TestScopes:
    def test_only_the_callers_datasets_are_there(self, guarded: TestClient):
        sql = 'SELECT value FROM "lab.my-data"'

        assert rows(read(guarded, sql, token="owner")) == [{"value": 7.0}]
        check_problem(read(guarded, sql, token="analyst"), 400, "sql_unknown_dataset")
        assert rows(read(guarded, "SELECT value FROM readings", token="analyst")) == [{"value": 7.0}]

    def test_the_schema_shows_what_may_be_read(self, guarded: TestClient):
        def names(token: str) -> list[str]:
            return [table["name"] for table in guarded.get("/sql/schema", headers=bearer(token)).json()["tables"]]

        assert names("owner") == ["lab.my-data", "readings"]
        assert names("analyst") == ["readings"]
        assert names("sql-only") == []

    def test_without_the_right_to_read_datasets_there_are_none_and_the_answer_says_so(self, guarded: TestClient):
        check_problem(read(guarded, "FROM readings", token="sql-only"), 400, "sql_unknown_dataset")
        answer = read(guarded, "SELECT 1 AS one", token="sql-only").json()
        assert answer["rows"] == [{"one": 1}]
        assert "timestore:read" in answer["warnings"][0]
        assert "timestore:read" in guarded.get("/sql/schema", headers=bearer("sql-only")).json()["warnings"][0]

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", "/sql/read"),
            ("GET", "/sql/schema"),
            ("GET", "/sql/saved"),
            ("GET", "/sql/saved/x"),
            ("PUT", "/sql/saved/x"),
            ("DELETE", "/sql/saved/x"),
            ("POST", "/sql/exec"),
        ],
    )
    def test_each_route_needs_the_scope_for_sql(self, guarded: TestClient, method: str, path: str):
        body = {"sql": "SELECT 1", "statement": "SELECT 1"} if method in {"POST", "PUT"} else None
        check_problem(guarded.request(method, path, json=body, headers=bearer("reader")), 403, "forbidden")
        check_problem(guarded.request(method, path, json=body), 401, "unauthorized")


def test_a_reading_is_noted_with_each_dataset_but_without_parameters(filled: TestClient):
    def noted() -> list[tuple]:
        with filled.app.state.platform.database.transaction() as session:
            found = session.execute(
                text(
                    "SELECT dataset_slug, actor_id, success, metadata FROM timestore.access_audit"
                    " WHERE action = 'sql.read' ORDER BY id"
                )
            )
            return [tuple(row) for row in found]

    sql = 'SELECT r.value FROM readings r, "lab.my-data" d WHERE r.value = ? -- ' + "x" * 600
    answer = read(filled, sql, [1.5]).json()
    read(filled, "SELECT nope")

    assert [(slug, actor, success) for slug, actor, success, _ in noted()] == [
        ("lab.my-data", "local-operator", True),
        ("readings", "local-operator", True),
    ]
    details = noted()[0][3]
    assert details["sql"] == sql[:500]
    assert (details["executionId"], details["rowCount"]) == (answer["executionId"], 1)
    assert "1.5" not in json.dumps(details)


def test_the_schema_lists_datasets_as_tables(unchanged: TestClient):
    body = unchanged.get("/sql/schema").json()
    (table,) = [table for table in body["tables"] if table["name"] == "readings"]

    assert body["fetchedAt"].endswith("Z")
    assert body["warnings"] == []
    assert table["partitionKeys"] == ["site"]
    assert table["columns"] == [
        {"name": "timestamp", "type": "TIMESTAMP", "nullable": False, "description": None},
        {"name": "value", "type": "DOUBLE", "nullable": True, "description": None},
        {"name": "site", "type": "VARCHAR", "nullable": True, "description": "partition key"},
    ]


@pytest.mark.parametrize("path", ["/sql/exec", "/sql/admin/clickhouse", "/api/sql/exec"])
def test_sql_that_changes_things_is_not_offered(unchanged: TestClient, path: str):
    body = check_problem(unchanged.post(path, json={"sql": "SELECT 1"}), 422, "sql_exec_not_offered")
    assert "/sql/read" in body["detail"]


def test_statements_are_kept_changed_listed_and_forgotten(api: TestClient):
    first = api.put("/sql/saved/daily", json={"statement": "SELECT 1"}).json()["savedQuery"]
    assert {key: first[key] for key in ("id", "statement", "label", "stats", "createdBy")} == {
        "id": "daily", "statement": "SELECT 1", "label": None, "stats": None, "createdBy": "local-operator",
    }  # fmt: skip
    stats = {"rowCount": 3, "elapsedMs": 12}
    changed = api.put("/sql/saved/daily", json={"statement": "SELECT 2", "label": "Daily", "stats": stats})
    api.put("/sql/saved/other", json={"statement": "SELECT 3"})

    kept = changed.json()["savedQuery"]
    assert (kept["statement"], kept["label"], kept["stats"]) == ("SELECT 2", "Daily", stats)
    assert kept["createdAt"] == first["createdAt"]
    assert kept["updatedAt"] >= first["updatedAt"]
    assert api.get("/sql/saved/daily").json() == {"savedQuery": kept}
    assert [each["id"] for each in api.get("/sql/saved").json()["savedQueries"]] == ["other", "daily"]
    assert api.delete("/sql/saved/daily").status_code == 204
    for gone in (api.get("/sql/saved/daily"), api.delete("/sql/saved/daily")):
        assert "Saved query daily not found" in check_problem(gone, 404, "saved_query_not_found")["detail"]


@pytest.mark.parametrize(
    ("query_id", "body", "status"),
    [
        ("a b", {"statement": "SELECT 1"}, 400),
        ("x" * 121, {"statement": "SELECT 1"}, 400),
        ("x", {"statement": " "}, 400),
        ("x", {"statement": "a\0b"}, 400),
        ("x", {"statement": "x" * 10_001}, 413),
        ("x", {"statement": "SELECT 1", "label": "x" * 161}, 400),
        ("x", {"statement": "SELECT 1", "stats": {"rowCount": "many"}}, 400),
        ("x", {}, 400),
    ],
)
def test_what_can_not_be_kept_is_refused(unchanged: TestClient, query_id: str, body: Json, status: int):
    assert unchanged.put(f"/sql/saved/{query_id}", json=body).status_code == status
    assert unchanged.get("/sql/saved").json() == {"savedQueries": []}
