"""Lines over time in a terminal, in braille: each character is two dots wide and four high.

The dots' numbers are those of Unicode's block U+2800.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rich.text import Text

BLANK = 0x2800
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
COLOURS = ("cyan", "yellow", "magenta", "green", "blue", "red")
HEIGHT = 10
MOMENT = "%Y-%m-%d %H:%M"
NARROWEST, WIDEST = 20, 160

Dot = tuple[int, int]


@dataclass(frozen=True)
class Line:
    """Values in the order of time; where one is None, or two are further apart than `gap`, the line is broken."""

    name: str
    points: Sequence[tuple[datetime, float | None]]
    gap: timedelta = timedelta.max

    @property
    def known(self) -> list[tuple[datetime, float]]:
        return [(moment, value) for moment, value in self.points if value is not None]


def draw(lines: Sequence[Line], width: int) -> Iterator[Text]:
    """The rows of a chart of so many columns: the lines' names, the plot with its scale, the times."""
    known = [point for line in lines for point in line.known]
    low, high = min(value for _, value in known), max(value for _, value in known)
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    labels = {0: f"{high:.5g}", HEIGHT // 2: f"{(low + high) / 2:.5g}", HEIGHT - 1: f"{low:.5g}"}
    margin = max(map(len, labels.values()))
    columns = min(max(width - margin - 2, NARROWEST), WIDEST)
    frame = Frame(min(moment for moment, _ in known), max(moment for moment, _ in known), low, high, columns)
    yield Text.assemble(*((f"● {line.name}  ", COLOURS[index]) for index, line in enumerate(lines)))
    cells = [frame.cells(line) for line in lines]
    for row in range(HEIGHT):
        text = Text(f"{labels.get(row, ''):>{margin}} {'┤' if row in labels else '│'}")
        for column in range(columns):
            # Of lines that cross, the first is on top.
            at = next((index for index, drawn in enumerate(cells) if (column, row) in drawn), None)
            bits = 0 if at is None else cells[at][column, row]
            text.append(chr(BLANK + bits) if bits else " ", "" if at is None else COLOURS[at])
        yield text
    begin, end = format(frame.begin, MOMENT), format(frame.end, MOMENT)
    room = columns - len(begin)
    yield Text(f"{'':{margin}} └{'─' * columns}")
    yield Text(f"{'':{margin + 2}}{begin}{f'{end:>{room}}' if room > len(end) else ''}")


@dataclass(frozen=True)
class Frame:
    """Times and values as dots of so many columns."""

    begin: datetime
    end: datetime
    low: float
    high: float
    columns: int

    def cells(self, line: Line) -> dict[Dot, int]:
        """Characters, as column and row, that a line goes through, with their dots."""
        cells = dict[Dot, int]()
        for x, y in self._dots(line):
            cell = x // 2, y // 4
            cells[cell] = cells.get(cell, 0) | DOTS[y % 4][x % 2]
        return cells

    def _dots(self, line: Line) -> Iterator[Dot]:
        last: tuple[datetime, Dot] | None = None
        for moment, value in line.points:
            if value is None:
                last = None
                continue
            dot = self._dot(moment, value)
            yield from _between(last[1], dot) if last and moment - last[0] <= line.gap else [dot]
            last = moment, dot

    def _dot(self, moment: datetime, value: float) -> Dot:
        across = (moment - self.begin) / (self.end - self.begin) if self.end > self.begin else 0
        # Halves before the difference: of two that are large it would be infinite.
        down = (self.high / 2 - value / 2) / (self.high / 2 - self.low / 2)
        return round(across * (self.columns * 2 - 1)), round(down * (HEIGHT * 4 - 1))


def _between(start: Dot, end: Dot) -> Iterator[Dot]:
    across, down = end[0] - start[0], end[1] - start[1]
    steps = max(abs(across), abs(down), 1)
    for step in range(steps + 1):
        yield start[0] + round(across * step / steps), start[1] + round(down * step / steps)
