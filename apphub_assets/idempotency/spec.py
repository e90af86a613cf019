"""Values of idempotency."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """A request that is to be done once: who sends what, where, under which key of theirs."""

    caller: str
    method: str
    path: str
    key: str
    body: bytes

    @property
    def id(self) -> str:
        """Names the key within its caller, method and path."""
        return hashlib.sha256(json.dumps([self.caller, self.method, self.path, self.key]).encode()).hexdigest()

    @property
    def body_hash(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


@dataclass(frozen=True)
class Answer:
    """What was answered: HTTP status, headers, and the body as it was sent."""

    status: int
    headers: Mapping[str, str]
    body: str
