"""`python -m apphub_api.server`: the API on the address that the settings name."""

import gc

import uvicorn

from apphub_api.app import create_app
from apphub_assets.settings import load_settings

# Less than the supervisor waits before it kills.
STOP_SECONDS = 2


def main() -> None:
    """Serve until SIGTERM or SIGINT; open streams get a moment to end."""
    settings = load_settings()
    app = create_app(settings)
    # What was made by now stays: without this each full collection walks it and stops every request for 80 ms.
    gc.collect()
    gc.freeze()
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_level="warning",
        # Forwarding headers are believed from nobody: a client could sign itself in as local with them.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


if __name__ == "__main__":
    main()
