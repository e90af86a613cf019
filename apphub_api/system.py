"""Whether it lives, whether it works, and what it counts."""

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from apphub_api.deps import Platform
from apphub_api.platform import Platform as PlatformState
from apphub_assets.containers import Engine
from apphub_assets.errors import AppHubError
from apphub_assets.kit.view import Instant, View
from apphub_assets.migrations import pending
from apphub_assets.settings import unknown_variables

router = APIRouter(tags=["system"])

ENGINE_SECONDS = 2


class Broker(View):
    """There is none: events are in Postgres. The first AppHub's clients read it wherever there is streaming."""

    configured: bool = False
    reachable: bool | None = None
    last_checked_at: Instant | None = None
    error: str | None = None


class Batchers(View):
    """None either, for nothing comes from a broker."""

    configured: int = 0
    running: int = 0
    failing: int = 0
    state: Literal["disabled"] = "disabled"
    connectors: list[dict[str, Any]] = Field([])


class HotBuffer(View):
    """Nor is there one for what a broker sends."""

    enabled: bool = False
    state: Literal["disabled"] = "disabled"
    datasets: int = 0
    healthy: bool = True
    last_refresh_at: Instant | None = None
    last_ingest_at: Instant | None = None


class Streaming(View):
    """The event stream of this process: `degraded` while it has lost Postgres; it resumes without a gap."""

    enabled: bool = True
    state: Literal["ready", "degraded"]
    reason: str | None = None
    broker: Broker = Broker()
    batchers: Batchers = Batchers()
    hot_buffer: HotBuffer = HotBuffer()


class Features(View):
    streaming: Streaming


class Health(View):
    status: Literal["ok"] = "ok"
    features: Features
    warnings: list[str]


class Check(View):
    """One dependency: whether it answered, how fast, and why not. Without an optional one the rest still works."""

    name: str
    status: Literal["ok", "failed"]
    required: bool
    latency_ms: float
    reason: str | None = None


class Readiness(View):
    status: Literal["ready", "degraded", "unavailable"]
    checks: list[Check]


@router.get("/health")
@router.get("/healthz", include_in_schema=False)
async def health(platform: Platform) -> Health:
    """200 as long as the process serves requests."""
    listening = platform.fanout.listening
    reason = None if listening else "the connection to Postgres is lost; events follow when it is back"
    streaming = Streaming(state="ready" if listening else "degraded", reason=reason)
    return Health(features=Features(streaming=streaming), warnings=unknown_settings())


@router.get("/ready", responses={503: {"model": Readiness}})
@router.get("/readyz", include_in_schema=False)
def ready(platform: Platform, response: Response) -> Readiness:
    """Every dependency with its latency. 503 when a required one is away; without an engine it is `degraded`."""
    checks = [
        _check("postgres", lambda: _database(platform)),
        _check("dagster", platform.orchestrator.ready),
        _check("engine", lambda: _engine(platform), required=False),
        _check("launches", platform.keeper.check, required=False),
    ]
    failed = [check for check in checks if check.status == "failed"]
    if any(check.required for check in failed):
        response.status_code = 503
        return Readiness(status="unavailable", checks=checks)
    return Readiness(status="degraded" if failed else "ready", checks=checks)


@router.get("/metrics", response_class=PlainTextResponse)
@router.get("/metrics/prometheus", include_in_schema=False)
def metrics(platform: Platform) -> Response:
    """Prometheus text: what this process counts, and what there is by state."""
    return Response(generate_latest() + generate_latest(platform.metrics), media_type=CONTENT_TYPE_LATEST)


def unknown_settings() -> list[str]:
    """Typing errors in the environment, as sentences."""
    return [f"{name} is not a setting; docs/settings.md lists them" for name in unknown_variables()]


def _check(name: str, probe: Callable[[], object], *, required: bool = True) -> Check:
    started, reason = time.perf_counter(), None
    try:
        probe()
    except AppHubError as error:
        reason = error.message
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
    elapsed = round((time.perf_counter() - started) * 1000, 1)
    return Check(name=name, status="failed" if reason else "ok", required=required, latency_ms=elapsed, reason=reason)


class MigrationsPending(AppHubError):
    status, code, title = 503, "migrations_pending", "Migrations pending"


def _database(platform: PlatformState) -> None:
    with platform.database.transaction() as session:
        session.execute(text("SELECT 1"))
    if pending(platform.settings.sqlalchemy_url):
        raise MigrationsPending("the database lacks a migration; run `apphub admin migrate`")


def _engine(platform: PlatformState) -> None:
    # Its own connection: others may wait for the engine for as long as it needs.
    with closing(Engine(platform.settings.engine_url, timeout=ENGINE_SECONDS)) as engine:
        engine.ping()
