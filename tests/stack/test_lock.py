"""One stack per state folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from apphub_assets.stack.errors import AlreadyRunning, NotRunning
from apphub_assets.stack.lock import Holder, held, read_holder

HOLDER = Holder(pid=4711, url="http://127.0.0.1:4000", environment={"APPHUB_HOME": "/srv/apphub"})

HOLD_AND_WAIT = """
import sys
from pathlib import Path
from apphub_assets.stack.lock import Holder, held
with held(Path(sys.argv[1]), Holder(1, "http://gone", {})):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "apphub.lock"


def test_a_second_stack_is_told_who_runs_and_what_to_do(lock: Path) -> None:
    with held(lock, HOLDER), pytest.raises(AlreadyRunning) as refused, held(lock, HOLDER):
        pass

    for hint in ("4711", "http://127.0.0.1:4000", "APPHUB_HOME", "APPHUB_PORT"):
        assert hint in refused.value.message


def test_who_holds_it_can_be_read_while_it_is_held(lock: Path) -> None:
    with held(lock, HOLDER):
        assert read_holder(lock) == HOLDER


def test_nothing_is_left_when_it_is_released(lock: Path) -> None:
    with held(lock, HOLDER):
        pass

    assert not lock.exists()
    with pytest.raises(NotRunning, match="apphub up"):
        read_holder(lock)


def test_it_dies_with_a_holder_that_is_killed(lock: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_AND_WAIT, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()

    with pytest.raises(NotRunning):
        read_holder(lock)
    with held(lock, HOLDER):
        assert read_holder(lock) == HOLDER
