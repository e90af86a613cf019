"""The warm pool: launches that run before anybody asks, of the apps that are asked for most.

A pooled launch is a row like any other; the keeper starts, watches and ends it. What this decides is which there should
be. Rows of pooled launches that ended stay as a memory: what an app needs, and that it does not start by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from apphub_assets.catalog import builds
from apphub_assets.catalog.views import BuildView
from apphub_assets.containers import Sandboxes, SandboxMissing
from apphub_assets.kit.db import Database
from apphub_assets.kit.ids import new_id
from apphub_assets.launches import repository, states
from apphub_assets.launches.models import Launch
from apphub_assets.launches.spec import LIVE, LaunchStatus, Profile, Reason, ReasonCode
from apphub_assets.launches.states import Ending
from apphub_assets.settings import Settings

MIB = 1024 * 1024
WINDOW = timedelta(days=7)
CANDIDATES = 20
UNMEASURED_BYTES = 32 * MIB
# Not the app's fault: it may be tried again.
INNOCENT = frozenset({ReasonCode.ENGINE_UNAVAILABLE, ReasonCode.ENGINE_RESTARTED, ReasonCode.CONTAINER_LOST})


@dataclass(frozen=True)
class Plan:
    """Builds to make ready, and pooled launches to let go."""

    add: list[str]
    drop: list[str]


def plan(candidates: Sequence[str], pooled: Sequence[Launch], budget_bytes: int) -> Plan:
    """Choose which builds to keep ready.

    Args:
        candidates: build ids, the most wanted first.
        pooled: every pooled launch, ended ones included.
        budget_bytes: memory that all of them may use together.
    """
    costs = {launch.build_id: launch.memory_bytes for launch in pooled if launch.memory_bytes is not None}
    spoiled = {launch.build_id for launch in pooled if _spoiled(launch)}
    chosen = _fitting([build for build in candidates if build not in spoiled], costs, budget_bytes)
    live = {launch.build_id: launch.id for launch in pooled if launch.status in LIVE}
    return Plan(
        add=[build for build in chosen if build not in live],
        drop=[launch_id for build, launch_id in live.items() if build not in chosen],
    )


def _fitting(builds: Sequence[str], costs: Mapping[str | None, int], room: int) -> list[str]:
    chosen = []
    for build in builds:
        cost = costs.get(build, UNMEASURED_BYTES)
        if cost <= room:
            chosen.append(build)
            room -= cost
    return chosen


def _spoiled(launch: Launch) -> bool:
    return launch.status == LaunchStatus.FAILED and launch.reason_code not in INNOCENT


class Pool:
    """Brings the pool in line with demand, when the keeper has nothing better to do."""

    def __init__(self, database: Database, sandboxes: Sandboxes, settings: Settings) -> None:
        self._database = database
        self._sandboxes = sandboxes
        self._settings = settings

    def tend(self) -> bool:
        """Add and drop pooled rows; true when the keeper has something to do because of it."""
        with self._database.transaction() as session:
            pooled = repository.pooled(session)
        self._measure([launch for launch in pooled if launch.memory_bytes is None])
        with self._database.transaction() as session:
            candidates = self._candidates(session)
            wanted = plan(list(candidates), pooled, self._settings.pool_memory_bytes)
            for build_id in wanted.add:
                repository.remove_ended_pooled(session, candidates[build_id].repository_id)
                repository.add(session, _entry(candidates[build_id]))
            for launch_id in wanted.drop:
                self._drop(session, launch_id)
        return bool(wanted.add or wanted.drop)

    def _candidates(self, session: Session) -> dict[str, BuildView]:
        """The newest builds of the most launched apps by id."""
        if self._settings.pool_memory_bytes <= 0:
            return {}
        apps = repository.popular(session, datetime.now(UTC) - WINDOW, CANDIDATES)
        found = (builds.launchable(session, app) for app in apps)
        return {build.id: build for build in found if build is not None and build.image_tag}

    def _measure(self, pooled: Sequence[Launch]) -> None:
        for launch in pooled:
            if launch.status != LaunchStatus.RUNNING or launch.sandbox_id is None:
                continue
            try:
                launch.memory_bytes = self._sandboxes.stats(launch.sandbox_id).memory_bytes
            except SandboxMissing:
                continue
            with self._database.transaction() as session:
                repository.note_memory(session, launch.id, launch.memory_bytes)

    def _drop(self, session: Session, launch_id: str) -> None:
        row = repository.get_kept_for_update(session, launch_id)
        if row is not None and row.pooled and row.status in LIVE:
            states.stop(row, Ending(LaunchStatus.STOPPED, Reason(ReasonCode.STOPPED, "Left the pool.")))


def _entry(build: BuildView) -> Launch:
    row = Launch(
        id=new_id(),
        repository_id=build.repository_id,
        build_id=build.id,
        image_tag=build.image_tag or "",
        resource_profile=Profile.MEDIUM,
        env=[],
        pooled=True,
    )
    states.request(row, ttl=0)
    row.expires_at = None
    return row
