"""One Dagster stack for all tests here. This folder is no package: as one it would be called `dagster`."""

from collections.abc import Iterator

import pytest
from dagster import DagsterInstance
from dagster_stack import DagsterStack, Runs

from apphub_assets.orchestrator import Orchestrator
from apphub_assets.stack.throwaway import throwaway_database

MAX_RUNS = 3


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterStack]:
    """The stack with its fork server; `orchestrator` and `daemon` add the rest."""
    with throwaway_database() as database_url:
        stack = DagsterStack(tmp_path_factory.mktemp("dagster"), database_url, MAX_RUNS)
        stack.start_fork_server()
        yield stack
        stack.stop()


@pytest.fixture(scope="session")
def orchestrator(stack: DagsterStack) -> Iterator[Orchestrator]:
    """A client of the webserver, with one partition to work on."""
    client = stack.start_web()
    client.add_partition("repositories", "one")
    yield client
    client.close()


@pytest.fixture
def instance(
    stack: DagsterStack, orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DagsterInstance]:
    """The stack's instance. Its variables are set for this test alone: other tests start stacks of their own."""
    for name, value in stack.environment.items():
        monkeypatch.setenv(name, value)
    with DagsterInstance.get() as instance:
        yield instance


@pytest.fixture(scope="session")
def daemon(stack: DagsterStack, orchestrator: Orchestrator) -> None:
    stack.start_daemon()


@pytest.fixture
def runs(orchestrator: Orchestrator) -> Iterator[Runs]:
    """Submits runs and waits for them; none is left when the test ends."""
    runs = Runs(orchestrator)
    yield runs
    runs.cancel_all()
