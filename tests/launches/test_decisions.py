"""What is decided, for every state of a launch and every state of its container."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from apphub_assets.containers import SandboxStatus
from apphub_assets.launches.decisions import Action, Bury, Hold, Policy, Probe, Recheck, Remove, Start, Stop, decide
from apphub_assets.launches.models import Launch
from apphub_assets.launches.spec import LaunchStatus, ReasonCode

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
POLICY = Policy(start_timeout=60, idle_timeout=900)
ALIVE = SandboxStatus.RUNNING


def launch(status: str, seconds: float = 0, **values: Any) -> Launch:
    """A launch that has been in this state for some seconds."""
    since = NOW - timedelta(seconds=seconds)
    given = {
        "id": "l", "sandbox_id": "s", "address": "127.0.0.1:9", "status": status, "pooled": False,
        "reason_code": "requested", "reason": "",
        "reason_at": since, "started_at": since, "expires_at": NOW + timedelta(hours=1),
    }  # fmt: skip
    return Launch(**(given | values))


def one(row: Launch, sandbox: SandboxStatus | None = ALIVE) -> Action | None:
    """The only action for this launch with this container; None: no container."""
    found = decide([row], {"s": sandbox} if sandbox else {}, NOW, POLICY)
    assert len(found) <= 1
    return found[0] if found else None


def ending(action: Action | None) -> tuple[LaunchStatus, ReasonCode]:
    assert isinstance(action, Stop)
    return action.ending.status, action.ending.reason.code


def test_what_is_wanted_is_started() -> None:
    row = launch("pending", sandbox_id=None, address=None)
    assert decide([row], {}, NOW, POLICY) == [Start(row)]


class TestStarting:
    def test_what_is_there_is_probed_until_its_deadline(self) -> None:
        row = launch("starting", seconds=20)
        assert one(row) == Probe(row, NOW + timedelta(seconds=40))

    def test_what_did_not_answer_by_then_has_failed(self) -> None:
        assert ending(one(launch("starting", seconds=60))) == ("failed", "never_answered")

    def test_what_ended_before_it_answered_is_buried(self) -> None:
        row = launch("starting")
        assert one(row, SandboxStatus.EXITED) == Bury(row)
        assert one(row, None) == Bury(row)

    @pytest.mark.parametrize("sandbox", [None, SandboxStatus.MISSING, ALIVE])
    def test_what_a_worker_left_half_made_is_started_anew(self, sandbox: SandboxStatus | None) -> None:
        row = launch("starting", address=None)
        assert one(row, sandbox) == Start(row)


class TestRunning:
    def test_what_runs_is_left_alone(self) -> None:
        assert one(launch("running", seconds=899)) is None

    @pytest.mark.parametrize("sandbox", [None, SandboxStatus.EXITED, SandboxStatus.MISSING])
    def test_what_ended_is_buried(self, sandbox: SandboxStatus | None) -> None:
        row = launch("running")
        assert one(row, sandbox) == Bury(row)

    def test_its_time_ends(self) -> None:
        assert ending(one(launch("running", expires_at=NOW))) == ("expired", "ttl_expired")

    def test_it_ends_when_nobody_asks_for_it(self) -> None:
        assert ending(one(launch("running", seconds=900))) == ("expired", "idle")
        assert one(launch("running", seconds=900, last_request_at=NOW - timedelta(seconds=899))) is None
        assert ending(one(launch("running", seconds=5000, last_request_at=NOW - timedelta(seconds=900))))[1] == "idle"

    def test_in_the_pool_neither_counts(self) -> None:
        assert one(launch("running", seconds=5000, pooled=True, expires_at=None)) is None


def test_what_is_stopping_is_stopped_as_it_was_meant_to_whatever_is_left_of_it() -> None:
    row = launch("stopping", outcome="expired", reason_code="idle")
    for sandbox in (ALIVE, SandboxStatus.EXITED, None):
        assert ending(one(row, sandbox)) == ("expired", "idle")


def test_what_belongs_to_nobody_is_removed() -> None:
    found = {"s": ALIVE, "b": ALIVE, "a": SandboxStatus.MISSING}
    assert decide([launch("running")], found, NOW, POLICY) == [Remove("a"), Remove("b")]


class TestWithoutTheEngine:
    @pytest.mark.parametrize("status", ["pending", "starting", "running"])
    def test_the_last_state_is_held_and_said_so_once(self, status: str) -> None:
        row = launch(status)
        assert decide([row], None, NOW, POLICY) == [Hold(row)]
        held = launch(status, seconds=59, reason_code="engine_unavailable")
        assert decide([held], None, NOW, POLICY) == []

    def test_a_launch_that_waits_too_long_for_it_has_failed(self) -> None:
        waiting = launch("pending", seconds=60, reason_code="engine_unavailable")
        (action,) = decide([waiting], None, NOW, POLICY)
        assert ending(action) == ("failed", "engine_unavailable")

    def test_what_is_stopping_waits(self) -> None:
        assert decide([launch("stopping")], None, NOW, POLICY) == []

    def test_when_it_is_back_what_lives_must_answer_again(self) -> None:
        for status in ("starting", "running"):
            row = launch(status, reason_code="engine_unavailable")
            assert one(row) == Recheck(row)

    def test_when_it_is_back_what_nobody_saw_run_is_started_anew(self) -> None:
        row = launch("starting", reason_code="engine_unavailable")
        assert one(row, SandboxStatus.EXITED) == Start(row)

    def test_when_it_is_back_what_ran_and_is_gone_is_buried(self) -> None:
        row = launch("running", reason_code="engine_unavailable")
        assert one(row, SandboxStatus.EXITED) == Bury(row)
