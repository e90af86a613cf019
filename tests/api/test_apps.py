"""/apps, /builds and /tags as clients use them."""

import hashlib
import hmac
import json
import threading

import pytest
from pydantic import SecretStr

from apphub_assets.events import service as events
from tests.api.test_errors import check_problem, register


def test_a_registered_app_is_found_by_the_next_request(api):
    created = register(api, tags=["team:data", {"key": "kind", "value": "demo"}])

    assert created.status_code == 201
    assert created.headers["location"] == "/apps/hello"
    for query in ({"q": "hello"}, {"q": "team:data"}, {"tags": "kind:demo"}, {"status": "pending"}, {}):
        assert [app["id"] for app in api.get("/apps", params=query).json()["data"]] == ["hello"], query


def test_an_app_has_the_fields_that_clients_read(api):
    register(api)

    app = api.get("/apps/hello").json()["data"]

    assert {
        "id", "name", "description", "repoUrl", "dockerfilePath", "updatedAt", "tags", "ingestStatus", "ingestError",
        "ingestAttempts", "latestBuild", "latestLaunch", "previewTiles", "launchEnvTemplates", "metadataStrategy",
    } <= app.keys()  # fmt: skip
    assert app["updatedAt"].endswith("Z")
    assert len(app["updatedAt"]) == len("2026-11-20T12:00:00.000Z")


def test_the_same_routes_are_under_api_too(api):
    register(api)

    assert api.get("/api/apps/hello").json() == api.get("/apps/hello").json()


def test_registering_again_is_a_change(api):
    register(api)

    again = register(api, name="Hello again")

    assert again.status_code == 201
    assert again.headers["location"] == "/apps/hello"
    assert api.get("/apps/hello").json()["data"]["name"] == "Hello again"
    assert [e["status"] for e in api.get("/apps/hello/history").json()["data"]] == ["pending", "pending"]


def test_tags_are_replaced_on_the_version_that_was_read(api):
    register(api, tags=["a:1"])
    etag = api.get("/apps/hello").headers["etag"]

    changed = api.put("/apps/hello/tags", json={"tags": ["b:2"]}, headers={"If-Match": etag})

    assert [tag["key"] for tag in changed.json()["data"]["tags"]] == ["b"]
    assert changed.headers["etag"] != etag
    late = api.put("/apps/hello/tags", json={"tags": ["c:3"]}, headers={"If-Match": etag})
    check_problem(late, 412, "precondition_failed")


def test_more_tags_than_an_app_can_have_are_refused(api):
    register(api, tags=["a:1"])

    refused = api.put("/apps/hello/tags", json={"tags": [f"k:{number}" for number in range(65)]})

    body = check_problem(refused, 400, "invalid_input")
    assert body["errors"] == [{"pointer": "/tags", "detail": "tags: at most 64, got 65"}]


def test_a_deleted_app_is_gone_from_everywhere(api):
    register(api, tags=["team:data"])

    assert api.delete("/apps/hello").status_code == 204

    check_problem(api.get("/apps/hello"), 404, "app_not_found")
    assert api.get("/apps", params={"q": "team:data"}).json()["total"] == 0
    check_problem(api.delete("/apps/hello"), 404, "app_not_found")


def test_suggestions_name_keys_then_pairs(api):
    register(api, tags=["team:data"])

    first = api.get("/tags/suggest", params={"prefix": "te"}).json()["data"][0]
    assert (first["type"], first["label"], first["value"]) == ("key", "team", "team:")
    pairs = api.get("/tags/suggest", params={"prefix": "team:"}).json()["data"]
    assert [(s["type"], s["value"]) for s in pairs] == [("pair", "team:data")]


def test_a_build_is_asked_for_listed_canceled_and_retried(api):
    register(api)

    build = api.post("/apps/hello/builds", json={"branch": "main"}).json()["data"]
    assert (build["status"], build["gitBranch"]) == ("pending", "main")
    listed = api.get("/apps/hello/builds").json()
    assert [b["id"] for b in listed["data"]] == [build["id"]]
    assert listed["meta"] == {
        "total": 1, "count": 1, "limit": 20, "offset": 0, "nextOffset": None, "hasMore": False,
    }  # fmt: skip
    assert api.post(f"/builds/{build['id']}/cancel").json()["data"]["status"] == "canceled"
    check_problem(api.post(f"/builds/{build['id']}/cancel"), 409, "build_finished")
    assert api.post(f"/builds/{build['id']}/retry").json()["data"]["status"] == "pending"
    check_problem(api.post(f"/builds/{build['id']}/retry"), 409, "build_not_finished")
    check_problem(api.post("/apps/hello/builds", json={"ref": "--evil"}), 400, "invalid_input")


