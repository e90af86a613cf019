"""A database for the time of a test or a command: `python -m apphub_assets.stack.throwaway alembic check`."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apphub_assets.stack.database import dagster_url, prepare_database
from apphub_assets.stack.errors import ChildFailed
from apphub_assets.stack.layout import Layout
from apphub_assets.stack.postgres import EmbeddedPostgres
from apphub_assets.stack.supervisor import confined

MEMORY = Path("/dev/shm")  # noqa: S108 a folder of its own is made below it
# What WAL grows to before it is used again, and a few databases; containers have 64 MB unless told otherwise.
ENOUGH_MEMORY = 4 * 1024**3


@contextmanager
def throwaway_database(*, durable: bool = False) -> Iterator[str]:
    """Run a database server in a temporary folder; yields the `postgresql://` URL of its migrated database.

    One that is not durable does not wait for the disk, and lies in memory where there is enough of it.

    Raises:
        ChildFailed: the server does not come up.
    """
    with tempfile.TemporaryDirectory(prefix="apphub-db-", dir=None if durable else _memory()) as folder:
        layout = Layout(Path(folder))
        layout.create()
        postgres = EmbeddedPostgres(layout, durable=durable)
        try:
            with _running(postgres):
                prepare_database(postgres.url)
                yield postgres.url
        finally:
            layout.remove_sockets()


def _memory() -> Path | None:
    """A folder in memory; None where there is none or it is small."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ENOUGH_MEMORY else None


@contextmanager
def _running(postgres: EmbeddedPostgres) -> Iterator[None]:
    child = postgres.child()
    child.prepare()
    log = postgres.layout.logs / "postgres.log"
    with log.open("wb") as output:
        process = subprocess.Popen(confined(child), env=dict(child.environment), stdout=output, stderr=output)
    try:
        _until_ready(postgres, process, log)
        yield
    finally:
        process.send_signal(child.stop_signal)
        process.wait()


def _until_ready(postgres: EmbeddedPostgres, process: subprocess.Popen[bytes], log: Path) -> None:
    while not postgres.ready():
        if process.poll() is not None:
            raise ChildFailed(f"the throw-away database server ended: {log.read_text()[-2000:]}")
        time.sleep(0.02)


def main(command: list[str]) -> int:
    """Run `command` on a throw-away database and return its exit code."""
    with throwaway_database() as url:
        environment = {"APPHUB_DATABASE_URL": url, "APPHUB_DAGSTER_DATABASE_URL": dagster_url(url)}
        return subprocess.run(command, env=os.environ | environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
