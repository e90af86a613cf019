"""The event stream over WebSocket and SSE, and its history."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, WebSocket, WebSocketDisconnect
from sqlalchemy.exc import SQLAlchemyError
from sse_starlette import EventSourceResponse, ServerSentEvent

from apphub_api.deps import Platform, admits, requires
from apphub_api.fanout import TooSlow
from apphub_api.platform import Platform as PlatformState
from apphub_assets.events import service as events
from apphub_assets.events.spec import Event, EventQuery
from apphub_assets.identity.spec import Scope
from apphub_assets.kit.cursor import decode_number
from apphub_assets.kit.view import Instant, View, format_instant

router = APIRouter(tags=["events"])

TRY_AGAIN = 1013
SEQUENCE_DIGITS = 19


class EventView(View):
    id: str
    sequence: int
    type: str
    source: str
    severity: str
    occurred_at: Instant
    payload: dict[str, Any]
    correlation_id: str | None


class EventsPage(View):
    next_cursor: str | None
    has_more: bool
    limit: int


class EventsData(View):
    events: list[EventView]
    page: EventsPage


class EventsAnswer(View):
    data: EventsData


@router.get("/admin/events", dependencies=[requires(Scope.EVENTS_READ)])
def list_events(
    platform: Platform,
    type: str | None = None,
    source: str | None = None,
    correlation_id: Annotated[str | None, Query(alias="correlationId")] = None,
    since: Annotated[datetime | None, Query(alias="from")] = None,
    until: Annotated[datetime | None, Query(alias="to")] = None,
    json_path: Annotated[str | None, Query(alias="jsonPath", max_length=500)] = None,
    limit: Annotated[int, Query(ge=1)] = 50,
    cursor: str | None = None,
) -> EventsAnswer:
    """What happened, newest first; filters are ANDed."""
    before = decode_number(cursor) if cursor else None
    bounded = min(limit, 200)
    query = EventQuery(type, source, correlation_id, since, until, json_path, before, bounded)
    found = events.find(platform.database, query)
    page = EventsPage(next_cursor=found.next_cursor, has_more=found.next_cursor is not None, limit=bounded)
    return EventsAnswer(data=EventsData(events=[EventView.model_validate(e) for e in found.events], page=page))


@router.get("/events/stream", dependencies=[requires(Scope.EVENTS_READ)], response_class=EventSourceResponse)
async def stream(
    platform: Platform,
    types: str | None = None,
    after: Annotated[int | None, Query(ge=0)] = None,
    last_event_id: Annotated[int | None, Header(ge=0)] = None,
) -> EventSourceResponse:
    """Events as they happen (SSE). `Last-Event-ID` or `after` resumes behind a sequence; `types` is a comma list."""
    resume = last_event_id if last_event_id is not None else after
    return EventSourceResponse(_sse(platform, resume, _types(types)), ping=15)


@router.websocket("/ws")
async def socket(websocket: WebSocket, platform: Platform) -> None:
    """Events as they happen, in the contract's frames `{type, data, emittedAt}` with `sequence` and `id` beside.

    `?types=a,b` filters, `?after=<sequence>` resumes; the text `ping` is answered. A token goes into the
    `Authorization` header or, from a browser, into the subprotocol `bearer.<token>`.
    """
    if not await admits(websocket, platform, _socket_token(websocket), Scope.EVENTS_READ):
        return
    offered = websocket.scope.get("subprotocols", [])
    await websocket.accept(subprotocol=next((p for p in offered if p.startswith("bearer.")), None))
    await websocket.send_json({"type": "connection.ack", "data": {"now": _now()}})
    await _serve(websocket, platform)


async def _serve(websocket: WebSocket, platform: PlatformState) -> None:
    after = websocket.query_params.get("after", "")
    resume = int(after) if after.isdecimal() and len(after) <= SEQUENCE_DIGITS else None
    types = _types(websocket.query_params.get("types"))
    sender = asyncio.create_task(_send(websocket, platform, resume, types))
    try:
        while True:
            if (await websocket.receive_text()) == "ping":
                await websocket.send_json({"type": "pong", "data": {"now": _now()}})
    except WebSocketDisconnect:
        return
    finally:
        sender.cancel()


async def _send(websocket: WebSocket, platform: PlatformState, after: int | None, types: list[str] | None) -> None:
    try:
        async for event in platform.fanout.follow(after, types):
            await websocket.send_json(_frame(event))
    except TooSlow:
        await websocket.close(TRY_AGAIN, "too slow; connect again with ?after=<last sequence>")
    except SQLAlchemyError:
        await websocket.close(TRY_AGAIN, "the database is away; connect again with ?after=<last sequence>")
    except WebSocketDisconnect:
        return


async def _sse(platform: PlatformState, after: int | None, types: list[str] | None) -> AsyncIterator[ServerSentEvent]:
    try:
        async for event in platform.fanout.follow(after, types):
            yield ServerSentEvent(json.dumps(_frame(event)), event=event.type, id=str(event.sequence))
    except (TooSlow, SQLAlchemyError):  # the client connects again, with its last sequence
        return


def _frame(event: Event) -> dict[str, Any]:
    return {
        "type": event.type,
        "data": event.payload,
        "emittedAt": format_instant(event.occurred_at),
        "sequence": event.sequence,
        "id": event.id,
        "correlationId": event.correlation_id,
    }


def _types(raw: str | None) -> list[str] | None:
    return [name.strip() for name in raw.split(",") if name.strip()] if raw else None


def _socket_token(websocket: WebSocket) -> str | None:
    scheme, _, token = websocket.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token
    offered = websocket.scope.get("subprotocols", [])
    return next((p.removeprefix("bearer.") for p in offered if p.startswith("bearer.")), None)


def _now() -> str:
    return format_instant(datetime.now(UTC))
