"""Remotes: a push is noticed, whatever came of the commit before it, and no commit is tried for ever."""

import pytest

from apphub_assets.catalog import remotes
from apphub_assets.errors import AppHubError
from tests.fixtures.catalog import SERVING, Catalog

APP = {"Dockerfile": SERVING}


@pytest.fixture
def catalog(with_settings) -> Catalog:
    """A catalog whose remotes may be asked at any time."""
    return with_settings(refresh_interval=0, git_max_files=10)


def moved(catalog: Catalog) -> list[str]:
    return remotes.refresh_moved(catalog.database, catalog.settings)


def fail_to_ingest(catalog: Catalog) -> str | None:
    with pytest.raises(AppHubError):
        catalog.ingest("curves")
    return catalog.show("curves").ingest_error_code


def test_a_push_is_ingested_once(catalog, make_repository):
    repository = make_repository(files=APP)
    catalog.register("curves", repository.url)
    catalog.ingest("curves")
    assert moved(catalog) == []

    commit = repository.commit(APP | {"README.md": "# Curves"})

    assert moved(catalog) == ["curves"]
    assert catalog.ingest("curves").commit_sha == commit
    assert moved(catalog) == []


def test_the_push_that_mends_a_failed_app_is_ingested(catalog, make_repository):
    repository = make_repository(files={"README.md": "# Curves"})
    catalog.register("curves", repository.url)
    assert fail_to_ingest(catalog) == "dockerfile_missing"
    assert moved(catalog) == []

    repository.commit(APP)

    assert moved(catalog) == ["curves"]
    assert catalog.ingest("curves")


def test_a_commit_that_can_not_even_be_checked_out_is_not_tried_for_ever(catalog, make_repository):
    repository = make_repository(files=APP)
    catalog.register("curves", repository.url)
    catalog.ingest("curves")
    repository.commit(APP | {f"{number}.txt": "" for number in range(20)})
    assert moved(catalog) == ["curves"]
    assert fail_to_ingest(catalog) == "repository_too_many_files"

    assert moved(catalog) == []


def test_an_app_that_was_not_there_is_ingested_when_it_is(catalog, make_repository, git_server):
    catalog.register("curves", f"{git_server.url}/curves.git")
    assert fail_to_ingest(catalog) == "repository_not_found_or_private"
    assert moved(catalog) == []

    make_repository("curves", APP)

    assert moved(catalog) == ["curves"]
