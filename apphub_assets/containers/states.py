"""What the engine says about sandboxes, in our words."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from .names import Names, Part

LAUNCH_LABEL = "apphub.launch"
STACK_LABEL = "apphub.stack"
CORRELATION_LABEL = "apphub.correlation-id"


class SandboxStatus(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"
    MISSING = "missing"


@dataclass(frozen=True)
class SandboxState:
    """What the engine knows about a sandbox; `address` only while both app and relay run."""

    status: SandboxStatus
    address: str | None = None
    container_id: str | None = None
    container_ip: str | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True)
class SandboxStats:
    """Use so far; `cpu_seconds` only grows, so two readings give a rate."""

    memory_bytes: int
    memory_limit_bytes: int
    cpu_seconds: float
    pids: int


@dataclass(frozen=True)
class ContainerEvent:
    """Something happened to app or relay: `die`, `destroy`, or `oom`, which engines may leave out: inspect tells."""

    launch_id: str
    part: Part
    kind: str
    at: datetime
    exit_code: int | None


def read_status(engine_status: str) -> SandboxStatus:
    known = {
        "created": SandboxStatus.STARTING,
        "running": SandboxStatus.RUNNING,
        "paused": SandboxStatus.PAUSED,
    }
    return known.get(engine_status, SandboxStatus.EXITED)


def read_state(app: Mapping[str, Any], network: str, address: str | None) -> SandboxState:
    state = app["State"]
    status = read_status(state["Status"])
    exited = status is SandboxStatus.EXITED
    return SandboxState(
        status=status,
        address=address if status is SandboxStatus.RUNNING else None,
        container_id=app["Id"],
        container_ip=app["NetworkSettings"]["Networks"].get(network, {}).get("IPAddress") or None,
        exit_code=state["ExitCode"] if exited else None,
        oom_killed=state["OOMKilled"],
        started_at=_time(state["StartedAt"]),
        finished_at=_time(state["FinishedAt"]) if exited else None,
    )


def _time(text: str) -> datetime | None:
    """The engine's time; year 1 is its way to say never."""
    time = datetime.fromisoformat(text)
    return time if time.year > 1 else None


def read_stats(document: Mapping[str, Any]) -> SandboxStats:
    memory = document["memory_stats"]
    pages = memory.get("stats", {})
    # The page cache is given back when memory gets short; the two versions of cgroups name it differently.
    cache = pages.get("total_inactive_file", pages.get("inactive_file", 0))
    return SandboxStats(
        memory_bytes=memory.get("usage", 0) - cache,
        memory_limit_bytes=memory.get("limit", 0),
        cpu_seconds=document["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
        pids=document["pids_stats"].get("current", 0),
    )


def read_events(documents: Iterable[Mapping[str, Any]], names: Names) -> Iterator[ContainerEvent]:
    for document in documents:
        about = document["Actor"]["Attributes"]
        if named := names.parse(about["name"]):
            yield ContainerEvent(
                launch_id=named[0],
                part=named[1],
                kind=document["Action"],
                at=datetime.fromtimestamp(document["timeNano"] / 1e9, UTC),
                exit_code=int(about["exitCode"]) if "exitCode" in about else None,
            )
