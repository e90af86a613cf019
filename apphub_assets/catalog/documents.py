"""JSON, YAML and TOML of strangers, read within bounds."""

import json
import tomllib
from typing import Any

import yaml

from apphub_assets.catalog.tree import Tree

MAX_BYTES = {".json": 1024 * 1024, ".toml": 256 * 1024, ".yaml": 64 * 1024, ".yml": 64 * 1024}

MAX_DOTS = 100


class DocumentInvalid(Exception):
    """A document is too large, nested too deep or not what its name says."""


class _TextLoader(yaml.BaseLoader):
    """YAML whose scalars all stay the text that the author wrote: `version: 1.10`, `answer: no`.

    It knows no tags, so it builds nothing but text, lists and mappings, and no aliases, so nothing expands.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise DocumentInvalid("aliases (*name) are not allowed")
        return super().compose_node(parent, index)


def read_document(tree: Tree, path: str) -> Any:
    """Read a `.json`, `.toml` or `.yaml` file; None when it does not exist.

    Raises:
        DocumentInvalid: says what is wrong with it.
    """
    if not tree.is_file(path):
        return None
    limit = MAX_BYTES[path[path.rindex(".") :].lower()]
    if tree.size(path) > limit:
        raise DocumentInvalid(f"it has {tree.size(path)} bytes; at most {limit} are read")
    return parse(path, tree.text(path, limit))


def parse(path: str, text: str) -> Any:
    """Parse `text` by the ending of `path`.

    Raises:
        DocumentInvalid: it is not well-formed, or nested too deep.
    """
    try:
        if path.lower().endswith(".json"):
            return json.loads(text)
        if path.lower().endswith(".toml"):
            return _parse_toml(text)
        return yaml.load(text, _TextLoader)  # noqa: S506 - it builds less than the safe loader
    except (ValueError, yaml.YAMLError) as error:
        raise DocumentInvalid(f"it is not well-formed: {' '.join(str(error).split())[:200]}") from error
    except RecursionError as error:
        raise DocumentInvalid("it is nested too deep") from error


def _parse_toml(text: str) -> Any:
    # Python's parser needs memory by the square of a dotted key's length: 200 KB of `a.a.a…` took 23 GB.
    if any(line.count(".") > MAX_DOTS for line in text.splitlines()):
        raise DocumentInvalid(f"a line has more than {MAX_DOTS} dots")
    return tomllib.loads(text)
