"""AppHub as a whole, on good days and on bad ones: one stack, real repositories, a real engine, real deaths.

All in one file, so that one worker of the suite starts one stack for all of it.
"""

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import psutil
import pytest

from tests.e2e.hub import BUILT, FINAL, GATE, RECOVERY, Hub
from tests.e2e.stream import EventStream
from tests.fixtures.git import GitServer, SampleRepository
from tests.fixtures.launches import docker, eventually

pytestmark = pytest.mark.engine

CLIENTS = 8


def site(page: str, *steps: str) -> dict[str, str]:
    """Files of an app that serves one page; `steps` are further lines of its Dockerfile."""
    lines = ["FROM busybox:1.36", "EXPOSE 8080", *steps, "COPY index.html /www/"]
    command = 'CMD ["httpd", "-f", "-p", "8080", "-h", "/www"]'
    return {"index.html": page, "Dockerfile": "\n".join([*lines, command])}


@pytest.fixture(scope="module")
def backfilled() -> dict[str, str]:
    """The backfill that the first test starts and a later one looks at: Dagster takes its time for it."""
    return {}


def test_a_backfill_over_all_partitions_is_taken(
    hub: Hub, backfilled: dict[str, str], make_repository: Callable[..., SampleRepository]
) -> None:
    for name in ("east", "west"):
        hub.register(name, make_repository(name, site(name)).url)
        hub.until_build(name, "succeeded")

    backfilled["id"] = hub.backfill(["repository", "image"], ["east", "west"])

    assert hub.backfill_status(backfilled["id"]) == "REQUESTED"


class TestTheMainJob:
    def test_a_repository_becomes_an_image_is_found_launched_and_forgotten(
        self, hub: Hub, make_repository: Callable[..., SampleRepository]
    ) -> None:
        files = site("Tide at six") | {"README.md": "# Harbour\nTides for sailors.", "tags.yaml": "team: port\n"}
        repository = make_repository("harbour", files)

        hub.register("harbour", repository.url)
        build = hub.until_build("harbour", *BUILT)

        assert build["status"] == "succeeded", build["errorMessage"]
        assert hub.app("harbour")["ingestStatus"] == "ready"
        assert hub.history("harbour") == ["pending", "processing", "ready"]
        for query in ("sailors", "team:port", "sailors team:port -team:rail"):
            assert [app["id"] for app in hub.call("GET", f"/apps?q={query}")] == ["harbour"], query

        launch = hub.call("POST", "/apps/harbour/launch", {})["launch"]
        eventually(lambda: hub.call("GET", f"/launches/{launch['id']}")["status"] == "running")

        assert hub.http.get(f"/preview/{launch['id']}/").text == "Tide at six"

        hub.call("DELETE", "/apps/harbour")

        assert hub.http.get("/apps/harbour").status_code == 404
        assert hub.call("GET", "/apps?q=sailors") == []
        eventually(lambda: not hub.leftovers(), "the end of its containers and networks")

    def test_a_repository_is_read_over_http(
        self, hub: Hub, git_server: GitServer, make_repository: Callable[..., SampleRepository]
    ) -> None:
        commit = make_repository("remote", {}).commit(site("From afar"))

        hub.register("remote", f"{git_server.url}/remote.git")

        assert hub.until_built("remote", commit)["commitSha"] == commit

    def test_its_events_arrive_in_order_without_a_gap(
        self, hub: Hub, stream: EventStream, make_repository: Callable[..., SampleRepository]
    ) -> None:
        repository = make_repository("watched", site("Watched"))

        hub.register("watched", repository.url)
        hub.until_build("watched", "succeeded")

        eventually(lambda: stream.builds("watched")[-1:] == ["succeeded"])
        assert stream.ingestions("watched") == ["pending", "processing", "ready"]
        assert stream.builds("watched") == ["pending", "running", "succeeded"]
        assert stream.sequences == stream.complete

    def test_the_caller_s_correlation_id_reaches_run_image_and_container(
        self, hub: Hub, make_repository: Callable[..., SampleRepository]
    ) -> None:
        repository = make_repository("traced", site("Traced"))

        hub.register("traced", repository.url, **{"X-Correlation-ID": "trace-me"})
        build = hub.until_build("traced", "succeeded")
        hub.call("POST", "/apps/traced/launch", {}, headers={"X-Correlation-ID": "trace-me-too"})

        assert [run["tags"]["dagster/partition"] for run in hub.runs("apphub/correlation-id", "trace-me")] == ["traced"]
        label = docker("inspect", "--format", '{{index .Config.Labels "apphub.correlation-id"}}', build["imageTag"])
        assert label.strip() == "trace-me"
        carries = ("--filter", "label=apphub.correlation-id=trace-me-too")
        eventually(lambda: docker("ps", "-q", *carries), "a container with the label")
        hub.call("DELETE", "/apps/traced")


