"""Dockerfiles: where they are in a tree, and what their last stage says about the app."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import PurePosixPath

from dockerfile_parse import DockerfileParser
from dockerfile_parse.util import extract_key_values

from apphub_assets.catalog.spec import DOCKERFILE
from apphub_assets.catalog.tree import Tree, clean, is_vendored
from apphub_assets.errors import Refused

MAX_BYTES = 1024 * 1024
MAX_LINES = 10_000
MAX_VALUE = 2048
PREFERRED = ("Dockerfile", "Containerfile", "docker/Dockerfile")

HEREDOC = re.compile(r"(?<!<)<<-?[\"']?([A-Za-z_]\w*)[\"']?")
VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::?-([^${}]*))?\})")
PORT = re.compile(r"(\d{1,5})(?:-\d{1,5})?(?:/tcp)?", re.IGNORECASE)


class DockerfileMissing(Refused):
    code, title = "dockerfile_missing", "Dockerfile missing"


class DockerfileInvalid(Refused):
    code, title = "dockerfile_invalid", "Dockerfile invalid"


@dataclass(frozen=True)
class Dockerfile:
    """What a Dockerfile says of the image it makes: its last stage, with all that the stages below it set.

    `base_image` is the image that the chain of stages starts from; None when there is no FROM.
    """

    path: str
    base_image: str | None
    stages: int
    ports: tuple[int, ...]
    labels: Mapping[str, str]
    env: Mapping[str, str]
    command: str
    user: str


def find_dockerfiles(tree: Tree) -> list[str]:
    """Every Dockerfile of the tree, the most likely one first."""
    return sorted((path for path in tree.files if DOCKERFILE.fullmatch(path)), key=_likelihood)


def read_dockerfile(tree: Tree, declared: str | None) -> Dockerfile:
    """Read the declared Dockerfile, or the most likely one.

    Raises:
        DockerfileMissing, DockerfileInvalid: see `dockerfile_text`.
    """
    path = str(PurePosixPath(declared or next(iter(find_dockerfiles(tree)), "Dockerfile")))
    return parse_dockerfile(path, dockerfile_text(tree, path))


def dockerfile_text(tree: Tree, path: str) -> str:
    """The whole Dockerfile.

    Raises:
        DockerfileMissing: there is none; the message names those that there are.
        DockerfileInvalid: it is a folder, larger than 1 MiB, or leads out of the repository.
    """
    _check(tree, path, find_dockerfiles(tree))
    return tree.text(path, MAX_BYTES)


def parse_dockerfile(path: str, text: str) -> Dockerfile:
    """Read what can be understood of `text`; an instruction that can't be is left out."""
    stages: list[_Stage] = []
    arguments: dict[str, str] = {}
    for name, value in _instructions(text):
        if name == "FROM":
            stages.append(_stage(value, arguments))
        elif stages:
            stages[-1].take(name, value)
        elif name == "ARG":
            arguments |= _pairs(value, arguments)
    return _facts(path, stages)


@dataclass
class _Stage:
    """One FROM and what follows it."""

    parent: str
    name: str
    arguments: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    ports: list[int] = field(default_factory=list)
    command: str = ""
    user: str = ""

    def take(self, name: str, value: str) -> None:
        """Apply one instruction."""
        variables = self.arguments | self.env
        match name:
            case "ARG":
                self.arguments |= _pairs(value, variables)
            case "ENV":
                self.env |= _pairs(value, variables)
            case "LABEL":
                self.labels |= _pairs(value, variables)
            case "EXPOSE":
                self.ports += _ports(_substitute(value, variables))
            case "CMD":
                self.command = clean(value, 500)
            case "USER":
                self.user = clean(_substitute(value, variables), 100)

    def over(self, below: "_Stage") -> "_Stage":
        """This stage as it stands on the one `below` that it is made FROM."""
        return _Stage(
            parent=below.parent,
            name=self.name,
            env=below.env | self.env,
            labels=below.labels | self.labels,
            ports=below.ports + self.ports,
            command=self.command or below.command,
            user=self.user or below.user,
        )