@pytest.mark.engine
def test_a_builds_log_is_followed_while_it_grows_and_read_when_it_is_done(api, catalog, make_repository, base_image):
    slow = "FROM busybox:1.36\nRUN echo one; sleep 1; echo two\n"
    register(api, repoUrl=make_repository(files={"Dockerfile": slow}).url)
    catalog.ingest("hello")
    build_id = api.get("/apps/hello").json()["data"]["latestBuild"]["id"]
    worker = threading.Thread(target=catalog.build, args=("hello",))
    worker.start()
    followed = api.get(f"/builds/{build_id}/logs", params={"follow": True}).text
    worker.join()

    whole = api.get(f"/builds/{build_id}/logs").json()["data"]
    download = api.get(f"/builds/{build_id}/logs", params={"download": 1})

    assert "one" in followed
    assert "two" in followed
    assert whole["logs"] == followed == download.text
    assert whole["size"] == len(followed.encode())
    assert "attachment" in download.headers["content-disposition"]


def test_readiness_names_what_is_away(api):
    answer = api.get("/ready")

    assert answer.status_code == 503
    assert {check["name"]: check["status"] for check in answer.json()["checks"]}["postgres"] == "ok"
    assert {check["name"]: check["status"] for check in answer.json()["checks"]}["dagster"] == "failed"


class TestWebhooks:
    """Push events refresh the app, when they are signed."""

    BODY = json.dumps({"repository": {"clone_url": "https://example.org/h.git"}}).encode()

    @pytest.fixture
    def hooked(self, serve, catalog):
        api = serve(webhook_secret_github=SecretStr("s3cret"), webhook_secret_gitlab=SecretStr("t0ken"))
        register(api)
        return api

    def sign(self, body: bytes, secret: str = "s3cret") -> dict[str, str]:
        return {"X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}

    def test_a_signed_github_push_refreshes_the_repository_it_names(self, hooked):
        answer = hooked.post("/webhooks/git/github", content=self.BODY, headers=self.sign(self.BODY))

        assert (answer.status_code, answer.json()) == (202, {"refreshed": ["hello"]})
        assert "github webhook" in hooked.get("/apps/hello/history").json()["data"][0]["message"]

    def test_what_a_push_sets_off_carries_its_correlation_id(self, hooked, catalog):
        headers = self.sign(self.BODY) | {"X-Correlation-Id": "trace-me"}
        hooked.post("/webhooks/git/github", content=self.BODY, headers=headers)

        assert events.read(catalog.database, 0)[-1].correlation_id == "trace-me"

    def test_gitlab_proves_itself_with_its_token(self, hooked):
        body = {"project": {"git_http_url": "https://example.org/h.git"}}

        assert hooked.post("/webhooks/git/gitlab", json=body, headers={"X-Gitlab-Token": "t0ken"}).is_success
        wrong = hooked.post("/webhooks/git/gitlab", json=body, headers={"X-Gitlab-Token": "guess"})
        check_problem(wrong, 403, "webhook_signature_invalid")

    @pytest.mark.parametrize("headers", [{}, {"X-Hub-Signature-256": "sha256=00"}, {"X-Hub-Signature-256": "é"}])
    def test_an_unsigned_or_forged_push_changes_nothing(self, hooked, headers):
        raw = {name: value.encode() for name, value in headers.items()}
        answer = hooked.post("/webhooks/git/github", content=self.BODY, headers=raw)

        check_problem(answer, 403, "webhook_signature_invalid")
        assert len(hooked.get("/apps/hello/history").json()["data"]) == 1

    def test_a_provider_without_a_secret_is_closed(self, hooked):
        check_problem(hooked.post("/webhooks/git/generic", content=self.BODY), 404, "webhook_not_configured")

    def test_signed_garbage_is_refused(self, hooked):
        check_problem(
            hooked.post("/webhooks/git/github", content=b"[1]", headers=self.sign(b"[1]")), 400, "invalid_input"
        )
