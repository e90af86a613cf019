"""What an app printed: from its container while it has one, then the end of it from the row."""

from sqlalchemy.orm import Session

from apphub_assets.containers import Feed, Sandboxes, SandboxMissing
from apphub_assets.launches.service import existing
from apphub_assets.launches.spec import LIVE
from apphub_assets.launches.views import LaunchLogsView

TAIL_BYTES = 64 * 1024
TAIL_LINES = 2000


def read(session: Session, sandboxes: Sandboxes, launch_id: str) -> LaunchLogsView:
    """The last 64 KiB of what a launch printed.

    Raises:
        LaunchNotFound: there is no such launch.
        EngineUnavailable: it has a container, and the engine can't be asked.
    """
    row = existing(session, launch_id)
    printed = tail(sandboxes, row.sandbox_id) if row.sandbox_id else None
    text = printed if printed is not None else row.log_tail or ""
    return LaunchLogsView(
        id=row.id,
        repository_id=row.repository_id,
        logs=text,
        size=len(text.encode()),
        live=row.status in LIVE,
        updated_at=row.updated_at,
    )


def follow(sandboxes: Sandboxes, sandbox_id: str) -> Feed[str] | None:
    """Lines as the app prints them, from the last 2000 on; None when its container is gone."""
    try:
        return sandboxes.logs(sandbox_id, TAIL_LINES, follow=True)
    except SandboxMissing:
        return None


def tail(sandboxes: Sandboxes, sandbox_id: str) -> str | None:
    """The last 64 KiB of what an app printed; None when its container is gone."""
    try:
        lines = sandboxes.logs(sandbox_id, TAIL_LINES)
    except SandboxMissing:
        return None
    text = "\n".join(lines).replace("\0", "\ufffd")
    return text.encode("utf-8", "replace")[-TAIL_BYTES:].decode("utf-8", "ignore")
