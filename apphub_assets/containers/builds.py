"""Builds: a folder with a Dockerfile becomes an image, within limits, and leaves nothing else behind.

The engine's classic builder runs the steps. Two marks tell what belongs to a build, both out of the reach of what it
prints: its containers are those on its own network, its unfinished images those with its label after every FROM.
"""

import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from json import dumps, loads
from pathlib import Path
from typing import IO, Any

import docker
import requests
from docker.errors import APIError, NotFound
from docker.types import CancellableStream
from docker.utils.build import tar

from .engine import MIB, REQUEST_TIMEOUT, Engine
from .errors import (
    BuildCancelled,
    BuildFailed,
    BuildOutOfMemory,
    BuildTimeout,
    BuildTooLarge,
    BuildTooManyProcesses,
    EngineLost,
    EngineUnavailable,
    ImageMissing,
)
from .networks import CPU_PERIOD, create_network, remove_network
from .text import Lines, shorten

OWNER_LABEL = "apphub.build-owner"
DOCKERFILE = ".apphub.Dockerfile"
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class BuildLimits:
    """What one build may use: bytes, CPUs, seconds; `disk_bytes` is what it may add to the engine's disk at once."""

    memory_bytes: int
    cpus: float
    disk_bytes: int
    timeout: float
    pids: int = 4096


@dataclass(frozen=True)
class BuildSpec:
    """What to build.

    Args:
        context: folder that is sent to the engine, less what its .dockerignore names.
        dockerfile: path below `context`.
        owner: who builds, e.g. `<stack>.<repository>`; builds of one owner must not run at once.
        labels: labels of the image.
    """

    context: Path
    dockerfile: str
    tag: str
    owner: str
    limits: BuildLimits
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def network(self) -> str:
        return network_name(self.owner)


@dataclass(frozen=True)
class BuiltImage:
    """The image; `id` is its content digest (sha256:…)."""

    id: str
    size_bytes: int


def network_name(owner: str) -> str:
    """The network that the steps of this owner's build run on."""
    return f"apphub-build-{owner}"


def build(engine: Engine, spec: BuildSpec, on_log: Callable[[str], None], cancelled: Callable[[], bool]) -> BuiltImage:
    """Build and tag an image; however it ends, no container, network or untagged image of it is left.

    Args:
        engine: where to build.
        spec: what to build, and its limits.
        on_log: called with what the build prints as it prints it: one or more lines, at most 64 KiB, without control
            characters and without the last line's end.
        cancelled: asked twice a second, from another thread.

    Raises:
        BuildFailed: a step failed; the subclasses name the limit that ended it.
        BuildCancelled: `cancelled` said so.
        EngineLost: the engine went away; the build may be started again.
    """
    clear_build(engine, spec.owner)
    try:
        image_id = _run(engine, spec, on_log, cancelled)
        image = engine.image_info(spec.tag)
    except BuildTooLarge:
        engine.remove_image(spec.tag)  # its last step may have been finished by then
        raise
    except (EngineUnavailable, ImageMissing) as error:
        raise EngineLost(f"The engine went away while {spec.tag} was built; build again: {error}") from error
    finally:
        # Without an engine nothing can be cleared; the owner's next build does it, or a sweep.
        with suppress(EngineUnavailable):
            clear_build(engine, spec.owner)
    if image.id != image_id:
        raise EngineLost(f"The engine went away before {spec.tag} was tagged; build again")
    return BuiltImage(image.id, image.size_bytes)


def clear_build(engine: Engine, owner: str) -> None:
    """Remove what a build of this owner left when its worker or the engine died: containers, network, untagged images.

    Fine when there is nothing. Must not run while the owner builds.
    """
    with engine.api() as api:
        remove_network(api, network_name(owner))
        for image in api.images(filters={"dangling": True, "label": f"{OWNER_LABEL}={owner}"}):
            with suppress(NotFound):
                api.remove_image(image["Id"])


def clear_builds(engine: Engine, owners: str) -> None:
    """Do so for every owner whose name begins with `owners`; none of them may be building."""
    with engine.api() as api:
        names = [network["Name"] for network in api.networks(names=[network_name(owners)])]
    for name in names:
        if name.startswith(network_name(owners)):
            clear_build(engine, name.removeprefix(network_name("")))


