"""What is said of a launch whose container has ended."""

import pytest

from apphub_assets.containers import SandboxState, SandboxStatus
from apphub_assets.launches.models import Launch
from apphub_assets.launches.states import Ending, ending_of


def ending(status: str, state: SandboxState, reason_code: str = "answered") -> Ending:
    return ending_of(Launch(status=status, reason_code=reason_code, resource_profile="small"), state)


def exited(code: int, *, oom: bool = False) -> SandboxState:
    return SandboxState(SandboxStatus.EXITED, exit_code=code, oom_killed=oom)


@pytest.mark.parametrize(
    ("before", "state", "status", "code", "says"),
    [
        ("running", exited(0), "stopped", "exited", "by itself with exit code 0"),
        ("running", exited(1), "failed", "exited", "exit code 1;"),
        ("running", exited(137), "failed", "exited", "137 (SIGKILL)"),
        ("running", exited(137, oom=True), "failed", "out_of_memory", "'small'"),
        ("running", SandboxState(SandboxStatus.MISSING), "failed", "container_lost", "removed"),
        ("starting", exited(0), "failed", "exited", "before it answered"),
        ("starting", exited(127), "failed", "exited", "before it answered"),
    ],
)
def test_an_ending_says_what_happened(before: str, state: SandboxState, status: str, code: str, says: str) -> None:
    found = ending(before, state)
    assert (found.status, found.reason.code) == (status, code)
    assert says in found.reason.message
    assert found.exit_code == state.exit_code


def test_after_a_restart_of_the_engine_that_is_the_reason_whatever_the_code() -> None:
    found = ending("running", exited(137), reason_code="engine_unavailable")
    assert (found.status, found.reason.code) == ("failed", "engine_restarted")
