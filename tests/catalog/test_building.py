"""Builds: from a commit to an image, once, with a log that can be followed."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from apphub_assets.catalog import building, builds, cleaning, logs
from apphub_assets.catalog.errors import AlreadyInProgress, BuildFinished, BuildNotFinished, NotReady
from apphub_assets.containers import Engine
from apphub_assets.errors import AppHubError
from tests.fixtures.catalog import SERVING, Catalog, lose_locks

pytestmark = pytest.mark.engine


@pytest.fixture(autouse=True)
def tidy(base_image, engine, catalog):
    """Remove the images that a test made."""
    yield
    with catalog.database.transaction() as session:
        tags = [b.image_tag for b in building.repository.builds_with_image(session)]
    for tag in tags:
        engine.remove_image(tag)


@pytest.fixture
def ingested(catalog, make_repository):
    repository = make_repository(files={"Dockerfile": SERVING})
    catalog.register("hello", repository.url)
    catalog.ingest("hello")
    return repository


def log_of(catalog: Catalog, build_id: str) -> str:
    with catalog.database.transaction() as session:
        return logs.read(session, build_id)[0]


def builds_of(catalog: Catalog, app_id: str) -> list[str | None]:
    """The commits of an app's builds, newest first."""
    with catalog.database.transaction() as session:
        return [build.commit_sha for build in builds.page(session, app_id, limit=10, offset=0)[0]]


def test_an_ingested_commit_becomes_an_image(catalog, engine, ingested):
    built = catalog.build("hello")

    build = catalog.show("hello").latest_build
    assert build
    assert (build.status, build.image_tag, build.commit_sha) == ("succeeded", built.image_tag, built.commit_sha)
    assert engine.image_info(built.image_tag).id == build.image_digest == built.image_digest
    assert "made" in log_of(catalog, build.id)
    assert build.logs_truncated is False


def test_the_same_commit_is_not_built_twice(catalog, ingested):
    first = catalog.build("hello")
    catalog.ingest("hello")

    again = catalog.build("hello")

    assert (again.build_id, again.reused) == (first.build_id, True)


def test_a_commit_that_is_ingested_again_while_it_is_built_is_not_built_twice(catalog, ingested):
    assert building._claim(catalog.database, "hello", None, first=True)

    catalog.ingest("hello")

    assert len(builds_of(catalog, "hello")) == 1


def test_a_build_that_a_dead_worker_left_is_done_again_and_no_other_made(catalog, ingested):
    left = building._claim(catalog.database, "hello", None, first=True)

    assert catalog.build("hello").build_id == left.id
    assert len(builds_of(catalog, "hello")) == 1


def test_a_waiting_build_of_another_branch_does_not_stand_in_for_the_newest_commit(catalog, ingested):
    catalog.build("hello")
    ingested.commit({"Dockerfile": SERVING}, "feature")
    with catalog.database.transaction() as session:
        builds.request(session, "hello", branch="feature")
    commit = ingested.commit({"Dockerfile": SERVING + "LABEL v=2\n"})

    catalog.ingest("hello")
    catalog.build("hello")

    assert commit in builds_of(catalog, "hello")


def test_a_build_that_is_asked_for_is_made_even_of_the_same_commit(catalog, ingested):
    first = catalog.build("hello")
    with catalog.database.transaction() as session:
        builds.request(session, "hello")

    again = catalog.build("hello")

    assert again.build_id != first.build_id
    assert again.commit_sha == first.commit_sha


def test_a_moved_branch_is_built_anew(catalog, ingested):
    first = catalog.build("hello")
    ingested.commit({"Dockerfile": SERVING + "LABEL v=2\n"})
    catalog.ingest("hello")

    assert catalog.build("hello").commit_sha != first.commit_sha


def test_another_dockerfile_of_the_same_commit_is_built_anew(catalog, make_repository):
    url = make_repository(files={"Dockerfile": SERVING, "Dockerfile.two": f"{SERVING}LABEL v=2\n"}).url
    catalog.register("hello", url)
    catalog.ingest("hello")
    first = catalog.build("hello")

    catalog.register("hello", url, dockerfile_path="Dockerfile.two")
    catalog.ingest("hello")
    second = catalog.build("hello")

    assert second.reused is False
    assert second.commit_sha == first.commit_sha
    assert second.image_digest != first.image_digest
    assert "LABEL v=2" in log_of(catalog, second.build_id)
    catalog.ingest("hello")
    assert catalog.build("hello").build_id == second.build_id


def test_another_dockerfile_is_not_mistaken_for_the_one_that_is_being_built(catalog, make_repository):
    url = make_repository(files={"Dockerfile": SERVING, "Dockerfile.two": SERVING}).url
    catalog.register("hello", url)
    catalog.ingest("hello")
    assert building._claim(catalog.database, "hello", None, first=True)

    catalog.register("hello", url, dockerfile_path="Dockerfile.two")
    catalog.ingest("hello")

    assert len(builds_of(catalog, "hello")) == 2


