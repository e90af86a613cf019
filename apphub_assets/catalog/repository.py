"""Every SQL statement of the catalog."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, and_, any_, delete, func, literal, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by, insert
from sqlalchemy.orm import InstrumentedAttribute, Session, defer

from apphub_assets.catalog.models import Build, BuildLogChunk, IngestionEvent, Repository, RepositoryTag, TagRow
from apphub_assets.catalog.spec import BuildStatus, IngestStatus, SourcedTag, Tag, TagSource

LOG_TAIL = 4000
LIGHT = defer(Repository.readme, raiseload=True)


def get(session: Session, repository_id: str) -> Repository | None:
    statement = select(Repository).where(Repository.id == repository_id)
    return session.scalars(statement.execution_options(populate_existing=True)).one_or_none()


def get_for_update(session: Session, repository_id: str) -> Repository | None:
    statement = select(Repository).where(Repository.id == repository_id).with_for_update()
    return session.scalars(statement.execution_options(populate_existing=True)).one_or_none()


def get_many(session: Session, ids: Sequence[str]) -> list[Repository]:
    """The repositories with these ids in their order, without READMEs; unknown ones are left out."""
    rows = {r.id: r for r in session.scalars(select(Repository).where(_among(Repository.id, ids)).options(LIGHT))}
    return [rows[i] for i in ids if i in rows]


def all_ids(session: Session) -> list[str]:
    return list(session.scalars(select(Repository.id).order_by(Repository.id)))


def insert_if_absent(session: Session, values: dict[str, Any]) -> bool:
    """Insert a repository; False when one with this id exists, which is then locked for this transaction."""
    statement = insert(Repository).values(**values).on_conflict_do_nothing().returning(Repository.id)
    return session.scalar(statement) is not None


def delete_repository(session: Session, repository_id: str) -> None:
    session.execute(delete(Repository).where(Repository.id == repository_id))


def set_latest_launch(session: Session, repository_id: str, launch: dict[str, Any]) -> None:
    """Keep a launch unless a newer one is kept; it does not make an app newer, so `updated_at` stays.

    Postgres asks anew after it waited for another's update of the row, so the newest launch wins however they commit.
    """
    kept = Repository.latest_launch["createdAt"].astext
    values = {"latest_launch": launch, "updated_at": Repository.updated_at}
    statement = update(Repository).where(Repository.id == repository_id, kept.is_(None) | (kept <= launch["createdAt"]))
    session.execute(statement.values(**values))


# --- tags ---------------------------------------------------------------------------------------------------------


def tags_of(session: Session, ids: Sequence[str]) -> dict[str, list[SourcedTag]]:
    """The tags of each of these repositories, in the order of key and value."""
    tag = func.json_build_array(TagRow.key, TagRow.value, RepositoryTag.source)
    # One row per repository: hundreds of rows cost more than what is in them.
    statement = (
        select(RepositoryTag.repository_id, func.json_agg(tag))
        .join(TagRow, RepositoryTag.tag_id == TagRow.id)
        .where(_among(RepositoryTag.repository_id, ids))
        .group_by(RepositoryTag.repository_id)
    )
    found: dict[str, list[list[str]]] = dict(session.execute(statement).all())
    return {
        repository_id: [SourcedTag(k, v, TagSource(s)) for k, v, s in sorted(found.get(repository_id, ()))]
        for repository_id in ids
    }


def replace_tags(session: Session, repository_id: str, source: TagSource, tags: Iterable[Tag]) -> None:
    """Make `tags` the repository's tags from `source`; those from other sources stay."""
    wanted = sorted({(tag.key, tag.value) for tag in tags})
    session.execute(
        delete(RepositoryTag).where(RepositoryTag.repository_id == repository_id, RepositoryTag.source == source)
    )
    if not wanted:
        return
    # Sorted, so that two transactions that add the same new tags wait for each other instead of deadlocking.
    session.execute(insert(TagRow).on_conflict_do_nothing(), [{"key": k, "value": v} for k, v in wanted])
    ids = session.scalars(select(TagRow.id).where(tuple_(TagRow.key, TagRow.value).in_(wanted)))
    rows = [{"repository_id": repository_id, "tag_id": tag_id, "source": source} for tag_id in ids]
    session.execute(insert(RepositoryTag), rows)


# --- ingestion ----------------------------------------------------------------------------------------------------


def add_ingestion_event(session: Session, event: IngestionEvent) -> None:
    session.add(event)
    session.flush()
    session.refresh(event)


def history(session: Session, repository_id: str, limit: int) -> list[IngestionEvent]:
    statement = select(IngestionEvent).where(IngestionEvent.repository_id == repository_id)
    return list(session.scalars(statement.order_by(IngestionEvent.id.desc()).limit(limit)))


