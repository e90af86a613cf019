"""Output of containers, made safe to keep: valid text, bounded lines, nothing that steers a terminal."""

import re
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator

LINE_CHARS = 16_384
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r(?=\n)|[\x00-\x08\x0b-\x1f\x7f]")


class Lines:
    """Puts chunks of output together to whole lines and hands them on in blocks, the last line end left off.

    A line longer than LINE_CHARS is cut into several: output without an end of line can't fill memory.
    """

    def __init__(self, sink: Callable[[str], None]) -> None:
        self._sink = sink
        self._rest = ""

    def feed(self, chunk: str) -> None:
        """Take the next piece of output."""
        block, _, self._rest = (self._rest + _CONTROL.sub("", chunk)).rpartition("\n")
        if block:
            self._sink(block)
        if len(self._rest) >= LINE_CHARS:
            self.flush()

    def flush(self) -> None:
        """Hand on what came after the last line end."""
        if self._rest:
            self._sink(self._rest)
        self._rest = ""


def shorten(text: str, most: int) -> str:
    """The text, its end cut off and shown as … when it has more than `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def lines_of(chunks: Iterable[bytes]) -> Iterator[str]:
    """The lines of a stream of bytes, each as soon as it is complete."""
    blocks: list[str] = []
    lines = Lines(blocks.append)
    decode = getincrementaldecoder("utf-8")("replace").decode
    for chunk in chunks:
        lines.feed(decode(chunk))
        yield from _split(blocks)
    lines.flush()
    yield from _split(blocks)


def _split(blocks: list[str]) -> list[str]:
    lines = [line for block in blocks for line in block.split("\n")]
    blocks.clear()
    return lines
