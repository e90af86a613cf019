"""`Idempotency-Key`: a POST that is sent again is answered again, and done once."""

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect

from apphub_api.deps import Caller, Db
from apphub_assets.errors import InvalidInput
from apphub_assets.idempotency import service
from apphub_assets.idempotency.spec import Answer, Claim
from apphub_assets.kit.view import View

REPLAYED = "Idempotency-Replayed"
KEY = re.compile(r"[ -~]{1,200}")

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern="^[ -~]+$",
        description=(
            "Sent again within a day with the same body, the request is not done again: the first answer comes back "
            f"with `{REPLAYED}: true`. With another body it is refused (422 `idempotency_key_reused`); while the first "
            "is still being done, it is to be sent again later (409 `idempotency_in_flight`). Errors are not kept. "
            "A JSON body may have it as `idempotencyKey` instead."
        ),
    ),
]


@dataclass(frozen=True)
class Attempt:
    """One arrival of a request; without a claim it is done every time."""

    session: Session
    claim: Claim | None
    route_status: int
    response: Response

    def answer(self, view: View) -> Answer:
        """What the client is about to get."""
        status = self.response.status_code or self.route_status
        return Answer(status, dict(self.response.headers), view.model_dump_json())


async def read_attempt(request: Request, response: Response, db: Db, caller: Caller, key: Key = None) -> Attempt:
    body = await _body(request)
    key = key or _key_in(body)
    claim = Claim(caller.subject, request.method, request.url.path, key, body) if key else None
    return Attempt(db, claim, request.scope["route"].status_code or 200, response)


def once(endpoint: Callable[..., View]) -> Callable[..., View | Response]:
    """Make an endpoint honour `Idempotency-Key`; write it right under the route.

    The answer is stored in the request's own transaction, so it exists if the work does. A replay does not call the
    endpoint, and so starts nothing in the background either.
    """

    @wraps(endpoint)
    def answered_once(*, attempt: Attempt, **arguments: Any) -> View | Response:
        if attempt.claim is None:
            return endpoint(**arguments)
        if (known := service.claim(attempt.session, attempt.claim)) is not None:
            return _replay(known)
        view = endpoint(**arguments)
        service.store(attempt.session, attempt.claim, attempt.answer(view))
        return view

    # FastAPI reads the signature: the endpoint's own parameters, and the attempt.
    own = inspect.signature(endpoint)
    attempt = inspect.Parameter(
        "attempt", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[Attempt, Depends(read_attempt)]
    )
    vars(answered_once)["__signature__"] = own.replace(parameters=[*own.parameters.values(), attempt])
    return answered_once


def _replay(known: Answer) -> Response:
    return Response(known.body, known.status, {**known.headers, REPLAYED: "true"}, media_type="application/json")


def _key_in(body: bytes) -> str | None:
    """`idempotencyKey` in a JSON object, which the first AppHub's clients send instead of the header."""
    if b'"idempotencyKey"' not in body:
        return None
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        return None
    key = given.get("idempotencyKey") if isinstance(given, dict) else None
    return key if isinstance(key, str) and KEY.fullmatch(key) else None


async def _body(request: Request) -> bytes:
    try:
        return await request.body()
    except ClientDisconnect:
        raise InvalidInput("the request body did not arrive whole; send the request again") from None
