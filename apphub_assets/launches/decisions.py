"""What to do next, decided from what is wanted and what is there. No effects, no clock of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from apphub_assets.containers import SandboxStatus
from apphub_assets.launches.models import Launch
from apphub_assets.launches.spec import LaunchStatus, Reason, ReasonCode
from apphub_assets.launches.states import Ending, never_answered

HELD = ReasonCode.ENGINE_UNAVAILABLE
ALIVE = frozenset({SandboxStatus.STARTING, SandboxStatus.RUNNING, SandboxStatus.PAUSED})


@dataclass(frozen=True)
class Policy:
    """Seconds a launch may take to answer, and may go without a request."""

    start_timeout: float
    idle_timeout: float


@dataclass(frozen=True)
class Start:
    """Make its container."""

    launch: Launch


@dataclass(frozen=True)
class Probe:
    """Ask whether it answers."""

    launch: Launch
    deadline: datetime


@dataclass(frozen=True)
class Recheck:
    """It is there again after the engine was away."""

    launch: Launch


@dataclass(frozen=True)
class Hold:
    """Say that the engine is away."""

    launch: Launch


@dataclass(frozen=True)
class Bury:
    """Its container has ended or vanished: find out how, and say so."""

    launch: Launch


@dataclass(frozen=True)
class Stop:
    """End it this way."""

    launch: Launch
    ending: Ending


@dataclass(frozen=True)
class Remove:
    """A container or network that belongs to no launch."""

    sandbox_id: str


Action = Start | Probe | Recheck | Hold | Bury | Stop | Remove


def decide(
    launches: Sequence[Launch], sandboxes: Mapping[str, SandboxStatus] | None, now: datetime, policy: Policy
) -> list[Action]:
    """At most one action per launch, and one per container that nobody claims.

    Args:
        launches: every row that has or should have a container, read after `sandboxes`.
        sandboxes: what is on the engine; None when it can't be asked.
        now: the time.
        policy: the limits.
    """
    if sandboxes is None:
        blind = (_without_engine(launch, now, policy) for launch in launches)
        return [action for action in blind if action is not None]
    claimed = {launch.sandbox_id for launch in launches}
    orphans: list[Action] = [Remove(sandbox_id) for sandbox_id in sorted(sandboxes.keys() - claimed)]
    next_ones = (
        _next(launch, sandboxes.get(launch.sandbox_id or "", SandboxStatus.MISSING), now, policy) for launch in launches
    )
    return orphans + [action for action in next_ones if action is not None]


def _without_engine(launch: Launch, now: datetime, policy: Policy) -> Action | None:
    if launch.status == LaunchStatus.STOPPING:
        return None
    if launch.reason_code != HELD:
        return Hold(launch)
    if launch.status == LaunchStatus.PENDING and now >= launch.reason_at + timedelta(seconds=policy.start_timeout):
        return Stop(launch, Ending(LaunchStatus.FAILED, Reason(HELD, launch.reason)))
    return None


def _next(launch: Launch, sandbox: SandboxStatus, now: datetime, policy: Policy) -> Action | None:
    match launch.status:
        case LaunchStatus.PENDING:
            return Start(launch)
        case LaunchStatus.STARTING:
            return _starting(launch, sandbox, now, policy)
        case LaunchStatus.RUNNING:
            return _running(launch, sandbox, now, policy)
        case _:
            outcome = LaunchStatus(launch.outcome or LaunchStatus.STOPPED)
            return Stop(launch, Ending(outcome, Reason(ReasonCode(launch.reason_code), launch.reason)))


def _starting(launch: Launch, sandbox: SandboxStatus, now: datetime, policy: Policy) -> Action:
    held = launch.reason_code == HELD
    if sandbox in ALIVE and held:
        return Recheck(launch)
    # Whoever began to make it died, or the engine did: nobody has seen it run, so it starts anew.
    if launch.address is None or (sandbox not in ALIVE and held):
        return Start(launch)
    if sandbox not in ALIVE:
        return Bury(launch)
    deadline = launch.reason_at + timedelta(seconds=policy.start_timeout)
    if now >= deadline:
        return Stop(launch, never_answered(launch.internal_port, policy.start_timeout))
    return Probe(launch, deadline)


def _running(launch: Launch, sandbox: SandboxStatus, now: datetime, policy: Policy) -> Action | None:
    if sandbox not in ALIVE:
        return Bury(launch)
    if launch.reason_code == HELD:
        return Recheck(launch)
    if launch.pooled:
        return None
    if launch.expires_at is not None and now >= launch.expires_at:
        return Stop(launch, Ending(LaunchStatus.EXPIRED, Reason(ReasonCode.TTL, "Its time is over.")))
    used_at = max(filter(None, (launch.last_request_at, launch.started_at)), default=now)
    if now >= used_at + timedelta(seconds=policy.idle_timeout):
        message = f"Nobody asked for it for {policy.idle_timeout:g} s."
        return Stop(launch, Ending(LaunchStatus.EXPIRED, Reason(ReasonCode.IDLE, message)))
    return None
