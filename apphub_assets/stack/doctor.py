"""What can be wrong with an installation, each thing with its remedy."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import psycopg

from apphub_assets.containers import Engine, ensure_base_image
from apphub_assets.errors import AppHubError
from apphub_assets.identity.service import Tokens
from apphub_assets.migrations import pending
from apphub_assets.settings import Settings, unknown_variables, with_driver
from apphub_assets.stack.errors import NotRunning
from apphub_assets.stack.layout import Layout
from apphub_assets.stack.lock import read_holder
from apphub_assets.stack.stack import Stack, check_host, check_ports

GIB = 1024**3
CODE_LOCATION = "apphub_assets.definitions"
PYTHONS = ((3, 11), (3, 14))
# The first one that can be told which address a host name has (http.curloptResolve).
GIT = (2, 37)
SKEW = timedelta(seconds=5)


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """What one check found, and what to do when that is not good."""

    check: str
    verdict: Verdict
    found: str
    fix: str = ""

    def document(self) -> dict[str, str]:
        """The finding as it is printed."""
        return {"id": self.check, "status": self.verdict.value, "found": self.found, "fix": self.fix}


Check = Callable[[Settings], Iterator[Finding]]


def diagnose(settings: Settings) -> list[Finding]:
    """Make every check; none of them changes anything but for fetching the base image."""
    with ThreadPoolExecutor(len(CHECKS)) as pool:
        return [finding for findings in pool.map(lambda check: list(check(settings)), CHECKS) for finding in findings]


def python(_: Settings) -> Iterator[Finding]:
    version = sys.version.split()[0]
    if PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]:
        yield Finding("python", Verdict.OK, version)
    else:
        yield Finding(
            "python", Verdict.FAILED, version, "install Python 3.11 to 3.13, then: make clean up PYTHON=python3.12"
        )


def git(_: Settings) -> Iterator[Finding]:
    fix = f"install git {GIT[0]}.{GIT[1]} or newer (Debian: apt install git)"
    if not shutil.which("git"):
        yield Finding("git", Verdict.FAILED, "not installed", fix)
        return
    version = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    is_new = tuple(int(part) for part in version.split(".")[:2]) >= GIT
    yield Finding("git", Verdict.OK, version) if is_new else Finding("git", Verdict.FAILED, version, fix)


def engine(settings: Settings) -> Iterator[Finding]:
    """The container engine, and the image that relays and samples need."""
    here = Engine(settings.engine_url)
    try:
        info = here.ping()
    except AppHubError as error:
        yield Finding("engine", Verdict.FAILED, f"{here.url} does not answer", error.message)
        return
    yield Finding("engine", Verdict.OK, f"{here.url}, version {info.version}, {info.latency * 1000:.0f} ms")
    try:
        ensure_base_image(here, settings.relay_image)
        yield Finding("base image", Verdict.OK, settings.relay_image)
    except AppHubError as error:
        yield Finding("base image", Verdict.FAILED, f"{settings.relay_image} is missing", error.message)
    if os.access(info.root_dir, os.F_OK):
        yield _space("engine disk", info.root_dir)


def state_folder(settings: Settings) -> Iterator[Finding]:
    """Whether the state can be written, on a disk with room for it."""
    nearest = next(folder for folder in (settings.state, *settings.state.parents) if folder.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        fix = f"chown {os.geteuid()} {nearest}, or set APPHUB_HOME to a folder of yours"
        yield Finding("state folder", Verdict.FAILED, f"{settings.state}: {nearest} is not writable", fix)
        return
    layout = Layout(settings.state)
    moved = "" if layout.sockets == layout.state else f"; its path is long, so sockets are in {layout.sockets}"
    yield Finding("state folder", Verdict.OK, f"{settings.state}{moved}")
    yield _space("state disk", str(nearest))


def ports(settings: Settings) -> Iterator[Finding]:
    """Whether the stack that runs has the ports, or one that starts could have them."""
    try:
        yield Finding("ports", Verdict.OK, f"used by the stack that runs as process {_holder_pid(settings)}")
        return
    except NotRunning:
        pass
    try:
        check_ports(settings)
        yield Finding("ports", Verdict.OK, f"{settings.port} and {settings.dagster_port} are free")
    except AppHubError as error:
        yield Finding("ports", Verdict.FAILED, "taken", error.message)


def database(settings: Settings) -> Iterator[Finding]:
    """Whether the database answers, has this version's tables, and agrees on the time."""
    url = Stack(settings).database_url
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            theirs = connection.execute("SELECT clock_timestamp()").fetchone()
    except psycopg.OperationalError as error:
        if settings.database_url is None:
            yield Finding("database", Verdict.SKIPPED, "the embedded one runs with the stack", "apphub up")
        else:
            yield Finding("database", Verdict.FAILED, str(error), "start it, or mend APPHUB_DATABASE_URL")
        return
    is_behind = pending(with_driver(url, "psycopg"))
    fix = "apphub admin migrate"
    yield (
        Finding("database", Verdict.FAILED, "lacks migrations", fix)
        if is_behind
        else Finding("database", Verdict.OK, "up to date")
    )
    yield _clock(theirs[0] if theirs else datetime.now(UTC))


