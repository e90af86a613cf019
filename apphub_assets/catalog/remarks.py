"""Remarks: what the author of a repository should know although it stops nothing."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from apphub_assets.catalog.dockerfile import Dockerfile
from apphub_assets.catalog.tree import Tree, clean

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LFS_POINTER_SIZES = range(100, 1024)


@dataclass(frozen=True)
class Remark:
    """`code` is stable; `message` says what was found and what to do."""

    code: str
    message: str


def remarks_on(tree: Tree, dockerfile: Dockerfile, port: int | None) -> Iterator[Remark]:
    """Look for what will surprise somebody when the image is built or run."""
    if dockerfile.base_image is None:
        yield Remark("dockerfile_without_from", f"{dockerfile.path} has no FROM that can be read; the build may fail")
    if port is None:
        yield Remark("port_unknown", f"{dockerfile.path} has no EXPOSE; the app has to listen on the port in $PORT")
    if modules := _submodules(tree):
        yield Remark("submodules_skipped", f"submodules are not fetched, their folders stay empty: {_some(modules)}")
    if pointers := _lfs_pointers(tree):
        yield Remark("lfs_not_fetched", f"files in Git LFS are pointers here, not their content: {_some(pointers)}")
    if tree.links_outside:
        yield Remark(
            "symlink_outside", f"links lead out of the repository and are not read: {_some(tree.links_outside)}"
        )


def _submodules(tree: Tree) -> Sequence[str]:
    paths = re.findall(r"^[ \t]*path[ \t]*=[ \t]*(\S+)", tree.text(".gitmodules", 64 * 1024), re.MULTILINE)
    return [clean(path, 200) for path in paths]


def _lfs_pointers(tree: Tree) -> Sequence[str]:
    """Looks into small files only where attributes say that the repository uses LFS."""
    attributes = (path for path in tree.files if path.rpartition("/")[2] == ".gitattributes")
    if not any("filter=lfs" in tree.text(path) for path in attributes):
        return []
    small = (path for path in tree.files if tree.size(path) in LFS_POINTER_SIZES)
    return [path for path in small if tree.read(path, len(LFS_POINTER)) == LFS_POINTER]


def _some(names: Sequence[str]) -> str:
    """The first names of many."""
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(name[:100] for name in names[:5]) + rest