class TestDagsterFromOutside:
    def test_the_dagster_command_ingests_a_new_commit_and_its_image_follows(
        self, hub: Hub, make_repository: Callable[..., SampleRepository]
    ) -> None:
        repository = make_repository("manual", site("One"))
        hub.register("manual", repository.url)
        hub.until_build("manual", "succeeded")
        commit = repository.commit(site("Two"))

        hub.dagster("asset", "materialize", "--select", "repository", "--partition", "manual")

        assert hub.materializations("repository", "manual")[0] == commit
        hub.until_built("manual", commit)
        eventually(lambda: hub.materializations("image", "manual")[0] == commit, "the image's data version")
        assert [build["commitSha"] for build in hub.builds("manual")].count(commit) == 1

    def test_checks_are_recorded(self, hub: Hub) -> None:
        for asset, check in (("repository", "dockerfile_present"), ("image", "log_complete")):
            assert set(hub.check(asset, check)) == {True}

    def test_a_moved_remote_ends_in_a_new_image(
        self, hub: Hub, make_repository: Callable[..., SampleRepository]
    ) -> None:
        repository = make_repository("moving", site("Here"))
        hub.register("moving", repository.url)
        hub.until_build("moving", "succeeded")

        commit = repository.commit(site("There"))

        hub.until_built("moving", commit)
        assert "the remote has a newer commit" in hub.messages("moving")

    def test_the_backfill_completes_with_a_run_per_partition(self, hub: Hub, backfilled: dict[str, str]) -> None:
        eventually(lambda: hub.backfill_status(backfilled["id"]) != "REQUESTED", "the backfill's end", RECOVERY)

        assert hub.backfill_status(backfilled["id"]) == "COMPLETED_SUCCESS"
        runs = hub.runs("dagster/backfill", backfilled["id"])
        assert sorted(run["tags"]["dagster/partition"] for run in runs) == ["east", "west"]


class TestDeaths:
    """`kill -9`, while one repository is being read and another's image is being built."""

    @pytest.mark.parametrize("victim", ["api", "daemon", "runs", "worker"])
    def test_all_ends_well_by_itself_and_nothing_is_done_twice(
        self, hub: Hub, git_server: GitServer, make_repository: Callable[..., SampleRepository], victim: str
    ) -> None:
        read, built = f"read-when-{victim}-died", f"built-when-{victim}-died"
        make_repository(read, site("Read"))
        hub.register(read, f"{git_server.url}/gated/{read}.git")
        hub.register(built, make_repository(built, site("Built", GATE)).url)
        hub.until_status(read, "processing")
        hub.until_build(built, "running")

        for process in hub.workers if victim == "worker" else [hub.stack.children()[victim]]:
            process.kill()
        git_server.gate.set()

        hub.stack.until(hub.stack.is_ready)
        hub.finish_build(built)
        for app in (read, built):
            assert hub.until_status(app, *FINAL)["ingestStatus"] == "ready"
            hub.until_build(app, *BUILT)
            assert [build["status"] for build in hub.builds(app)] == ["succeeded"]
            assert len(hub.images(app)) == 1
        assert hub.history(built) == ["pending", "processing", "ready"]
        # Workers live on without the API and the daemon; they end with the server that forked them.
        again = ["pending", "processing"] if victim in {"runs", "worker"} else []
        assert hub.history(read) == ["pending", "processing", *again, "ready"]
        assert hub.builds(built)[0]["attempts"] == (2 if again else 1)
        eventually(lambda: not hub.leftovers(), "the end of what the dead left")

    def test_no_acknowledged_registration_is_lost_when_the_api_dies(
        self, hub: Hub, crowd: list[SampleRepository]
    ) -> None:
        acknowledged = register_all(hub, crowd, hub.stack.children()["api"].kill)

        hub.stack.until(hub.stack.is_ready)
        for app in acknowledged:
            assert hub.until_status(app, *FINAL)["ingestErrorCode"] == "dockerfile_missing"


