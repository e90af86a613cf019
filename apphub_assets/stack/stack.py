"""Which processes make up AppHub on one machine, with which environment, and how they live together."""

import asyncio
import http.client
import ipaddress
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError

import apphub_assets
from apphub_assets.containers import Engine, Sandboxes, clear_builds
from apphub_assets.containers.errors import EngineUnavailable
from apphub_assets.errors import AppHubError, Unavailable
from apphub_assets.forkserver import ask
from apphub_assets.kit.db import Database
from apphub_assets.launches import service as launches
from apphub_assets.launches.trial import trial_stack
from apphub_assets.settings import Settings, with_driver
from apphub_assets.stack.database import dagster_url, prepare_database
from apphub_assets.stack.errors import ChildFailed, PortTaken, UnsafeHost
from apphub_assets.stack.layout import Layout
from apphub_assets.stack.lock import Holder, held
from apphub_assets.stack.postgres import EmbeddedPostgres
from apphub_assets.stack.supervisor import Child, Report, Supervisor, end_leftovers

PROJECT = Path(apphub_assets.__file__).parent.parent
DAGSTER_HOME = PROJECT / "dagster_home"
# A backfill waits for a code server that starts again, instead of failing.
PATIENT_BACKFILLS = {"DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR": "1"}
READY_ATTEMPTS = 300
# A stop is promised to take 10 s; what the engine leaves of them, Dagster and the database need.
ENGINE_SECONDS = 6.0
ENGINE_REQUESTS = 8

T = TypeVar("T")

Guest = Callable[[], Awaitable[int]]
"""What is done while the stack is up; it returns the exit code."""


@dataclass(frozen=True)
class Stack:
    """The stack that `settings` ask for. Making one starts nothing."""

    settings: Settings

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.settings.state)

    @property
    def url(self) -> str:
        """Where people and the CLI reach the API."""
        host = "127.0.0.1" if self.settings.host in {"0.0.0.0", "::"} else self.settings.host  # noqa: S104 compared, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{self.settings.port}"

    @property
    def database_url(self) -> str:
        """URL of the configured database, else of the embedded one."""
        configured = self.settings.database_url
        return configured.get_secret_value() if configured else EmbeddedPostgres(self.layout).url

    @cached_property
    def dagster_secret(self) -> str:
        """What the API shows Dagster's webserver: as configured, else a new one."""
        configured = self.settings.dagster_secret
        return configured.get_secret_value() if configured else secrets.token_urlsafe(32)

    def exports(self) -> dict[str, str]:
        """Variables with which any Dagster command or script works on this stack."""
        return {
            "APPHUB_HOME": str(self.layout.state),
            "APPHUB_DATABASE_URL": self.database_url,
            "APPHUB_DAGSTER_DATABASE_URL": dagster_url(self.database_url),
            "APPHUB_DAGSTER_STATE": str(self.layout.state / "dagster"),
            "APPHUB_RUN_SOCKET": str(self.layout.run_socket),
            "APPHUB_CODE_SOCKET": str(self.layout.code_socket),
            "DAGSTER_HOME": str(DAGSTER_HOME),
        }

    def environment(self) -> dict[str, str]:
        """Environment of every child: ours, each setting that was given anywhere, and the exports."""
        given = {f"APPHUB_{name.upper()}": getattr(self.settings, name) for name in self.settings.model_fields_set}
        written = {name: _text(value) for name, value in given.items() if value is not None}
        roots = ",".join(filter(None, [self.settings.git_local_roots, str(self.layout.samples)]))
        ours = {"PYTHONUNBUFFERED": "1", "APPHUB_GIT_LOCAL_ROOTS": roots, **PATIENT_BACKFILLS}
        return dict(os.environ) | written | ours | self.exports()

    def api(self) -> Child:
        """The API; in its grace open streams close. How its launches end, the next one tells Dagster."""
        ready = partial(answers, f"{self.url}/health")
        return self._python("api", "apphub_api.server", ready=ready, secret=self.dagster_secret)

    def dagster(self) -> list[Child]:
        """Dagster's processes: what loads definitions, what runs them, what shows them, what watches."""
        sockets = self.layout
        workspace = ("-w", str(DAGSTER_HOME / "workspace.stack.yaml"))
        web = ("-h", self.settings.dagster_host, "-p", str(self.settings.dagster_port), "--path-prefix", "/dagster")
        # A connection from before a restart of Postgres fails once: they are not kept for long.
        pool = ("--db-pool-recycle", "1")
        runs_ready, code_ready = partial(is_warm, sockets.run_socket), partial(accepts, sockets.code_socket)
        web_ready = partial(answers, f"http://{web[1]}:{web[3]}/dagster/server_info")
        return [
            self._python("runs", "apphub_assets.launcher", "--socket", str(sockets.run_socket), ready=runs_ready),
            self._python("code", "apphub_assets.code_server", "--socket", str(sockets.code_socket), ready=code_ready),
            self._python(
                "dagster",
                "apphub_assets.dagster_web",
                *web,
                *pool,
                *workspace,
                ready=web_ready,
                secret=self.dagster_secret,
            ),
            self._python("daemon", "dagster._daemon", "run", *workspace, ready=lambda: True),
        ]

    def _python(
        self, name: str, module: str, *arguments: str, ready: Callable[[], bool], secret: str | None = None
    ) -> Child:
        environment = self.environment() | ({"APPHUB_DAGSTER_SECRET": secret} if secret else {})
        return Child(name, (sys.executable, "-m", module, *arguments), environment, ready, grace=4)


