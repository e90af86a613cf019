"""Ingestion: from an address to a described app, and to a true state when that fails."""

import threading

import pytest
from sqlalchemy.exc import OperationalError

from apphub_assets.catalog import ingestion, service
from apphub_assets.catalog.errors import AlreadyInProgress, AppNotFound
from apphub_assets.catalog.spec import MetadataStrategy, Tag, TagSource
from apphub_assets.catalog.tiles import preview_tiles
from apphub_assets.catalog.workplace import clear_abandoned, workplace
from apphub_assets.errors import AppHubError
from apphub_assets.events import service as events
from apphub_assets.search import service as search
from apphub_assets.search.query import Parameters, parse
from tests.fixtures.catalog import SERVING, lose_locks

APP = {
    "Dockerfile": SERVING,
    "README.md": "---\ntags: [charts]\nshort_description: Draws curves.\n---\n# Curves\n\nA page that draws.\n",
    "tags.yaml": "team: data\n",
    "package.json": '{"name": "curves", "dependencies": {"react": "19"}}',
}


def unclaimed(catalog) -> list[str]:
    return [row.id for row in ingestion.unclaimed(catalog.database, catalog.settings)]


def tags_by_source(app) -> dict[str, set[str]]:
    return {source: {f"{t.key}:{t.value}" for t in app.tags if t.source == source} for source in TagSource}


def test_a_registered_repository_becomes_a_described_app(catalog, make_repository):
    repository = make_repository(files=APP)
    catalog.register("curves", repository.url, "audience:everyone")

    done = catalog.ingest("curves")

    app = catalog.show("curves")
    assert done
    assert app.ingest_status == "ready"
    assert app.commit_sha == done.commit_sha
    assert app.description == "Draws curves."
    assert app.dockerfile_path == "Dockerfile"
    assert app.readme
    assert "A page that draws." in app.readme
    assert catalog.history("curves") == ["pending", "processing", "ready"]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({}, "Draws curves."),
        ({"description": "Mine."}, "Mine."),
        ({"metadata_strategy": MetadataStrategy.EXPLICIT}, ""),
        ({"metadata_strategy": MetadataStrategy.EXPLICIT, "description": "Mine."}, "Mine."),
    ],
)
def test_the_repository_describes_what_nobody_has_described_unless_that_was_meant(
    catalog, make_repository, values, shown
):
    readme = "---\nshort_description: Draws curves.\n---\n"
    catalog.register("curves", make_repository(files=APP | {"README.md": readme}).url, **values)
    catalog.ingest("curves")

    assert catalog.show("curves").description == shown
    with catalog.database.transaction() as session:
        found = search.search(session, parse(Parameters(q="draws")))
    assert found.total == (shown == "Draws curves.")


@pytest.mark.parametrize(
    ("url", "source"),
    [
        ("https://github.com/org/curves.git", "https://raw.githubusercontent.com/org/curves/c0ffee/img/a%20b.png"),
        ("https://gitlab.com/org/sub/curves", "https://gitlab.com/org/sub/curves/-/raw/c0ffee/img/a%20b.png"),
        ("https://codeberg.org/org/curves", "https://codeberg.org/org/curves/raw/commit/c0ffee/img/a%20b.png"),
    ],
)
def test_a_picture_in_the_tree_is_a_tile_where_its_host_shows_single_files(url, source):
    assert [tile["src"] for tile in preview_tiles("img/a b.png", url, "c0ffee")] == [source]
    assert preview_tiles("img/a b.png", "file:///srv/curves", "c0ffee") == []
    assert preview_tiles(None, url, "c0ffee") == []


def test_the_picture_that_the_author_names_is_a_tile(catalog, make_repository):
    repository = make_repository(files=APP | {"README.md": "---\nthumbnail: https://example.org/curves.png\n---\n"})
    catalog.register("curves", repository.url)
    catalog.ingest("curves")

    tile = catalog.show("curves").preview_tiles[0]
    assert (tile["kind"], tile["src"], tile["source"]) == ("image", "https://example.org/curves.png", "repository")

    repository.commit(APP)
    catalog.ingest("curves")
    assert catalog.show("curves").preview_tiles == []


