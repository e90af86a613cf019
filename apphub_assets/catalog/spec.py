"""Values of the catalog: states, sources and the request types that validate themselves."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from apphub_assets.errors import InvalidInput

REPOSITORY_ID = re.compile(r"[a-z][a-z0-9-]{2,63}")
TAG_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
DOCKERFILE = re.compile(r"(?:.*/)?(?:[A-Za-z0-9_-]+\.)?(?:Dockerfile|Containerfile)(?:\.[A-Za-z0-9._-]+)?")
MAX_TAGS = 64


class IngestStatus(StrEnum):
    SEED = "seed"
    PENDING = "pending"
    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"


class BuildStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class TagSource(StrEnum):
    """Where a tag comes from. Automatic ones never replace what a person wrote."""

    AUTHOR = "author"
    MANUAL = "manual"
    AUTO = "auto"


class MetadataStrategy(StrEnum):
    """`auto` reads from the repository what was not registered, its description; `explicit` does not."""

    AUTO = "auto"
    EXPLICIT = "explicit"


@dataclass(frozen=True)
class Tag:
    key: str
    value: str

    @classmethod
    def parse(cls, key: str, value: str, pointer: str = "/tags") -> "Tag":
        """Normalise a pair: the key lower-cased, both trimmed.

        Raises:
            InvalidInput: the key is not `[a-z0-9][a-z0-9._-]{0,63}` or the value not 1–100 printable characters.
        """
        key, value = key.strip().lower(), value.strip()
        if not TAG_KEY.fullmatch(key):
            raise _invalid(
                pointer, f"tag key {key[:80]!r}: use 1–64 of a–z, 0–9, '.', '_', '-', starting with a letter or digit"
            )
        if not 1 <= len(value) <= 100 or not value.isprintable():
            raise _invalid(pointer, f"value of tag {key!r}: use 1–100 printable characters")
        return cls(key, value)


@dataclass(frozen=True)
class SourcedTag:
    """A tag as a repository carries it."""

    key: str
    value: str
    source: TagSource


@dataclass(frozen=True)
class Registration:
    """What a person says when they register a repository. Checked on construction."""

    id: str
    name: str
    repo_url: str
    description: str = ""
    dockerfile_path: str | None = None
    git_ref: str | None = None
    tags: Sequence[Tag] = ()
    metadata_strategy: MetadataStrategy = MetadataStrategy.AUTO

    def __post_init__(self) -> None:
        if not REPOSITORY_ID.fullmatch(self.id):
            raise _invalid("/id", f"id {self.id[:80]!r}: use 3–64 of a–z, 0–9 and '-', starting with a letter")
        if not 1 <= len(self.name.strip()) <= 200:
            raise _invalid("/name", "name: use 1–200 characters")
        if len(self.description) > 4000:
            raise _invalid("/description", "description: use at most 4000 characters")
        check_tags(self.tags)
        if "\0" in self.name + self.description:
            raise _invalid("/name", "name and description must not contain NUL")
        if self.dockerfile_path is not None:
            check_dockerfile_path(self.dockerfile_path)
        if self.git_ref is not None:
            check_ref(self.git_ref, "/gitRef")


def check_tags(tags: Sequence[Tag]) -> None:
    """Raise InvalidInput when there are more than MAX_TAGS."""
    if len(tags) > MAX_TAGS:
        raise _invalid("/tags", f"tags: at most {MAX_TAGS}, got {len(tags)}")


def check_dockerfile_path(path: str) -> None:
    """Raise InvalidInput unless `path` is relative, stays inside the tree and is named like a Dockerfile."""
    if path.startswith("/") or ".." in path.split("/") or not DOCKERFILE.fullmatch(path) or not path.isprintable():
        raise _invalid(
            "/dockerfilePath",
            f"dockerfilePath {path[:80]!r}: use a relative path without '..' to a file named Dockerfile or "
            "Dockerfile.<name>",
        )


def check_ref(ref: str, pointer: str = "/ref") -> None:
    """Raise InvalidInput unless `ref` could be a branch, tag or commit (git-check-ref-format, and no option)."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,254}", ref) or ".." in ref or ref.endswith((".lock", "/")):
        raise _invalid(pointer, f"ref {ref[:80]!r}: use the name of a branch or tag, or a commit SHA")


def _invalid(pointer: str, message: str) -> InvalidInput:
    return InvalidInput(message, pointers=[(pointer, message)])
