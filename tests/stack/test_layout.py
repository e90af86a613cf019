"""The state folder: where sockets go, and who may not have been there before."""

import os
import socket
from pathlib import Path

import pytest

from apphub_assets.stack.errors import UnsafeFolder
from apphub_assets.stack.layout import Layout


def deep(folder: Path) -> Path:
    return folder / ("d" * 60) / ("e" * 60)


def test_sockets_lie_in_the_state_folder_when_its_path_is_short() -> None:
    assert Layout(Path("/srv/apphub")).sockets == Path("/srv/apphub")


def test_a_long_path_gets_a_short_folder_of_its_own_in_which_sockets_can_be_bound(tmp_path: Path) -> None:
    layout = Layout(deep(tmp_path))
    layout.create()
    layout.database_socket.mkdir()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(layout.database_socket / ".s.PGSQL.5432"))

    assert layout.sockets != Layout(deep(tmp_path) / "other").sockets
    layout.remove_sockets()
    assert not layout.sockets.exists()


def test_nobody_else_may_list_the_state_folder(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "state")
    layout.create()

    assert layout.state.stat().st_mode & 0o066 == 0
    assert layout.logs.stat().st_mode & 0o077 == 0


def test_a_socket_folder_that_is_a_link_to_elsewhere_is_refused(tmp_path: Path) -> None:
    layout = Layout(deep(tmp_path))
    layout.sockets.symlink_to(tmp_path)

    with pytest.raises(UnsafeFolder, match="APPHUB_HOME"):
        layout.create()
    layout.sockets.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_socket_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    layout = Layout(deep(tmp_path))
    layout.sockets.mkdir()
    os.chown(layout.sockets, 65534, 65534)

    with pytest.raises(UnsafeFolder, match="belongs to user 65534"):
        layout.create()
    layout.sockets.rmdir()
