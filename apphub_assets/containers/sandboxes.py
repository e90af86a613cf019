"""Sandboxes: one running app that nothing but its relay can reach, and that can reach nothing at all.

    API ── 127.0.0.1:port ──► relay ── sealed network ──► app

The sealed network has no address of the host, so the app finds neither host, database, internet nor cloud metadata. The
relay, an unprivileged busybox `nc`, is the only other member; it forwards no packets, only connections to the app.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from math import ceil
from typing import Any

import docker
from docker.errors import APIError, NotFound
from docker.types import LogConfig

from .base_image import ensure_base_image
from .engine import MIB, Engine, Feed, reason
from .errors import LaunchFailed, SandboxMissing
from .names import Names, Part
from .networks import CPU_PERIOD, create_network, remove_container, remove_network
from .states import (
    CORRELATION_LABEL,
    LAUNCH_LABEL,
    STACK_LABEL,
    ContainerEvent,
    SandboxState,
    SandboxStats,
    SandboxStatus,
    read_events,
    read_state,
    read_stats,
    read_status,
)
from .text import lines_of, shorten

RELAY_PORT = 9000
RELAY_MEMORY_BYTES = 64 * MIB
RELAY_PIDS = 512
RUN_BYTES = 8 * MIB
NOBODY = "65534:65534"
LOG_FILES = LogConfig(type=LogConfig.types.JSON, config={"max-size": "4m", "max-file": "2"})
LOG_NOTHING = LogConfig(type="none")


@dataclass(frozen=True)
class ResourceProfile:
    """What an app may use. `disk_bytes` is its scratch space at /tmp, which is kept in memory and counts as such."""

    memory_bytes: int
    cpus: float
    pids: int
    disk_bytes: int


@dataclass(frozen=True)
class SandboxSpec:
    """What to start: `port` is where the app listens (it is told in PORT), `command` replaces the image's own."""

    launch_id: str
    image: str
    port: int
    env: Mapping[str, str]
    profile: ResourceProfile
    command: Sequence[str] | None = None
    correlation_id: str = ""


@dataclass(frozen=True)
class Sandbox:
    """A started sandbox; `address` is the host:port that leads to the app, once that listens."""

    launch_id: str
    container_id: str
    container_ip: str
    address: str


