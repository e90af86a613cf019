"""Which images nobody needs any more, and their removal."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy.orm import Session

from apphub_assets.catalog import repository
from apphub_assets.catalog.models import Build
from apphub_assets.containers import OWNER_LABEL, Engine, EngineFault, ImageInfo
from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings

log = structlog.get_logger()
BUILD_LABEL = "apphub.build"


@dataclass(frozen=True)
class StaleImage:
    """An image to remove and why; `build_id` is None when its app was deleted."""

    build_id: str | None
    image_tag: str
    reason: str


def stale_images(session: Session, engine: Engine, settings: Settings) -> list[StaleImage]:
    """Images beyond the newest `build_keep_count` of their app, or older than `build_keep_days`, or of no app at all.

    The newest image of an app always stays.
    """
    builds = repository.builds_with_image(session)
    # An image may be there a moment before its build says so.
    unfinished = {build.id for build in repository.unfinished_builds(session)}
    known = {build.image_tag for build in builds}
    mine = [image for image in engine.list_images(BUILD_LABEL) if _made_by(settings.stack_id, image)]
    tags = {tag for image in mine if image.labels[BUILD_LABEL] not in unfinished for tag in image.tags}
    orphans = [StaleImage(None, tag, "its app was deleted") for tag in sorted(tags - known)]
    return [*_outdated(builds, settings), *orphans]


def remove_images(database: Database, engine: Engine, images: Iterable[StaleImage]) -> list[StaleImage]:
    """Remove images one at a time, so that a failure loses nothing of what was done; one in use is left for later.

    Returns: those that were removed.
    """
    removed = []
    for image in images:
        try:
            engine.remove_image(image.image_tag)
        except EngineFault as error:
            log.info("image.kept", image=image.image_tag, reason=error.message)
            continue
        if image.build_id is not None:
            with database.transaction() as session:
                repository.note_image_removed(session, image.build_id)
        removed.append(image)
    return removed


def _made_by(stack_id: str, image: ImageInfo) -> bool:
    """Other stacks may use the same engine."""
    return image.labels.get(OWNER_LABEL, "").startswith(f"{stack_id}.")


def _outdated(builds: Iterable[Build], settings: Settings) -> list[StaleImage]:
    """`builds` come grouped by app, newest first."""
    limit = datetime.now(UTC) - timedelta(days=settings.build_keep_days)
    place: dict[str, int] = {}
    stale = []
    for build in builds:
        rank = place[build.repository_id] = place.get(build.repository_id, 0) + 1
        if rank > settings.build_keep_count:
            stale.append(StaleImage(build.id, build.image_tag or "", f"more than {settings.build_keep_count} images"))
        elif rank > 1 and build.created_at < limit:
            stale.append(StaleImage(build.id, build.image_tag or "", f"older than {settings.build_keep_days:g} days"))
    return stale
