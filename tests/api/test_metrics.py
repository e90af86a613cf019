"""What Prometheus is told: what there is by state, and how far behind this process is."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from psycopg.conninfo import make_conninfo

from apphub_assets.catalog.spec import BuildStatus, IngestStatus
from apphub_assets.events import service as events
from apphub_assets.launches.spec import LaunchStatus
from tests.api.test_errors import register
from tests.fixtures.launches import eventually


def gauges(api: TestClient) -> dict[str, dict[str, float]]:
    """Name → status (empty where there is none) → value."""
    answer = api.get("/metrics")
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.text)
    return {
        family.name: {sample.labels.get("status", ""): sample.value for sample in family.samples}
        for family in families
        if family.type == "gauge"
    }


@contextmanager
def without_database(url: str) -> Iterator[None]:
    """Nobody gets into the database, and those inside are thrown out."""
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    with psycopg.connect(make_conninfo(url, dbname="postgres"), autocommit=True) as server:
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        server.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            yield
        finally:
            server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def test_every_state_has_its_number_also_when_it_is_zero(api):
    found = gauges(api)

    assert found["apphub_repositories"] == dict.fromkeys(IngestStatus, 0)
    assert found["apphub_builds"] == dict.fromkeys(BuildStatus, 0)
    assert found["apphub_launches"] == dict.fromkeys(LaunchStatus, 0)


def test_what_there_is_is_counted_when_it_is_asked_for(launches, serve):
    api = serve(engine_url="tcp://127.0.0.1:1")
    register(api)
    register(api, id="other")
    launches.add_build("app", status="failed")
    api.post("/apps/app/launch")

    found = gauges(api)

    assert found["apphub_repositories"]["pending"] == 3
    assert (found["apphub_builds"]["succeeded"], found["apphub_builds"]["failed"]) == (1, 1)
    assert sum(found["apphub_launches"].values()) == 1

    api.delete("/apps/other")
    assert gauges(api)["apphub_repositories"]["pending"] == 2


def test_events_that_are_handed_on_are_no_lag(api, database):
    register(api)

    def caught_up() -> dict[str, dict[str, float]] | None:
        found = gauges(api)
        return found if found["apphub_event_lag"][""] == 0 else None

    found = eventually(caught_up, "the fan-out has caught up")
    assert found["apphub_event_last_sequence"][""] == events.latest_sequence(database) > 0


def test_a_fanout_that_stands_still_falls_behind(api, database):
    api.app.state.platform.fanout.stop()
    before = gauges(api)

    with database.transaction() as session:
        for _ in range(3):
            events.append(session, type="test.made", source="test", payload={})

    after = gauges(api)
    assert after["apphub_event_last_sequence"][""] == before["apphub_event_last_sequence"][""] + 3
    assert after["apphub_event_lag"][""] == before["apphub_event_lag"][""] + 3


def test_no_label_is_an_id(api):
    register(api)
    api.get("/apps/hello")

    text = api.get("/metrics").text

    assert 'route="/apps/{app_id}"' in text
    assert "hello" not in text


def test_without_postgres_the_rest_is_told_still(api, database_url):
    register(api)
    assert gauges(api)["apphub_postgres_up"] == {"": 1}

    with without_database(database_url):
        away = api.get("/metrics")
        found = gauges(api)

    assert 'apphub_http_requests_total{method="POST",route="/apps",status="201"}' in away.text
    assert found["apphub_postgres_up"] == {"": 0}
    assert "apphub_repositories" not in found
    assert gauges(api)["apphub_repositories"]["pending"] == 1


def test_several_apps_of_one_process_tell_it_once_each(serve):
    for api in (serve(), serve()):
        assert api.get("/metrics").text.count("# TYPE apphub_repositories ") == 1