def _run(engine: Engine, spec: BuildSpec, on_log: Callable[[str], None], cancelled: Callable[[], bool]) -> str:
    """Start the build and see it through; returns the id of the image that its last stage made."""
    done = threading.Event()
    with engine.api() as api:
        before = frozenset(_layers(api, spec.owner))
    with engine.api() as api, closing(_start(api, spec)) as response, ThreadPoolExecutor(1) as pool:
        messages = CancellableStream(response.iter_lines(), response)
        watch = pool.submit(_watch, engine, spec, before, cancelled, done, messages.close)
        try:
            image_id = _follow(messages, Lines(on_log))
        except BuildFailed as failure:
            raise _explained(api, spec, failure) from failure
        finally:
            done.set()
            watch.result()  # raises what ended the build from outside, which comes before how it ended
    return image_id


def _start(api: docker.APIClient, spec: BuildSpec) -> requests.Response:
    create_network(api, spec.network, {OWNER_LABEL: spec.owner}, sealed=False)
    mark = f'LABEL {OWNER_LABEL}="{spec.owner}"'
    dockerfile = _marked(_dockerfile(spec), mark)
    with _packed(spec, dockerfile) as archive:
        # APIClient.build knows neither CPU quotas nor how to end a stream that is silent.
        response = api.post(
            f"{api.base_url}/v{api.api_version}/build",
            params=_parameters(spec),
            data=archive,
            headers={"Content-Type": "application/x-tar"},
            stream=True,
            # Longer than the deadline, which the watch keeps: a silent step must not look like a lost engine.
            timeout=(REQUEST_TIMEOUT, spec.limits.timeout + REQUEST_TIMEOUT),
        )
    if not response.ok:
        raise BuildFailed(_with_source_line(response.json()["message"], dockerfile, mark))
    return response


def _parameters(spec: BuildSpec) -> dict[str, str | int]:
    limits = spec.limits
    return {
        "t": spec.tag,
        "dockerfile": DOCKERFILE,
        "labels": dumps(dict(spec.labels)),
        "networkmode": spec.network,
        "memory": limits.memory_bytes,
        "memswap": limits.memory_bytes,
        "cpuperiod": CPU_PERIOD,
        "cpuquota": int(limits.cpus * CPU_PERIOD),
        "rm": 1,  # what a failed step leaves is kept, to tell why it failed
    }


def _dockerfile(spec: BuildSpec) -> str:
    text = _read(spec, spec.dockerfile)
    if text is None:
        raise BuildFailed(f"{spec.dockerfile!r} is not a file of the repository; name the path of its Dockerfile")
    return text


def _read(spec: BuildSpec, name: str) -> str | None:
    """A text file of the context; None when there is none, or when a link leads out of the context."""
    path = (spec.context / name).resolve()
    if not path.is_relative_to(spec.context.resolve()) or not path.is_file():
        return None
    return path.read_text(errors="replace")


@contextmanager
def _packed(spec: BuildSpec, dockerfile: str) -> Iterator[IO[bytes]]:
    """The context as a tar, with the marked Dockerfile beside the original."""
    ignored = [line.strip() for line in (_read(spec, ".dockerignore") or "").splitlines()]
    patterns = [line for line in ignored if line and not line.startswith("#")]
    with tempfile.TemporaryFile() as file:
        tar(spec.context, exclude=patterns, dockerfile=(DOCKERFILE, dockerfile), fileobj=file)
        yield file


def _marked(dockerfile: str, mark: str) -> str:
    """The Dockerfile with `mark` as a line of its own after every FROM, which may go over several lines."""
    lines: list[str] = []
    instruction = ""
    for line in dockerfile.split("\n"):
        lines.append(line)
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        instruction += text
        if instruction.endswith("\\"):
            instruction = instruction[:-1] + " "
            continue
        if re.match(r"FROM\s", instruction, re.IGNORECASE):
            lines.append(mark)
        instruction = ""
    return "\n".join(lines)


def _with_source_line(message: str, marked: str, mark: str) -> str:
    """The engine's message with the line number that the Dockerfile had before it was marked."""

    def unmarked(number: re.Match[str]) -> str:
        above = marked.split("\n")[: int(number[0])]
        return str(len(above) - above.count(mark))

    return re.sub(r"(?<=^dockerfile parse error line )\d+", unmarked, message)


def _follow(messages: Iterable[bytes], log: Lines) -> str:
    """Log the engine's messages; returns the id of the image of the last stage that was finished."""
    image_id = ""
    for line in messages:
        message = loads(line)
        log.feed(_printed(message))
        image_id = message.get("aux", {}).get("ID", image_id)
        if "error" in message:
            log.flush()
            raise _failed(message["error"])
    log.flush()
    return image_id


