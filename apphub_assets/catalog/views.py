"""The catalog as clients see it (contract F.4), with a few members more."""

from collections.abc import Sequence
from typing import Any

from apphub_assets.catalog.models import Build, IngestionEvent, Repository
from apphub_assets.catalog.spec import BuildStatus, IngestStatus, MetadataStrategy, SourcedTag, TagSource
from apphub_assets.kit.view import Instant, View


class TagView(View):
    key: str
    value: str
    source: TagSource


class BuildView(View):
    """`logsSize` counts what was printed, `logsTruncated` says that the middle of it was not kept."""

    id: str
    repository_id: str
    status: BuildStatus
    image_tag: str | None
    image_digest: str | None
    image_size: int | None
    error_message: str | None
    error_code: str | None
    commit_sha: str | None
    git_branch: str | None
    git_ref: str | None
    created_at: Instant
    updated_at: Instant
    started_at: Instant | None
    completed_at: Instant | None
    duration_ms: int | None
    logs_preview: str | None
    logs_truncated: bool
    has_logs: bool
    logs_size: int
    attempts: int
    run_id: str | None


class IngestionEventView(View):
    id: str
    repository_id: str
    status: IngestStatus
    message: str | None
    attempt: int | None
    commit_sha: str | None
    duration_ms: int | None
    created_at: Instant


class RepositoryView(View):
    id: str
    name: str
    description: str
    repo_url: str
    dockerfile_path: str | None
    git_ref: str | None
    branch: str | None
    commit_sha: str | None
    owner: str | None
    created_at: Instant
    updated_at: Instant
    last_ingested_at: Instant | None
    version: int
    tags: list[TagView]
    ingest_status: IngestStatus
    ingest_error: str | None
    ingest_error_code: str | None
    ingest_attempts: int
    latest_build: BuildView | None
    latest_launch: dict[str, Any] | None
    preview_tiles: list[dict[str, Any]]
    launch_env_templates: list[dict[str, Any]]
    metadata_strategy: MetadataStrategy
    warnings: list[dict[str, Any]]
    facts: dict[str, Any]
    run_id: str | None
    relevance: dict[str, Any] | None = None


class RepositoryDetail(RepositoryView):
    """One app's own page: the list leaves the README out."""

    readme: str | None


REPOSITORY_COLUMNS = RepositoryView.model_fields.keys() & Repository.__table__.columns.keys()
BUILD_COLUMNS = BuildView.model_fields.keys() & Build.__table__.columns.keys()


def build_view(build: Build, preview: str | None = None) -> BuildView:
    """`preview` is the end of the log."""
    elapsed = build.completed_at - build.started_at if build.completed_at and build.started_at else None
    return BuildView.model_validate(
        {
            **{name: getattr(build, name) for name in BUILD_COLUMNS},
            "duration_ms": round(elapsed.total_seconds() * 1000) if elapsed else None,
            "logs_preview": preview or None,
            "logs_truncated": build.log_kept < build.log_size,
            "has_logs": build.log_kept > 0,
            "logs_size": build.log_size,
        }
    )


def ingestion_event_view(event: IngestionEvent) -> IngestionEventView:
    return IngestionEventView.model_validate(event)


def repository_view(
    repository: Repository, tags: Sequence[SourcedTag], latest: BuildView | None, relevance: Any = None
) -> RepositoryView:
    """A repository as lists and events show it; `relevance` is what search said of it."""
    return RepositoryView.model_validate(_values(repository, tags, latest) | {"relevance": relevance})


def repository_detail(repository: Repository, tags: Sequence[SourcedTag], latest: BuildView | None) -> RepositoryDetail:
    return RepositoryDetail.model_validate(_values(repository, tags, latest) | {"readme": repository.readme})


def description_of(repository: Repository) -> str:
    """What was registered; where that is nothing, and unless that was meant, what the repository says."""
    explicit = repository.metadata_strategy == MetadataStrategy.EXPLICIT
    return repository.description or ("" if explicit else repository.facts.get("description") or "")


def _values(repository: Repository, tags: Sequence[SourcedTag], latest: BuildView | None) -> dict[str, Any]:
    return {
        **{name: getattr(repository, name) for name in REPOSITORY_COLUMNS},
        "description": description_of(repository),
        "dockerfile_path": repository.found_dockerfile or repository.dockerfile_path,
        "tags": tags,
        "latest_build": latest,
    }