def test_an_app_that_was_not_ingested_has_nothing_to_build(catalog, make_repository):
    catalog.register("hello", make_repository(files={"Dockerfile": SERVING}).url)

    with pytest.raises(NotReady):
        catalog.build("hello")


def test_a_failing_step_fails_the_build_with_its_log(catalog, make_repository):
    catalog.register("bad", make_repository(files={"Dockerfile": "FROM busybox:1.36\nRUN echo oh dear; exit 3\n"}).url)
    catalog.ingest("bad")

    with pytest.raises(AppHubError):
        catalog.build("bad")

    build = catalog.show("bad").latest_build
    assert build
    assert (build.status, build.error_code) == ("failed", "build_failed")
    assert "oh dear" in log_of(catalog, build.id)
    assert build.logs_preview
    assert "3" in (build.error_message or "")


def test_what_nobody_expected_fails_the_build_with_its_name(catalog, ingested):
    shutil.rmtree(catalog.settings.state / "work")
    (catalog.settings.state / "work").write_text("no folder")

    with pytest.raises(NotADirectoryError):
        catalog.build("hello")

    build = catalog.show("hello").latest_build
    assert (build.status, build.error_code) == ("failed", "internal_error")
    assert build.error_message.startswith("NotADirectoryError: ")
    assert build.error_message in log_of(catalog, build.id)
    assert building.unclaimed(catalog.database) == []


def test_a_canceled_build_ends_at_once(catalog, make_repository):
    catalog.register("slow", make_repository(files={"Dockerfile": "FROM busybox:1.36\nRUN echo go; sleep 60\n"}).url)
    catalog.ingest("slow")
    build_id = catalog.show("slow").latest_build.id
    outcome: list[AppHubError] = []

    def work() -> None:
        try:
            catalog.build("slow")
        except AppHubError as error:
            outcome.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    while "go" not in log_of(catalog, build_id):
        time.sleep(0.1)
    with catalog.database.transaction() as session:
        builds.cancel(session, build_id)
    worker.join(timeout=20)

    assert [error.code for error in outcome] == ["build_cancelled"]
    assert catalog.show("slow").latest_build.status == "canceled"
    with pytest.raises(BuildFinished), catalog.database.transaction() as session:
        builds.cancel(session, build_id)


def test_a_build_that_hangs_ends_at_its_deadline(with_settings, make_repository):
    catalog = with_settings(build_timeout=3)
    catalog.register("hangs", make_repository(files={"Dockerfile": "FROM busybox:1.36\nRUN sleep 100\n"}).url)
    catalog.ingest("hangs")

    with pytest.raises(AppHubError):
        catalog.build("hangs")

    assert catalog.show("hangs").latest_build.error_code == "build_timeout"


def test_of_a_long_log_the_beginning_and_the_end_are_kept_and_the_gap_is_said(with_settings, make_repository):
    catalog = with_settings(build_log_bytes=1024 * 1024)
    loud = "FROM busybox:1.36\nRUN echo first; yes 0123456789abcdef | head -n 400000; echo last\n"
    catalog.register("loud", make_repository(files={"Dockerfile": loud}).url)
    catalog.ingest("loud")

    built = catalog.build("loud")

    build = catalog.show("loud").latest_build
    text = log_of(catalog, build.id)
    assert build.logs_truncated
    assert built.log_complete is False
    assert len(text) < 2 * 1024 * 1024 < build.logs_size
    assert "first" in text
    assert "last" in text
    assert "bytes were not kept" in text


def test_two_workers_do_not_build_one_app_at_once(catalog, ingested):
    with catalog.database.lock(building.lock_name("hello")), pytest.raises(AlreadyInProgress):
        catalog.build("hello")


def test_a_dead_workers_build_is_done_by_the_next(catalog, ingested):
    claimed = building._claim(catalog.database, "hello", None, first=True)  # and then the worker dies
    assert claimed
    assert catalog.show("hello").latest_build.status == "running"

    assert [build.id for build in building.unclaimed(catalog.database)] == [claimed.id]
    built = catalog.build("hello")

    assert built.build_id == claimed.id
    assert catalog.show("hello").latest_build.attempts == 2


def test_a_worker_that_loses_its_lock_stops_and_leaves_the_build_to_the_next(catalog, make_repository):
    catalog.register("slow", make_repository(files={"Dockerfile": "FROM busybox:1.36\nRUN echo go; sleep 60\n"}).url)
    catalog.ingest("slow")
    build_id = catalog.show("slow").latest_build.id

    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(catalog.build, "slow")
        while "go" not in log_of(catalog, build_id):
            time.sleep(0.1)
        lose_locks(catalog)

        with pytest.raises(OperationalError):
            worker.result(timeout=20)

    assert [build.id for build in building.unclaimed(catalog.database)] == [build_id]
    assert catalog.show("slow").latest_build.status == "pending"


