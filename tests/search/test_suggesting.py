"""Completion of tags while typing."""

import pytest

from apphub_assets.errors import InvalidInput
from tests.search.conftest import Index, app


@pytest.fixture
def tagged(index: Index) -> Index:
    index.put(
        app("a", "", "language:Python", "license:MIT", "framework:fast api"),
        app("b", "", "language:Python", "library:numpy"),
        app("c", "", "language:go", "library:pandas"),
    )
    return index


def values(index: Index, prefix: str, limit: int = 10) -> list[str]:
    return [suggestion.value for suggestion in index.suggest(prefix, limit)]


def test_a_beginning_completes_to_keys_by_use_and_then_to_pairs(tagged: Index):
    assert values(tagged, "l") == [
        "language:", "library:", "license:",
        "language:Python", "language:go", "library:numpy", "library:pandas", "license:MIT",
    ]  # fmt: skip


def test_nothing_typed_shows_what_is_used_most(tagged: Index):
    suggestions = tagged.suggest("", 2)
    assert [(each.type, each.label, each.count) for each in suggestions] == [
        ("key", "language", 3),
        ("key", "library", 2),
    ]
    assert values(tagged, "", 50)[4:6] == ["language:Python", 'framework:"fast api"']


def test_a_colon_completes_to_pairs_whose_key_and_value_begin_so(tagged: Index):
    assert values(tagged, "language:") == ["language:Python", "language:go"]
    assert values(tagged, "li:p") == ["library:pandas"]


def test_the_beginning_of_a_value_completes_to_the_pair(tagged: Index):
    assert values(tagged, "pand") == ["library:pandas"]


def test_case_does_not_matter_and_the_writing_is_kept(tagged: Index):
    assert values(tagged, "LICENSE:mi") == ["license:MIT"]


def test_a_value_with_a_space_is_quoted_but_not_in_its_label(tagged: Index):
    (suggestion,) = tagged.suggest("framework:f")
    assert (suggestion.type, suggestion.value, suggestion.label) == (
        "pair",
        'framework:"fast api"',
        "framework:fast api",
    )


def test_what_is_being_excluded_or_quoted_is_completed_too(tagged: Index):
    assert values(tagged, "-language:g") == ["language:go"]
    assert values(tagged, 'framework:"fast a') == ['framework:"fast api"']


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("langauge", "language:"),
        ("langauge:py", "language:Python"),
        ("language:pyhton", "language:Python"),
        ("pyhton", "language:Python"),
    ],
)
def test_where_nothing_begins_so_the_nearest_is_completed(tagged: Index, typed: str, meant: str):
    assert values(tagged, typed)[0] == meant


def test_nothing_near_completes_to_nothing(tagged: Index):
    assert values(tagged, "zzzzzz") == []


def test_uses_follow_what_apps_carry(index: Index):
    index.put(app("a", "", "language:go"), app("b", "", "language:go"))
    index.put(app("b", "", "language:rust"))
    assert [(each.label, each.count) for each in index.suggest("language:")] == [
        ("language:go", 1),
        ("language:rust", 1),
    ]
    index.remove("a")
    assert values(index, "language:") == ["language:rust"]


@pytest.mark.parametrize(("prefix", "limit"), [("", 0), ("", 51), ("x" * 201, 10), ("nul\0", 10), ("\udcff", 10)])
def test_what_cannot_be_right_is_refused(unmerged: Index, prefix: str, limit: int):
    with pytest.raises(InvalidInput):
        unmerged.suggest(prefix, limit)


@pytest.mark.parametrize("prefix", ["%", "_", "\\", "'", ":", "::", "a:b:c", "🙂", "*"])
def test_whatever_is_typed_is_only_text(tagged: Index, prefix: str):
    tagged.suggest(prefix)
    assert values(tagged, "lib") == ["library:", "library:numpy", "library:pandas"]
