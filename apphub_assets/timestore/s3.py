"""How S3 is reached, by DuckDB and by fsspec: with the keys of the settings, else with those that the machine has.

The latter are found as all of AWS's tools find them: profile, container, instance role; they renew themselves.
Source: https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
"""

import threading
from typing import Any
from urllib.parse import urlsplit

from apphub_assets.settings import Settings

# DuckDB's names of the keys, and fsspec's.
ARGUMENTS = {"KEY_ID": "key", "SECRET": "secret", "SESSION_TOKEN": "token"}

_lock = threading.Lock()
_found: list[Any] = []


def secret(settings: Settings) -> dict[str, str]:
    """Options of DuckDB's `CREATE SECRET (TYPE s3, …)`; they hold for minutes at least, so ask anew for each use."""
    options = {"REGION": settings.s3_region} | _keys(settings)
    if settings.s3_endpoint_url:
        endpoint = urlsplit(settings.s3_endpoint_url)
        options |= {"ENDPOINT": endpoint.netloc, "URL_STYLE": "path"}
        options["USE_SSL"] = "true" if endpoint.scheme == "https" else "false"
    return options


def filesystem_options(settings: Settings) -> dict[str, Any]:
    """Arguments of fsspec's filesystem; without keys it looks for the machine's by itself."""
    options: dict[str, Any] = {"client_kwargs": {"region_name": settings.s3_region}}
    if settings.s3_endpoint_url:
        options["endpoint_url"] = settings.s3_endpoint_url
    given = _given(settings)
    return options | {argument: given[name] for name, argument in ARGUMENTS.items() if name in given}


def _keys(settings: Settings) -> dict[str, str]:
    if given := _given(settings):
        return given
    found = _of_the_machine()
    if found is None:
        return {}
    keys = found.get_frozen_credentials()
    return _named(keys.access_key, keys.secret_key, keys.token)


def _given(settings: Settings) -> dict[str, str]:
    key, secret, token = settings.s3_access_key_id, settings.s3_secret_access_key, settings.s3_session_token
    if not (key and secret):
        return {}
    return _named(key.get_secret_value(), secret.get_secret_value(), token.get_secret_value() if token else None)


def _named(key: str | None, secret: str | None, token: str | None) -> dict[str, str]:
    return {"KEY_ID": key or "", "SECRET": secret or ""} | ({"SESSION_TOKEN": token} if token else {})


def _of_the_machine() -> Any:
    """Looked for once per process, which takes a second where there are none; they renew themselves."""
    import botocore.session  # slow, and needed by few

    with _lock:
        if not _found:
            _found.append(botocore.session.get_session().get_credentials())
        return _found[0]
