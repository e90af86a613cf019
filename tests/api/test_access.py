"""Every route, with no token, an unknown one, one without its scope, and one with it."""

import hashlib
import hmac
import re

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from pydantic import SecretStr
from starlette.websockets import WebSocketDisconnect

from tests.fixtures.api import bearer

# Routes that prove who calls in another way, or that tell nothing.
OPEN = {"/health", "/healthz", "/ready", "/readyz", "/metrics", "/metrics/prometheus", "/webhooks/git/{provider}"}
OPEN |= {"/docs", "/redoc", "/docs/oauth2-redirect"}
ANY_TOKEN = {"/auth/identity"}
# It would be followed for ever; test_events reads it.
ENDLESS = {"/events/stream"}


def routes(client: TestClient) -> list[tuple[str, str]]:
    """Every (method, path) but the doubles under /api."""
    return [
        (method, route.path)
        for route in _flat(client.app.routes)
        for method in sorted(route.methods - {"HEAD", "OPTIONS"})
        if not route.path.startswith("/api/")
    ]


def _flat(found) -> list[APIRoute]:
    flat = []
    for route in found:
        if isinstance(route, APIRoute):
            flat.append(route)
        elif nested := getattr(getattr(route, "original_router", None), "routes", None):
            flat += _flat(nested)
    return flat


def call(client: TestClient, method: str, path: str, token: str | None) -> int:
    url = re.sub(r"\{[^}]+\}", "some-thing", path)
    return client.request(method, url, headers=bearer(token) if token else {}).status_code


def test_every_route_refuses_who_has_no_right_to_it(guarded):
    guarded_routes = [(method, path) for method, path in routes(guarded) if path not in OPEN]
    assert len(guarded_routes) > 20
    for method, path in guarded_routes:
        assert call(guarded, method, path, None) == 401, (method, path)
        assert call(guarded, method, path, "unknown") == 401, (method, path)
        if path not in ENDLESS:
            assert call(guarded, method, path, "all") not in {401, 403}, (method, path)
        if path not in ANY_TOKEN:
            assert call(guarded, method, path, "none") == 403, (method, path)


def test_a_reader_may_read_and_not_change(guarded):
    assert call(guarded, "GET", "/apps", "reader") == 200
    assert call(guarded, "POST", "/apps", "reader") == 403
    assert call(guarded, "DELETE", "/apps/{id}", "reader") == 403


def test_open_routes_need_no_token(guarded):
    assert call(guarded, "GET", "/health", None) == 200
    assert call(guarded, "GET", "/metrics", None) == 200


def test_openapi_names_the_scope_of_each_route(api):
    paths = api.get("/openapi.json").json()["paths"]

    assert paths["/apps"]["post"]["security"] == [{"HTTPBearer": ["apps:write"]}]
    for path, methods in paths.items():
        for method, operation in methods.items():
            assert path in OPEN or operation.get("security"), (method, path)


def test_the_caller_is_told_who_they_are(guarded, api):
    named = guarded.get("/auth/identity", headers=bearer("reader")).json()["data"]
    local = api.get("/auth/identity").json()["data"]

    assert (named["subject"], named["authDisabled"]) == ("reader", False)
    assert set(named["scopes"]) == {"apps:read", "events:read"}
    assert (local["subject"], local["authDisabled"]) == ("local-operator", True)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:4000"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:5000"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
    ids=["rebound name", "another site", "a sandboxed page", "another port", "embedded"],
)
def test_a_web_page_does_not_act_as_the_local_operator(api, headers):
    assert api.get("/apps", headers=headers).status_code == 401


def test_the_platforms_own_page_acts_as_the_local_operator(api):
    assert api.get("/apps", headers={"Origin": "http://127.0.0.1:4000", "Sec-Fetch-Site": "same-origin"}).is_success


def test_a_client_from_another_machine_is_not_the_local_operator(api):
    elsewhere = TestClient(api.app, base_url="http://127.0.0.1:4000", client=("10.1.2.3", 1))

    assert elsewhere.get("/apps").status_code == 401


def test_an_empty_webhook_secret_lets_nobody_in(serve):
    api = serve(webhook_secret_gitlab=SecretStr(""), webhook_secret_generic=SecretStr(""))
    signature = "sha256=" + hmac.new(b"", b"{}", hashlib.sha256).hexdigest()

    assert api.post("/webhooks/git/gitlab", content=b"{}").status_code == 404
    signed = api.post("/webhooks/git/generic", content=b"{}", headers={"X-AppHub-Signature": signature})
    assert signed.status_code == 404


def test_mutations_and_refusals_are_audited_with_actor_and_outcome(guarded):
    body = {"id": "hello", "name": "Hello", "repoUrl": "https://example.org/hello.git"}
    guarded.post("/apps", json=body, headers=bearer("all"))
    guarded.post("/apps", json=body, headers=bearer("reader"))
    guarded.post("/apps/nothing/retry", headers=bearer("all"))
    guarded.delete("/apps/hello")

    entries = guarded.get("/admin/audit", headers=bearer("all")).json()["data"]

    seen = [(e["actor"], e["action"], e["status"], e["code"], e["address"]) for e in reversed(entries)]
    assert seen == [
        ("root", "POST /apps", "succeeded", None, "127.0.0.1"),
        ("reader", "POST /apps", "refused", "forbidden", "127.0.0.1"),
        ("root", "POST /apps/{app_id}/retry", "failed", "app_not_found", "127.0.0.1"),
        (None, "DELETE /apps/{app_id}", "refused", "unauthorized", "127.0.0.1"),
    ]


@pytest.mark.parametrize(
    ("path", "token", "entry"),
    [
        ("/ws", None, (None, "GET /ws", "unauthorized")),
        ("/ws", "none", ("nobody", "GET /ws", "forbidden")),
        ("/dagster/graphql", None, (None, "GET /dagster/{path:path}", "unauthorized")),
    ],
)
def test_a_refused_socket_is_audited(guarded, path, token, entry):
    headers = bearer(token) if token else {}
    url = f"ws://127.0.0.1:4000{path}"
    with pytest.raises(WebSocketDisconnect), guarded.websocket_connect(url, headers=headers):
        pass

    assert newest_refusal(guarded) == entry


def test_who_asks_with_an_unknown_token_who_they_are_is_audited(guarded):
    assert guarded.get("/auth/identity", headers=bearer("guess")).status_code == 401

    assert newest_refusal(guarded) == (None, "GET /auth/identity", "unauthorized")


def newest_refusal(client: TestClient) -> tuple[str | None, str, str] | None:
    entries = client.get("/admin/audit", headers=bearer("all")).json()["data"]
    return next(((e["actor"], e["action"], e["code"]) for e in entries if e["status"] == "refused"), None)