def test_tags_keep_their_source_and_automatic_ones_replace_nobody_elses(catalog, make_repository):
    repository = make_repository(files=APP)
    catalog.register("curves", repository.url, "framework:mine")
    catalog.ingest("curves")
    first = tags_by_source(catalog.show("curves"))

    repository.commit({"Dockerfile": SERVING})
    catalog.ingest("curves")
    second = tags_by_source(catalog.show("curves"))

    assert "team:data" in first["author"]
    assert "library:react" in first["auto"]
    assert first["manual"] == second["manual"] == {"framework:mine"}
    assert second["author"] == set()
    assert "library:react" not in second["auto"]


def test_every_step_is_an_event_that_carries_the_app(catalog, make_repository):
    catalog.register("curves", make_repository(files=APP).url)
    catalog.ingest("curves")

    seen = events.read(catalog.database, 0)

    states = [e.payload["repository"]["ingestStatus"] for e in seen if e.type == "repository.updated"]
    assert states == ["pending", "processing", "ready"]
    assert [e.payload["build"]["status"] for e in seen if e.type == "build.updated"] == ["pending"]


def test_a_repository_without_a_dockerfile_has_failed_and_says_why(catalog, make_repository):
    catalog.register("empty", make_repository(files={"README.md": "# Nothing"}).url)

    with pytest.raises(AppHubError):
        catalog.ingest("empty")

    app = catalog.show("empty")
    assert (app.ingest_status, app.ingest_error_code) == ("failed", "dockerfile_missing")
    assert "Dockerfile" in (app.ingest_error or "")


def test_a_host_that_is_away_is_tried_again_later_and_not_for_ever(catalog, git_server):
    catalog.register("away", f"{git_server.url}/down/app.git")

    for expected in ("pending", "pending", "failed"):
        with pytest.raises(AppHubError):
            catalog.ingest("away")
        assert catalog.show("away").ingest_status == expected

    assert catalog.show("away").ingest_error_code == "repository_unreachable"


def test_what_nobody_expected_fails_the_app_with_its_name(catalog, make_repository):
    catalog.register("curves", make_repository(files=APP).url)
    catalog.settings.state.mkdir(parents=True)
    (catalog.settings.state / "work").write_text("no folder")

    with pytest.raises(NotADirectoryError):
        catalog.ingest("curves")

    app = catalog.show("curves")
    assert (app.ingest_status, app.ingest_error_code) == ("failed", "internal_error")
    assert app.ingest_error.startswith("NotADirectoryError: ")
    assert unclaimed(catalog) == []


def test_a_repository_that_waits_for_its_next_attempt_is_not_offered_before(catalog, git_server):
    catalog.register("away", f"{git_server.url}/down/app.git")
    assert unclaimed(catalog) == ["away"]
    with pytest.raises(AppHubError):
        catalog.ingest("away")

    assert unclaimed(catalog) == []


def test_two_workers_do_not_ingest_one_repository_at_once(catalog, make_repository):
    catalog.register("curves", make_repository(files=APP).url)

    with catalog.database.lock(ingestion.lock_name("curves")) as had:
        assert had
        with pytest.raises(AlreadyInProgress):
            catalog.ingest("curves")

    assert catalog.ingest("curves")


def test_a_run_that_comes_too_late_does_nothing(catalog, make_repository):
    catalog.register("curves", make_repository(files=APP).url)
    catalog.ingest("curves")

    assert catalog.ingest("curves", only_if_pending=True) is None
    assert catalog.history("curves") == ["pending", "processing", "ready"]


def test_what_a_dead_worker_held_is_put_back_and_given_up_after_the_last_attempt(catalog, make_repository):
    catalog.register("curves", make_repository(files=APP).url)
    states = []
    for _ in range(catalog.settings.ingest_max_attempts):
        ingestion._begin(catalog.database, "curves", None, False)  # and then the worker dies
        ingestion.unclaimed(catalog.database, catalog.settings)
        states.append(catalog.show("curves").ingest_status)

    assert states == ["pending", "pending", "failed"]
    assert catalog.show("curves").ingest_error_code == "worker_lost"


