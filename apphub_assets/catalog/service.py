"""Use cases of people: register, look at, tag, refresh and delete apps."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from apphub_assets.catalog import repository
from apphub_assets.catalog.errors import AppNotFound
from apphub_assets.catalog.models import Build, IngestionEvent, Repository
from apphub_assets.catalog.spec import IngestStatus, Registration, SourcedTag, Tag, TagSource, check_tags
from apphub_assets.catalog.views import (
    BuildView,
    IngestionEventView,
    RepositoryDetail,
    RepositoryView,
    build_view,
    description_of,
    ingestion_event_view,
    repository_detail,
    repository_view,
)
from apphub_assets.errors import Stale
from apphub_assets.events import service as events
from apphub_assets.kit.ids import new_id
from apphub_assets.search import service as search
from apphub_assets.search.spec import Document

SOURCE = "catalog"
README_IN_INDEX = 20_000


def register(session: Session, wanted: Registration, *, correlation_id: str | None = None) -> RepositoryView:
    """Register an app, or change an existing one of the same id, and ask for its ingestion.

    A new `tags` list replaces the manual tags of an existing app.
    """
    values = {
        "name": wanted.name.strip(),
        "description": wanted.description,
        "repo_url": wanted.repo_url,
        "git_ref": wanted.git_ref,
        "dockerfile_path": wanted.dockerfile_path,
        "metadata_strategy": wanted.metadata_strategy,
    }
    created = repository.insert_if_absent(session, {"id": wanted.id, **values})
    row = locked(session, wanted.id)
    for name, value in values.items():
        setattr(row, name, value)
    row.remote_sha = None
    repository.replace_tags(session, wanted.id, TagSource.MANUAL, wanted.tags)
    message = "registered" if created else "registered again"
    return _ask_ingestion(session, row, message, correlation_id)


def refresh(session: Session, repository_id: str, message: str, *, correlation_id: str | None = None) -> RepositoryView:
    """Ask for a new ingestion; counts attempts from zero.

    Raises:
        AppNotFound: there is no such app.
    """
    return _ask_ingestion(session, locked(session, repository_id), message, correlation_id)


def refresh_by_url(
    session: Session, urls: Sequence[str], message: str, *, correlation_id: str | None = None
) -> list[str]:
    """Ask for the ingestion of every app registered under one of these addresses; returns their ids."""
    ids = repository.ids_by_url(session, urls)
    for repository_id in ids:
        refresh(session, repository_id, message, correlation_id=correlation_id)
    return ids


def show(session: Session, repository_id: str) -> RepositoryDetail:
    """One app with its README.

    Raises:
        AppNotFound: there is no such app.
    """
    row = existing(session, repository_id)
    tags = repository.tags_of(session, [repository_id])[repository_id]
    return repository_detail(row, tags, latest_builds(session, [repository_id]).get(repository_id))


def show_many(session: Session, ids: Sequence[str], relevance: dict[str, Any] | None = None) -> list[RepositoryView]:
    """The apps with these ids in this order; those deleted meanwhile are left out."""
    builds, tags, scores = latest_builds(session, ids), repository.tags_of(session, ids), relevance or {}
    rows = repository.get_many(session, ids)
    return [repository_view(row, tags[row.id], builds.get(row.id), scores.get(row.id)) for row in rows]


def history(session: Session, repository_id: str, limit: int) -> list[IngestionEventView]:
    """Ingestion events, newest first."""
    existing(session, repository_id)
    return [ingestion_event_view(event) for event in repository.history(session, repository_id, limit)]


def set_manual_tags(
    session: Session, repository_id: str, tags: Sequence[Tag], *, expected_version: int | None = None
) -> RepositoryView:
    """Replace the tags that people gave; author's and detected ones stay.

    Raises:
        InvalidInput: more than MAX_TAGS.
        AppNotFound: there is no such app.
        Stale: `expected_version` is not the app's version.
    """
    check_tags(tags)
    row = locked(session, repository_id)
    if expected_version is not None and row.version != expected_version:
        raise Stale(f"app {repository_id!r} is at version {row.version}, not {expected_version}; read it again")
    repository.replace_tags(session, repository_id, TagSource.MANUAL, tags)
    row.version += 1
    return announce(session, repository_id)


def delete(session: Session, repository_id: str) -> None:
    """Forget an app, its history, builds and logs. Images go with the next clean-up, launches beforehand.

    Raises:
        AppNotFound: there is no such app.
    """
    locked(session, repository_id)
    search.remove_document(session, repository_id)
    repository.delete_repository(session, repository_id)
    events.append(session, type="repository.deleted", source=SOURCE, payload={"repositoryId": repository_id})


def note_run(session: Session, repository_id: str, run_id: str) -> None:
    """Remember the Dagster run that was asked to do the work."""
    row = locked(session, repository_id)
    row.run_id = run_id


def note_launch(session: Session, repository_id: str, launch: dict[str, Any]) -> None:
    """Keep the newest launch beside the app, so that a page of apps is one query; an older one is left out."""
    repository.set_latest_launch(session, repository_id, launch)


def all_ids(session: Session) -> list[str]:
    """The ids of every app, sorted: the partitions that Dagster should have."""
    return repository.all_ids(session)


def count(session: Session) -> dict[str, int]:
    """How many apps there are in each state of ingestion, none left out."""
    return dict.fromkeys(IngestStatus, 0) | repository.count_repositories(session)


def latest_builds(session: Session, ids: Sequence[str]) -> dict[str, BuildView]:
    """The newest build of each of these apps, with the end of its log."""
    builds = repository.latest_builds(session, ids)
    if not builds:
        return {}
    tails = repository.log_tails(session, [build.id for build in builds.values()])
    return {key: build_view(build, tails.get(build.id)) for key, build in builds.items()}


# --- shared with ingestion and builds -----------------------------------------------------------------------------


def announce(session: Session, repository_id: str) -> RepositoryView:
    """Bring the search document in step and tell the world; the last thing in a transaction that changes an app."""
    session.flush()
    row = existing(session, repository_id)
    tags = repository.tags_of(session, [repository_id])[repository_id]
    search.put_document(session, _document(row, tags))
    view = repository_view(row, tags, latest_builds(session, [repository_id]).get(repository_id))
    payload = {"repository": view.to_json()}
    events.append(session, type="repository.updated", source=SOURCE, payload=payload, correlation_id=row.correlation_id)
    return view


def add_history(session: Session, row: Repository, message: str | None, duration_ms: int | None = None) -> None:
    """Write a line of the app's history from the state it is in now."""
    event = IngestionEvent(
        id=new_id(),
        repository_id=row.id,
        status=row.ingest_status,
        message=message,
        attempt=row.ingest_attempts,
        commit_sha=row.commit_sha if row.ingest_status == IngestStatus.READY else None,
        duration_ms=duration_ms,
    )
    repository.add_ingestion_event(session, event)
    payload = {"event": ingestion_event_view(event).to_json()}
    events.append(
        session,
        type="repository.ingestion-event",
        source=SOURCE,
        payload=payload,
        correlation_id=row.correlation_id,
    )


