"""The application: settings in, ASGI app out. What it serves is the list of routers below."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool

from apphub_api import (
    audit,
    builds,
    catalog,
    dagster_ui,
    dataset_history,
    dataset_migrations,
    dataset_queries,
    datasets,
    errors,
    events,
    identity,
    ingest,
    launches,
    lifecycle,
    preview,
    search,
    sql,
    system,
    webhooks,
)
from apphub_api.context import RequestContext
from apphub_api.limits import BodyLimit
from apphub_api.logging import configure_logging
from apphub_api.platform import Platform
from apphub_assets.settings import Settings, load_settings

# Clients of the first AppHub's timestore use these also under /v1.
TIMESTORE: tuple[APIRouter, ...] = (
    ingest.router,  # POST /datasets/{slug}/ingest
    dataset_migrations.router,  # POST /admin/datasets/{id}/migrate
    dataset_queries.router,  # POST /datasets/{slug}/query
    datasets.router,  # /admin/datasets /admin/storage-targets
    dataset_history.router,  # /admin/datasets/{dataset}/manifest …/audit …/snapshots
    lifecycle.router,  # /admin/lifecycle
    sql.router,  # /sql
)

ROUTERS = (
    *TIMESTORE,
    search.router,  # GET /apps /tags/suggest
    catalog.router,  # /apps
    builds.router,  # /builds
    launches.router,  # /apps/{id}/launch /launches
    webhooks.router,  # /webhooks/git
    events.router,  # /ws /events/stream /admin/events
    identity.router,  # /auth
    audit.router,  # /admin/audit
    system.router,  # /health /ready /metrics
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The API for these settings; without any, for those of the environment (uvicorn's factory)."""
    settings = settings or load_settings()
    configure_logging(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        platform = app.state.platform = Platform(settings)
        await run_in_threadpool(platform.start)
        yield
        await platform.proxy.close()
        await run_in_threadpool(platform.close)

    # Its /docs brings its own scripts: no CDN at run time.
    app = FastAPIOffline(
        title="AppHub", version="0.1.0", lifespan=lifespan, generate_unique_id_function=lambda r: r.name
    )
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
        # Clients of the first AppHub use either; one of them is enough in the documentation.
        app.include_router(router, prefix="/api", include_in_schema=False)
    for router in TIMESTORE:
        app.include_router(router, prefix="/v1", include_in_schema=False)
    app.include_router(dagster_ui.router)
    app.include_router(preview.router)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    # Outside of the limit, which tells previews by their path.
    app.add_middleware(preview.HostRouting)
    app.add_middleware(RequestContext)
    return app
