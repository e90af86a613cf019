"""Output of containers is kept as plain text in bounded pieces."""

from apphub_assets.containers.text import LINE_CHARS, Lines, lines_of, shorten


def fed(*chunks: str) -> list[str]:
    blocks: list[str] = []
    lines = Lines(blocks.append)
    for chunk in chunks:
        lines.feed(chunk)
    lines.flush()
    return blocks


def test_lines_that_came_together_are_handed_on_together() -> None:
    assert fed("one\ntwo\n") == ["one\ntwo"]


def test_a_line_that_came_in_pieces_is_put_together() -> None:
    assert fed("o", "ne\ntw", "o\n", "rest") == ["one", "two", "rest"]


def test_a_line_without_end_is_cut() -> None:
    blocks = fed(*["x" * 1000] * 100)
    assert sum(map(len, blocks)) == 100_000
    assert max(map(len, blocks)) < LINE_CHARS + 1000


def test_what_steers_a_terminal_is_left_out() -> None:
    assert fed("\x1b[1;31mred\x1b[0m\tand\x00 \x07plain\r\n") == ["red\tand plain"]


def test_a_character_that_came_in_pieces_is_put_together() -> None:
    one, two = "é\n".encode()[:1], "é\n".encode()[1:]
    assert list(lines_of([one, two, b"\xff"])) == ["é", "�"]


def test_a_long_text_is_shortened_visibly() -> None:
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abcd", 4) == "abcd"