def unfinished_repositories(session: Session, now: datetime) -> list[Repository]:
    statement = select(Repository).where(
        Repository.ingest_status.in_([IngestStatus.PENDING, IngestStatus.PROCESSING]),
        (Repository.ingest_not_before.is_(None)) | (Repository.ingest_not_before <= now),
    )
    return list(session.scalars(statement.order_by(Repository.updated_at).limit(200)))


def due_for_remote_check(session: Session, before: datetime, limit: int) -> list[Repository]:
    """Ready or failed repositories whose remote was not asked since `before`, longest waiting first.

    A remote that failed n times in a row waits 2^n times as long, at most 64 times.
    """
    waited = func.least(func.power(2, Repository.remote_failures), 64) * (func.clock_timestamp() - before)
    statement = select(Repository).where(
        Repository.ingest_status.in_([IngestStatus.READY, IngestStatus.FAILED]),
        (Repository.remote_checked_at.is_(None)) | (Repository.remote_checked_at + waited <= func.clock_timestamp()),
    )
    return list(session.scalars(statement.order_by(Repository.remote_checked_at.asc().nulls_first()).limit(limit)))


def note_remote_check(session: Session, repository_id: str, sha: str | None) -> None:
    """Remember when a remote was asked for its commit, and which that is; None: it did not answer."""
    values = {
        "remote_checked_at": func.clock_timestamp(),
        "remote_sha": sha or Repository.remote_sha,
        "remote_failures": 0 if sha else Repository.remote_failures + 1,
        "updated_at": Repository.updated_at,
    }
    session.execute(update(Repository).where(Repository.id == repository_id).values(**values))


def ids_by_url(session: Session, urls: Sequence[str]) -> list[str]:
    return list(session.scalars(select(Repository.id).where(Repository.repo_url.in_(urls)).order_by(Repository.id)))


def count_repositories(session: Session) -> dict[str, int]:
    statement = select(Repository.ingest_status, func.count()).group_by(Repository.ingest_status)
    return dict(session.execute(statement).all())


# --- builds -------------------------------------------------------------------------------------------------------


def add_build(session: Session, build: Build) -> Build:
    session.add(build)
    session.flush()
    session.refresh(build)
    return build


def get_build(session: Session, build_id: str, *, lock: bool = False) -> Build | None:
    statement = select(Build).where(Build.id == build_id).execution_options(populate_existing=True)
    return session.scalars(statement.with_for_update() if lock else statement).one_or_none()


def count_builds(session: Session) -> dict[str, int]:
    return dict(session.execute(select(Build.status, func.count()).group_by(Build.status)).all())


def builds_of(session: Session, repository_id: str, limit: int, offset: int) -> tuple[list[Build], int]:
    """A page of builds, newest first, and how many there are."""
    mine = Build.repository_id == repository_id
    page = select(Build).where(mine).order_by(Build.id.desc()).limit(limit).offset(offset)
    return list(session.scalars(page)), session.scalar(select(func.count()).where(mine)) or 0


def latest_builds(session: Session, ids: Sequence[str]) -> dict[str, Build]:
    """The newest build of each repository; build ids sort by time."""
    newest = select(func.max(Build.id)).where(_among(Build.repository_id, ids)).group_by(Build.repository_id)
    return {build.repository_id: build for build in session.scalars(select(Build).where(Build.id.in_(newest)))}


def next_pending_build(session: Session, repository_id: str) -> Build | None:
    statement = _builds(repository_id, BuildStatus.PENDING).order_by(Build.id).limit(1)
    return session.scalars(statement.with_for_update()).one_or_none()


def running_builds(session: Session, repository_id: str) -> list[Build]:
    return list(session.scalars(_builds(repository_id, BuildStatus.RUNNING).with_for_update()))


def succeeded_build(session: Session, repository_id: str, *made_of: ColumnElement[bool]) -> Build | None:
    """The newest build whose image was made and not removed."""
    statement = _builds(repository_id, BuildStatus.SUCCEEDED).where(Build.image_removed_at.is_(None), *made_of)
    return session.scalars(statement.order_by(Build.id.desc()).limit(1)).one_or_none()


def build_of_newest(session: Session, row: Repository) -> Build | None:
    """The build whose image is of the commit, and the Dockerfile, that were ingested last."""
    return succeeded_build(session, row.id, _is_of_newest(row))


