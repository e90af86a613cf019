"""Where things lie in the state folder."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from apphub_assets.stack.errors import UnsafeFolder

# sun_path holds 108 bytes with its terminating zero; Postgres has the longest name below the state folder.
SOCKET_PATH_LIMIT = 107
LONGEST_SOCKET = "postgres/.s.PGSQL.5432"
# Not $TMPDIR, which may be long itself and differ from shell to shell. Strangers may write here: see `create`.
SHORT_FOLDER = Path("/tmp")  # noqa: S108


@dataclass(frozen=True)
class Layout:
    """Paths of one stack, all derived from its absolute state folder."""

    state: Path

    @property
    def lock(self) -> Path:
        return self.state / "apphub.lock"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def samples(self) -> Path:
        return self.state / "samples"

    @property
    def database(self) -> Path:
        return self.state / "postgres" / "data"

    @property
    def sockets(self) -> Path:
        """The state folder, or a short stand-in below /tmp where its path is too long for sockets."""
        if len(os.fsencode(self.state / LONGEST_SOCKET)) <= SOCKET_PATH_LIMIT:
            return self.state
        digest = hashlib.sha256(os.fsencode(self.state)).hexdigest()[:12]
        return SHORT_FOLDER / f"apphub-{digest}"

    @property
    def database_socket(self) -> Path:
        """Folder of the embedded database's socket."""
        return self.sockets / "postgres"

    @property
    def run_socket(self) -> Path:
        return self.sockets / "run.sock"

    @property
    def code_socket(self) -> Path:
        return self.sockets / "code.sock"

    def create(self) -> None:
        """Make the folders.

        Raises:
            UnsafeFolder: the stand-in for the sockets exists and belongs to somebody else.
        """
        # Root's Postgres runs as another user, who must be able to walk through to its own folder below.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        self.state.mkdir(parents=True, exist_ok=True)
        self.state.chmod(mode)
        self.logs.mkdir(mode=0o700, exist_ok=True)
        if self.sockets != self.state:
            self.sockets.mkdir(mode=mode, exist_ok=True)
            _refuse_foreign(self.sockets)

    def remove_sockets(self) -> None:
        """Remove the stand-in for the sockets, if there is one: it lies outside of the state folder."""
        if self.sockets != self.state:
            shutil.rmtree(self.sockets)


def _refuse_foreign(folder: Path) -> None:
    """Anybody can make folders in the temporary folder: one prepared by somebody else could swap our sockets."""
    found = folder.lstat()
    if found.st_uid != os.geteuid() or folder.is_symlink():
        raise UnsafeFolder(
            f"{folder} holds this stack's sockets but belongs to user {found.st_uid}, not {os.geteuid()}; "
            "remove it, or set APPHUB_HOME to a shorter path"
        )
