"""Launches as clients see them (contract F.4), with a few members more."""

from typing import Any
from urllib.parse import urlsplit

from apphub_assets.kit.view import Instant, View
from apphub_assets.launches.models import Launch
from apphub_assets.launches.spec import EnvVar, LaunchStatus, Profile, ReasonCode
from apphub_assets.settings import Settings

EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104  # listening there is told from loopback
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class EnvView(View):
    """A variable; what looks like a secret is masked."""

    key: str
    value: str


class ReasonView(View):
    """Why the launch is in its state, and since when."""

    code: ReasonCode
    message: str
    at: Instant


class LaunchView(View):
    """`previewUrl` always leads to the launch or to a page that says how it is; `instanceUrl` only while it runs.

    `previewLink` is for a browser, which can't send a token: whoever has it may look. Events leave it out.
    `ownOriginUrl` is the same app at a host of its own, where the machine knows names below `localhost`: cookies and
    storage work there as at home, which they do not below `/preview`.
    """

    id: str
    repository_id: str
    build_id: str | None
    status: LaunchStatus
    reason: ReasonView
    instance_url: str | None
    preview_url: str
    preview_link: str | None
    own_origin_url: str | None
    resource_profile: Profile
    env: list[EnvView]
    command: str | None
    wake: bool
    error_message: str | None
    exit_code: int | None
    created_at: Instant
    updated_at: Instant
    started_at: Instant | None
    stopped_at: Instant | None
    expires_at: Instant | None
    last_request_at: Instant | None
    port: int | None
    internal_port: int | None
    container_ip: str | None


class LaunchLogsView(View):
    """The end of what the app printed. `live`: there may come more."""

    id: str
    repository_id: str
    logs: str
    size: int
    live: bool
    updated_at: Instant


class LaunchStatsView(View):
    """What the app uses now; `cpuSeconds` only grows."""

    memory_bytes: int
    memory_limit_bytes: int
    cpu_seconds: float
    pids: int


def launch_view(launch: Launch, settings: Settings) -> LaunchView:
    base_url = _base_url(settings)
    preview = f"{base_url}/preview/{launch.id}/"
    failed = launch.status == LaunchStatus.FAILED
    return LaunchView.model_validate(
        {
            **_columns(launch),
            "reason": {"code": launch.reason_code, "message": launch.reason, "at": launch.reason_at},
            "instance_url": preview if launch.status == LaunchStatus.RUNNING else None,
            "preview_url": preview,
            "preview_link": f"{base_url}/preview/{launch.id}.{launch.preview_key}/" if settings.has_tokens else preview,
            "own_origin_url": _own_origin(launch.id, base_url),
            "env": [{"key": v["key"], "value": EnvVar(**v).shown} for v in launch.env],
            "error_message": launch.reason if failed else None,
            "port": int(launch.address.rpartition(":")[2]) if launch.address else None,
        }
    )


def _base_url(settings: Settings) -> str:
    """Where people reach the API, without a slash at the end."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    host = "localhost" if settings.host in EVERYWHERE else settings.host
    return f"http://{host}:{settings.port}"


def _own_origin(launch_id: str, base_url: str) -> str | None:
    parts = urlsplit(base_url)
    if parts.hostname not in LOOPBACK:
        return None
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{launch_id}.preview.localhost{port}/"


def _columns(launch: Launch) -> dict[str, Any]:
    return {name: getattr(launch, name) for name in LaunchView.model_fields if hasattr(launch, name)}