def _likelihood(path: str) -> tuple[int, bool, int, bool, str]:
    """Sorts the app's own Dockerfile before its variants, and those before other people's."""
    rank = PREFERRED.index(path) if path in PREFERRED else len(PREFERRED)
    return rank, is_vendored(path), path.count("/"), "." in path.rpartition("/")[2], path


def _check(tree: Tree, path: str, candidates: list[str]) -> None:
    shown = repr(path[:200])
    if path.startswith("/") or ".." in path.split("/") or not path.isprintable():
        raise DockerfileInvalid(f"Dockerfile {shown}: use a path inside the repository, without '..'")
    if path in tree.links_outside:
        raise DockerfileInvalid(f"Dockerfile {shown} is a link that leads out of the repository")
    if not tree.is_file(path):
        if tree.is_folder(path):
            raise DockerfileInvalid(f"Dockerfile {shown} is a folder; name the file in it")
        others = f"; there are {', '.join(candidates[:10])}" if candidates else ""
        raise DockerfileMissing(f"Dockerfile {shown} is not in the repository{others}. Add it, or name its path")
    if tree.size(path) > MAX_BYTES:
        raise DockerfileInvalid(f"Dockerfile {shown} has {tree.size(path)} bytes; at most {MAX_BYTES} are read")


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = _without_heredocs(text.split("\n")[:MAX_LINES])
    parser = DockerfileParser(fileobj=BytesIO("\n".join(lines).encode(errors="replace")))
    for instruction in parser.structure:
        yield instruction["instruction"], instruction["value"].strip()[:MAX_VALUE]


def _without_heredocs(lines: list[str]) -> Iterator[str]:
    """Leave out the bodies of heredocs, which the parser would take for instructions."""
    last = {line.strip(): number for number, line in enumerate(lines)}
    waiting: list[str] = []
    for number, line in enumerate(lines):
        if waiting:
            if line.strip() == waiting[0]:
                waiting.pop(0)
            continue
        if not line.lstrip().startswith("#"):
            # What is never closed is no heredoc, but a shift as in $((1<<BITS)).
            waiting = [word for word in HEREDOC.findall(line) if last.get(word, 0) > number]
        yield line


def _stage(value: str, arguments: Mapping[str, str]) -> _Stage:
    words = [word for word in value.split() if not word.startswith("--")]
    name = words[2] if len(words) > 2 and words[1].upper() == "AS" else ""
    parent = _substitute(words[0], arguments) if words else ""
    return _Stage(parent=clean(parent, 255), name=name.lower(), arguments=dict(arguments))


def _facts(path: str, stages: list[_Stage]) -> Dockerfile:
    if not stages:
        return Dockerfile(path, None, 0, (), {}, {}, "", "")
    image = stages[-1]
    for below in reversed(stages[:-1]):
        if below.name and below.name == image.parent.lower():
            image = image.over(below)
    ports = tuple(dict.fromkeys(image.ports))[:32]
    return Dockerfile(
        path, image.parent or None, len(stages), ports, image.labels, image.env, image.command, image.user
    )


def _pairs(value: str, variables: Mapping[str, str]) -> dict[str, str]:
    """The `name=value` pairs of an ARG, ENV or LABEL."""
    try:
        pairs = extract_key_values(env_replace=False, args={}, envs={}, instruction_value=value)
    except (ValueError, IndexError):
        return {}
    return {clean(key, 200): clean(_substitute(text, variables), MAX_VALUE) for key, text in pairs[:200]}


def _substitute(value: str, variables: Mapping[str, str]) -> str:
    """Fill in variables, once and within MAX_VALUE: a chain of them could otherwise grow without end."""

    def fill(match: re.Match[str]) -> str:
        return variables.get(match[1] or match[2]) or match[3] or ""

    return VARIABLE.sub(fill, value)[:MAX_VALUE]


def _ports(value: str) -> list[int]:
    matches = (PORT.fullmatch(word) for word in value.split())
    return [port for match in matches if match and 0 < (port := int(match[1])) < 65536]
