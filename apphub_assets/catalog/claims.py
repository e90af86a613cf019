"""What single files of a repository claim about its app, each read in its own way into one shape."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apphub_assets.catalog.tree import clean

MAX_ENV = 32
MAX_PAIRS = 256
REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
OCI = "org.opencontainers.image."
LABEL_PREFIX = "apphub."

Pair = tuple[str, str]


@dataclass(frozen=True)
class EnvTemplate:
    """A variable that a launch is offered: its value, or that one must be given or made."""

    key: str
    value: str
    description: str = ""
    required: bool = False
    generate: bool = False


@dataclass(frozen=True)
class Claims:
    """What one file says; empty where it says nothing. `tags` are raw: not yet checked, key and value."""

    title: str = ""
    description: str = ""
    emoji: str = ""
    owner: str = ""
    license: str = ""
    thumbnail: str = ""
    port: int | None = None
    tags: tuple[Pair, ...] = ()
    env: tuple[EnvTemplate, ...] = ()
    dependencies: frozenset[str] = frozenset()


def merge(claims: Sequence[Claims]) -> Claims:
    """The first claim that says something wins, field by field; tags, variables and dependencies are united."""
    env = {template.key: template for claim in reversed(claims) for template in claim.env}
    return Claims(
        title=_first(claim.title for claim in claims),
        description=_first(claim.description for claim in claims),
        emoji=_first(claim.emoji for claim in claims),
        owner=_first(claim.owner for claim in claims),
        license=_first(claim.license for claim in claims),
        thumbnail=_first(claim.thumbnail for claim in claims),
        port=next((claim.port for claim in claims if claim.port), None),
        tags=tuple(pair for claim in claims for pair in claim.tags),
        env=tuple(env.values()),
        dependencies=frozenset().union(*(claim.dependencies for claim in claims)),
    )


def tags_file(document: Any) -> Claims:
    """`tags.yaml`: a list of `key:value`, words or `{key, value}`, or a mapping of key to value or values."""
    inner = document.get("tags") if isinstance(document, dict) else None
    return Claims(tags=_pairs(inner if isinstance(inner, list | dict) else document))


def front_matter(document: Mapping[str, Any]) -> Claims:
    """The block at the top of a README, as Hugging Face Spaces have it."""
    return Claims(
        title=clean(document.get("title"), 200),
        description=clean(document.get("short_description") or document.get("description"), 1000),
        emoji=clean(document.get("emoji"), 16),
        license=clean(document.get("license"), 100),
        owner=clean(document.get("owner"), 100),
        thumbnail=clean(document.get("thumbnail"), 500),
        port=_port(document.get("app_port")),
        tags=_pairs(document.get("tags")),
    )


def package_json(document: Mapping[str, Any]) -> Claims:
    """What npm reads: `package.json`."""
    dependencies = (_mapping(document, key) for key in ("dependencies", "devDependencies"))
    return Claims(
        title=clean(document.get("displayName") or document.get("name"), 200),
        description=clean(document.get("description"), 1000),
        license=clean(document.get("license"), 100),
        owner=_person(document.get("author")),
        tags=_pairs(document.get("keywords")),
        dependencies=frozenset(name for mapping in dependencies for name in mapping),
    )


def pyproject(document: Mapping[str, Any]) -> Claims:
    """Python's `pyproject.toml`, PEP 621 or Poetry."""
    poetry = _mapping(_mapping(document, "tool"), "poetry")
    project = _mapping(document, "project") or poetry
    licensed = project.get("license")
    return Claims(
        title=clean(project.get("name"), 200),
        description=clean(project.get("description"), 1000),
        license=clean(_mapping(project, "license").get("text") or licensed, 100),
        tags=_pairs(project.get("keywords")),
        dependencies=requirements(_texts(project.get("dependencies"))) | requirements(_mapping(poetry, "dependencies")),
    )


