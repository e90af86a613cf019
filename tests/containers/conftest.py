"""A real engine, a base image, sandboxes that are cleaned up, and a second engine that a test may stop."""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import docker
import pytest

from apphub_assets.containers import (
    BuildLimits,
    BuildSpec,
    Engine,
    ResourceProfile,
    Sandboxes,
    SandboxSpec,
    ensure_base_image,
)
from apphub_assets.kit.ids import new_id

MIB = 1024 * 1024
BASE = "busybox:1.36"

Recipe = Callable[..., BuildSpec]


def eventually(true: Callable[[], bool]) -> None:
    """Wait for something that other processes bring about."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "did not come true within 30 s"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with closing(Engine()) as engine:
        yield engine


@pytest.fixture(scope="session")
def base_image(engine: Engine) -> str:
    ensure_base_image(engine, BASE)
    return BASE


@pytest.fixture
def raw(engine: Engine) -> Iterator[docker.APIClient]:
    """The engine as anybody sees it, to look behind what AppHub says about it."""
    client = docker.APIClient(version="auto")
    yield client
    client.close()


@pytest.fixture
def owner() -> str:
    return f"test.{new_id()}"


@pytest.fixture
def recipe(tmp_path: Path, base_image: str, owner: str) -> Recipe:
    """Makes a build of some Dockerfile lines, with limits that a test can reach quickly."""

    def make(*steps: str, timeout: float = 60, **files: str) -> BuildSpec:
        dockerfile = "\n".join([f"FROM {base_image}", *steps])
        for name, text in {"Dockerfile": dockerfile, **files}.items():
            (tmp_path / name).write_text(text)
        limits = BuildLimits(memory_bytes=128 * MIB, cpus=1, disk_bytes=64 * MIB, timeout=timeout, pids=200)
        return BuildSpec(tmp_path, "Dockerfile", f"apphub-test/{owner}:1", owner, limits, {"apphub.test": owner})

    return make


@pytest.fixture
def sandboxes(engine: Engine, base_image: str) -> Iterator[Sandboxes]:
    """Sandboxes of a stack of their own; whatever a test leaves is stopped."""
    sandboxes = Sandboxes(engine, f"test-{new_id()}", relay_image=base_image)
    yield sandboxes
    for launch_id in sandboxes.list():
        sandboxes.stop(launch_id)


def app(script: str, launch_id: str = "one", image: str = BASE) -> SandboxSpec:
    """A sandbox that runs a shell script."""
    profile = ResourceProfile(memory_bytes=32 * MIB, cpus=0.5, pids=16, disk_bytes=2 * MIB)
    return SandboxSpec(launch_id, image, 8080, {}, profile, command=("sh", "-c", script), correlation_id="c-1")


class PrivateEngine:
    """A container engine of its own that a test can stop, kill and start without disturbing others.

    Its network and mounts are in namespaces of their own, so that it does not fight with the machine's engine over
    bridges and firewall rules.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "engine.sock"
        self.url = f"unix://{self._socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        folder = self._folder
        options = [f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/engine.pid"]
        apart = ["unshare", "--net", "--mount", "sh", "-c", 'ip link set lo up && exec dockerd "$@"', "dockerd"]
        with (folder / "log").open("ab") as log:
            command = [*apart, f"--host={self.url}", *options]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        eventually(self._is_up)

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
        return self._socket.exists()

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)
        # Its containerd died with it, and is believed alive as long as nobody has reaped it.
        for stale in (self._socket, self._folder / "exec/containerd/containerd.pid"):
            stale.unlink()


@pytest.fixture
def private_engine() -> Iterator[PrivateEngine]:
    if os.geteuid() != 0:
        pytest.skip("a second dockerd needs root")
    with tempfile.TemporaryDirectory(prefix="engine-") as folder:
        private = PrivateEngine(Path(folder))
        try:
            private.start()
            with closing(Engine(private.url)) as engine:
                ensure_base_image(engine, BASE)
            yield private
        finally:
            private.stop()