class Sandboxes:
    """The sandboxes of one stack on one engine.

    Args:
        engine: where they run.
        stack: id of this installation, so that several can share an engine; letters, digits, `_`, `.` and `-`.
        relay_image: image with a busybox; fetched when missing.
        relay_network: engine network that this process is on too, when it is a container itself; None: relays are
            published on the loopback interface.
    """

    def __init__(self, engine: Engine, stack: str, relay_image: str, relay_network: str | None = None) -> None:
        self._engine = engine
        self.stack = stack
        self._names = Names(stack)
        self._relay_image = relay_image
        self._relay_network = relay_network

    def start(self, spec: SandboxSpec) -> Sandbox:
        """Start app and relay; does not wait until the app listens. One that runs already is returned as it is.

        Raises:
            ImageMissing: the engine has no such image.
            LaunchFailed: the engine can't start the image, with its reason.
        """
        state = self.inspect(spec.launch_id)
        if state.address and state.container_id and state.container_ip:
            return Sandbox(spec.launch_id, state.container_id, state.container_ip, state.address)
        self.stop(spec.launch_id)
        image = self._engine.image_info(spec.image)
        network = self._names.of(spec.launch_id, Part.NETWORK)
        with self._engine.api() as api, ExitStack() as undo:
            subnet = create_network(api, network, self._labels(spec), sealed=True)
            undo.callback(self.stop, spec.launch_id)
            app_ip, relay_ip = subnet[2], subnet[3]
            with ThreadPoolExecutor(1) as pool:
                relay = pool.submit(self._start_relay, api, spec, app_ip, relay_ip)
                container_id = self._start_app(api, spec, app_ip, image.volumes)
                address = relay.result()
            undo.pop_all()
        return Sandbox(spec.launch_id, container_id, str(app_ip), address)

    def inspect(self, launch_id: str) -> SandboxState:
        """What is true now; MISSING when there is no app."""
        network = self._names.of(launch_id, Part.NETWORK)
        with self._engine.api() as api:
            try:
                app = api.inspect_container(self._names.of(launch_id, Part.APP))
            except NotFound:
                return SandboxState(SandboxStatus.MISSING)
            return read_state(app, network, self._relay_address(api, launch_id))

    def list(self) -> dict[str, SandboxStatus]:
        """Every launch of this stack that left anything on the engine; MISSING: parts of it, but no app."""
        labelled = {"label": f"{STACK_LABEL}={self.stack}"}
        with self._engine.api() as api:
            networks = api.networks(filters=labelled)
            containers = api.containers(all=True, filters=labelled)
        parts = [(network["Name"], "") for network in networks] + [(c["Names"][0], c["State"]) for c in containers]
        found: dict[str, SandboxStatus] = {}
        for name, state in parts:
            match self._names.parse(name):
                case launch_id, Part.APP:
                    found[launch_id] = read_status(state)
                case launch_id, _:
                    found.setdefault(launch_id, SandboxStatus.MISSING)
        return found

    def stop(self, launch_id: str, grace: float = 0.0) -> None:
        """Remove app, relay and network; fine when some or all of them are gone.

        Args:
            launch_id: which sandbox.
            grace: seconds between asking the app to end and killing it.
        """
        app = self._names.of(launch_id, Part.APP)
        with self._engine.api() as api:
            if grace > 0:
                with suppress(NotFound):
                    api.stop(app, timeout=ceil(grace))
            remove_container(api, app)
            remove_container(api, self._names.of(launch_id, Part.RELAY))
            remove_network(api, self._names.of(launch_id, Part.NETWORK))

    def logs(self, launch_id: str, tail: int | None = None, *, follow: bool = False) -> Feed[str]:
        """Lines that the app printed: the last `tail`, or all that is kept; with `follow`, on until it ends.

        Raises:
            SandboxMissing: there is no such app.
        """
        with self._app(launch_id) as (api, app):
            chunks = api.logs(app, stream=True, follow=follow, tail="all" if tail is None else tail)
        return Feed(chunks, lines_of(chunks), endless=False)

    def stats(self, launch_id: str) -> SandboxStats:
        """What the app uses now.

        Raises:
            SandboxMissing: there is no such app.
        """
        with self._app(launch_id) as (api, app):
            return read_stats(api.stats(app, stream=False, one_shot=True))

    def pause(self, launch_id: str) -> None:
        """Freeze the app: it keeps its memory and uses no CPU.

        Raises:
            SandboxMissing: there is no such app.
        """
        with self._app(launch_id) as (api, app):
            api.pause(app)

    def unpause(self, launch_id: str) -> None:
        """Go on with a frozen app.

        Raises:
            SandboxMissing: there is no such app.
        """
        with self._app(launch_id) as (api, app):
            api.unpause(app)

    def watch(self) -> Feed[ContainerEvent]:
        """What happens to the containers of this stack from now on.

        List the sandboxes after this call to miss nothing. The feed raises EngineUnavailable when the engine goes away.
        """
        filters = {"type": "container", "event": ["die", "oom", "destroy"], "label": f"{STACK_LABEL}={self.stack}"}
        with self._engine.api() as api:
            events = api.events(filters=filters, decode=True)
        return Feed(events, read_events(events, self._names), endless=True)

    @contextmanager
    def _app(self, launch_id: str) -> Iterator[tuple[docker.APIClient, str]]:
        with self._engine.api() as api:
            try:
                yield api, self._names.of(launch_id, Part.APP)
            except NotFound as error:
                raise SandboxMissing(f"Launch {launch_id} has no container; launch the app again") from error

    def _labels(self, spec: SandboxSpec) -> dict[str, str]:
        return {LAUNCH_LABEL: spec.launch_id, STACK_LABEL: self.stack, CORRELATION_LABEL: spec.correlation_id}

    def _start_app(self, api: docker.APIClient, spec: SandboxSpec, address: IPv4Address, volumes: Iterable[str]) -> str:
        network = self._names.of(spec.launch_id, Part.NETWORK)
        scratch = f"size={spec.profile.disk_bytes},mode=1777,exec"
        host = api.create_host_config(
            # A volume of the image would be a way to write without limit.
            tmpfs={"/run": f"size={RUN_BYTES},mode=1777", "/tmp": scratch} | dict.fromkeys(volumes, scratch),  # noqa: S108
            # Nobody answers there: names fail fast, and the engine never asks the host's resolver for the app.
            dns=[str(address)],
            network_mode=network,
            pids_limit=spec.profile.pids,
            cpu_period=CPU_PERIOD,
            cpu_quota=int(spec.profile.cpus * CPU_PERIOD),
            log_config=LOG_FILES,
            **_confined(spec.profile.memory_bytes),
        )
        endpoint = api.create_endpoint_config(ipv4_address=str(address))
        try:
            app = api.create_container(
                spec.image,
                list(spec.command) if spec.command else None,
                name=self._names.of(spec.launch_id, Part.APP),
                environment={**spec.env, "PORT": str(spec.port)},
                labels=self._labels(spec),
                host_config=host,
                networking_config={"EndpointsConfig": {network: endpoint}},
                use_config_proxy=False,
            )["Id"]
            api.start(app)
        except APIError as error:
            raise LaunchFailed(f"Image {spec.image} can't be started: {shorten(reason(error), 500)}") from error
        return str(app)

    def _start_relay(
        self, api: docker.APIClient, spec: SandboxSpec, app_address: IPv4Address, address: IPv4Address
    ) -> str:
        """Start the relay; returns its address as the API reaches it."""
        ensure_base_image(self._engine, self._relay_image)
        network = self._names.of(spec.launch_id, Part.NETWORK)
        host = api.create_host_config(
            network_mode=self._relay_network or "bridge",
            port_bindings=None if self._relay_network else {RELAY_PORT: ("127.0.0.1",)},
            sysctls={"net.ipv4.ip_forward": "0"},
            pids_limit=RELAY_PIDS,
            log_config=LOG_NOTHING,
            **_confined(RELAY_MEMORY_BYTES),
        )
        relay = api.create_container(
            self._relay_image,
            ["nc", "-ll", "-p", str(RELAY_PORT), "-e", "nc", str(app_address), str(spec.port)],
            name=self._names.of(spec.launch_id, Part.RELAY),
            user=NOBODY,
            ports=[RELAY_PORT],
            labels=self._labels(spec),
            host_config=host,
            use_config_proxy=False,
        )["Id"]
        api.connect_container_to_network(relay, network, ipv4_address=str(address))
        api.start(relay)
        reached_at = self._relay_address(api, spec.launch_id)
        if reached_at is None:
            raise LaunchFailed(f"The relay of launch {spec.launch_id} ended at once; is {self._relay_image} a busybox?")
        return reached_at

    def _relay_address(self, api: docker.APIClient, launch_id: str) -> str | None:
        """Where the relay is reached; None when it does not run."""
        try:
            relay = api.inspect_container(self._names.of(launch_id, Part.RELAY))
        except NotFound:
            return None
        if not relay["State"]["Running"]:
            return None
        network = relay["NetworkSettings"]
        if self._relay_network:
            return f"{network['Networks'][self._relay_network]['IPAddress']}:{RELAY_PORT}"
        published = network["Ports"].get(f"{RELAY_PORT}/tcp")
        return f"127.0.0.1:{published[0]['HostPort']}" if published else None


def _confined(memory_bytes: int) -> dict[str, Any]:
    """What holds for every container of a sandbox."""
    return {
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "read_only": True,
        "mem_limit": memory_bytes,
        "memswap_limit": memory_bytes,
        "restart_policy": {"Name": "no"},
    }
