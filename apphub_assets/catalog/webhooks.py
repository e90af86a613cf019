"""What Git hosts send when somebody pushed: is it really them, and which repository do they mean?"""

import hashlib
import hmac
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import SecretStr

from apphub_assets.errors import Forbidden, NotFound
from apphub_assets.settings import Settings


class Provider(StrEnum):
    GITHUB = "github"
    GITLAB = "gitlab"
    GENERIC = "generic"


class WebhookClosed(NotFound):
    code, title = "webhook_not_configured", "Webhook not configured"


class SignatureInvalid(Forbidden):
    code, title = "webhook_signature_invalid", "Webhook signature invalid"


def verify(provider: Provider, settings: Settings, body: bytes, headers: Mapping[str, str]) -> None:
    """Check the proof that the provider sends along.

    Raises:
        WebhookClosed: no secret is set for this provider.
        SignatureInvalid: the proof is missing or wrong.
    """
    secret: SecretStr | None = getattr(settings, f"webhook_secret_{provider}")
    if not (secret and secret.get_secret_value()):
        raise WebhookClosed(f"webhooks of {provider} are off; set APPHUB_WEBHOOK_SECRET_{provider.upper()}")
    given, expected = _proof(provider, secret.get_secret_value(), body, headers)
    if not hmac.compare_digest(given.encode(), expected.encode()):
        raise SignatureInvalid(f"the signature of this {provider} webhook does not match the secret configured here")


def addresses_in(provider: Provider, payload: dict[str, Any]) -> list[str]:
    """Every address by which the pushed repository may have been registered, with and without `.git`."""
    repository = payload.get("project" if provider is Provider.GITLAB else "repository")
    fields = ("clone_url", "html_url", "git_url", "git_http_url", "http_url", "web_url", "url")
    values = [repository.get(field) for field in fields] if isinstance(repository, dict) else [payload.get("repoUrl")]
    urls = {value.removesuffix("/").removesuffix(".git") for value in values if isinstance(value, str)}
    return sorted(urls | {f"{url}.git" for url in urls})


def _proof(provider: Provider, secret: str, body: bytes, headers: Mapping[str, str]) -> tuple[str, str]:
    if provider is Provider.GITLAB:
        return headers.get("x-gitlab-token", ""), secret
    name = "x-hub-signature-256" if provider is Provider.GITHUB else "x-apphub-signature"
    return headers.get(name, ""), "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
