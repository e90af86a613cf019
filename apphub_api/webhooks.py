"""Git hosts say that a repository moved."""

import json
from typing import Any

from fastapi import APIRouter, BackgroundTasks, Request
from starlette.concurrency import run_in_threadpool

from apphub_api.deps import Correlation, Platform, action_of, witnessed
from apphub_api.runs import REPOSITORY_AND_IMAGE, start_runs
from apphub_assets.audit import service as audit
from apphub_assets.catalog import service
from apphub_assets.catalog.webhooks import Provider, addresses_in, verify
from apphub_assets.errors import InvalidInput
from apphub_assets.kit.db import Database
from apphub_assets.kit.view import View

router = APIRouter(tags=["webhooks"])


class WebhookAnswer(View):
    """The apps that are being refreshed; empty when none is registered under the address named."""

    refreshed: list[str]


@router.post("/webhooks/git/{provider}", status_code=202)
async def receive_webhook(
    provider: Provider, request: Request, platform: Platform, correlation: Correlation, later: BackgroundTasks
) -> WebhookAnswer:
    """Refresh the repository that a signed push event names. No token: the signature is the proof.

    GitHub signs with `X-Hub-Signature-256`, GitLab sends `X-Gitlab-Token`, others sign the body with HMAC-SHA256 in
    `X-AppHub-Signature: sha256=<hex>`.
    """
    async with witnessed(request, platform):
        body = await request.body()
        verify(provider, platform.settings, body, request.headers)
        urls = addresses_in(provider, _parse(body))
    done = action_of(request, "succeeded")
    ids = await run_in_threadpool(_refresh, platform.database, urls, f"{provider} webhook", done, correlation)
    later.add_task(start_runs, platform, ids, REPOSITORY_AND_IMAGE, "webhook", correlation)
    return WebhookAnswer(refreshed=ids)


def _refresh(
    database: Database, urls: list[str], message: str, done: audit.Action, correlation_id: str | None
) -> list[str]:
    with database.transaction() as session:
        audit.record(session, done)
        return service.refresh_by_url(session, urls, message, correlation_id=correlation_id)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        payload = json.loads(body)
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        raise InvalidInput("the webhook's body is not a JSON object; set its content type to application/json")
    return payload