def app_json(document: Mapping[str, Any]) -> Claims:
    """Heroku's and Dokku's `app.json`."""
    env = _mapping(document, "env").items()
    return Claims(
        title=clean(document.get("name"), 200),
        description=clean(document.get("description"), 1000),
        thumbnail=clean(document.get("logo"), 500),
        tags=_pairs(document.get("keywords")),
        env=tuple(_env_template(key, value) for key, value in env if _is_env_key(key))[:MAX_ENV],
    )


def catalog_info(document: Mapping[str, Any]) -> Claims:
    """Backstage's `catalog-info.yaml`."""
    metadata, spec = _mapping(document, "metadata"), _mapping(document, "spec")
    return Claims(
        title=clean(metadata.get("title"), 200),
        description=clean(metadata.get("description"), 1000),
        owner=clean(spec.get("owner"), 100),
        tags=_pairs(metadata.get("tags")),
    )


def image_labels(labels: Mapping[str, str]) -> Claims:
    """Labels of a Dockerfile: OCI's own, and `apphub.<key>` for tags."""
    return Claims(
        title=clean(labels.get(f"{OCI}title"), 200),
        description=clean(labels.get(f"{OCI}description"), 1000),
        license=clean(labels.get(f"{OCI}licenses"), 100),
        owner=_person(labels.get(f"{OCI}authors")),
        tags=tuple(
            (key.removeprefix(LABEL_PREFIX), value) for key, value in labels.items() if key.startswith(LABEL_PREFIX)
        ),
    )


def requirements(lines: Iterable[str]) -> frozenset[str]:
    """The names, as PyPI normalises them, of the packages that requirement lines ask for."""
    matches = (REQUIREMENT.match(line) for line in lines)
    return frozenset(re.sub(r"[-_.]+", "-", match[1]).lower() for match in matches if match)


def _first(texts: Iterable[str]) -> str:
    return next((text for text in texts if text), "")


def _pairs(document: Any) -> tuple[Pair, ...]:
    """Tags however they were written; a word alone is a `topic`."""
    return tuple(pair for pair, _ in zip(_each_pair(document), range(MAX_PAIRS), strict=False))


def _each_pair(document: Any) -> Iterator[Pair]:
    if isinstance(document, dict):
        for key, values in document.items():
            for value in values if isinstance(values, list) else [values]:
                yield str(key)[:200], _scalar(value)
        return
    for entry in document if isinstance(document, list) else []:
        if isinstance(entry, dict) and {"key", "value"} <= entry.keys():
            yield _scalar(entry["key"]), _scalar(entry["value"])
        elif isinstance(entry, dict):
            yield from _each_pair(entry)
        else:
            key, separator, value = _scalar(entry).partition(":")
            yield (key, value) if separator else ("topic", key)


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return value[:5000]
    # Python refuses to print integers beyond some thousand digits, which TOML can hold.
    return str(value) if isinstance(value, int | float) and abs(value) < 1e18 else ""


def _texts(value: Any) -> list[str]:
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []


def _mapping(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The mapping under `key`; an empty one if there is none, or something else."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _person(value: Any) -> str:
    """The name in `Ada <ada@example.org> (https://…)` or `{name, email}`: addresses are left where they are."""
    name = value.get("name") if isinstance(value, dict) else value
    return re.split(r"[<(]", clean(name, 200))[0].strip()[:100]


def _port(value: Any) -> int | None:
    digits = _scalar(value)
    return int(digits) if re.fullmatch(r"[1-9][0-9]{0,4}", digits) and int(digits) < 65536 else None


def _is_env_key(key: str) -> bool:
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", key) is not None


def _env_template(key: str, value: Any) -> EnvTemplate:
    if not isinstance(value, dict):
        return EnvTemplate(key, clean(_scalar(value), 4096))
    return EnvTemplate(
        key,
        clean(_scalar(value.get("value")), 4096),
        description=clean(value.get("description"), 500),
        required=value.get("required", True) in (True, "true") and "value" not in value,
        generate=value.get("generator") == "secret",
    )
