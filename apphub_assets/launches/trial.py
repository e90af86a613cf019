"""A trial: whether an image runs as it was declared. Nobody visits it, and it is no launch.

Trials go under a stack name of their own, so the keeper neither counts them nor takes them for orphans. A trial holds
the lock `trial:<id>` while it runs: one on the engine whose lock is free has lost its worker, and goes with the next.
"""

import time
from dataclasses import dataclass

from apphub_assets.catalog.errors import AlreadyInProgress
from apphub_assets.catalog.views import BuildView
from apphub_assets.containers import Engine, Sandboxes, SandboxSpec, SandboxStatus
from apphub_assets.kit.db import Database
from apphub_assets.launches import logs
from apphub_assets.launches.spec import RESOURCES, Profile, port_of
from apphub_assets.launches.worker import answers
from apphub_assets.settings import Settings

PATIENCE_SECONDS = 20.0
PAUSE_SECONDS = 0.1
LAST_LINES = 20


@dataclass(frozen=True)
class Trial:
    """How it went: `seconds` to the first answer, or the `exit_code` of an app that ended; neither: it stayed silent.

    `log` is the end of what an app that never answered had printed.
    """

    port: int
    seconds: float | None = None
    exit_code: int | None = None
    log: str = ""

    @property
    def verdict(self) -> str:
        if self.seconds is not None:
            return f"it answered on port {self.port} after {self.seconds:.2f} s"
        if self.exit_code is not None:
            return f"it ended with exit code {self.exit_code} before it answered on port {self.port}"
        return f"it runs, but does not answer HTTP on port {self.port}"


def try_build(
    database: Database, engine: Engine, settings: Settings, build: BuildView, patience: float = PATIENCE_SECONDS
) -> Trial:
    """Run a build's image in a sandbox until it answers, ends, or `patience` seconds are over; then remove it.

    Raises:
        ImageMissing, LaunchFailed: the engine does not have the image, or can't start it.
        AlreadyInProgress: another worker tries the same build.
        EngineUnavailable: nobody can tell.
    """
    sandboxes = Sandboxes(engine, trial_stack(settings), settings.relay_image, settings.relay_network)
    _remove_lost(database, sandboxes)
    image = build.image_tag or ""
    port = port_of(engine.image_info(image))
    trial_id = f"check-{build.id[-12:]}"
    with database.lock(_lock_name(trial_id)) as had:
        if not had:
            raise AlreadyInProgress(f"build {build.id} is being tried by another run")
        try:
            sandbox = sandboxes.start(SandboxSpec(trial_id, image, port, {}, RESOURCES[Profile.MEDIUM]))
            seconds = _first_answer(sandboxes, trial_id, sandbox.address, patience)
            return Trial(port, seconds) if seconds is not None else _silent(sandboxes, trial_id, port)
        finally:
            sandboxes.stop(trial_id)


def trial_stack(settings: Settings) -> str:
    """The stack name of trials; no name of a launch's part can look like one of theirs."""
    return f"{settings.stack_id}.check"


def _first_answer(sandboxes: Sandboxes, trial_id: str, address: str, patience: float) -> float | None:
    """Seconds until the app answered; `None` when it ended, or did not within `patience`."""
    started = time.monotonic()
    while (waited := time.monotonic() - started) < patience:
        if answers(address, patience - waited):
            return time.monotonic() - started
        if sandboxes.inspect(trial_id).status is SandboxStatus.EXITED:
            return None
        time.sleep(PAUSE_SECONDS)
    return None


def _silent(sandboxes: Sandboxes, trial_id: str, port: int) -> Trial:
    printed = logs.tail(sandboxes, trial_id) or ""
    last_lines = "\n".join(printed.splitlines()[-LAST_LINES:])
    return Trial(port, exit_code=sandboxes.inspect(trial_id).exit_code, log=last_lines)


def _remove_lost(database: Database, sandboxes: Sandboxes) -> None:
    for trial_id in sandboxes.list():
        with database.lock(_lock_name(trial_id)) as lost:
            if lost:
                sandboxes.stop(trial_id)


def _lock_name(trial_id: str) -> str:
    return f"trial:{trial_id}"