def definitions(_: Settings) -> Iterator[Finding]:
    """Whether Dagster can load the code location; in a process of its own, for it is slow and may fail in any way."""
    command = ["-W", "ignore", "-m", "dagster", "definitions", "validate", "--module-name", CODE_LOCATION]
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"DAGSTER_HOME": home}
        done = subprocess.run(
            [sys.executable, *command], env=environment, cwd=home, capture_output=True, text=True, check=False
        )
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line]
        fix = f"mend what `python -m dagster definitions validate -m {CODE_LOCATION}` shows"
        yield Finding("code location", Verdict.FAILED, said[-1].strip() if said else f"{CODE_LOCATION} fails", fix)
    else:
        yield Finding("code location", Verdict.OK, f"{CODE_LOCATION} loads")


def variables(_: Settings) -> Iterator[Finding]:
    """Variables that look like settings and are none."""
    unknown = ", ".join(unknown_variables())
    if unknown:
        yield Finding(
            "variables", Verdict.WARNING, f"nothing reads {unknown}", "mend the spelling; docs list all settings"
        )
    else:
        yield Finding("variables", Verdict.OK, "every APPHUB_* variable is known")


def tokens(settings: Settings) -> Iterator[Finding]:
    """Whether the tokens can be read, and are there where they must be."""
    try:
        configured = Tokens(settings).configured
        check_host(settings)
    except (AppHubError, OSError) as error:
        yield Finding(
            "identity", Verdict.FAILED, str(error), "mend APPHUB_OPERATOR_TOKENS or APPHUB_OPERATOR_TOKENS_PATH"
        )
        return
    yield Finding("identity", Verdict.OK, "operator tokens" if configured else "the local operator, on loopback only")


CHECKS: tuple[Check, ...] = (
    python, git, engine, state_folder, ports, database, definitions, variables, tokens,
)  # fmt: skip


def _holder_pid(settings: Settings) -> int:
    return read_holder(Layout(settings.state).lock).pid


def _space(check: str, folder: str) -> Finding:
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free at {folder}"
    if free < GIB:
        return Finding(check, Verdict.FAILED, found, "free at least 1 GiB; `docker system prune` removes unused images")
    return Finding(check, Verdict.OK if free > 5 * GIB else Verdict.WARNING, found)


def _clock(theirs: datetime) -> Finding:
    skew = abs(datetime.now(UTC) - theirs)
    if skew > SKEW:
        return Finding(
            "clock",
            Verdict.FAILED,
            f"{skew.total_seconds():.0f} s apart from the database's",
            "run an NTP client on both",
        )
    return Finding("clock", Verdict.OK, "agrees with the database's")
