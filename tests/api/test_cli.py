"""`apphub …` against a running API."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import update

from apphub_api.cli_client import Exit
from apphub_assets.catalog.models import Build
from tests.fixtures.catalog import SERVING
from tests.fixtures.servers import serving


@pytest.fixture
def apphub(api) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run a command: `apphub("app", "list")`."""
    program = [sys.executable, "-c", "from apphub_api.cli import main; main()"]
    with serving(api.app) as address:
        environment = os.environ | {"APPHUB_URL": f"http://{address}"}
        yield lambda *arguments: subprocess.run(
            [*program, *arguments], env=environment, capture_output=True, text=True, check=False
        )


@pytest.fixture
def busy_worker(catalog, make_repository) -> Iterator[None]:
    """An app `hello`, and a worker that ingests it and begins its builds, but does not end them."""
    catalog.register("hello", make_repository(files={"Dockerfile": SERVING}).url)
    done = threading.Event()

    def work() -> None:
        while not done.wait(0.05):
            catalog.ingest("hello", only_if_pending=True)
            with catalog.database.transaction() as session:
                session.execute(update(Build).values(status="running"))

    worker = threading.Thread(target=work)
    worker.start()
    yield
    done.set()
    worker.join()


@pytest.mark.parametrize("command", ["build", "refresh"])
def test_waiting_does_not_end_while_the_build_runs(apphub, busy_worker, command):
    result = apphub("app", command, "hello", "--wait", "--timeout", "2")

    assert result.returncode == Exit.TIMEOUT, result.stdout
    assert "is still running" in result.stderr
