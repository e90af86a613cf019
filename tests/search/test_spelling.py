"""Near words are found, all of them, and far ones are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apphub_assets.search.spelling import distance, nearest, spellings, typos_allowed

LETTERS = st.text(alphabet="abcd", min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [
        ("python", "python", 0),
        ("pyhton", "python", 1),
        ("pythn", "python", 1),
        ("pytthon", "python", 1),
        ("pithon", "python", 1),
        ("dashbaord", "dashboard", 1),
        ("dashbord", "dashboards", 2),
        ("", "abc", 3),
    ],
)
def test_distance_counts_insertions_deletions_replacements_and_swaps(one: str, other: str, edits: int):
    assert distance(one, other) == edits


@given(one=LETTERS, other=LETTERS)
def test_distance_is_symmetric_and_zero_only_for_the_same(one: str, other: str):
    assert distance(one, other) == distance(other, one)
    assert (distance(one, other) == 0) == (one == other)


@pytest.mark.parametrize(
    ("word", "edits"), [("go", 0), ("dog", 0), ("rust", 1), ("python", 1), ("dashboard", 2), ("2026", 0)]
)
def test_longer_words_forgive_more_and_numbers_nothing(word: str, edits: int):
    assert typos_allowed(word) == edits


@st.composite
def slips(draw: st.DrawFn) -> tuple[str, str]:
    """A word and what one or two slips of the finger make of it."""
    word = draw(st.text(alphabet="abcd", min_size=4, max_size=12))
    typed = word
    for _ in range(typos_allowed(word)):
        place = draw(st.integers(0, len(typed) - 1))
        before, letter, after = typed[:place], typed[place], typed[place + 1 :]
        other = draw(st.sampled_from("abcd"))
        typed = draw(
            st.sampled_from(
                [
                    before + after,
                    before + other + after,
                    before + other + letter + after,
                    before + after[:1] + letter + after[1:],
                ]
            )
        )
    return word, typed


@given(slips())
def test_words_within_the_typos_allowed_share_a_spelling(slip: tuple[str, str]):
    word, typed = slip
    if distance(typed, word) <= typos_allowed(typed):
        assert spellings(word) & spellings(typed)


def test_the_closest_come_first_and_among_those_the_most_used():
    candidates = [("weather", 3), ("wither", 9), ("leather", 5), ("wetter", 1)]
    assert nearest("wether", candidates) == ("wither", "weather", "wetter")


def test_nothing_near_is_nothing():
    assert nearest("zzzzzz", [("weather", 3)]) == ()
    assert nearest("go", [("gp", 3)]) == ()
