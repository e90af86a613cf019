"""Errors look the same everywhere, and say what to do."""

import base64

import pytest
from sqlalchemy import text

from apphub_api.deps import Db
from apphub_assets.kit.cursor import encode_cursor
from tests.fixtures.api import bearer


def check_problem(response, status: int, code: str) -> dict:
    """One shape for every refusal; returns it."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["code"] == code
    assert {"type", "title", "detail", "instance", "retryable", "traceId", "error", "message"} <= body.keys()
    assert body["traceId"] == response.headers["x-correlation-id"]
    return body


def register(api, **values):
    return api.post("/apps", json={"id": "hello", "name": "Hello", "repoUrl": "https://example.org/h.git", **values})


def test_an_unknown_route(shared_api):
    check_problem(shared_api.get("/nowhere"), 404, "route_not_found")


def test_a_method_that_a_route_does_not_have(shared_api):
    check_problem(shared_api.patch("/apps"), 405, "method_not_allowed")


def test_an_unknown_app(shared_api):
    body = check_problem(shared_api.get("/apps/nothing"), 404, "app_not_found")
    assert "nothing" in body["detail"]


def test_a_body_that_is_not_json(shared_api):
    check_problem(
        shared_api.post("/apps", content=b"{", headers={"content-type": "application/json"}), 400, "invalid_input"
    )


def test_missing_fields_are_pointed_at(shared_api):
    body = check_problem(shared_api.post("/apps", json={"id": "hello"}), 400, "invalid_input")
    assert {error["pointer"] for error in body["errors"]} == {"/name", "/repoUrl"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "UPPER"),
        ("id", "x"),
        ("id", "a" * 65),
        ("id", "../etc"),
        ("name", " "),
        ("name", "nul\0"),
        ("dockerfilePath", "../Dockerfile"),
        ("dockerfilePath", "/etc/passwd"),
        ("dockerfilePath", "readme.md"),
        ("gitRef", "--upload-pack=touch /tmp/x"),
        ("gitRef", "a..b"),
        ("tags", ["nocolon"]),
        ("tags", [{"key": "UP PER", "value": "x"}]),
        ("tags", [{"key": "k", "value": "x" * 101}]),
        ("tags", [{"key": "k", "value": str(n)} for n in range(65)]),
    ],
)
def test_bad_values_are_refused_by_name_and_change_nothing(shared_api, field, value):
    body = check_problem(register(shared_api, **{field: value}), 400, "invalid_input")

    assert body["errors"][0]["pointer"].startswith(f"/{field}")
    assert shared_api.get("/apps").json()["total"] == 0


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc",
        "/etc/passwd",
        "ext::sh -c touch% /tmp/pwned",
        "--upload-pack=touch /tmp/x",
        "http://user:secret@example.org/x.git",
        "http://127.0.0.1:1@169.254.169.254/x.git",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/x.git",
        "http://10.0.0.1/x.git",
        "ssh://-oProxyCommand=touch/x",
        "javascript:alert(1)",
        "http://example.org/\nx.git",
    ],
)
def test_addresses_that_lead_inside_are_refused_at_registration(shared_api, url):
    check_problem(register(shared_api, repoUrl=url), 422, "address_refused")


def test_a_secret_in_an_address_is_not_repeated(shared_api):
    assert "hunter2" not in register(shared_api, repoUrl="https://ada:hunter2@example.org/x.git").text


def test_a_body_over_the_limit_is_refused_however_it_is_sent(serve):
    api = serve(max_body_bytes=1000)
    big = b'{"id": "' + b"x" * 2000 + b'"}'

    check_problem(api.post("/apps", content=big), 413, "body_too_large")
    check_problem(api.post("/apps", content=iter([big[:500], big[500:]])), 413, "body_too_large")


def test_a_broken_cursor_or_etag_is_the_callers_mistake(api):
    register(api)
    check_problem(api.get("/apps", params={"cursor": "%%%"}), 400, "invalid_cursor")
    check_problem(api.get("/admin/events", params={"cursor": "bm8"}), 400, "invalid_cursor")
    stale = api.put("/apps/hello/tags", json={"tags": []}, headers={"If-Match": '"v99"'})
    check_problem(stale, 412, "precondition_failed")
    check_problem(api.put("/apps/hello/tags", json={"tags": []}, headers={"If-Match": "x"}), 400, "invalid_input")


def test_what_postgres_cannot_hold_is_the_callers_mistake(shared_api):
    for path in ("/apps/%00", "/builds/%00", "/apps/%00/launches", "/admin/events?type=%00"):
        assert "NUL" in check_problem(shared_api.get(path), 400, "invalid_input")["detail"]


def test_a_refusal_is_audited_whatever_the_path(guarded):
    check_problem(guarded.delete("/apps/%00"), 401, "unauthorized")

    entry = guarded.get("/admin/audit", headers=bearer("all")).json()["data"][0]
    assert (entry["status"], entry["resource"]) == ("refused", "/apps/\ufffd")


@pytest.mark.parametrize("path", ["/admin/events", "/admin/events?jsonPath=$", "/admin/audit"])
def test_a_cursor_of_something_else_is_the_callers_mistake(shared_api, path):
    for value in ("abc", {"a": 1}, True, -1, 1.5, 2**63, None):
        url = f"{path}{'&' if '?' in path else '?'}cursor={encode_cursor([value])}"
        check_problem(shared_api.get(url), 400, "invalid_cursor")


def test_a_cursor_that_is_deeply_nested_is_the_callers_mistake(shared_api):
    nested = base64.urlsafe_b64encode(b"[" * 30_000).decode()
    for path in ("/apps", "/admin/events", "/admin/audit"):
        check_problem(shared_api.get(path, params={"cursor": nested}), 400, "invalid_cursor")


def test_an_offset_beyond_every_list_is_the_callers_mistake(api):
    register(api)
    check_problem(api.get("/apps/hello/builds", params={"offset": "9" * 23}), 400, "invalid_input")


@pytest.mark.parametrize(
    ("statement", "status", "code"),
    [
        ("SELECT pg_terminate_backend(pg_backend_pid())", 503, "database_unavailable"),
        ("DO $$ BEGIN RAISE 'too many' USING ERRCODE = '54000'; END $$", 500, "internal_error"),
    ],
    ids=["a lost connection", "a statement"],
)
def test_the_database_is_called_away_only_when_it_is(api, statement, status, code):
    def execute(db: Db) -> None:
        db.execute(text(statement))

    api.app.add_api_route("/execute", execute)

    check_problem(api.get("/execute"), status, code)


def test_the_callers_correlation_id_is_kept_when_it_is_a_sane_one(shared_api):
    assert shared_api.get("/health", headers={"X-Correlation-Id": "abc-1"}).headers["x-correlation-id"] == "abc-1"
    assert shared_api.get("/health", headers={"X-Correlation-Id": "a b\x7f"}).headers["x-correlation-id"] != "a b\x7f"
