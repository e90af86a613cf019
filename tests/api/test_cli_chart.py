"""The chart under the table of `apphub dataset query`."""

from datetime import UTC, datetime, timedelta

import pytest

from apphub_api.cli_chart import BLANK, HEIGHT, Line, draw

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def line(*values: float | None, name: str = "a", minutes: int = 1, **said) -> Line:
    return Line(name, [(BEGIN + timedelta(minutes=minutes * at), value) for at, value in enumerate(values)], **said)


def rendered(*lines: Line, width: int = 60) -> list[str]:
    return [row.plain for row in draw(lines, width)]


def plot(*lines: Line, width: int = 60) -> list[str]:
    """The characters between scale and margin, row by row from the top."""
    rows = rendered(*lines, width=width)[1 : 1 + HEIGHT]
    start = rows[0].index("┤") + 1
    return [row[start:] for row in rows]


def drawn(rows: list[str]) -> set[tuple[int, int]]:
    """Columns and rows of the characters with dots."""
    return {(x, y) for y, row in enumerate(rows) for x, char in enumerate(row) if ord(char) > BLANK}


def test_a_rise_goes_from_the_lower_left_to_the_upper_right():
    rows = plot(line(0, 10))

    marks = sorted(drawn(rows))
    assert marks[0] == (0, HEIGHT - 1)
    assert marks[-1] == (len(rows[0]) - 1, 0)
    assert {x for x, _ in marks} == set(range(len(rows[0])))
    tops = [min(y for x, y in marks if x == column) for column in range(len(rows[0]))]
    assert tops == sorted(tops, reverse=True)


def test_dots_are_where_the_values_are():
    """Of a character's two by four dots, the lowest left is number 7 and the highest right number 4."""
    rows = plot(line(0, None, 10))

    assert rows[-1][0] == "⡀"
    assert rows[0][-1] == "⠈"
    assert len(drawn(rows)) == 2


def test_a_line_is_broken_where_a_bucket_is_missing():
    whole, broken = line(5, 5, gap=timedelta(minutes=2)), line(5, 5, gap=timedelta(seconds=30))

    assert len(drawn(plot(whole))) > 20
    assert len(drawn(plot(broken))) == 2


def test_the_scale_names_the_extremes_and_the_times():
    rows = rendered(line(-1.5, 0, 98.5))

    assert rows[0] == "● a  "
    assert rows[1].startswith("98.5 ┤")
    assert rows[HEIGHT].startswith("-1.5 ┤")
    assert rows[1 + HEIGHT // 2].startswith("48.5 ┤")
    assert rows[-1].split() == ["2026-01-01", "00:00", "2026-01-01", "00:02"]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_it_is_as_wide_as_the_terminal(width: int):
    rows = rendered(line(*range(1000)), width=width)[1:]

    assert max(map(len, rows)) == width


def test_lines_share_a_scale_and_the_first_is_on_top():
    rows = list(draw([line(0, 0, name="low"), line(10, 10, name="high"), line(0, 0, name="hidden")], 60))

    assert rows[0].plain == "● low  ● high  ● hidden  "
    assert {span.style for span in rows[1].spans} == {"yellow"}
    assert {span.style for span in rows[HEIGHT].spans} == {"cyan"}


@pytest.mark.parametrize("value", [0, -3, 1e300, 1e-300])
def test_a_constant_is_a_line_in_the_middle(value: float):
    marks = drawn(plot(line(value, value)))

    assert {y for _, y in marks} == {HEIGHT // 2}


def test_the_largest_numbers_have_their_place():
    assert len(drawn(plot(line(-1.7e308, None, 1.7e308)))) == 2
