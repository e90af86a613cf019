"""Errors of idempotency."""

from apphub_assets.errors import Conflict, Refused


class IdempotencyKeyReused(Refused):
    code, title = "idempotency_key_reused", "Idempotency key reused"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"Idempotency-Key {key!r} was used on this route with another body; send the same body, or a new key"
        )


class IdempotencyInFlight(Conflict):
    """The first request with this key has not ended; its answer can be had later."""

    code, title, retryable = "idempotency_in_flight", "Request in flight", True

    def __init__(self, key: str) -> None:
        super().__init__(
            f"the first request with Idempotency-Key {key!r} is still being done; send it again in a moment",
            retry_after=1,
        )