def announce_build(session: Session, build: Build) -> BuildView:
    """Tell the world about a build's state."""
    session.flush()
    session.refresh(build)
    view = build_view(build, repository.log_tails(session, [build.id]).get(build.id))
    events.append(
        session,
        type="build.updated",
        source=SOURCE,
        payload={"build": view.to_json()},
        correlation_id=build.correlation_id,
    )
    return view


def _ask_ingestion(session: Session, row: Repository, message: str, correlation_id: str | None) -> RepositoryView:
    row.ingest_status = IngestStatus.PENDING
    row.ingest_error = row.ingest_error_code = None
    row.ingest_attempts = 0
    row.ingest_not_before = None
    row.correlation_id = correlation_id
    row.version += 1
    add_history(session, row, message)
    return announce(session, row.id)


def existing(session: Session, repository_id: str) -> Repository:
    row = repository.get(session, repository_id)
    if row is None:
        raise AppNotFound(repository_id)
    return row


def locked(session: Session, repository_id: str) -> Repository:
    row = repository.get_for_update(session, repository_id)
    if row is None:
        raise AppNotFound(repository_id)
    return row


def _document(row: Repository, tags: Sequence[SourcedTag]) -> Document:
    return Document(
        repository_id=row.id,
        name=row.name,
        description=description_of(row),
        repo_url=row.repo_url,
        owner=row.owner,
        readme=(row.readme or "")[:README_IN_INDEX],
        tags=sorted({(tag.key, tag.value) for tag in tags}),
        status=row.ingest_status,
        created_at=row.created_at,
        updated_at=row.updated_at,
        ingested_at=row.last_ingested_at,
    )
