"""Git, driven as if every repository were hostile: the only file that imports GitPython.

A checkout is made in steps that can each be refused before the next one costs anything: ask the remote for its
refs, fetch one commit without history, count what is in it, and only then write files. Every step runs plain `git`
in an empty environment with a configuration of our own, in its own process group, under one deadline, and ends with
the process that started it.
"""

import os
import re
import selectors
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

# Without it, a machine that has no git could not even import this module, and nothing would say what to install.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

from git.cmd import Git

from apphub_assets.catalog.address import (
    Address,
    AddressPolicy,
    RepositoryUnreachable,
    bracketed,
    parse_address,
    resolve,
)
from apphub_assets.catalog.spec import check_ref
from apphub_assets.errors import AppHubError, Refused, TooLarge, Unavailable
from apphub_assets.settings import Settings

Progress = Callable[[str], None]

INTERVAL = 0.2  # seconds between looks at the clock and at the disk
MAX_RECORD = 64 * 1024  # bytes of one line or tree entry; what is longer is cut
MAX_REDIRECTS = 3
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

# A host's own certificates still count, and the mark by which a stack finds its processes; nothing else of the
# surrounding environment reaches git.
INHERITED = ("PATH", "TMPDIR", "GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "APPHUB_STACK")

# The kernel tells the shell when our process has died, and the shell kills its whole group: git's helpers, which may
# wait for a silent remote, would not notice.
ENDING_WITH_US = ("setpriv", "--pdeathsig", "TERM", "--", "sh", "-c", 'trap "kill -9 0" TERM; "$@" & wait $!', "sh")

# Local repositories may belong to another user: policy has already decided that they may be read.
CONFIG = """\
[core]
    hooksPath = /dev/null
    fsmonitor = false
    askPass =
    bigFileThreshold = 16m
    protectNTFS = true
[credential]
    helper =
[protocol]
    allow = never
[fetch]
    unpackLimit = 1
    recurseSubmodules = false
    writeCommitGraph = false
[submodule]
    recurse = false
[gc]
    auto = 0
[maintenance]
    auto = false
[transfer]
    bundleURI = false
[safe]
    directory = *
[http]
    followRedirects = false
"""

# The bytes as they were committed: no filter (LFS), no re-encoding, so the sizes counted are the sizes written.
ATTRIBUTES = "* -text -eol -ident -filter -working-tree-encoding\n"


class GitMissing(Unavailable):
    code, title = "git_missing", "Git is not installed"


class RepositoryNotFoundOrPrivate(Refused):
    code, title = "repository_not_found_or_private", "Repository not found or private"


class RepositoryMoved(Refused):
    code, title = "repository_moved", "Repository moved"


class RepositoryEmpty(Refused):
    code, title = "repository_empty", "Repository empty"


class RepositoryUnusable(Refused):
    code, title = "repository_unusable", "Repository unusable"


class RefNotFound(Refused):
    code, title = "ref_not_found", "Branch, tag or commit not found"


class RepositoryTooLarge(TooLarge):
    code, title = "repository_too_large", "Repository too large"


class RepositoryTooManyFiles(TooLarge):
    code, title = "repository_too_many_files", "Too many files in the repository"


class CloneTimeout(Unavailable):
    code, title = "clone_timeout", "Repository took too long"


@dataclass(frozen=True)
class Limits:
    """What one clone may cost: seconds, bytes on disk with `.git`, files in the tree."""

    timeout: float
    max_bytes: int
    max_files: int

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        return cls(settings.git_timeout, settings.git_max_bytes, settings.git_max_files)


@dataclass(frozen=True)
class Checkout:
    """A tree on disk: `branch` is None for a tag or commit; `size_bytes` counts `.git` too."""

    path: Path
    commit_sha: str
    branch: str | None
    files: int
    size_bytes: int


def clone(
    url: str,
    ref: str | None,
    into: Path,
    limits: Limits,
    policy: AddressPolicy,
    progress: Progress = lambda _line: None,
) -> Checkout:
    """Check out one commit of `url` without history, submodules or LFS content.

    `ref` is a branch, tag or full commit SHA, None the remote's default branch. `into` is a folder that does not
    exist yet; it is removed again when the clone fails. `progress` gets each line that git or the remote prints.

    Raises:
        AddressRefused, RepositoryUnreachable, RepositoryNotFoundOrPrivate, RepositoryMoved, RepositoryEmpty,
        RepositoryUnusable, RefNotFound, RepositoryTooLarge, RepositoryTooManyFiles, CloneTimeout, GitMissing.
    """
    into.parent.mkdir(parents=True, exist_ok=True)
    # Its home is beside the checkout, where whoever clears up after a killed process finds it too.
    with _session(url, policy, limits.timeout, into.parent) as session, ExitStack() as undo:
        found = session.find(ref)
        into.mkdir()
        undo.callback(shutil.rmtree, into, ignore_errors=True)
        sha = _fetch(session, found, into, limits, progress)
        tally = _count(session, sha, into, limits)
        session.git("checkout", "--quiet", "--force", "--detach", sha, cwd=into)
        undo.pop_all()
    return Checkout(into, sha, found.branch, tally.files, _size(into))


def remote_head(url: str, ref: str | None, policy: AddressPolicy, timeout: float) -> str:
    """Return the commit SHA that `ref` (None: the default branch) has at the remote now; a SHA is its own answer.

    Raises:
        the errors of `clone` that can happen without fetching.
    """
    with _session(url, policy, timeout) as session:
        return session.find(ref).sha


@dataclass(frozen=True)
class _Ref:
    """A ref of the remote: the name to fetch, the commit behind it, the branch if it is one."""

    name: str
    sha: str
    branch: str | None


class _Failure(Exception):
    """Git said no; `lines` are the last ones of its standard error."""

    def __init__(self, status: int, lines: list[str]) -> None:
        super().__init__(f"git ended with {status}")
        self.status = status
        self.text = "\n".join(lines)
        self.reason = next(
            (line for line in reversed(lines) if line.startswith(("fatal:", "error:"))), self.text[-200:]
        )


@dataclass
class _Session:
    """Git commands about one remote: the same environment, one deadline, nothing that outlives it."""

    home: Path
    policy: AddressPolicy
    timeout: float
    address: Address
    deadline: float = field(init=False)
    remote: str = field(init=False)
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + self.timeout
        self.connect(self.address)

    @property
    def trace(self) -> Path:
        """Where git writes the HTTP headers: it reports a redirect that it did not follow, but not where to."""
        return self.home / "headers"

    def connect(self, address: Address) -> None:
        """Aim at `address`, and at nothing but the IP addresses that were checked just now."""
        pins = resolve(address, self.policy)
        self.address, self.remote = address, address.path if address.scheme == "file" else address.url
        self.environment = environment(self.home, address.scheme) | {"GIT_TRACE_CURL": str(self.trace)}
        if address.scheme == "git":
            self.remote = f"git://{bracketed(pins[0])}:{address.port}{address.path}"
            self.environment["GIT_OVERRIDE_VIRTUAL_HOST"] = bracketed(address.host)
        (self.home / ".gitconfig").write_text(configuration(address, pins))

    def find(self, ref: str | None) -> _Ref:
        """Look `ref` up at the remote, following redirects that stay on its host."""
        for _ in range(MAX_REDIRECTS):
            self.trace.unlink(missing_ok=True)
            try:
                return _find(self, ref)
            except _Failure as failure:
                if not re.search(r"returned error: 30[12378]", failure.text):
                    raise
                self.connect(self._redirect())
        raise RepositoryMoved(f"repository {self.address.url} redirects more than {MAX_REDIRECTS} times")

    def git(
        self,
        *arguments: str,
        cwd: Path,
        record: Callable[[bytes], None] = lambda _record: None,
        separator: bytes = b"\n",
        progress: Progress = lambda _line: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Run one command: `record` gets each record of its output, `progress` each line of its errors.

        Whatever ends it early (the deadline, `check`, an interrupt) kills its whole process group.
        """
        # GitPython can add to the environment but not take from it, and GIT_* variables change what git does.
        variables = (f"{name}={value}" for name, value in self.environment.items())
        command = ["env", "-i", *variables, *_ending_with_us(), "git", *arguments]
        last: deque[str] = deque(maxlen=40)

        def error_line(line: bytes) -> None:
            if text := _printable(line):
                last.append(text)
                progress(text)

        process: Any = Git(cwd).execute(command, as_process=True, start_new_session=True)
        try:
            sinks = {process.stdout: _Records(separator, record), process.stderr: _Records(rb"[\r\n]", error_line)}
            for _ in _pump(sinks):
                self._check_deadline()
                check()
            status = process.proc.wait()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.proc.wait()
            process.stdout.close()
            process.stderr.close()
        if status != 0:
            raise _Failure(status, list(last))

    def _check_deadline(self) -> None:
        if time.monotonic() > self.deadline:
            raise CloneTimeout(
                f"repository {self.address.url} was not read within {self.timeout:g} s; "
                "try again, make it smaller, or raise APPHUB_GIT_TIMEOUT"
            )

    def _redirect(self) -> Address:
        locations = re.findall(r"Recv header: location: (\S+)", self.trace.read_text(errors="replace"), re.IGNORECASE)
        target = urljoin(f"{self.address.url}/info/refs", locations[-1] if locations else "")
        moved = parse_address(target.partition("/info/refs")[0], self.policy)
        if moved.host != self.address.host or (self.address.scheme, moved.scheme) == ("https", "http"):
            raise RepositoryMoved(f"repository {self.address.url} moved to {moved.url}; register it by that address")
        return moved


class _Records:
    """Cuts a stream of bytes into records; one that never ends keeps only its last part."""

    def __init__(self, separator: bytes, handle: Callable[[bytes], None]) -> None:
        self.separator = re.compile(separator)
        self.handle = handle
        self.rest = b""

    def feed(self, chunk: bytes) -> None:
        """Hand on each record that `chunk` completes; an empty chunk ends the stream."""
        *complete, rest = self.separator.split(self.rest + chunk)
        self.rest = rest[-MAX_RECORD:]
        for record in complete if chunk else [*complete, rest]:
            self.handle(record)


@dataclass
class _Tally:
    """Counts the entries of a tree and stops the listing as soon as there are too many."""

    url: str
    max_files: int
    files: int = 0
    size: int = 0

    def add(self, entry: bytes) -> None:
        """Take one `mode type sha size<TAB>path`; the size of a submodule is `-`."""
        if not entry:
            return
        self.files += 1
        if self.files > self.max_files:
            raise RepositoryTooManyFiles(
                f"repository {self.url} has more than {self.max_files} files; "
                "leave generated files and dependencies out, or raise APPHUB_GIT_MAX_FILES"
            )
        size = entry.partition(b"\t")[0].split()[-1]
        self.size += int(size) if size.isdigit() else 0


@contextmanager
def _session(url: str, policy: AddressPolicy, timeout: float, folder: Path | None = None) -> Iterator[_Session]:
    address = parse_address(url, policy)
    with tempfile.TemporaryDirectory(prefix="apphub-git-", dir=folder) as home:
        try:
            yield _Session(Path(home), policy, timeout, address)
        except _Failure as failure:
            raise _explain(address.url, failure) from failure


def configuration(address: Address, pins: list[str]) -> str:
    """The only configuration that git reads; HTTP connects to the IP addresses `pins` whatever DNS says by then."""
    if address.scheme not in ("http", "https") or address.host in pins:
        return CONFIG
    return CONFIG + f"    curloptResolve = {address.host}:{address.port}:{','.join(map(bracketed, pins))}\n"


def environment(home: Path, scheme: str) -> dict[str, str]:
    """All the variables that git sees; `home` holds its configuration, `scheme` is the one transport it may use."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return inherited | {
        "HOME": str(home),
        "LC_ALL": "C",
        "GIT_ALLOW_PROTOCOL": scheme,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_TRACE_CURL_NO_DATA": "1",
    }


def _ending_with_us() -> tuple[str, ...]:
    """What to put before a command so that it ends with this process, be that by SIGKILL. Linux only."""
    return ENDING_WITH_US if sys.platform.startswith("linux") and shutil.which("setpriv") else ()


def _find(session: _Session, ref: str | None) -> _Ref:
    """Resolve `ref` from the remote's own list, so that what is fetched is a name the remote has."""
    if ref is None:
        listing = _list(session, "HEAD")
        if "HEAD" in listing:
            branch = listing.get("ref: HEAD", "").removeprefix("refs/heads/")
            return _Ref("HEAD", listing["HEAD"], branch or None)
        raise _nothing(session, "its default branch")
    check_ref(ref)
    listing = _list(session, f"refs/heads/{ref}", f"refs/tags/{ref}", f"refs/tags/{ref}^{{}}")
    if sha := listing.get(f"refs/heads/{ref}"):
        return _Ref(f"refs/heads/{ref}", sha, ref)
    if sha := listing.get(f"refs/tags/{ref}^{{}}") or listing.get(f"refs/tags/{ref}"):
        return _Ref(f"refs/tags/{ref}", sha, None)
    if COMMIT.fullmatch(ref):
        return _Ref(ref, ref, None)
    raise _nothing(session, f"a branch or tag {ref!r}")


def _list(session: _Session, *patterns: str) -> dict[str, str]:
    """Ask the remote for refs: name to SHA, and `ref: HEAD` to the branch that HEAD names."""
    listing: dict[str, str] = {}

    def record(line: bytes) -> None:
        value, _, name = line.decode(errors="replace").partition("\t")
        if value.startswith("ref: "):
            listing[f"ref: {name}"] = _printable(value.removeprefix("ref: ").encode())
        elif COMMIT.fullmatch(value):
            listing[name] = value

    session.git("ls-remote", "--symref", "--", session.remote, *patterns, cwd=session.home, record=record)
    return listing


def _nothing(session: _Session, wanted: str) -> AppHubError:
    """The error for a ref that is not there: it matters whether anything is."""
    branches = [name.removeprefix("refs/heads/") for name in _list(session, "refs/heads/*")]
    if not branches:
        return RepositoryEmpty(f"repository {session.address.url} has no commits; push one and try again")
    shown = ", ".join(_printable(name.encode()) for name in sorted(branches)[:10])
    return RefNotFound(
        f"repository {session.address.url} has not {wanted}; it has the branches {shown}. "
        "Name a branch, a tag, or a full commit SHA"
    )


def _fetch(session: _Session, found: _Ref, into: Path, limits: Limits, progress: Progress) -> str:
    """Fetch one commit into a new repository at `into`; returns its SHA. No file is checked out."""
    session.git("init", "--quiet", "--template=", cwd=into)
    options = ("--depth=1", "--no-tags", "--no-recurse-submodules", "--progress")

    def check() -> None:
        _check_size(session, _size(into), limits)

    session.git("fetch", *options, "--", session.remote, found.name, cwd=into, progress=progress, check=check)
    lines: list[bytes] = []
    session.git("rev-parse", "--verify", "FETCH_HEAD^{commit}", cwd=into, record=lines.append)
    return lines[0].decode()


def _count(session: _Session, sha: str, into: Path, limits: Limits) -> _Tally:
    """Count files and bytes of the commit before any of them is written."""
    tally = _Tally(session.address.url, limits.max_files)
    session.git("ls-tree", "-r", "-l", "-z", "--full-tree", sha, cwd=into, record=tally.add, separator=rb"\0")
    _check_size(session, _size(into) + tally.size, limits)
    (into / ".git" / "info").mkdir(exist_ok=True)
    (into / ".git" / "info" / "attributes").write_text(ATTRIBUTES)
    return tally


def _check_size(session: _Session, size: int, limits: Limits) -> None:
    if size > limits.max_bytes:
        raise RepositoryTooLarge(
            f"repository {session.address.url} needs more than {limits.max_bytes} bytes on disk; "
            "leave large files out, or raise APPHUB_GIT_MAX_BYTES"
        )


def _size(folder: Path) -> int:
    """Bytes of all files below `folder`; git may rename or remove some of them meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_size
    return total


def _pump(sinks: dict[Any, _Records]) -> Iterator[None]:
    """Feed what the streams bring into their sinks until all have ended; yields about every INTERVAL."""
    with selectors.DefaultSelector() as selector:
        for stream, sink in sinks.items():
            selector.register(stream, selectors.EVENT_READ, sink)
        due = time.monotonic() + INTERVAL
        while selector.get_map():
            for key, _ in selector.select(INTERVAL):
                chunk = os.read(key.fd, 64 * 1024)
                key.data.feed(chunk)
                if not chunk:
                    selector.unregister(key.fileobj)
            if time.monotonic() >= due:
                due = time.monotonic() + INTERVAL
                yield


def _printable(line: bytes) -> str:
    """One line of a stranger's text: no control characters, at most 300 characters."""
    text = line.decode(errors="replace").strip()[:300]
    return "".join(character if character.isprintable() else "�" for character in text)


FAILURES: tuple[tuple[str, type[AppHubError], str], ...] = (
    (
        r"could not read Username|Authentication failed|error: 4(01|03|04|10)\b|not found$|not exported|git repository",
        RepositoryNotFoundOrPrivate,
        "does not exist, or needs a login; check the address, or make it readable without one",
    ),
    (
        r"couldn't find remote ref|unadvertised object|not our ref|needed a single revision|unknown revision",
        RefNotFound,
        "has no such commit within reach; name a branch, a tag, or a full commit SHA",
    ),
    (
        r"invalid path|dumb http transport|unable to checkout|unable to create file|not a valid object name",
        RepositoryUnusable,
        "can't be checked out",
    ),
)


def _explain(url: str, failure: _Failure) -> AppHubError:
    """Translate what git printed into an error of ours; what is not recognised may be the network's fault."""
    if failure.status == 127:
        return GitMissing("the program git is not installed; install it (Debian: apt install git)")
    for pattern, error, advice in FAILURES:
        if re.search(pattern, failure.text, re.IGNORECASE | re.MULTILINE):
            return error(f"repository {url} {advice} ({failure.reason})")
    return RepositoryUnreachable(
        f"repository {url} can't be read now; check the address and try again ({failure.reason})"
    )
