"""Tell who holds a token."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from apphub_assets.errors import AppHubError, Unauthorized
from apphub_assets.identity.spec import ALL_SCOPES, Identity, Scope, close
from apphub_assets.settings import Settings


class InvalidTokens(AppHubError):
    """The configured operator tokens can't be read; AppHub does not start with them."""

    code, title = "invalid_operator_tokens", "Invalid operator tokens"


class Tokens:
    """The operator tokens of the settings, kept as hashes only: a memory dump or a log holds none of them."""

    def __init__(self, settings: Settings) -> None:
        entries: list[Any] = []
        if settings.operator_tokens_path is not None:
            entries += _parse(settings.operator_tokens_path.read_text(), "APPHUB_OPERATOR_TOKENS_PATH")
        if settings.operator_tokens is not None:
            entries += _parse(settings.operator_tokens.get_secret_value(), "APPHUB_OPERATOR_TOKENS")
        self._identities = {_digest(entry["token"]): _identity(entry) for entry in entries}

    @property
    def configured(self) -> bool:
        """Whether there is any token; without one, only the local operator gets in."""
        return bool(self._identities)

    def identify(self, token: str) -> Identity:
        """The holder of `token`.

        Raises:
            Unauthorized: nobody's token.
        """
        # Looked up by digest: how long it takes tells nothing about how much of a guess was right.
        identity = self._identities.get(_digest(token))
        if identity is None:
            raise Unauthorized("the bearer token is not known here; check APPHUB_TOKEN or ask an operator for one")
        return identity


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _parse(raw: str, setting: str) -> list[Any]:
    try:
        entries = json.loads(raw)
    except ValueError:
        raise InvalidTokens(f"{setting} is not JSON; it must be an array of {{token, subject?, scopes?}}") from None
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("token"), str) for e in entries
    ):
        raise InvalidTokens(f"{setting} must be a JSON array of objects with a string `token`")
    return entries


def _identity(entry: Mapping[str, Any]) -> Identity:
    subject = str(entry.get("subject") or f"token:{_digest(entry['token'])[:6]}")
    kind = str(entry.get("kind") or "user")
    wanted = entry.get("scopes", [])
    if wanted == "*":
        return Identity(subject, kind, ALL_SCOPES)
    unknown = sorted(set(wanted) - set(Scope))
    if unknown:
        raise InvalidTokens(f"operator token of {subject!r}: unknown scopes {unknown}; known: {sorted(Scope)}")
    return Identity(subject, kind, close({Scope(scope) for scope in wanted}))
