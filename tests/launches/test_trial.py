"""The check on images: whether they run as declared, tried in a sandbox that leaves nothing behind."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import dagster as dg
import pytest

from apphub_assets.catalog import builds
from apphub_assets.catalog.errors import AlreadyInProgress
from apphub_assets.catalog.views import BuildView
from apphub_assets.containers import ImageMissing, LaunchFailed, Sandboxes, SandboxSpec
from apphub_assets.kit.ids import new_id
from apphub_assets.launches.checks import image_runs
from apphub_assets.launches.spec import RESOURCES, Profile
from apphub_assets.launches.trial import Trial, trial_stack, try_build
from apphub_assets.resources import Platform
from tests.fixtures.launches import Launches, docker, eventually

pytestmark = pytest.mark.engine

GOOD = 'EXPOSE 3000\nCMD ["httpd", "-f", "-p", "3000"]'
ENDS = 'EXPOSE 3000\nCMD ["sh", "-c", "echo no database; exit 3"]'
SILENT = 'EXPOSE 3000\nCMD ["sh", "-c", "echo still thinking; exec sleep 600"]'
OTHER_PORT = 'EXPOSE 3000\nCMD ["httpd", "-f", "-p", "3001"]'
# Longer than the keeper takes to look at the engine.
SLOW = 'EXPOSE 3000\nCMD ["sh", "-c", "sleep 3; exec httpd -f -p 3000"]'


@pytest.fixture
def build(engine_launches: Launches) -> Iterator[Callable[[str], BuildView]]:
    """Make an image from these instructions, as the newest build of the app."""
    tags = []

    def make(instructions: str) -> BuildView:
        tags.append(f"apphub-test/trial:{new_id()}")
        docker("build", "-q", "-t", tags[-1], "-", stdin=f"FROM busybox:1.36\n{instructions}\n")
        build_id = engine_launches.add_build("app", image_tag=tags[-1])
        with engine_launches.database.transaction() as session:
            return builds.show(session, build_id)

    yield make
    for tag in tags:
        docker("rmi", tag)


def attempt(launches: Launches, build: BuildView, patience: float = 10) -> Trial:
    return try_build(launches.database, launches.engine, launches.settings, build, patience)


def trials(launches: Launches) -> list[str]:
    """What is on the engine of this stack's trials."""
    label = f"label=apphub.stack={trial_stack(launches.settings)}"
    return [*docker("ps", "-aq", "--filter", label).split(), *docker("network", "ls", "-q", "--filter", label).split()]


def test_an_image_that_answers_on_its_port(engine_launches, build):
    trial = attempt(engine_launches, build(GOOD))

    assert trial.port == 3000
    assert trial.seconds is not None
    assert "answered on port 3000" in trial.verdict
    assert trials(engine_launches) == []


def test_an_image_that_ends_tells_its_exit_code_and_last_words(engine_launches, build):
    trial = attempt(engine_launches, build(ENDS))

    assert (trial.seconds, trial.exit_code, trial.log) == (None, 3, "no database")
    assert "exit code 3" in trial.verdict
    assert trials(engine_launches) == []


def test_an_image_that_never_listens_is_given_up(engine_launches, build):
    trial = attempt(engine_launches, build(SILENT), patience=1)

    assert (trial.seconds, trial.exit_code, trial.log) == (None, None, "still thinking")
    assert "does not answer HTTP on port 3000" in trial.verdict
    assert trials(engine_launches) == []


def test_an_image_that_listens_elsewhere_than_it_declares_does_not_run_as_declared(engine_launches, build):
    assert attempt(engine_launches, build(OTHER_PORT), patience=1).seconds is None


def test_an_image_that_can_not_be_started(engine_launches, build):
    with pytest.raises(LaunchFailed, match="nowhere"):
        attempt(engine_launches, build('CMD ["/nowhere"]'))
    assert trials(engine_launches) == []


def test_an_image_that_is_gone(engine_launches):
    build_id = engine_launches.add_build("app", image_tag="apphub-test/gone:1")
    with engine_launches.database.transaction() as session, pytest.raises(ImageMissing):
        attempt(engine_launches, builds.show(session, build_id))


def test_the_keeper_leaves_a_trial_alone(engine_launches, build):
    engine_launches.keep()

    assert attempt(engine_launches, build(SLOW)).seconds is not None


def test_one_trial_of_a_build_at_a_time(engine_launches, build):
    slow = build(SLOW)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(attempt, engine_launches, slow)
        eventually(lambda: trials(engine_launches), "a trial runs")

        with pytest.raises(AlreadyInProgress):
            attempt(engine_launches, slow)

        assert first.result().seconds is not None


def test_what_a_dead_worker_left_goes_with_the_next_trial_and_what_a_living_one_has_stays(engine_launches, build):
    sandboxes = Sandboxes(engine_launches.engine, trial_stack(engine_launches.settings), "busybox:1.36")
    for trial_id in ("check-dead", "check-alive"):
        image = build(SILENT).image_tag
        sandboxes.start(SandboxSpec(trial_id, image, 3000, {}, RESOURCES[Profile.SMALL]))
    try:
        with engine_launches.database.lock("trial:check-alive"):
            attempt(engine_launches, build(GOOD))
            assert list(sandboxes.list()) == ["check-alive"]
    finally:
        sandboxes.stop("check-alive")


class TestInDagster:
    """The check itself, as a run of it goes."""

    @pytest.fixture
    def check(self, engine_launches, monkeypatch) -> Callable[[], dg.AssetCheckEvaluation]:
        monkeypatch.setenv("APPHUB_DATABASE_URL", engine_launches.settings.database_url.get_secret_value())
        monkeypatch.setenv("APPHUB_HOME", str(engine_launches.settings.home))
        job = dg.define_asset_job("check", dg.AssetSelection.checks(image_runs))
        defs = dg.Definitions(asset_checks=[image_runs], jobs=[job], resources={"platform": Platform()})

        def run() -> dg.AssetCheckEvaluation:
            with dg.DagsterInstance.ephemeral() as instance:
                instance.add_dynamic_partitions("repositories", ["app"])
                resolved = defs.resolve_job_def("check")
                done = resolved.execute_in_process(tags={"dagster/partition": "app"}, instance=instance)
                return done.get_asset_check_evaluations()[0]

        return run

    def test_passes_with_port_and_time(self, check, build):
        build(GOOD)

        result = check()

        assert result.passed
        assert result.metadata["port"] == dg.IntMetadataValue(3000)
        assert set(result.metadata) == {"port", "seconds_to_first_answer"}

    def test_fails_with_exit_code_and_log(self, check, build):
        build(ENDS)

        result = check()

        assert not result.passed
        assert result.metadata["exit_code"] == dg.IntMetadataValue(3)
        assert result.metadata["log"] == dg.TextMetadataValue("no database")

    def test_fails_where_the_image_is_gone(self, check, engine_launches):
        engine_launches.add_build("app", image_tag="apphub-test/gone:1")

        result = check()

        assert not result.passed
        assert "apphub-test/gone:1" in result.description