def run(stack: Stack, report: Report, guest: Guest) -> int:
    """Run the stack for as long as `guest`, which starts when all is ready, or until a signal ends it.

    Returns:
        The guest's exit code; 0 after a signal.

    Raises:
        AlreadyRunning, PortTaken, UnsafeHost: before anything was started.
        ChildFailed: a child can't be kept alive; everything has been stopped.
    """
    check_host(stack.settings)
    stack.layout.create()
    with held(stack.layout.lock, Holder(os.getpid(), stack.url, stack.exports())):
        end_leftovers(str(stack.layout.state))
        check_ports(stack.settings)
        try:
            return asyncio.run(_live(stack, report, guest))
        finally:
            stack.layout.remove_sockets()


def migrate_everything(stack: Stack) -> None:
    """Bring both AppHub's and Dagster's tables to the installed versions. Takes seconds: Dagster is loaded for it.

    Raises:
        Unavailable: the database does not answer, or Dagster can't migrate its part.
    """
    prepare_database(stack.database_url)
    command = [sys.executable, "-m", "dagster", "instance", "migrate"]
    done = subprocess.run(command, env=stack.environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"`dagster instance migrate` failed: {done.stderr.strip()[-2000:]}")


def check_host(settings: Settings) -> None:
    """Refuse to listen beyond this machine while everybody who connects is signed in as the operator.

    Raises:
        UnsafeHost: no operator tokens are configured, and a host is not a loopback address.
    """
    if settings.has_tokens:
        return
    for setting, host in (("APPHUB_HOST", settings.host), ("APPHUB_DAGSTER_HOST", settings.dagster_host)):
        if not _is_loopback(host):
            raise UnsafeHost(
                f"{setting}={host} is reachable from other machines, and without tokens everybody is the operator; "
                f"set APPHUB_OPERATOR_TOKENS (or APPHUB_OPERATOR_TOKENS_PATH), or {setting}=127.0.0.1"
            )


def check_ports(settings: Settings) -> None:
    """See that the ports are free.

    Raises:
        PortTaken: naming the port and the setting that moves it.
    """
    wanted = {
        "APPHUB_PORT": (settings.host, settings.port, "the API"),
        "APPHUB_DAGSTER_PORT": (settings.dagster_host, settings.dagster_port, "Dagster's webserver"),
    }
    for setting, (host, port, user) in wanted.items():
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            raise PortTaken(
                f"port {port} on {host}, wanted for {user}, can't be had ({error.strerror}); "
                f"free it, or set {setting} to another port"
            ) from error


def is_warm(path: Path) -> bool:
    """Whether the fork server at `path` has loaded the definitions: before that it listens, but does not answer."""
    try:
        ask(path, {"do": "look", "name": ""})
    except (Unavailable, TimeoutError):
        return False
    return True


async def remove_containers(settings: Settings) -> None:
    """Remove every container and network of this stack's launches and builds.

    Raises:
        EngineUnavailable, EngineFault: it does not answer, or can't remove one.
    """
    with closing(Engine(settings.engine_url)) as engine:
        # Launches, and images that a check was trying when its worker was killed.
        for owner in (settings.stack_id, trial_stack(settings)):
            await _remove_sandboxes(Sandboxes(engine, owner, settings.relay_image))
        # A worker that was killed in the middle of a build has left its containers.
        await aside(partial(clear_builds, engine, f"{settings.stack_id}."))


