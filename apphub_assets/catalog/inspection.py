"""Inspection: everything that a checked-out repository says about its app, before anything of it is run."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apphub_assets.catalog import claims, technology
from apphub_assets.catalog.claims import Claims, EnvTemplate, Pair
from apphub_assets.catalog.dockerfile import Dockerfile, find_dockerfiles, read_dockerfile
from apphub_assets.catalog.documents import DocumentInvalid, parse, read_document
from apphub_assets.catalog.readme import Readme, read_readme
from apphub_assets.catalog.remarks import Remark, remarks_on
from apphub_assets.catalog.spec import MAX_TAGS, Tag, TagSource
from apphub_assets.catalog.tree import Tree, clean
from apphub_assets.errors import InvalidInput

PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")
PREVIEWS = ("preview.png", "preview.svg", "screenshot.png", "screenshot.jpg", "thumbnail.png")
MAX_REMARKS = 50


@dataclass(frozen=True)
class FoundTag:
    """A tag that the author wrote into the repository, or that was detected."""

    key: str
    value: str
    source: TagSource


@dataclass(frozen=True)
class Inspection:
    """What is known of an app from its files; texts are empty where nothing is.

    `languages` maps names to shares of the code, `processes` those of a Procfile to their commands; `preview` is a
    picture: a path in the tree, or an https address.
    """

    title: str
    description: str
    emoji: str
    owner: str | None
    license: str
    readme: str | None
    dockerfile: Dockerfile
    dockerfiles: tuple[str, ...]
    port: int | None
    languages: dict[str, float]
    processes: dict[str, str]
    tags: tuple[FoundTag, ...]
    env_templates: tuple[EnvTemplate, ...]
    preview: str | None
    warnings: tuple[Remark, ...]

    def facts(self) -> dict[str, Any]:
        """What has no column of its own, as JSON."""
        return {
            "title": self.title,
            "description": self.description,
            "emoji": self.emoji,
            "license": self.license,
            "port": self.port,
            "languages": self.languages,
            "processes": self.processes,
            "preview": self.preview,
            "dockerfile": {
                "path": self.dockerfile.path,
                "candidates": list(self.dockerfiles),
                "baseImage": self.dockerfile.base_image,
                "stages": self.dockerfile.stages,
                "ports": list(self.dockerfile.ports),
                "command": self.dockerfile.command,
                "user": self.dockerfile.user,
            },
        }


def inspect(root: Path, declared_dockerfile: str | None) -> Inspection:
    """Read the checkout at `root`. Whatever is in any file but the Dockerfile leads to a remark at most.

    Raises:
        DockerfileMissing, DockerfileInvalid: without a Dockerfile there is no app.
    """
    tree = Tree(root)
    dockerfile = read_dockerfile(tree, declared_dockerfile)
    readme = read_readme(tree)
    remarks: list[Remark] = []
    said = claims.merge(list(_claims(tree, dockerfile, readme, remarks)))
    said = replace(said, license=technology.spdx(said.license))
    shares = technology.languages(tree)
    tags = _tags(said, technology.technology_tags(shares, said.dependencies, dockerfile.base_image), remarks)
    remarks += remarks_on(tree, dockerfile, said.port)
    return Inspection(
        title=said.title,
        description=said.description,
        emoji=said.emoji,
        owner=said.owner or None,
        license=said.license,
        readme=readme.text if readme else None,
        dockerfile=dockerfile,
        dockerfiles=tuple(find_dockerfiles(tree)[:20]),
        port=said.port,
        languages=shares,
        processes=_processes(tree),
        tags=tags,
        env_templates=said.env,
        preview=_preview(tree, said.thumbnail, readme),
        warnings=tuple(remarks[:MAX_REMARKS]),
    )


def _claims(tree: Tree, dockerfile: Dockerfile, readme: Readme | None, remarks: list[Remark]) -> Iterator[Claims]:
    """What each file says, the one that is written for people who choose an app first."""
    yield _document(tree, "tags.yaml", claims.tags_file, remarks, list | dict)
    yield _document(tree, "tags.yml", claims.tags_file, remarks, list | dict)
    if readme and readme.front_matter:
        yield _front_matter(readme, remarks)
    yield _document(tree, "app.json", claims.app_json, remarks)
    yield _document(tree, "catalog-info.yaml", claims.catalog_info, remarks)
    yield claims.image_labels(dockerfile.labels)
    yield Claims(title=readme.heading if readme else "")
    yield _document(tree, "package.json", claims.package_json, remarks)
    yield _document(tree, "pyproject.toml", claims.pyproject, remarks)
    yield Claims(
        description=readme.paragraph if readme else "",
        license=technology.license_of(tree),
        port=next(iter(dockerfile.ports), None),
        dependencies=technology.dependencies(tree),
    )


def _document(
    tree: Tree, path: str, reader: Callable[[Any], Claims], remarks: list[Remark], kind: Any = dict
) -> Claims:
    try:
        document = read_document(tree, path)
    except DocumentInvalid as error:
        remarks.append(Remark("file_unreadable", f"{path} is left out: {error}"))
        return Claims()
    if document is not None and not isinstance(document, kind):
        remarks.append(Remark("file_unreadable", f"{path} is left out: at its top it is a {type(document).__name__}"))
    return reader(document) if isinstance(document, kind) else Claims()


def _front_matter(readme: Readme, remarks: list[Remark]) -> Claims:
    try:
        document = parse("front-matter.yaml", readme.front_matter)
    except DocumentInvalid as error:
        remarks.append(Remark("file_unreadable", f"the front matter of {readme.path} is left out: {error}"))
        return Claims()
    return claims.front_matter(document) if isinstance(document, dict) else Claims()


def _tags(said: Claims, technology_tags: list[Tag], remarks: list[Remark]) -> tuple[FoundTag, ...]:
    """The author's tags, then those detected that the author has not written too; at most MAX_TAGS."""
    owner: list[Pair] = [("owner", said.owner)] if said.owner else []
    detected: list[Pair] = [("license", said.license), ("port", str(said.port or ""))]
    written = dict.fromkeys(_valid([*said.tags, *owner], remarks))
    automatic = dict.fromkeys([*technology_tags, *_valid([pair for pair in detected if pair[1]], remarks)])
    tags = [
        *(FoundTag(tag.key, tag.value, TagSource.AUTHOR) for tag in written),
        *(FoundTag(tag.key, tag.value, TagSource.AUTO) for tag in automatic if tag not in written),
    ]
    if len(tags) > MAX_TAGS:
        remarks.append(
            Remark("tags_left_out", f"an app has at most {MAX_TAGS} tags; {len(tags) - MAX_TAGS} are left out")
        )
    return tuple(tags[:MAX_TAGS])


def _valid(pairs: Iterable[Pair], remarks: list[Remark]) -> Iterator[Tag]:
    for key, value in pairs:
        try:
            yield Tag.parse(key, value)
        except InvalidInput as error:
            remarks.append(Remark("tag_left_out", clean(error.message, 300)))


def _processes(tree: Tree) -> dict[str, str]:
    """The lines `name: command` of a Procfile."""
    lines = re.findall(r"^([A-Za-z0-9_-]{1,50}):[ \t]*(\S.{0,500})", tree.text("Procfile", 16 * 1024), re.MULTILINE)
    return {name: clean(command, 500) for name, command in lines[:20]}


def _preview(tree: Tree, thumbnail: str, readme: Readme | None) -> str | None:
    """The picture the author named, or the first of the README's that is in the tree, or one by a usual name."""
    if thumbnail.startswith("https://") and not re.search(r"[\s\"'<>]", thumbnail):
        return thumbnail
    named = [thumbnail, *(readme.pictures if readme else ()), *PREVIEWS]
    paths = (name.removeprefix("./") for name in named)
    return next((path for path in paths if path.lower().endswith(PICTURES) and tree.is_file(path)), None)
