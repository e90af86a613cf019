"""Reading the files of a checkout that a stranger wrote: never outside of it, never more than asked for."""

import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

MAX_TEXT = 1024 * 1024
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")

# What lies in these says little about the app itself.
VENDORED = re.compile(
    r"(?:^|/)(?:node_modules|bower_components|vendor|third_party|site-packages|\.?venv|env|dist|build|target|out"
    r"|__pycache__|\.next|\.nuxt|\.tox|coverage)/"
)


class Tree:
    """The folder of a checkout. Paths are relative to it, with `/` between their parts."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Every file and link outside `.git` whose path can be shown, in a stable order."""
        return tuple(sorted(path for path in self._walk() if path.isprintable()))

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self.files)

    @cached_property
    def links_outside(self) -> tuple[str, ...]:
        """Symbolic links that lead out of the tree."""
        return tuple(path for path in self.files if self._leads_outside(path))

    def top(self, *names: str) -> str | None:
        """The first of `names` (lower-case) that is at the top of the tree, as it is spelled there."""
        spelled = {path.lower(): path for path in reversed(self.files) if "/" not in path}
        return next((spelled[name] for name in names if name in spelled), None)

    def is_file(self, path: str) -> bool:
        """Whether `path` is listed and is a regular file, or a link to one that stays inside."""
        if path not in self._names or self._leads_outside(path):
            return False
        return os.path.isfile(self.root / path)  # noqa: PTH113 - answers False where the system refuses a link

    def is_folder(self, path: str) -> bool:
        """Whether there are files below `path`."""
        return any(file.startswith(f"{path}/") for file in self.files)

    def size(self, path: str) -> int:
        """Bytes of a file that `is_file`; 0 for anything else."""
        return (self.root / path).stat().st_size if self.is_file(path) else 0

    def read(self, path: str, limit: int = MAX_TEXT) -> bytes:
        """The first `limit` bytes of a file; empty when there is no such file in the tree."""
        if not self.is_file(path):
            return b""
        with (self.root / path).open("rb") as file:
            return file.read(limit)

    def text(self, path: str, limit: int = MAX_TEXT) -> str:
        """The same, decoded: what is no UTF-8 becomes a replacement character."""
        return self.read(path, limit).decode("utf-8-sig", errors="replace")

    def _leads_outside(self, path: str) -> bool:
        # No parent of a listed path is a link: links are listed, not walked through.
        if not (self.root / path).is_symlink():
            return False
        return not Path(os.path.realpath(self.root / path)).is_relative_to(self.root)

    def _walk(self) -> Iterator[str]:
        for parent, folders, names in os.walk(self.root):
            folders[:] = [folder for folder in folders if folder != ".git"]
            links = [folder for folder in folders if Path(parent, folder).is_symlink()]
            for name in (*names, *links):
                yield Path(parent, name).relative_to(self.root).as_posix()


def is_vendored(path: str) -> bool:
    """Whether a file lies in a folder of other people's code, or of what tools made."""
    return VENDORED.search(path) is not None


def clean(text: object, limit: int) -> str:
    """A stranger's text as it may be stored and shown: bounded, without control and direction characters.

    Anything that is not text becomes the empty string.
    """
    return CONTROLS.sub("", text[: 2 * limit].replace("\r\n", "\n")).strip()[:limit] if isinstance(text, str) else ""
