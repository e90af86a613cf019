"""How a launch goes from state to state: changes of one row, without any effect elsewhere."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apphub_assets.containers import Sandbox, SandboxState, SandboxStatus
from apphub_assets.launches.models import Launch
from apphub_assets.launches.spec import EnvVar, LaunchStatus, Reason, ReasonCode

KILLED_BY = 128


@dataclass(frozen=True)
class Ending:
    """How a launch ended."""

    status: LaunchStatus
    reason: Reason
    exit_code: int | None = None


def request(launch: Launch, ttl: float) -> None:
    """Wanted, and nothing done yet; `ttl` seconds to live."""
    now = datetime.now(UTC)
    launch.status, launch.outcome = LaunchStatus.PENDING, None
    launch.expires_at = now + timedelta(seconds=ttl)
    launch.last_request_at = launch.started_at = launch.stopped_at = None
    launch.exit_code = launch.log_tail = None
    say(launch, Reason(ReasonCode.REQUESTED, "Waits for its container."))


def begin(launch: Launch, sandbox_id: str, port: int) -> None:
    """Its container is about to be made under this id, so that it can be found whatever happens next."""
    launch.status, launch.sandbox_id, launch.internal_port = LaunchStatus.STARTING, sandbox_id, port
    launch.address = launch.container_ip = None
    say(launch, Reason(ReasonCode.STARTED, f"Starting; waiting for an answer on port {port}."))


def locate(launch: Launch, sandbox: Sandbox) -> None:
    """Its container was made and is there."""
    launch.address, launch.container_ip = sandbox.address, sandbox.container_ip


def answer(launch: Launch) -> None:
    """It answered."""
    now = datetime.now(UTC)
    launch.status, launch.started_at = LaunchStatus.RUNNING, launch.started_at or now
    say(launch, Reason(ReasonCode.ANSWERED, "The app answers."))


def recheck(launch: Launch) -> None:
    """It may run, but must answer again before we say so."""
    launch.status = LaunchStatus.STARTING
    say(launch, Reason(ReasonCode.STARTED, "The container engine is back; waiting for the app to answer."))


def hold(launch: Launch, message: str) -> None:
    """Its state can't be seen now: the last one stays, with the reason."""
    say(launch, Reason(ReasonCode.ENGINE_UNAVAILABLE, message))


def stop(launch: Launch, ending: Ending) -> None:
    """It is to end this way."""
    launch.status, launch.outcome = LaunchStatus.STOPPING, ending.status
    say(launch, ending.reason)


def end(launch: Launch, ending: Ending, log_tail: str | None) -> None:
    """It has ended; its container is or will be removed."""
    launch.status, launch.outcome = ending.status, None
    launch.sandbox_id = launch.address = launch.container_ip = None
    launch.exit_code, launch.log_tail = ending.exit_code, log_tail
    launch.stopped_at = datetime.now(UTC)
    say(launch, ending.reason)


def adopt(launch: Launch, launch_id: str, ttl: float, correlation_id: str | None) -> None:
    """A pooled launch becomes somebody's, as if it had been started for them this moment."""
    now = datetime.now(UTC)
    launch.id, launch.pooled, launch.correlation_id = launch_id, False, correlation_id
    launch.created_at = launch.started_at = now
    launch.expires_at = now + timedelta(seconds=ttl)
    say(launch, Reason(ReasonCode.ANSWERED, "The app answers; it was kept ready."))


def say(launch: Launch, reason: Reason) -> None:
    launch.reason_code, launch.reason, launch.reason_at = reason.code, reason.message, datetime.now(UTC)


def ending_of(launch: Launch, state: SandboxState) -> Ending:
    """What to say of a launch whose container is not there or not running any more."""
    if launch.reason_code == ReasonCode.ENGINE_UNAVAILABLE:
        message = "The container engine restarted and ended the app; launch it again."
        return Ending(LaunchStatus.FAILED, Reason(ReasonCode.ENGINE_RESTARTED, message), state.exit_code)
    if state.status == SandboxStatus.MISSING or state.exit_code is None:
        message = "The container is gone; something other than AppHub removed it."
        return Ending(LaunchStatus.FAILED, Reason(ReasonCode.CONTAINER_LOST, message))
    if state.oom_killed:
        message = f"The app used more memory than the profile {launch.resource_profile!r} has; choose a larger one."
        return Ending(LaunchStatus.FAILED, Reason(ReasonCode.OUT_OF_MEMORY, message), state.exit_code)
    return _exited(launch, state.exit_code)


def never_answered(port: int | None, seconds: float) -> Ending:
    message = f"No answer to HTTP on port {port} within {seconds:g} s; the app must listen on 0.0.0.0:$PORT."
    return Ending(LaunchStatus.FAILED, Reason(ReasonCode.NEVER_ANSWERED, message))


def env_of(launch: Launch) -> Sequence[EnvVar]:
    return [EnvVar(**variable) for variable in launch.env]


def _exited(launch: Launch, exit_code: int) -> Ending:
    answered = launch.status == LaunchStatus.RUNNING
    how = _exit_text(exit_code)
    if answered and exit_code == 0:
        return Ending(
            LaunchStatus.STOPPED, Reason(ReasonCode.EXITED, f"The app ended by itself with {how}."), exit_code
        )
    when = "ended" if answered else "ended before it answered,"
    message = f"The app {when} with {how}; its log may say why."
    return Ending(LaunchStatus.FAILED, Reason(ReasonCode.EXITED, message), exit_code)


def _exit_text(exit_code: int) -> str:
    number = exit_code - KILLED_BY
    names = {known.value: known.name for known in signal.Signals}
    return f"exit code {exit_code} ({names[number]})" if number in names else f"exit code {exit_code}"
