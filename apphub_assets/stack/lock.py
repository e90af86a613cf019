"""One stack per state folder: a lock that dies with its holder, however it dies, and says who holds it."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from apphub_assets.stack.errors import AlreadyRunning, NotRunning


@dataclass(frozen=True)
class Holder:
    """A running stack: the process that supervises it, its address, and the environment of its children."""

    pid: int
    url: str
    environment: dict[str, str]


@contextmanager
def held(path: Path, holder: Holder) -> Iterator[None]:
    """Hold the lock at `path` in the name of `holder`; the file is gone afterwards.

    Raises:
        AlreadyRunning: another living process holds it.
    """
    descriptor = _acquire(path)
    try:
        os.write(descriptor, json.dumps(asdict(holder)).encode())
        yield
    finally:
        path.unlink()
        os.close(descriptor)


def read_holder(path: Path) -> Holder:
    """Who holds the lock at `path`.

    Raises:
        NotRunning: nobody.
    """
    holder = _living_holder(path)
    if holder is None:
        raise NotRunning(f"no stack runs on {path.parent}; start it with `make up` or `apphub up`, or set APPHUB_HOME")
    return holder


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise _already_running(path) from None
        # Between open and flock the former holder may have removed the file: then this locks a file without a name.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            os.ftruncate(descriptor, 0)
            return descriptor
        os.close(descriptor)


def _already_running(path: Path) -> AlreadyRunning:
    holder = _living_holder(path)
    where = f" as process {holder.pid}, at {holder.url}" if holder else ""
    return AlreadyRunning(
        f"a stack already runs on {path.parent}{where}; use that one, stop it with Ctrl-C in its terminal, "
        "or set APPHUB_HOME (and APPHUB_PORT, APPHUB_DAGSTER_PORT) for a second one"
    )


def _living_holder(path: Path) -> Holder | None:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        # The holder writes its line right after locking; until then there is a lock without a name.
        content = path.read_bytes()
        return Holder(**json.loads(content)) if content else None
