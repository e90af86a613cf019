"""/admin/datasets as people and the first AppHub's clients use it."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from apphub_assets.events import service as events
from apphub_assets.timestore.admin import history
from tests.api.test_errors import check_problem
from tests.fixtures.api import bearer
from tests.fixtures.timestore import FIELDS

ADMIN = "/admin/datasets"
TOKENS = [
    {"token": "admin", "subject": "ada", "scopes": ["timestore:admin"]},
    {"token": "reader", "subject": "rob", "scopes": ["timestore:read"]},
    {"token": "stranger", "subject": "sam", "scopes": ["apps:read"]},
]


@pytest.fixture
def scoped(serve):
    """The API with an admin, a reader and a stranger of the timestore."""
    return serve(operator_tokens=SecretStr(json.dumps(TOKENS)))


def create(api, slug="observations", **body):
    return api.post(ADMIN, json={"slug": slug, "name": "Observations", **body})


def audit(api, slug="observations", **params) -> list[dict]:
    return api.get(f"{ADMIN}/{slug}/audit", params=params).json()["events"]


def actions(api, slug="observations", **params) -> list[str]:
    return [event["action"] for event in audit(api, slug, **params)]


class TestCreating:
    def test_a_dataset_is_made_with_an_etag_an_event_and_an_audit_entry(self, api, database):
        created = create(api, description="of the sky", metadata={"team": "data"})

        assert created.status_code == 201
        dataset = created.json()["dataset"]
        assert created.headers["etag"] == created.json()["etag"] == dataset["updatedAt"]
        assert datetime.fromisoformat(created.headers["etag"]).tzinfo is not None
        assert {
            "slug": "observations", "name": "Observations", "description": "of the sky", "status": "active",
            "defaultStorageTargetId": "default", "metadata": {"team": "data"}, "timestampColumn": "timestamp",
            "partitionKeys": [], "granularity": "day", "schemaVersion": 0,
        }.items() <= dataset.items()  # fmt: skip
        (entry,) = audit(api)
        assert (entry["action"], entry["success"], entry["actorId"]) == (
            "admin.dataset.created",
            True,
            "local-operator",
        )
        (event,) = (event for event in events.read(database, 0) if event.type == "timestore.dataset.created")
        assert event.payload["datasetId"] == dataset["id"]
        assert event.source == "timestore.api"

    def test_the_same_again_is_200_and_another_is_409(self, api):
        first = create(api, metadata={"iam": {"readScopes": ["a"]}})

        again = create(api, metadata={"iam": {"readScopes": [" a ", "a"]}})
        other = create(api, name="Something else")

        assert again.status_code == 200
        assert again.json() == first.json()
        body = check_problem(other, 409, "dataset_exists")
        assert body["error"].startswith("dataset observations already exists")
        assert "name" in body["error"]
        assert actions(api, success="false") == ["admin.dataset.created"]

    def test_a_declared_schema_has_its_table_at_once(self, api, timestore):
        fields = [*FIELDS, {"name": "station", "type": "string"}]

        dataset = create(
            api, schema={"fields": fields}, partitionKeys=["Station", "region"], granularity="month"
        ).json()["dataset"]

        assert (dataset["schemaVersion"], dataset["partitionKeys"]) == (1, ["station", "region"])
        (version,) = api.get(f"{ADMIN}/observations/schemas").json()["schemas"]
        assert version["version"] == 1
        assert version["fields"] == [*fields, {"name": "region", "type": "string", "partitionKey": True}]
        timestore.ingest("observations", "2025-01-01", partition_key={"station": "s1", "region": "eu"})
        assert timestore.ask("SELECT station, region FROM lake.main.observations") == [("s1", "eu")]
        assert actions(api) == ["ingest", "admin.dataset.created"]

    def test_a_declared_dataset_again_is_200_after_its_schema_evolved_too(self, api, timestore):
        body = {"schema": {"fields": FIELDS[:1]}}
        create(api, **body)
        timestore.ingest("observations", "2025-01-01")

        assert create(api, **body).status_code == 200
        check_problem(create(api, schema={"fields": FIELDS}), 409, "dataset_exists")

    @pytest.mark.parametrize("schema", [None, {"fields": FIELDS}])
    def test_many_at_once_make_it_once(self, api, schema):
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: create(api, schema=schema), range(6)))

        assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
        assert len({answer.json()["dataset"]["id"] for answer in answers}) == 1
        assert actions(api) == ["admin.dataset.created"]

    @pytest.mark.parametrize("where", ["header", "body"])
    def test_a_key_replays_the_first_answer(self, api, where):
        key = {"idempotencyKey": "create-1"} if where == "body" else {}
        headers = {"Idempotency-Key": "create-1"} if where == "header" else {}
        body = {"slug": "observations", "name": "Observations", **key}
        first = api.post(ADMIN, json=body, headers=headers)
        api.patch(f"{ADMIN}/observations", json={"name": "Renamed"})

        again = api.post(ADMIN, json=body, headers=headers)

        assert again.headers["idempotency-replayed"] == "true"
        assert (again.status_code, again.json()) == (201, first.json())

    @pytest.mark.parametrize("change", ["archive", "restore"])
    def test_a_change_with_a_key_is_done_once(self, api, change):
        create(api)
        first, again = (api.post(f"{ADMIN}/observations/{change}", headers={"Idempotency-Key": "1"}) for _ in range(2))

        assert first.status_code == again.status_code == 200
        assert again.headers["idempotency-replayed"] == "true"
        assert again.json() == first.json()

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            ({"slug": 'x";DROP TABLE'}, "/slug"),
            ({"name": None}, "/name"),
            ({"idempotencyKey": "abc"}, "/idempotencyKey"),
            ({"granularity": "week"}, "/granularity"),
            ({"schema": {"fields": []}}, "/schema/fields"),
            ({"schema": {"fields": FIELDS}, "timestampColumn": "value"}, "/timestampColumn"),
            ({"retention": {"rules": {"maxAgeHours": -1}}}, "/retention/rules/maxAgeHours"),
        ],
    )
    def test_what_can_not_be_is_pointed_at_and_nothing_is_made(self, api, body, pointer):
        answer = api.post(ADMIN, json={"slug": "observations", "name": "Observations", **body})

        assert answer.status_code == 400, answer.text
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
        assert api.get(ADMIN).json()["datasets"] == []

    def test_an_unknown_storage_target_is_404(self, api):
        check_problem(create(api, defaultStorageTargetId="nowhere"), 404, "storage_target_not_found")

    @pytest.mark.parametrize(
        "member",
        [
            '"metadata": {"a": NaN}',
            '"metadata": {"a": "\\u0000"}',
            '"metadata": {"a": "\\ud800"}',
            '"metadata": ' + '{"a":' * 900 + "1" + "}" * 900,
            '"description": "\\u0000"',
            '"description": "\\ud800"',
            '"retention": {"rules": {"maxAgeHours": 1e999}}',
        ],
    )
    def test_values_that_postgres_can_not_hold_are_400(self, api, member):
        body = f'{{"slug": "observations", "name": "x", {member}}}'

        answer = api.post(ADMIN, content=body, headers={"content-type": "application/json"})

        assert answer.status_code == 400, answer.text


class TestListing:
    def test_pages_hold_each_dataset_once_and_the_latest_change_comes_first(self, api):
        for number in range(5):
            create(api, f"data-{number}")
        api.patch(f"{ADMIN}/data-1", json={"name": "Changed"})

        first = api.get(ADMIN, params={"limit": 3}).json()
        second = api.get(ADMIN, params={"limit": 3, "cursor": first["nextCursor"]}).json()

        slugs = [dataset["slug"] for dataset in first["datasets"] + second["datasets"]]
        assert slugs == ["data-1", "data-4", "data-3", "data-2", "data-0"]
        assert second["nextCursor"] is None

    def test_datasets_are_found_by_status_and_words(self, api):
        create(api, "sky", description="100% clouds")
        create(api, "sea")
        create(api, "old")
        create(api, "gone")
        api.post(f"{ADMIN}/old/archive")
        api.delete(f"{ADMIN}/gone")

        def found(**params) -> set[str]:
            return {dataset["slug"] for dataset in api.get(ADMIN, params=params).json()["datasets"]}

        assert found() == {"sky", "sea"}
        assert found(status="inactive") == {"old"}
        assert found(status="all") == {"sky", "sea", "old"}
        assert found(status="deleted") == {"gone"}
        assert found(search="SKY") == found(search="0% CLOUD") == {"sky"}
        assert found(search="_") == set()

    @pytest.mark.parametrize(
        "params",
        [
            {"cursor": "x"},
            {"cursor": "WzFd"},
            {"cursor": "WyJ4IiwieSJd"},
            {"limit": 0},
            {"limit": 101},
            {"status": "x"},
        ],
    )
    def test_what_is_no_page_is_400(self, api, params):
        assert api.get(ADMIN, params=params).status_code == 400

    def test_a_dataset_is_shown_by_id_and_by_slug(self, api):
        created = create(api).json()

        by_slug = api.get(f"{ADMIN}/observations")

        assert by_slug.json() == api.get(f"{ADMIN}/{created['dataset']['id']}").json() == created
        assert by_slug.headers["etag"] == created["etag"]
        assert api.get("/v1/admin/datasets/observations").json() == created
        body = check_problem(api.get(f"{ADMIN}/nothing"), 404, "dataset_not_found")
        assert body["error"].startswith("dataset nothing not found")


class TestChanging:
    def test_the_version_that_was_read_is_changed_and_another_is_412(self, api):
        etag = create(api, metadata={"keep": 1, "execution": {"backend": "x"}}).json()["etag"]
        iam = {"readScopes": ["a", "b", " a", "a"], "writeScopes": ["w", "w"]}

        changed = api.patch(
            f"{ADMIN}/observations",
            json={"description": "new", "metadata": {"iam": iam, "execution": None}},
            headers={"If-Match": etag},
        )

        dataset = changed.json()["dataset"]
        assert dataset["metadata"] == {"keep": 1, "iam": {"readScopes": ["a", "b"], "writeScopes": ["w"]}}
        assert (dataset["name"], dataset["description"]) == ("Observations", "new")
        assert changed.headers["etag"] == dataset["updatedAt"] > etag
        assert actions(api) == ["admin.dataset.updated", "admin.dataset.created"]
        for late in (
            api.patch(f"{ADMIN}/observations", json={"name": "Late"}, headers={"If-Match": f'"{etag}"'}),
            api.patch(f"{ADMIN}/observations", json={"name": "Late", "ifMatch": etag}),
            api.delete(f"{ADMIN}/observations", headers={"If-Match": etag}),
        ):
            body = check_problem(late, 412, "precondition_failed")
            assert body["error"] == "dataset was modified since last read"
            assert body["etag"] == late.headers["etag"] == changed.headers["etag"]
        refused = audit(api, success="false")
        assert [entry["metadata"] for entry in refused] == [{"code": "precondition_failed"}] * 3

    def test_the_same_moment_in_another_notation_is_the_same_version(self, api):
        etag = create(api).json()["etag"]
        elsewhere = datetime.fromisoformat(etag).astimezone().isoformat()

        assert api.patch(f"{ADMIN}/observations", json={"name": "A", "ifMatch": elsewhere}).status_code == 200
        assert api.patch(f"{ADMIN}/observations", json={"name": "B"}, headers={"If-Match": "*"}).status_code == 200

    @pytest.mark.parametrize("given", ["yesterday", "2025-01-01", "2025-01-01T00:00:00", "2025-13-01T00:00:00Z"])
    def test_what_is_no_time_is_no_version(self, api, given):
        create(api)
        body = check_problem(api.patch(f"{ADMIN}/observations", json={"ifMatch": given}), 400, "invalid_input")
        assert body["error"] == "ifMatch must be an RFC 3339 timestamp"

    def test_every_change_is_later_than_the_one_before(self, api, database):
        create(api)
        with database.transaction() as session:
            session.execute(text("UPDATE timestore.datasets SET updated_at = now() + interval '1 hour'"))
        before = api.get(f"{ADMIN}/observations").json()["etag"]

        after = api.patch(f"{ADMIN}/observations", json={"name": "B"}).json()["etag"]

        assert datetime.fromisoformat(after) == datetime.fromisoformat(before) + timedelta(microseconds=1)

    def test_a_change_of_nothing_is_none(self, api):
        created = create(api, metadata={"a": 1}).json()

        same = api.patch(f"{ADMIN}/observations", json={"name": "Observations", "metadata": {"a": 1, "b": None}})

        assert same.json() == created
        assert actions(api) == ["admin.dataset.created"]

    def test_only_one_of_many_changes_of_one_version_succeeds(self, api):
        etag = create(api).json()["etag"]

        with ThreadPoolExecutor(6) as pool:
            changes = [{"name": f"N{number}", "ifMatch": etag} for number in range(6)]
            answers = list(pool.map(lambda body: api.patch(f"{ADMIN}/observations", json=body), changes))

        assert sorted(answer.status_code for answer in answers) == [200] + [412] * 5

    def test_a_renamed_dataset_keeps_its_rows_and_frees_its_slug(self, api, timestore, database):
        timestore.ingest("observations", "2025-01-01")
        create(api, "taken")

        check_problem(api.patch(f"{ADMIN}/observations", json={"slug": "taken"}), 409, "dataset_exists")
        renamed = api.patch(f"{ADMIN}/observations", json={"slug": "Sky"}).json()["dataset"]

        assert renamed["slug"] == "sky"
        check_problem(api.get(f"{ADMIN}/observations"), 404, "dataset_not_found")
        timestore.ingest("sky", "2025-01-02")
        assert timestore.ask("SELECT count(*) FROM lake.main.observations") == [(2,)]
        create(api, schema={"fields": FIELDS})
        event = [event for event in events.read(database, 0) if event.type == "timestore.dataset.updated"][-1]
        assert (event.payload["datasetSlug"], event.payload["previousSlug"]) == ("sky", "observations")

    @pytest.mark.parametrize(
        "body",
        [{"unknown": 1}, {"name": None}, {"name": ""}, {"status": "deleted"}, {"slug": "x"}, {"metadata": None},
         {"metadata": {"iam": {"readScopes": "a"}}}, [], {"defaultStorageTargetId": None}],
    )  # fmt: skip
    def test_what_can_not_be_is_400_and_changes_nothing(self, api, body):
        created = create(api).json()

        assert api.patch(f"{ADMIN}/observations", json=body).status_code == 400
        assert api.get(f"{ADMIN}/observations").json() == created

    def test_archiving_again_changes_nothing(self, api, timestore):
        timestore.ingest("observations", "2025-01-01")
        etag = api.get(f"{ADMIN}/observations").json()["etag"]

        first = api.post(f"{ADMIN}/observations/archive", json={"reason": "moved", "ifMatch": etag})
        again = api.post(f"{ADMIN}/observations/archive", json={"reason": "moved", "ifMatch": etag})

        assert first.json()["dataset"]["status"] == "inactive"
        assert (again.status_code, again.json()) == (200, first.json())
        (entry,) = audit(api, action="admin.dataset.archived")
        assert entry["metadata"] == {"reason": "moved"}
        with pytest.raises(Exception, match="archived"):
            timestore.ingest("observations", "2025-01-02")
        assert api.patch(f"{ADMIN}/observations", json={"status": "active"}).json()["dataset"]["status"] == "active"


class TestDeleting:
    def test_a_dry_run_tells_what_would_go_and_changes_nothing(self, api, timestore):
        timestore.ingest("observations", "2025-01-01", "2025-01-01")
        timestore.ingest("observations", "2025-01-02")
        with timestore.lake.writing() as connection:
            connection.execute("CALL ducklake_flush_inlined_data('lake')")
        before = api.get(f"{ADMIN}/observations").json()

        told = api.delete(f"{ADMIN}/observations", params={"dryRun": "true"}).json()

        assert (told["dryRun"], told["rows"], told["batches"], told["files"]) == (True, 3, 2, 2)
        assert told["bytes"] > 0
        assert about(told["purgeAfter"], minutes=5)
        assert api.get(f"{ADMIN}/observations").json() == before

    def test_a_deleted_dataset_is_gone_and_comes_back_as_it_was(self, api, timestore, database):
        timestore.ingest("observations", "2025-01-01")
        api.put(f"{ADMIN}/observations/retention", json={"rules": {}, "deleteGraceMinutes": 60})
        archived = api.post(f"{ADMIN}/observations/archive").json()["dataset"]

        gone = api.delete(f"{ADMIN}/observations").json()

        assert (gone["dryRun"], gone["rows"], gone["batches"]) == (False, 1, 1)
        assert about(gone["purgeAfter"], minutes=60)
        check_problem(api.get(f"{ADMIN}/observations"), 404, "dataset_not_found")
        check_problem(api.delete(f"{ADMIN}/observations"), 404, "dataset_not_found")
        back = api.post(f"{ADMIN}/{gone['datasetId']}/restore").json()["dataset"]
        assert back | {"updatedAt": archived["updatedAt"]} == archived
        assert api.post(f"{ADMIN}/observations/restore").json()["dataset"] == back
        told = [event.type for event in events.read(database, 0) if event.type.startswith("timestore.dataset.")]
        assert told[-2:] == ["timestore.dataset.deleted", "timestore.dataset.restored"]
        assert timestore.ask("SELECT count(*) FROM lake.main.observations") == [(1,)]

    def test_its_slug_is_free_at_once_and_whoever_takes_it_stands_in_the_way(self, api, timestore):
        timestore.ingest("observations", "2025-01-01")
        deleted = api.delete(f"{ADMIN}/observations").json()["datasetId"]

        timestore.ingest("observations", "2025-02-01", "2025-02-02")

        check_problem(api.post(f"{ADMIN}/{deleted}/restore"), 409, "dataset_exists")
        assert actions(api, deleted, success="false") == ["admin.dataset.restored"]
        api.patch(f"{ADMIN}/observations", json={"slug": "newer"})
        assert api.post(f"{ADMIN}/{deleted}/restore").status_code == 200
        assert api.delete(f"{ADMIN}/observations", params={"dryRun": 1}).json()["rows"] == 1
        assert api.delete(f"{ADMIN}/newer", params={"dryRun": 1}).json()["rows"] == 2

    def test_after_its_grace_it_does_not_come_back(self, api):
        create(api, retention={"rules": {}, "deleteGraceMinutes": 0})
        api.delete(f"{ADMIN}/observations")

        check_problem(api.post(f"{ADMIN}/observations/restore"), 409, "grace_over")

    def test_who_deleted_it_can_still_be_looked_up(self, api):
        create(api)
        api.delete(f"{ADMIN}/observations")

        assert actions(api) == ["admin.dataset.deleted", "admin.dataset.created"]


def about(given: str, *, minutes: int) -> bool:
    wanted = datetime.now(UTC) + timedelta(minutes=minutes)
    return abs(datetime.fromisoformat(given) - wanted) < timedelta(seconds=30)


class TestAudit:
    @pytest.fixture
    def changed(self, api):
        create(api)
        for number in range(4):
            api.patch(f"{ADMIN}/observations", json={"name": f"N{number}"})
        api.patch(f"{ADMIN}/observations", json={"status": "deleted"})
        return api

    def test_pages_are_newest_first_and_hold_each_entry_once(self, changed):
        first = changed.get(f"{ADMIN}/observations/audit", params={"limit": 4}).json()
        second = changed.get(f"{ADMIN}/observations/audit", params={"limit": 4, "cursor": first["nextCursor"]}).json()

        entries = first["events"] + second["events"]
        assert len({entry["id"] for entry in entries}) == len(entries) == 6
        assert entries == sorted(entries, key=lambda entry: entry["createdAt"], reverse=True)
        assert second["nextCursor"] is None
        assert entries[-1]["datasetSlug"] == "observations"
        assert "timestore:admin" in entries[-1]["actorScopes"]

    def test_filters_are_by_action_success_and_time(self, changed):
        created, updated = "admin.dataset.created", "admin.dataset.updated"

        assert actions(changed, action=created) == [created]
        assert len(actions(changed, actions=[created, updated])) == 6
        assert len(actions(changed, action=created, actions=updated)) == 6
        assert actions(changed, success="false") == actions(changed, success="0") == [updated]
        assert len(actions(changed, success="1")) == len(actions(changed, success="true")) == 5
        moment = audit(changed, action=created)[0]["createdAt"]
        assert actions(changed, endTime=datetime.fromisoformat(moment) + timedelta(milliseconds=1)) == [created]
        assert len(actions(changed, startTime=moment)) == 6
        assert actions(changed, endTime="2020-01-01") == []

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"success": "maybe"}, "success must be true or false"),
            ({"startTime": "soon"}, "startTime must be an ISO-8601 timestamp"),
            ({"endTime": "later"}, "endTime must be an ISO-8601 timestamp"),
            (
                {"startTime": "2025-01-02T00:00:00Z", "endTime": "2025-01-01T00:00:00Z"},
                "startTime must be before or equal to endTime",
            ),
        ],
    )
    def test_filters_that_can_not_be_are_400(self, changed, params, message):
        answer = changed.get(f"{ADMIN}/observations/audit", params=params)
        assert check_problem(answer, 400, "invalid_input")["error"] == message

    def test_only_what_is_older_than_its_days_is_forgotten(self, changed, database):
        with database.transaction() as session:
            session.execute(
                text(
                    "UPDATE timestore.access_audit SET created_at = now() - interval '10 days'"
                    " WHERE action = 'admin.dataset.created'"
                )
            )
            now = datetime.now(UTC)
            assert history.expire_accesses(session, 11, now) == 0
            assert history.expire_accesses(session, 9, now) == 1
        assert set(actions(changed)) == {"admin.dataset.updated"}


class TestScopes:
    def test_who_is_no_admin_changes_and_lists_nothing(self, scoped):
        scoped.post(ADMIN, json={"slug": "observations", "name": "O"}, headers=bearer("admin"))
        path = f"{ADMIN}/observations"
        for method, route in (
            ("GET", ADMIN), ("POST", ADMIN), ("PATCH", path), ("DELETE", path), ("POST", f"{path}/archive"),
            ("POST", f"{path}/restore"), ("GET", f"{path}/audit"), ("PUT", f"{path}/retention"),
            ("PUT", f"{path}/storage-target"), ("GET", "/admin/storage-targets"),
            ("POST", f"{path}/manifest-cache/invalidate"), ("POST", "/admin/sql/runtime-cache/invalidate"),
        ):  # fmt: skip
            check_problem(scoped.request(method, route, json={}, headers=bearer("reader")), 403, "forbidden")
            check_problem(scoped.request(method, route, json={}), 401, "unauthorized")

        refused = scoped.get(f"{path}/audit?success=false&limit=200", headers=bearer("admin")).json()["events"]
        assert {entry["actorId"] for entry in refused} == {"rob", None}
        assert {entry["metadata"]["code"] for entry in refused} == {"forbidden", "unauthorized"}

    def test_a_dataset_of_others_is_not_read(self, scoped):
        body = {"slug": "observations", "name": "O", "metadata": {"iam": {"readScopes": ["observatory:read"]}}}
        scoped.post(ADMIN, json=body, headers=bearer("admin"))
        path = f"{ADMIN}/observations"
        for route in ("", "/manifest", "/retention", "/schemas", "/snapshots", "/manifest-cache"):
            check_problem(scoped.get(path + route, headers=bearer("reader")), 403, "dataset_forbidden")
            check_problem(scoped.get(path + route, headers=bearer("stranger")), 403, "forbidden")
        assert scoped.get(path, headers=bearer("admin")).status_code == 200
        scoped.patch(path, json={"metadata": {"iam": None}}, headers=bearer("admin"))
        assert scoped.get(path, headers=bearer("reader")).json()["dataset"]["metadata"] == {}


class TestManifests:
    def test_each_day_is_a_manifest_with_its_batches(self, api, timestore):
        timestore.ingest("observations", "2025-01-01", "2025-01-01T10:00:00Z", attributes={"source": "a"}, value=3.5)
        timestore.ingest("observations", "2025-01-01T12:00:00Z", partition_key={"site": "b"})
        timestore.ingest("observations", "2025-01-02")
        dataset = api.get(f"{ADMIN}/observations").json()["dataset"]

        listed = api.get(f"{ADMIN}/observations/manifest").json()

        assert listed["datasetId"] == dataset["id"]
        assert "manifest" not in listed
        days = listed["manifests"]
        assert [(day["manifestShard"], day["partitionCount"], day["totalRows"]) for day in days] == [
            ("2025-01-02", 1, 1),
            ("2025-01-01", 2, 3),
        ]
        day = api.get(f"{ADMIN}/observations/manifest", params={"shard": "2025-01-01"}).json()["manifest"]
        assert day == days[1]
        assert (day["status"], day["version"], day["datasetId"]) == ("published", 2, dataset["id"])
        assert day["schemaVersion"]["id"] == day["schemaVersionId"]
        assert [field["name"] for field in day["schemaVersion"]["fields"]] == ["timestamp", "value", "site"]
        assert day["metadata"]["schemaEvolution"]["addedColumns"] == ["site"]
        assert {
            "id", "totalBytes", "statistics", "summary", "publishedAt", "createdAt", "updatedAt", "snapshotId",
        } <= day.keys()  # fmt: skip
        second, first = day["partitions"]
        assert second["partitionKey"] == {"site": "b"}
        assert first["filePath"] == f"ducklake://observations/{first['id']}"
        assert first["metadata"]["attributes"] == {"source": "a"}
        assert first["metadata"]["schemaVersionId"] != day["schemaVersionId"]
        assert (first["rowCount"], first["fileFormat"], first["manifestId"]) == (2, "parquet", day["id"])
        assert (first["startTime"], first["endTime"]) == ("2025-01-01T00:00:00.000Z", "2025-01-01T10:00:00.000Z")
        assert (first["columnStatistics"]["value"]["min"], first["columnStatistics"]["value"]["max"]) == (3.5, 3.5)
        assert first["ingestionSignature"]
        assert first["checksum"]
        assert first["storageTargetId"] == "default"

    def test_partitions_come_in_pages(self, api, timestore):
        for hour in range(5):
            timestore.ingest("observations", f"2025-01-0{1 + hour % 2}T0{hour}:00:00Z")
        seen, cursor, pages = [], None, 0
        while pages == 0 or cursor:
            params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = api.get(f"{ADMIN}/observations/manifest", params=params).json()
            seen += [part["id"] for day in page["manifests"] for part in day["partitions"]]
            cursor, pages = page["nextCursor"], pages + 1
        assert (len(seen), len(set(seen)), pages) == (5, 5, 3)
        day = api.get(f"{ADMIN}/observations/manifest", params={"shard": "2025-01-01", "limit": 2}).json()
        assert (len(day["manifest"]["partitions"]), day["manifest"]["partitionCount"]) == (2, 3)
        assert day["nextCursor"]

    def test_where_there_is_nothing_is_404(self, api, timestore):
        create(api, "empty")
        timestore.ingest("observations", "2025-01-01")

        body = check_problem(api.get(f"{ADMIN}/empty/manifest"), 404, "manifest_not_found")
        assert body["error"].startswith("no published manifests")
        other = api.get(f"{ADMIN}/observations/manifest", params={"shard": "2025-01-02"})
        body = check_problem(other, 404, "manifest_not_found")
        assert body["error"].startswith("manifest shard '2025-01-02' not found")
        bad = api.get(f"{ADMIN}/observations/manifest", params={"shard": "soon"})
        check_problem(bad, 400, "invalid_input")

    def test_nothing_is_cached_and_emptying_it_is_said_so(self, api):
        dataset = create(api).json()["dataset"]
        own = {"datasetId": dataset["id"], "datasetSlug": "observations", "enabled": False}
        path = f"{ADMIN}/observations/manifest-cache"

        assert api.get(path).json() == own | {"indexCachedAt": None, "shardCount": 0, "shards": []}
        part = api.post(f"{path}/invalidate", json={"shards": ["2025-01-01"]}).json()
        assert (part["mode"], part["shardCount"], part["invalidatedShards"]) == ("none", 0, [])
        whole = api.post(f"{path}/invalidate").json()
        assert (whole["mode"], whole["shardCount"], whole["invalidatedShards"]) == ("none", 0, None)
        assert api.post(f"{path}/invalidate", json={"shards": ["2025-01-01"] * 101}).status_code == 400

    def test_nor_is_anything_cached_for_sql(self, api):
        dataset = create(api).json()["dataset"]

        assert api.get("/admin/sql/runtime-cache").json() == {"snapshot": None}
        one = api.post("/admin/sql/runtime-cache/invalidate", json={"datasetSlug": "observations", "reason": "x"})
        assert one.status_code == 202
        assert one.json() == {
            "status": "invalidated", "scope": "dataset", "datasetId": dataset["id"], "datasetSlug": "observations",
        }  # fmt: skip
        assert api.post("/admin/sql/runtime-cache/invalidate").json()["scope"] == "all"
        unknown = api.post("/admin/sql/runtime-cache/invalidate", json={"datasetId": "nothing"})
        check_problem(unknown, 404, "dataset_not_found")


class TestHistory:
    def test_versions_of_the_schema_are_newest_first(self, api, timestore):
        timestore.ingest("observations", "2025-01-01")
        timestore.ingest("observations", "2025-01-01", partition_key={"site": "b"})

        listed = api.get(f"{ADMIN}/observations/schemas").json()["schemas"]

        assert [version["version"] for version in listed] == [2, 1]
        assert listed[0]["change"]["addedColumns"] == ["site"]
        assert {"id", "checksum", "fields", "createdAt", "createdBy"} <= listed[0].keys()

    def test_snapshots_are_those_that_touched_the_dataset(self, api, timestore):
        first = timestore.ingest("observations", "2025-01-01", "2025-01-02")
        timestore.ingest("others", "2025-01-01")
        second = timestore.ingest("observations", "2025-01-01T01:00:00Z")

        listed = api.get(f"{ADMIN}/observations/snapshots").json()["snapshots"]

        assert [(each["id"], each["batches"], each["rows"]) for each in listed] == [
            (second.batch.snapshot_id, 1, 1),
            (first.batch.snapshot_id, 1, 2),
        ]
        assert listed[0]["author"] == "apphub"
        assert listed[0]["message"] == "ingest 1 rows"
        assert listed[0]["changes"] == ["inlined_insert"]
        assert "created_table" in listed[1]["changes"]
        page = api.get(f"{ADMIN}/observations/snapshots", params={"limit": 1}).json()
        rest = api.get(f"{ADMIN}/observations/snapshots", params={"cursor": page["nextCursor"]}).json()
        assert page["snapshots"] + rest["snapshots"] == listed

    def test_before_there_is_a_table_there_is_no_history(self, api):
        create(api)

        assert api.get(f"{ADMIN}/observations/schemas").json()["schemas"] == []
        assert api.get(f"{ADMIN}/observations/snapshots").json()["snapshots"] == []


class TestRetention:
    def test_a_policy_replaces_the_default(self, api):
        create(api)
        default = {
            "mode": "hybrid",
            "rules": {},
            "deleteGraceMinutes": 5,
        }
        path = f"{ADMIN}/observations/retention"

        before = api.get(path).json()
        assert (before["policy"], before["updatedAt"]) == (None, None)
        assert before["effectivePolicy"] == before["defaultPolicy"] == default

        policy = {"mode": "time", "rules": {"maxAgeHours": 24, "maxTotalBytes": 10}, "note": "passed through"}
        after = api.put(path, json=policy).json()

        assert after["policy"] == policy
        assert after["effectivePolicy"] == {"mode": "time", "rules": {"maxAgeHours": 24}, "deleteGraceMinutes": 5}
        assert after["defaultPolicy"] == default
        assert after["updatedAt"] == api.get(f"{ADMIN}/observations").json()["etag"]
        assert api.get(path).json() == after
        assert actions(api)[0] == "admin.retention.updated"

    def test_a_policy_that_can_not_be_changes_nothing(self, api):
        create(api)

        answer = api.put(f"{ADMIN}/observations/retention", json={"rules": {"maxAgeHours": "24"}})

        check_problem(answer, 400, "invalid_dataset")
        assert api.get(f"{ADMIN}/observations/retention").json()["policy"] is None
        assert actions(api, success="false") == ["admin.retention.updated"]


class TestStorageTargets:
    @pytest.fixture
    def two(self, serve, tmp_path):
        (tmp_path / "cold").mkdir()
        return serve(storage_targets={"cold": str(tmp_path / "cold")})

    def test_the_default_is_what_the_settings_say(self, two, tmp_path):
        listed = two.get("/admin/storage-targets").json()["storageTargets"]

        assert [(each["id"], each["kind"], each["url"]) for each in listed] == [
            ("default", "local", str(tmp_path / "state" / "storage")),
            ("cold", "local", str(tmp_path / "cold")),
        ]

    @pytest.mark.parametrize("schema", [None, {"fields": FIELDS}])
    def test_a_dataset_without_rows_moves(self, two, schema, tmp_path, timestore):
        etag = create(two, schema=schema).json()["etag"]

        body = {"storageTargetId": "cold"}
        moved = two.put(f"{ADMIN}/observations/storage-target", json=body, headers={"If-Match": etag}).json()

        assert moved["storageTarget"]["id"] == moved["dataset"]["defaultStorageTargetId"] == "cold"
        assert moved["dataset"]["updatedAt"] > etag
        assert actions(two) == ["admin.storage-target.updated", "admin.dataset.created"]
        again = two.put(f"{ADMIN}/observations/storage-target", json=body).json()
        assert again["dataset"] == moved["dataset"]
        timestore.ingest("observations", "2025-01-01")
        with timestore.lake.writing() as connection:
            connection.execute("CALL ducklake_flush_inlined_data('lake')")
        assert list((tmp_path / "cold").rglob("*.parquet"))

    def test_a_dataset_with_rows_stays(self, two, timestore):
        two.get("/admin/storage-targets")
        timestore.ingest("observations", "2025-01-01")

        answer = two.put(f"{ADMIN}/observations/storage-target", json={"storageTargetId": "cold"})
        patched = two.patch(f"{ADMIN}/observations", json={"defaultStorageTargetId": "cold"})

        assert "ingest the rows there" in check_problem(answer, 409, "dataset_has_rows")["error"]
        check_problem(patched, 409, "dataset_has_rows")
        assert timestore.row("observations").storage_target_id == "default"

    def test_an_unknown_target_is_404(self, api):
        create(api)

        for answer in (
            api.put(f"{ADMIN}/observations/storage-target", json={"storageTargetId": "x"}),
            api.patch(f"{ADMIN}/observations", json={"defaultStorageTargetId": "x"}),
        ):
            check_problem(answer, 404, "storage_target_not_found")

    def test_before_there_is_a_table_a_change_moves_it_too(self, two):
        create(two, defaultStorageTargetId="cold")

        changed = two.patch(f"{ADMIN}/observations", json={"defaultStorageTargetId": "default"})

        assert changed.json()["dataset"]["defaultStorageTargetId"] == "default"
