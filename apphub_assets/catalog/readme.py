"""READMEs: the front matter, the first heading, the first paragraph and the first picture."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from apphub_assets.catalog.tree import Tree, clean

NAMES = ("readme.md", "readme.markdown", "readme.rst", "readme.txt", "readme")
MAX_BYTES = 64 * 1024

# Each repetition is bounded: a README may be written to make a pattern run for ever.
FRONT_MATTER = re.compile(r"\A\s{0,20}---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
HEADING = re.compile(r"#{1,2}\s+(.+?)\s*#*|<h1[^>]{0,200}>(.+?)</h1>.*", re.IGNORECASE)
UNDERLINE = re.compile(r"(=|-){3,}\s*")
MARKUP = re.compile(r"[#<>|!*+=`~.-]|\[!|\[[^\]]{1,100}\]:|\d{1,3}\.\s")
PICTURE = re.compile(
    r"!\[[^\]]{0,200}\]\(\s*<?([^)\s>]{1,500})|<img[^>]{0,300}?\ssrc=[\"']([^\"']{1,500})", re.IGNORECASE
)
INLINE = (
    (re.compile(r"!\[[^\]]{0,200}\]\([^)]{0,500}\)"), ""),
    (re.compile(r"\[([^\]]{0,200})\]\([^)]{0,500}\)"), r"\1"),
    (re.compile(r"<[^>]{1,200}>"), ""),
    (re.compile(r"\*\*|__|`"), ""),
)


@dataclass(frozen=True)
class Readme:
    """A README taken apart: `front_matter` is still YAML, `text` is what follows it."""

    path: str
    front_matter: str
    text: str
    heading: str
    paragraph: str
    pictures: tuple[str, ...]


def read_readme(tree: Tree) -> Readme | None:
    """Read the README at the top of the tree, up to 64 KiB of it."""
    path = tree.top(*NAMES)
    return parse_readme(path, tree.text(path, MAX_BYTES)) if path and tree.is_file(path) else None


def parse_readme(path: str, text: str) -> Readme:
    """Take a README apart; it may be any text at all."""
    text = text.replace("\r\n", "\n")
    match = FRONT_MATTER.match(text)
    body = text[match.end() :] if match else text
    lines = list(_outside_code(body.split("\n")))
    return Readme(
        path=path,
        front_matter=match[1] if match else "",
        text=clean(body, MAX_BYTES),
        heading=_heading(lines),
        paragraph=_paragraph(lines),
        pictures=tuple(first or second for first, second in PICTURE.findall(body))[:20],
    )


def _outside_code(lines: list[str]) -> Iterator[str]:
    fence = ""
    for line in lines:
        mark = line.lstrip()[:3]
        if not fence and mark in ("```", "~~~"):
            fence = mark
        elif fence:
            fence = "" if mark == fence else fence
        else:
            yield line.rstrip()[:2000]


def _heading(lines: list[str]) -> str:
    for line, following in pairwise([*lines, ""]):
        if match := HEADING.fullmatch(line.strip()):
            return _plain(match[1] or match[2], 200)
        if line.strip() and UNDERLINE.fullmatch(following):
            return _plain(line, 200)
    return ""


def _paragraph(lines: list[str]) -> str:
    """The first run of lines that are prose."""
    found: list[str] = []
    for line, following in pairwise([*lines, ""]):
        prose = bool(line) and not line.startswith("    ") and not MARKUP.match(line.lstrip())
        if prose and not UNDERLINE.fullmatch(following):
            found.append(line.strip())
        elif found:
            break
    return _plain(" ".join(found), 1000)


def _plain(text: str, limit: int) -> str:
    """Prose without its inline markup."""
    text = text[: 4 * limit]
    for pattern, replacement in INLINE:
        text = pattern.sub(replacement, text)
    return clean(" ".join(text.split()), limit)