@pytest.fixture
def crowd(make_repository: Callable[..., SampleRepository], request: pytest.FixtureRequest) -> list[SampleRepository]:
    """Twenty repositories that are read quickly, and that have nothing to build."""
    name = "api" if "api" in request.node.name else "postgres"
    return [make_repository(f"{name}-{number}", {"README.md": "# Nothing"}) for number in range(20)]


def register_all(hub: Hub, crowd: list[SampleRepository], strike: Callable[[], None]) -> list[str]:
    """Register all, eight at a time, and strike when some have been; returns those that AppHub acknowledged."""
    acknowledged: list[str] = []

    def register(repository: SampleRepository) -> None:
        body = {"id": repository.path.stem, "name": "One of many", "repoUrl": repository.url}
        try:
            response = hub.http.post("/apps", json=body)
        except httpx.TransportError:
            return
        if response.is_success:
            acknowledged.append(repository.path.stem)

    with ThreadPoolExecutor(CLIENTS) as clients:
        done = clients.map(register, crowd)
        eventually(lambda: len(acknowledged) >= len(crowd) // 4, "the first registrations")
        strike()
        list(done)
    return acknowledged


class TestPostgresAway:
    @pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGKILL], ids=["stopped", "killed"])
    def test_nothing_acknowledged_is_lost_no_event_is_missing_and_nobody_dies_of_it(
        self, hub: Hub, stream: EventStream, crowd: list[SampleRepository], way: signal.Signals
    ) -> None:
        others = {name: process for name, process in hub.stack.children().items() if name != "postgres"}

        acknowledged = register_all(hub, crowd, partial(hub.stack.children()["postgres"].send_signal, way))

        hub.stack.until(hub.stack.is_ready)
        for app in acknowledged:
            assert hub.until_status(app, *FINAL)["ingestErrorCode"] == "dockerfile_missing"
            eventually(lambda app=app: stream.ingestions(app)[-1:] == ["failed"], "the last event")
        assert stream.sequences == stream.complete
        assert {name: process for name, process in hub.stack.children().items() if name != "postgres"} == others

    def test_meanwhile_requests_are_refused_as_retryable(self, hub: Hub) -> None:
        hub.stack.children()["postgres"].kill()

        refused = eventually(lambda: away(hub.http.get("/apps")), "a refusal")

        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["code"] == "database_unavailable"
        assert refused.json()["retryable"] is True
        hub.stack.until(hub.stack.is_ready)
        assert [hub.http.get("/apps").status_code for _ in range(CLIENTS)] == [200] * CLIENTS


def away(response: httpx.Response) -> httpx.Response | None:
    return response if response.status_code == 503 else None


def test_a_build_that_was_cut_short_by_the_death_of_all_is_done_after_the_next_start(
    hub: Hub, make_repository: Callable[..., SampleRepository]
) -> None:
    repository = make_repository("interrupted", site("At last", GATE))
    hub.register("interrupted", repository.url)
    hub.until_build("interrupted", "running")
    processes = hub.stack.processes() + hub.stack.database_processes()

    hub.stack.kill()
    assert psutil.wait_procs(processes, timeout=30)[1] == []
    hub.stack.start()

    build = hub.finish_build("interrupted")
    assert (build["status"], build["attempts"]) == ("succeeded", 2)
    assert len(hub.images("interrupted")) == 1
    eventually(lambda: not hub.leftovers(), "the end of what the dead left")
    assert set(hub.stack.children()) == {"postgres", "api", "runs", "code", "dagster", "daemon"}