def _printed(message: Mapping[str, Any]) -> str:
    """What a person sees of a message; the progress bars of a pull are left out."""
    if "status" in message:
        return "" if message.get("progressDetail") else f"{message.get('id', '')} {message['status']}\n".lstrip()
    return str(message.get("stream", ""))


def _failed(message: str) -> BuildFailed:
    step = re.fullmatch(r"The command '(.*)' returned a non-zero code: (\d+)", message, re.DOTALL)
    if not step:
        return BuildFailed(f"The build failed: {message}")
    command, code = shorten(step[1].removeprefix("/bin/sh -c "), 300), int(step[2])
    return BuildFailed(f"The step `{command}` ended with exit code {code}; its output is in the log", exitCode=code)


def _explained(api: docker.APIClient, spec: BuildSpec, failure: BuildFailed) -> BuildFailed:
    """The failure, or the lack of memory behind it, which the failed step's container tells."""
    for container in api.containers(all=True, filters={"network": spec.network}):
        if api.inspect_container(container["Id"])["State"]["OOMKilled"]:
            limit = spec.limits.memory_bytes // MIB
            return BuildOutOfMemory(f"{failure.message}. It needed more than the {limit} MiB that a build may have")
    return failure


def _watch(
    engine: Engine,
    spec: BuildSpec,
    before: Set[str],
    cancelled: Callable[[], bool],
    done: threading.Event,
    stop: Callable[[], None],
) -> None:
    """Until it is done, look whether the build must end; raises why, after having stopped it."""
    deadline = time.monotonic() + spec.limits.timeout
    try:
        while not done.wait(POLL_SECONDS):
            if cancelled():
                raise BuildCancelled(f"The build of {spec.tag} was cancelled")
            if time.monotonic() > deadline:
                raise BuildTimeout(f"The build of {spec.tag} did not end within {spec.limits.timeout:g} s")
            _check_usage(engine, spec, before)
        _check_usage(engine, spec, before)  # what its last steps made since the last look
    finally:
        stop()


def _check_usage(engine: Engine, spec: BuildSpec, before: Set[str]) -> None:
    """Compare what the build uses with its limits; layers that were there `before` it are not its own."""
    limits = spec.limits
    with engine.api() as api:
        # Finished layers first, so that a step which ends between the two questions is not counted twice.
        written = sum(size for layer, size in _layers(api, spec.owner).items() if layer not in before)
        for container in api.containers(size=True, filters={"network": spec.network}):
            written += container.get("SizeRw", 0) + _volume_bytes(api, container)
            if _processes(api, container["Id"]) > limits.pids:
                raise BuildTooManyProcesses(f"A step started more than {limits.pids} processes at once")
    if written > limits.disk_bytes:
        raise BuildTooLarge(f"The build wrote more than {limits.disk_bytes // MIB} MiB, the most it may write")


def _layers(api: docker.APIClient, owner: str) -> dict[str, int]:
    """Bytes that each step of this owner's builds, finished or not, has added to its image, by the image's id."""
    images = {image["Id"]: image for image in api.images(all=True, filters={"label": f"{OWNER_LABEL}={owner}"})}
    # The first after a FROM has a parent without the mark, and is the mark: it adds nothing.
    parents = {key: images.get(image["ParentId"], image) for key, image in images.items()}
    return {key: image["Size"] - parents[key]["Size"] for key, image in images.items()}


def _volume_bytes(api: docker.APIClient, container: Mapping[str, Any]) -> int:
    """Bytes in the volumes of a step, which a VOLUME above it makes; asked only then, for it is a slow question."""
    names = {mount["Name"] for mount in container["Mounts"] if mount["Type"] == "volume"}
    if not names:
        return 0
    try:
        volumes = api.df()["Volumes"]
    except APIError:
        return 0  # the engine answers one at a time and refuses the others, who ask again soon
    return sum(volume["UsageData"]["Size"] for volume in volumes if volume["Name"] in names)


def _processes(api: docker.APIClient, container: str) -> int:
    try:
        stats = api.stats(container, stream=False, one_shot=True)
    except (NotFound, requests.JSONDecodeError):
        return 0  # the step has ended since; the answer is empty when it ends at that moment
    return int(stats["pids_stats"].get("current", 0))