def is_built_or_will_be(session: Session, row: Repository) -> bool:
    """Whether what was ingested last has an image, or a build that makes one waits or runs.

    One that waits will take the Dockerfile of then, and the commit that its ref names by then; one that runs has done
    so.
    """
    waits = and_(Build.status == BuildStatus.PENDING, Build.git_ref.is_not_distinct_from(row.git_ref))
    running = and_(Build.status == BuildStatus.RUNNING, _is_of_newest(row))
    statement = select(Build.id).where(Build.repository_id == row.id, or_(waits, running)).limit(1)
    return bool(build_of_newest(session, row) or session.scalar(statement))


def was_tried(session: Session, row: Repository) -> bool:
    """Whether a build of what was ingested last has ended, in whatever way."""
    ended = Build.status.in_([BuildStatus.SUCCEEDED, BuildStatus.FAILED, BuildStatus.CANCELED])
    # A build that was canceled while it waited has taken no Dockerfile yet.
    same = Build.dockerfile_path.is_(None) | (Build.dockerfile_path == row.dockerfile)
    of_newest = and_(Build.repository_id == row.id, Build.commit_sha == row.commit_sha, same)
    return session.scalar(select(Build.id).where(of_newest, ended).limit(1)) is not None


def unfinished_builds(session: Session) -> list[Build]:
    """Builds that wait or run; one whose attempts failed waits 10 s, 20 s, 40 s … for the next."""
    back_off = func.make_interval(0, 0, 0, 0, 0, 0, 5 * func.power(2, Build.attempts))
    statement = select(Build).where(
        (Build.status == BuildStatus.RUNNING)
        | (Build.status == BuildStatus.PENDING)
        & ((Build.attempts == 0) | (Build.updated_at + back_off <= func.clock_timestamp()))
    )
    return list(session.scalars(statement.order_by(Build.id).limit(200)))


def builds_with_image(session: Session) -> list[Build]:
    """Builds whose image is still there, grouped by repository, newest first."""
    statement = select(Build).where(Build.status == BuildStatus.SUCCEEDED, Build.image_removed_at.is_(None))
    return list(session.scalars(statement.order_by(Build.repository_id, Build.id.desc())))


def note_image_removed(session: Session, build_id: str) -> None:
    session.execute(update(Build).where(Build.id == build_id).values(image_removed_at=func.clock_timestamp()))


def _among(column: InstrumentedAttribute[str], values: Sequence[str]) -> ColumnElement[bool]:
    """One parameter whatever their number, so that the statement stays prepared."""
    return column == any_(literal(list(values), ARRAY(Text)))


def _is_of_newest(row: Repository) -> ColumnElement[bool]:
    return and_(Build.commit_sha == row.commit_sha, Build.dockerfile_path == row.dockerfile)


def _builds(repository_id: str, status: BuildStatus) -> Select[Build]:
    return select(Build).where(Build.repository_id == repository_id, Build.status == status)


# --- build logs ---------------------------------------------------------------------------------------------------


def add_log_chunk(session: Session, build_id: str, position: int, content: str) -> None:
    session.execute(insert(BuildLogChunk).values(build_id=build_id, position=position, content=content))


def drop_log_chunk(session: Session, build_id: str, position: int) -> None:
    session.execute(delete(BuildLogChunk).where(BuildLogChunk.build_id == build_id, BuildLogChunk.position == position))


def clear_log(session: Session, build_id: str) -> None:
    session.execute(delete(BuildLogChunk).where(BuildLogChunk.build_id == build_id))


def note_log_size(session: Session, build_id: str, size: int, kept: int) -> None:
    session.execute(update(Build).where(Build.id == build_id).values(log_size=size, log_kept=kept))


def log_chunks(session: Session, build_id: str, after: int) -> list[BuildLogChunk]:
    """Chunks that begin at `after` or later, in order."""
    statement = select(BuildLogChunk).where(BuildLogChunk.build_id == build_id, BuildLogChunk.position >= after)
    return list(session.scalars(statement.order_by(BuildLogChunk.position)))


def log_tails(session: Session, build_ids: Sequence[str], chunks: int = 4) -> dict[str, str]:
    """The last 4000 characters of each log, as far as its last chunks hold them."""
    rank = func.row_number().over(partition_by=BuildLogChunk.build_id, order_by=BuildLogChunk.position.desc())
    ranked = select(BuildLogChunk, rank.label("rank")).where(BuildLogChunk.build_id.in_(build_ids)).subquery()
    joined = func.string_agg(ranked.c.content, aggregate_order_by(literal(""), ranked.c.position))
    statement = (
        select(ranked.c.build_id, func.right(joined, LOG_TAIL))
        .where(ranked.c.rank <= chunks)
        .group_by(ranked.c.build_id)
    )
    return {str(build_id): str(tail) for build_id, tail in session.execute(statement)}