def test_a_finished_build_can_be_retried_and_a_waiting_one_cannot(catalog, ingested):
    build_id = catalog.show("hello").latest_build.id
    with pytest.raises(BuildNotFinished), catalog.database.transaction() as session:
        builds.retry(session, build_id)
    catalog.build("hello")

    with catalog.database.transaction() as session:
        again = builds.retry(session, build_id)
        assert again.status == "pending"

    assert catalog.build("hello").build_id == again.id


def test_a_build_whose_image_was_removed_gets_a_new_one_by_a_retry(catalog, engine, ingested):
    first = catalog.build("hello")
    old = cleaning.StaleImage(first.build_id, first.image_tag, "on purpose")
    cleaning.remove_images(catalog.database, engine, [old])
    with catalog.database.transaction() as session:
        assert builds.launchable(session, "hello") is None
        builds.retry(session, first.build_id)

    again = catalog.build("hello")

    with catalog.database.transaction() as session:
        assert builds.launchable(session, "hello").image_tag == again.image_tag != first.image_tag
        stale = cleaning.stale_images(session, engine, catalog.settings)
    assert again.image_tag not in {image.image_tag for image in stale}


def test_a_retry_that_comes_to_nothing_takes_no_image_away(catalog, engine, ingested):
    good = catalog.build("hello")
    with catalog.database.transaction() as session:
        again = builds.retry(session, good.build_id)
    with catalog.database.transaction() as session:
        builds.cancel(session, again.id)

    with catalog.database.transaction() as session:
        assert builds.launchable(session, "hello").id == good.build_id
        stale = cleaning.stale_images(session, engine, catalog.settings)
    assert good.image_tag not in {image.image_tag for image in stale}


def test_a_build_that_is_retried_in_place_forgets_the_image_it_had(catalog, ingested):
    build_id = catalog.show("hello").latest_build.id
    with catalog.database.transaction() as session:
        builds.cancel(session, build_id)
    with catalog.database.transaction() as session:
        # As retries of successful builds once left it.
        session.execute(text("UPDATE catalog.builds SET image_tag = 'a:1', image_removed_at = now()"))

    with catalog.database.transaction() as session:
        assert builds.retry(session, build_id).image_tag is None
    built = catalog.build("hello")

    with catalog.database.transaction() as session:
        assert builds.launchable(session, "hello").id == build_id == built.build_id


def test_automation_leaves_a_commit_whose_build_was_canceled_to_people(catalog, ingested):
    build_id = catalog.show("hello").latest_build.id
    with catalog.database.transaction() as session:
        builds.cancel(session, build_id)

    assert catalog.build("hello", only_if_untried=True) is None
    assert catalog.show("hello").latest_build.id == build_id
    assert catalog.build("hello").build_id != build_id


def test_without_an_engine_the_build_says_what_to_install_and_waits(catalog, ingested, tmp_path):
    nobody = Engine(f"unix://{tmp_path}/none.sock")

    with pytest.raises(AppHubError) as away:
        building.build_next(catalog.database, nobody, catalog.settings, "hello")

    assert away.value.code in {"engine_unavailable", "engine_lost"}
    assert "docker.io" in away.value.message
    assert catalog.show("hello").latest_build.status == "pending"


def test_clean_up_keeps_the_newest_images_and_a_dry_run_removes_nothing(with_settings, engine, ingested):
    catalog = with_settings(build_keep_count=1)
    old = catalog.build("hello")
    ingested.commit({"Dockerfile": SERVING + "LABEL v=2\n"})
    catalog.ingest("hello")
    new = catalog.build("hello")

    with catalog.database.transaction() as session:
        stale = [i for i in cleaning.stale_images(session, engine, catalog.settings) if i.build_id]
    assert [image.image_tag for image in stale] == [old.image_tag]
    assert engine.image_exists(old.image_tag)

    cleaning.remove_images(catalog.database, engine, stale)

    assert not engine.image_exists(old.image_tag)
    assert engine.image_exists(new.image_tag)


def test_clean_up_leaves_the_images_of_other_stacks_alone(catalog, engine, ingested, tmp_path):
    built = catalog.build("hello")
    elsewhere = catalog.settings.model_copy(update={"home": tmp_path / "elsewhere"})

    with catalog.database.transaction() as session:
        session.execute(text("DELETE FROM catalog.builds"))
        theirs = cleaning.stale_images(session, engine, elsewhere)
        mine = cleaning.stale_images(session, engine, catalog.settings)

    assert built.image_tag not in {image.image_tag for image in theirs}
    assert built.image_tag in {image.image_tag for image in mine}
    engine.remove_image(built.image_tag)
