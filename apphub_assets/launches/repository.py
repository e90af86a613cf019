"""Every SQL statement of the launches."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Select, bindparam, delete, func, select, update
from sqlalchemy.orm import Session

from apphub_assets.launches.models import Launch
from apphub_assets.launches.spec import LIVE, LaunchStatus

QUOTA = "launches.quota"
SERVED = Launch.pooled.is_(False)
NEWS = Launch.reported_status.is_distinct_from(Launch.status)


def add(session: Session, launch: Launch) -> None:
    session.add(launch)
    session.flush()
    session.refresh(launch)


def get(session: Session, launch_id: str) -> Launch | None:
    return session.scalars(_served(launch_id)).one_or_none()


def get_for_update(session: Session, launch_id: str) -> Launch | None:
    return session.scalars(_served(launch_id).with_for_update()).one_or_none()


def get_kept_for_update(session: Session, launch_id: str) -> Launch | None:
    """Also one in the pool."""
    statement = select(Launch).where(Launch.id == launch_id).execution_options(populate_existing=True)
    return session.scalars(statement.with_for_update()).one_or_none()


def exists(session: Session, launch_id: str) -> bool:
    return session.scalar(select(Launch.id).where(Launch.id == launch_id)) is not None


def page(session: Session, repository_id: str, limit: int) -> list[Launch]:
    """Newest first."""
    statement = select(Launch).where(Launch.repository_id == repository_id, SERVED)
    return list(session.scalars(statement.order_by(Launch.created_at.desc()).limit(limit)))


def representative(session: Session, repository_id: str) -> Launch | None:
    """The newest live launch of an app, or the newest at all."""
    statement = select(Launch).where(Launch.repository_id == repository_id, SERVED)
    return session.scalar(statement.order_by(Launch.status.in_(LIVE).desc(), Launch.created_at.desc()).limit(1))


def unreported(session: Session) -> dict[str, list[Launch]]:
    """Launches of whose state Dagster was not told yet, by app."""
    found: dict[str, list[Launch]] = {}
    for launch in session.scalars(select(Launch).where(SERVED, NEWS).order_by(Launch.repository_id, Launch.id)):
        found.setdefault(launch.repository_id, []).append(launch)
    return found


def note_reported(session: Session, launches: Sequence[Launch]) -> None:
    """Dagster knows of these launches in the states that they were read in; which is no change of a launch."""
    statement = update(Launch).where(Launch.id == bindparam("told"))
    values = {"reported_status": bindparam("state"), "updated_at": Launch.updated_at}
    rows = [{"told": launch.id, "state": launch.status} for launch in launches]
    session.connection().execute(statement.values(**values), rows)


def kept(session: Session) -> list[Launch]:
    """Every launch that has a container or should have one, those in the pool too."""
    return list(session.scalars(select(Launch).where(Launch.status.in_(LIVE)).order_by(Launch.created_at)))


def live_of(session: Session, repository_id: str) -> list[Launch]:
    statement = select(Launch).where(Launch.repository_id == repository_id, Launch.status.in_(LIVE), SERVED)
    return list(session.scalars(statement.with_for_update()))


def lock_quota(session: Session) -> None:
    """Wait until no other transaction counts launches."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(QUOTA, 0))))


def count_live(session: Session) -> int:
    return session.scalar(select(func.count()).where(Launch.status.in_(LIVE), SERVED)) or 0


def count_by_status(session: Session) -> dict[str, int]:
    return dict(session.execute(select(Launch.status, func.count()).where(SERVED).group_by(Launch.status)).all())


def images_in_use(session: Session) -> set[str]:
    return set(session.scalars(select(Launch.image_tag).where(Launch.status.in_(LIVE))))


def note_visits(session: Session, visits: Mapping[str, datetime]) -> None:
    """A visit is no change of the launch, so `updated_at` stays."""
    if visits:
        statement = update(Launch).where(Launch.id == bindparam("visited"))
        values = {"last_request_at": bindparam("at"), "updated_at": Launch.updated_at}
        rows = [{"visited": launch_id, "at": at} for launch_id, at in sorted(visits.items())]
        session.connection().execute(statement.values(**values), rows)


def notify(session: Session, channel: str) -> None:
    session.execute(select(func.pg_notify(channel, "")))


# --- the pool -----------------------------------------------------------------------------------------------------


def take_pooled(session: Session, build_id: str) -> Launch | None:
    """A pooled launch of this build that answers, locked; None when there is none that nobody else is taking."""
    statement = (
        select(Launch)
        .where(Launch.pooled, Launch.build_id == build_id, Launch.status == LaunchStatus.RUNNING)
        .order_by(Launch.created_at)
        .limit(1)
    )
    return session.scalars(statement.with_for_update(skip_locked=True)).one_or_none()


def popular(session: Session, since: datetime, limit: int) -> list[str]:
    """Apps by how often they were launched since then, most often first."""
    count = func.count()
    statement = select(Launch.repository_id).where(SERVED, Launch.created_at >= since).group_by(Launch.repository_id)
    return list(session.scalars(statement.order_by(count.desc(), Launch.repository_id).limit(limit)))


def pooled(session: Session) -> list[Launch]:
    """Every pooled launch, those that ended too."""
    return list(session.scalars(select(Launch).where(Launch.pooled).order_by(Launch.created_at)))


def note_memory(session: Session, launch_id: str, memory_bytes: int) -> None:
    values = {"memory_bytes": memory_bytes, "updated_at": Launch.updated_at}
    session.execute(update(Launch).where(Launch.id == launch_id).values(**values))


def remove_ended_pooled(session: Session, repository_id: str) -> None:
    """Forget what was learned of an app's earlier builds in the pool."""
    mine = Launch.repository_id == repository_id
    session.execute(delete(Launch).where(mine, Launch.pooled, Launch.status.not_in(LIVE)))


def _served(launch_id: str) -> Select[Launch]:
    return select(Launch).where(Launch.id == launch_id, SERVED).execution_options(populate_existing=True)
