"""`python -m apphub_assets.dagster_web`: Dagster's webserver, for those alone who know `APPHUB_DAGSTER_SECRET`.

Dagster's own has no login, and whoever reaches it may run anything: on loopback that is every local user, and every
web page in a browser at this machine. It takes the options of `dagster-webserver`.
"""

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from dagster_webserver import cli
from pydantic import SecretStr

from apphub_assets.orchestrator import LOCK_HEADER
from apphub_assets.settings import SettingMissing, load_settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADER = LOCK_HEADER.lower().encode()
PROBE = ("GET", "/dagster/server_info", b"")
REFUSAL = {"error": f"{LOCK_HEADER} is missing or not this server's APPHUB_DAGSTER_SECRET; ask through AppHub"}


class Locked:
    """An ASGI application that answers only requests and WebSockets with the secret, and the probe of its health."""

    def __init__(self, app: App, secret: SecretStr) -> None:
        self._app = app
        self._secret = secret.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._may_pass(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # before it was accepted: 403
        else:
            await send(
                {"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"application/json")]}
            )
            await send({"type": "http.response.body", "body": json.dumps(REFUSAL).encode()})

    def _may_pass(self, scope: Scope) -> bool:
        given: bytes = dict(scope["headers"]).get(HEADER, b"")
        is_probe = (scope.get("method"), scope["path"], scope["query_string"]) == PROBE
        return is_probe or hmac.compare_digest(given, self._secret)


def main() -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        SettingMissing: there is no secret.
    """
    secret = load_settings().dagster_secret
    if secret is None:
        raise SettingMissing("APPHUB_DAGSTER_SECRET is not set; start the stack with `apphub up`")

    # Dagster's command has no option for this, and all the rest of it is wanted as it is.
    parts, name = vars(cli), "create_app_from_workspace_process_context"
    make_app = parts[name]

    def make_locked_app(*arguments: Any, **options: Any) -> Locked:
        return Locked(make_app(*arguments, **options), secret)

    parts[name] = make_locked_app
    cli.main()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
