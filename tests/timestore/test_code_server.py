"""Definitions follow the datasets while everything runs: in the code server, and in the server that forks runs."""

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from dagster._core.utils import FuturesAwareThreadPoolExecutor

from apphub_assets import code_server
from apphub_assets.code_server import CodeServer
from apphub_assets.launcher import Warm
from apphub_assets.timestore import definitions
from apphub_assets.timestore.assets import key_of
from tests.fixtures.launches import eventually

MODULE = "apphub_assets.definitions"
AWAY = "postgresql://nobody@127.0.0.1:1/nowhere"


@pytest.fixture(autouse=True)
def fresh(load, monkeypatch) -> None:
    """The environment of `load`, and nothing known of what an earlier test loaded."""
    monkeypatch.setattr(definitions, "known", definitions.Known())
    monkeypatch.setattr(code_server, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(code_server, "PAUSE_SECONDS", 0.05)


@contextmanager
def serving() -> Iterator[CodeServer]:
    """A code server that watches, as `main` makes it, without its socket."""
    importlib.reload(importlib.import_module(MODULE))
    ending = threading.Event()
    server = CodeServer(MODULE, "apphub", FuturesAwareThreadPoolExecutor(), ending)
    with closing(definitions.connected()) as database:
        thread = threading.Thread(target=server.watch, args=(database,))
        thread.start()
        yield server
        ending.set()
        thread.join()
    server.cleanup()


def server_id(server: CodeServer) -> str:
    return server.GetServerId(None, None).server_id


def slugs(server: CodeServer) -> list[str]:
    (repository,) = server._loaded_repositories.definitions_by_name.values()
    return sorted(key.path[-1] for key in repository.asset_graph.get_all_asset_keys() if key.path[0] == "timestore")


def test_the_code_server_follows_and_has_a_new_id_whenever_it_did(maker):
    with serving() as server:
        before = server_id(server)
        maker.ingest("readings")
        eventually(lambda: slugs(server) == ["readings"], "the new dataset", 20)
        after = server_id(server)
        assert after != before
        maker.change("readings", status="deleted")
        eventually(lambda: slugs(server) == [], "its end", 20)
        assert server_id(server) != after


def test_the_code_server_starts_while_postgres_is_away_and_has_the_datasets_later(maker, monkeypatch):
    maker.ingest("readings")
    with monkeypatch.context() as patch:
        patch.setenv("APPHUB_DATABASE_URL", AWAY)
        importlib.reload(importlib.import_module(MODULE))
        assert definitions.known.datasets == []
    with closing(definitions.connected()) as database:
        assert definitions.is_outdated(database)
    with serving() as server:
        eventually(lambda: slugs(server) == ["readings"], "the dataset", 20)


def test_what_can_not_be_built_leaves_what_was_served(maker, monkeypatch, caplog):
    maker.ingest("readings")
    with serving() as server:
        eventually(lambda: slugs(server) == ["readings"], "the dataset", 20)
        before = server_id(server)
        with monkeypatch.context() as patch:
            patch.setattr(definitions, "asset_of", lambda *_: 1 / 0)
            maker.ingest("others")
            eventually(lambda: "definitions can't be built" in caplog.text, "the failure", 20)
        assert (slugs(server), server_id(server)) == (["readings"], before)
        maker.change("others", name="Repaired")
        eventually(lambda: slugs(server) == ["others", "readings"], "both", 20)


def test_a_reload_that_somebody_asks_for_takes_place(maker):
    maker.ingest("readings")
    with serving() as server:
        before = server_id(server)
        server.ReloadCode(None, None)
        assert server_id(server) != before
        assert slugs(server) == ["readings"]


def test_a_worker_whose_server_does_not_know_a_dataset_yet_builds_the_definitions_itself(maker):
    importlib.reload(importlib.import_module(MODULE))
    worker = Warm(MODULE, newest=0)
    assert not worker.reload_outdated()
    maker.ingest("readings")
    assert worker.reload_outdated()
    assert sys.modules[MODULE].defs.resolve_assets_def(key_of("readings"))
    assert not worker.reload_outdated()


@pytest.mark.parametrize("url", [AWAY, ""])
def test_a_worker_that_can_not_tell_runs_with_what_is_loaded(monkeypatch, url):
    importlib.reload(importlib.import_module(MODULE))
    monkeypatch.setenv("APPHUB_DATABASE_URL", url)
    assert not Warm(MODULE, newest=0).reload_outdated()