def test_what_a_living_worker_holds_is_left_alone(catalog, make_repository):
    catalog.register("curves", make_repository(files=APP).url)
    ingestion._begin(catalog.database, "curves", None, False)

    with catalog.database.lock(ingestion.lock_name("curves")):
        assert unclaimed(catalog) == []

    assert unclaimed(catalog) == ["curves"]


def test_a_request_that_comes_during_an_ingestion_is_answered_with_another_one(catalog, make_repository):
    repository = make_repository(files=APP)
    catalog.register("curves", repository.url)
    commits = []

    def push(line: str) -> None:
        if line.startswith("checked out") and not commits:
            commits.append(repository.commit({"Dockerfile": SERVING}))
            with catalog.database.transaction() as session:
                service.refresh(session, "curves", "pushed")

    done = catalog.ingest("curves", progress=push)

    assert [done.commit_sha] == commits == [catalog.show("curves").commit_sha]
    assert catalog.history("curves") == ["pending", "processing", "pending", "processing", "ready"]


def test_a_worker_that_lost_its_lock_does_not_speak_for_the_one_that_has_it(catalog, make_repository):
    catalog.register("curves", make_repository(files=APP).url)

    def take_over(line: str) -> None:
        if line.startswith("checked out"):
            lose_locks(catalog)
            assert unclaimed(catalog) == ["curves"]
            ingestion._begin(catalog.database, "curves", None, True)

    with pytest.raises(OperationalError):
        catalog.ingest("curves", progress=take_over)

    assert (catalog.show("curves").ingest_status, catalog.show("curves").ingest_attempts) == ("processing", 2)
    assert catalog.show("curves").commit_sha is None


def test_folders_of_dead_workers_are_cleared_and_those_of_the_living_are_not(catalog):
    with catalog.database.lock("repository:living"), workplace(catalog.settings, "repository:living") as living:
        dead = living.with_name("repository:dead")
        dead.mkdir()

        clear_abandoned(catalog.database, catalog.settings)

        assert living.exists()
        assert not dead.exists()


def test_registering_again_changes_the_app_and_asks_for_a_new_ingestion(catalog, make_repository):
    first, second = make_repository("one", APP), make_repository("two", APP)
    catalog.register("curves", first.url, "a:1")
    catalog.ingest("curves")

    app = catalog.register("curves", second.url, "b:2")

    assert (app.repo_url, app.ingest_status, app.ingest_attempts) == (second.url, "pending", 0)
    assert tags_by_source(app)["manual"] == {"b:2"}


def test_many_registrations_with_the_same_new_tags_do_not_deadlock(catalog):
    def register(number: int) -> None:
        tags = [f"k{i}:v" for i in (range(8) if number % 2 else reversed(range(8)))]
        catalog.register(f"app-{number}", "https://example.org/app.git", *tags)

    threads = [threading.Thread(target=register, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with catalog.database.transaction() as session:
        assert len(service.all_ids(session)) == 12


def test_deleting_forgets_everything_of_an_app(catalog, make_repository):
    catalog.register("curves", make_repository(files=APP).url, "a:1")
    catalog.ingest("curves")

    with catalog.database.transaction() as session:
        service.delete(session, "curves")

    with pytest.raises(AppNotFound):
        catalog.show("curves")
    assert events.read(catalog.database, 0)[-1].type == "repository.deleted"


def test_manual_tags_are_set_only_on_the_version_that_was_read(catalog, make_repository):
    app = catalog.register("curves", make_repository(files=APP).url, "a:1")

    with pytest.raises(AppHubError) as stale, catalog.database.transaction() as session:
        service.set_manual_tags(session, "curves", [Tag("b", "2")], expected_version=app.version + 1)

    assert stale.value.status == 412
    assert tags_by_source(catalog.show("curves"))["manual"] == {"a:1"}
