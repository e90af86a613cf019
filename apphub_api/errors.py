"""Every error as problem+json (RFC 9457), the only place that maps them.

Beside the standard members: `code` (stable), `errors` (JSON pointers), `traceId` (the correlation id), `retryable`,
and `error` and `message`, which the contract's existing clients read.
"""

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from apphub_api.context import correlation_id
from apphub_assets.errors import AppHubError, InvalidInput, Unavailable

log = structlog.get_logger()
MEDIA_TYPE = "application/problem+json"


class DatabaseUnavailable(Unavailable):
    code, title = "database_unavailable", "Database unavailable"


class RouteNotFound(AppHubError):
    status, code, title = 404, "route_not_found", "Not found"


class InternalError(AppHubError):
    """Something nobody foresaw; the log has the traceback under the same trace id."""


def problem(error: AppHubError, path: str) -> JSONResponse:
    """The response for an error on the route `path`."""
    body: dict[str, Any] = {
        "type": f"/errors/{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.message,
        "instance": path,
        "code": error.code,
        "retryable": error.retryable,
        "traceId": correlation_id.get(),
        "error": error.message,
        "message": error.message,
        **error.extra,
    }
    if error.pointers:
        body["errors"] = [{"pointer": pointer, "detail": detail} for pointer, detail in error.pointers]
    headers = {"Retry-After": str(max(1, round(error.retry_after)))} if error.retry_after else {}
    if "etag" in error.extra:
        headers["ETag"] = error.extra["etag"]
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, error.status, headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make the app answer every error with a problem document."""

    @app.exception_handler(AppHubError)
    def known(request: Request, error: AppHubError) -> JSONResponse:
        return problem(error, request.url.path)

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        pointers = [(_pointer(e["loc"]), str(e["msg"])) for e in error.errors()]
        detail = "; ".join(f"{pointer}: {message}" for pointer, message in pointers[:5])
        return problem(InvalidInput(detail, pointers=pointers), request.url.path)

    @app.exception_handler(HTTPException)
    def routing(request: Request, error: HTTPException) -> JSONResponse:
        return problem(_from_http(request, error), request.url.path)

    @app.exception_handler(OperationalError)
    @app.exception_handler(PoolTimeout)
    def database_failed(request: Request, error: OperationalError | PoolTimeout) -> JSONResponse:
        if not _is_away(error):
            return unforeseen(request, error)
        log.warning("database.unavailable", error=str(error).splitlines()[0])
        away = DatabaseUnavailable("Postgres does not answer; nothing was changed, try again", retry_after=2)
        return problem(away, request.url.path)

    @app.exception_handler(DataError)
    @app.exception_handler(UnicodeEncodeError)
    def not_a_value(request: Request, error: DataError | UnicodeEncodeError) -> JSONResponse:
        # Where nobody looked before Postgres did, as for NUL in an id: nothing is stored under such a value.
        reason = error.orig if isinstance(error, DataError) else error
        log.warning("request.value_refused", path=request.url.path, error=str(reason))
        return problem(InvalidInput(f"a value that Postgres can't hold: {reason}"), request.url.path)

    @app.exception_handler(Exception)
    def unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("request.failed", path=request.url.path, exc_info=error)
        message = f"an unexpected error; the server's log has it under trace id {correlation_id.get()}"
        return problem(InternalError(message), request.url.path)


def _is_away(error: OperationalError | PoolTimeout) -> bool:
    """Whether there is no connection (then no statement either), or it was lost; else it was the statement."""
    if isinstance(error, PoolTimeout):
        return True
    state = getattr(error.orig, "sqlstate", None) or ""
    return error.connection_invalidated or error.statement is None or state.startswith(("08", "57P"))


def _pointer(location: tuple[int | str, ...]) -> str:
    """`("body", "tags", 0)` as `/tags/0`; query and path parameters by their bare name."""
    parts = location[1:] if location and location[0] in {"body", "query", "path", "header"} else location
    return "/" + "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def _from_http(request: Request, error: HTTPException) -> AppHubError:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return RouteNotFound(f"no route {request.method} {request.url.path}; /docs lists them")
    status = HTTPStatus(error.status_code)
    other = AppHubError(str(error.detail))
    # Starlette's own refusals (405, 400, 413 …): the class's standing values are replaced on this one object.
    vars(other).update(status=status.value, code=status.name.lower(), title=status.phrase)
    return other
