"""Values of launches: states, reasons, resource profiles and the request that validates itself."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from apphub_assets.containers import ImageInfo, ResourceProfile
from apphub_assets.errors import InvalidInput

MIB = 1024 * 1024
LAUNCH_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
ENV_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
SECRET_KEY = re.compile(r"SECRET|TOKEN|PASS|PWD|KEY|CREDENTIAL|PRIVATE|AUTH|DSN|COOKIE", re.IGNORECASE)
LOGIN_IN_URL = re.compile(r"://[^/\s]*:[^/\s]*@")
MASK = "********"
MAX_ENV, MAX_ENV_VALUE, MAX_COMMAND = 32, 4096, 4000
DEFAULT_PORT = 8080


class LaunchStatus(StrEnum):
    """`running` means that the app answered; `expired` that its time or its visitors ran out."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    EXPIRED = "expired"


LIVE = frozenset({LaunchStatus.PENDING, LaunchStatus.STARTING, LaunchStatus.RUNNING, LaunchStatus.STOPPING})


class ReasonCode(StrEnum):
    """Why a launch is in the state it is in."""

    REQUESTED = "requested"
    STARTED = "started"
    ANSWERED = "answered"
    STOPPED = "stopped_on_request"
    STACK_STOPPED = "stack_stopped"
    TTL = "ttl_expired"
    IDLE = "idle"
    EXITED = "exited"
    OUT_OF_MEMORY = "out_of_memory"
    NEVER_ANSWERED = "never_answered"
    CONTAINER_LOST = "container_lost"
    START_FAILED = "start_failed"
    IMAGE_MISSING = "image_missing"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    ENGINE_RESTARTED = "engine_restarted"


@dataclass(frozen=True)
class Reason:
    code: ReasonCode
    message: str


class Profile(StrEnum):
    """How much of the machine a launch may use."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


RESOURCES = {
    Profile.SMALL: ResourceProfile(128 * MIB, 0.25, 64, 64 * MIB),
    Profile.MEDIUM: ResourceProfile(512 * MIB, 0.5, 128, 256 * MIB),
    Profile.LARGE: ResourceProfile(2048 * MIB, 2.0, 512, 1024 * MIB),
}


@dataclass(frozen=True)
class EnvVar:
    key: str
    value: str

    @property
    def shown(self) -> str:
        """The value, or a mask when the key looks like that of a secret or the value has a login in it."""
        secret = SECRET_KEY.search(self.key) or LOGIN_IN_URL.search(self.value)
        return MASK if secret and self.value else self.value


@dataclass(frozen=True)
class LaunchRequest:
    """What a person asks for. Checked on construction.

    Raises:
        InvalidInput: an id, variable or command outside the limits; the pointers name it.
    """

    repository_id: str
    build_id: str | None = None
    profile: Profile = Profile.MEDIUM
    env: Sequence[EnvVar] = ()
    command: str | None = None
    launch_id: str | None = None
    wake: bool = False

    def __post_init__(self) -> None:
        if self.launch_id is not None and not LAUNCH_ID.fullmatch(self.launch_id):
            raise _invalid("/launchId", f"launchId {self.launch_id[:80]!r}: use 1–64 of a–z, 0–9 and inner '-'")
        _check_env(self.env)
        if self.command is not None:
            split_command(self.command)

    @property
    def is_plain(self) -> bool:
        """Whether a container that was started without knowing this request serves it as well."""
        return not self.env and not self.command and self.profile == Profile.MEDIUM


def port_of(image: ImageInfo) -> int:
    """Where its app is expected to listen: the lowest port that it exposes, else 8080."""
    return image.ports[0] if image.ports else DEFAULT_PORT


def split_command(command: str) -> list[str]:
    """Split a command as a POSIX shell would, without running one.

    Raises:
        InvalidInput: too long, empty, NUL inside, or an unclosed quote.
    """
    if len(command) > MAX_COMMAND or "\0" in command:
        raise _invalid("/command", f"command: use at most {MAX_COMMAND} characters and no NUL, got {len(command)}")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise _invalid("/command", f"command {command[:80]!r}: {error}") from error
    if not words:
        raise _invalid("/command", "command: empty; leave it out to run the image's own")
    return words


def _check_env(env: Sequence[EnvVar]) -> None:
    if len(env) > MAX_ENV:
        raise _invalid("/env", f"env: at most {MAX_ENV} variables, got {len(env)}")
    seen: set[str] = set()
    for index, variable in enumerate(env):
        pointer, key = f"/env/{index}", variable.key
        if not ENV_KEY.fullmatch(key):
            raise _invalid(f"{pointer}/key", f"env key {key[:140]!r}: use 1–128 of A–Z, a–z, 0–9, '_', no digit first")
        if key == "PORT":
            raise _invalid(f"{pointer}/key", "env key 'PORT' is set by AppHub to the port that the image exposes")
        if key in seen:
            raise _invalid(f"{pointer}/key", f"env key {key!r} is given twice")
        if len(variable.value) > MAX_ENV_VALUE or "\0" in variable.value:
            raise _invalid(f"{pointer}/value", f"value of {key!r}: use at most {MAX_ENV_VALUE} characters, no NUL")
        seen.add(key)


def _invalid(pointer: str, message: str) -> InvalidInput:
    return InvalidInput(message, pointers=[(pointer, message)])
