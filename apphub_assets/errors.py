"""The error tree. An error carries all that any door (HTTP, CLI, Dagster) needs to report it.

AppHubError
├── InvalidInput   400  the request can't be right, whatever the state
├── Unauthorized   401  who are you?
├── Forbidden      403  you may not
├── NotFound       404  no such thing
├── Conflict       409  not in this state; `retryable` says whether waiting helps
├── Stale          412  a precondition named another version
├── TooLarge       413  over a limit
├── Refused        422  well-formed, but policy or content forbids it
├── TooMany        429  slow down; `retry_after` seconds
└── Unavailable    503  a part that AppHub depends on is away; always retryable

Slices subclass these beside the code that raises them and give each its own stable `code`.
"""

from typing import Any, ClassVar


class AppHubError(Exception):
    """Base of every error that is part of the interface.

    Args:
        message: one sentence that names the thing, the value received, the values allowed and the next step.
        pointers: for invalid input, (JSON pointer, message) pairs.
        extra: members that go into the problem document beside the standard ones.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        pointers: list[tuple[str, str]] | None = None,
        retry_after: float | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.pointers = pointers or []
        self.retry_after = retry_after
        self.extra = extra


class InvalidInput(AppHubError):
    status, code, title = 400, "invalid_input", "Invalid input"


class Unauthorized(AppHubError):
    status, code, title = 401, "unauthorized", "Authorization required"


class Forbidden(AppHubError):
    status, code, title = 403, "forbidden", "Forbidden"


class NotFound(AppHubError):
    status, code, title = 404, "not_found", "Not found"


class Conflict(AppHubError):
    status, code, title = 409, "conflict", "Conflict"


class Stale(AppHubError):
    status, code, title = 412, "precondition_failed", "Precondition failed"


class TooLarge(AppHubError):
    status, code, title = 413, "too_large", "Too large"


class Refused(AppHubError):
    status, code, title = 422, "refused", "Refused"


class TooMany(AppHubError):
    status, code, title, retryable = 429, "too_many_requests", "Too many requests", True


class Unavailable(AppHubError):
    status, code, title, retryable = 503, "unavailable", "Unavailable", True