async def _remove_sandboxes(sandboxes: Sandboxes) -> None:
    free = asyncio.Semaphore(ENGINE_REQUESTS)

    async def remove(launch: str) -> None:
        async with free:
            await aside(partial(sandboxes.stop, launch))

    await asyncio.gather(*map(remove, await aside(sandboxes.list)))


def aside(work: Callable[[], T]) -> "asyncio.Future[T]":
    """Do blocking work on a thread that nobody has to wait for; the process ends without it, unlike an executor's."""
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work())
        except Exception as error:  # noqa: BLE001 handed to who waits
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return asyncio.wrap_future(done)


def close_launches(stack: Stack) -> None:
    """Note that every launch ended.

    Raises:
        OperationalError: the database is away.
    """
    with closing(Database(with_driver(stack.database_url, "psycopg"))) as database, database.transaction() as session:
        launches.close_all(session, stack.settings)


def accepts(path: Path) -> bool:
    """Whether somebody accepts connections on a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def answers(url: str) -> bool:
    """Whether a GET of `url` is answered with 200 within a second."""
    return fetch(url, timeout=1)[0] == http.client.OK


def fetch(url: str, timeout: float) -> tuple[int, str]:
    """Status and body of a GET; status 0 and the reason when there is no answer."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=timeout)
    try:
        connection.request("GET", f"/{path}")
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)
    finally:
        connection.close()


async def _live(stack: Stack, report: Report, guest: Guest) -> int:
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    assert me is not None  # noqa: S101 for the type checker: a coroutine runs in a task
    stop_signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    supervisor = Supervisor(stack.layout.logs, str(stack.layout.state), report)
    for number in stop_signals:
        loop.add_signal_handler(number, me.cancel)
    try:
        await _start(stack, supervisor)
        return await _until_over(supervisor, guest)
    except asyncio.CancelledError:
        # Only the signals cancel us, and being told to stop is not a failure.
        return 0
    finally:
        for number in stop_signals:
            loop.add_signal_handler(number, report, "stack", "stops already")
        report("stack", "stops")
        await _stop(stack, supervisor, report)


async def _start(stack: Stack, supervisor: Supervisor) -> None:
    if stack.settings.database_url is None:
        await supervisor.start(EmbeddedPostgres(stack.layout).child())
    await asyncio.to_thread(prepare_database, stack.database_url)
    await asyncio.gather(supervisor.start(*stack.dagster()), supervisor.start(stack.api()))
    await _until_it_works(stack.url)


async def _stop(stack: Stack, supervisor: Supervisor, report: Report) -> None:
    """Stop the API, so that nothing new is launched; then end what was, beside Dagster's end; the database last."""
    engine_until = asyncio.get_running_loop().time() + ENGINE_SECONDS
    await supervisor.stop("api")
    dagster = supervisor.stop(*(child.name for child in stack.dagster()))
    try:
        await asyncio.gather(_end_launches(stack, report, engine_until), dagster)
    except (AppHubError, SQLAlchemyError) as error:
        # Database or engine broke down, or never came up. The next start finds out what became of the launches.
        report("stack", f"could not end every launch: {str(error).splitlines()[0]}")
    finally:
        await supervisor.stop()


async def _end_launches(stack: Stack, report: Report, until: float) -> None:
    """Remove the containers, as far as the engine does by `until` on the loop's clock, and note that launches ended."""
    try:
        # Without an engine there is nothing to remove.
        with suppress(EngineUnavailable):
            async with asyncio.timeout_at(until):
                await remove_containers(stack.settings)
    except TimeoutError:
        report("stack", "the container engine is too slow to remove every container; the next start does")
    await asyncio.to_thread(close_launches, stack)


async def _until_it_works(url: str) -> None:
    """Each part is up; wait until they have found each other, which the API knows."""
    for _ in range(READY_ATTEMPTS):
        status, body = await asyncio.to_thread(fetch, f"{url}/ready", timeout=10)
        if status == http.client.OK:
            return
        await asyncio.sleep(0.1)
    raise ChildFailed(f"everything was started, but {url}/ready still answers {status}: {body}")


async def _until_over(supervisor: Supervisor, guest: Guest) -> int:
    watch, visit = asyncio.ensure_future(supervisor.watch()), asyncio.ensure_future(guest())
    try:
        done, _ = await asyncio.wait({watch, visit}, return_when=asyncio.FIRST_COMPLETED)
        return await (watch if watch in done else visit)
    finally:
        watch.cancel()
        visit.cancel()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
