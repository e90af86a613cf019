"""The search language: what is understood, and what is refused with which pointer."""

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apphub_assets.errors import InvalidInput
from apphub_assets.search.query import Parameters, parse
from apphub_assets.search.spec import WEIGHTS, DateField, DateRange, Filter, Kind, Sort


def typed(*terms: str) -> Filter:
    """A filter as written in `q`."""
    return Filter(Kind.PAIR, terms, correctable=terms)


def literal(*terms: str) -> Filter:
    """A filter as given in `tags`."""
    return Filter(Kind.PAIR, terms)


def test_words_are_folded_unique_and_in_order():
    assert parse(Parameters(q="Crème  brûlée WEATHER weather-station")).words == (
        "creme",
        "brulee",
        "weather",
        "station",
    )


def test_of_many_words_the_first_twelve_count():
    words = [f"w{number}" for number in range(14)]
    assert parse(Parameters(q=" ".join(["w0", *words, "-x"]))).words == tuple(words[:12])


def test_a_key_and_a_value_are_a_filter_wherever_they_stand():
    assert parse(Parameters(q="language:Go", tags="team:core")).filters == (typed("language:go"), literal("team:core"))


def test_values_of_one_key_are_one_filter():
    assert parse(Parameters(q="language:go weather language:rust")).filters == (typed("language:go", "language:rust"),)


def test_values_of_one_key_are_one_filter_wherever_they_stand():
    query = parse(Parameters(q="language:go", tags="language:rust"))
    assert query.filters == (Filter(Kind.PAIR, ("language:go", "language:rust"), correctable=("language:go",)),)


def test_a_quoted_value_keeps_its_spaces():
    query = parse(Parameters(q='framework:"Spring Boot" weather'))
    assert (query.filters, query.words) == ((typed("framework:spring boot"),), ("weather",))


def test_tags_are_separated_by_commas_as_well_as_spaces():
    query = parse(Parameters(tags="language:go,team:core  license:mit"))
    assert query.filters == (literal("language:go"), literal("team:core"), literal("license:mit"))


def test_a_key_alone_asks_for_the_key():
    assert parse(Parameters(q="license:")).filters == (Filter(Kind.KEY, ("license",), correctable=("license",)),)


def test_a_minus_excludes_words_together_tags_keys_and_statuses():
    query = parse(Parameters(q="-spring-boot -language:php -license: -status:failed"))
    assert query.excluded == (("spring", "boot"),)
    assert query.filters == (
        Filter(Kind.PAIR, ("language:php",), excluded=True),
        Filter(Kind.KEY, ("license",), excluded=True),
        Filter(Kind.STATUS, ("failed",), excluded=True),
    )


def test_a_tag_without_a_key_is_a_word_of_any_tag():
    query = parse(Parameters(tags="python"))
    assert (query.words, query.filters) == ((), (Filter(Kind.TAGS, ("python",)),))


def test_statuses_come_from_both_places_and_unknown_ones_of_the_parameter_are_ignored():
    query = parse(Parameters(q="status:ready", status="failed,bogus pending"))
    assert query.filters == (Filter(Kind.STATUS, ("ready", "failed", "pending")),)


def test_an_address_is_words_and_not_a_key():
    assert parse(Parameters(q="https://git.example.com/core/app")).words == (
        "https", "git", "example", "com", "core", "app",
    )  # fmt: skip


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2026-01-31", "2026-01-31", "2026-02-01"),
        (">2026-01-31", "2026-02-01", None),
        (">=2026-01-31", "2026-01-31", None),
        ("<2026-01-31", None, "2026-01-31"),
        ("<=2026-01-31", None, "2026-02-01"),
        ("2026-01-01..2026-01-31", "2026-01-01", "2026-02-01"),
        ("*..2026-01-31", None, "2026-02-01"),
        ("2026-01-31..*", "2026-01-31", None),
        (">=2026-01-31T12:30:00Z", "2026-01-31T12:30:00", None),
        ("<=2026-01-31T12:30:00+00:00", None, "2026-01-31T12:30:00.000001"),
    ],
)
def test_dates_are_whole_days_or_instants(text: str, start: str | None, end: str | None):
    expected = DateRange(DateField.UPDATED, start and day(start), end and day(end))
    assert parse(Parameters(q=f"updated:{text}")).ranges == (expected,)


def test_ingested_after_and_before_include_their_days():
    query = parse(Parameters(ingested_after="2026-01-01", ingested_before="2026-01-31"))
    assert query.ranges == (
        DateRange(DateField.INGESTED, start=day("2026-01-01")),
        DateRange(DateField.INGESTED, end=day("2026-02-01")),
    )


def test_relevance_is_the_order_when_there_are_words_and_newness_when_not():
    assert parse(Parameters(q="weather")).sort is Sort.RELEVANCE
    assert parse(Parameters(q="language:go")).sort is Sort.UPDATED


@pytest.mark.parametrize("text", ["name:10,tags:3", '{"name": 10, "tags": 3}'])
def test_weights_are_overridden_by_name(text: str):
    assert parse(Parameters(relevance=text)).weights == {**WEIGHTS, Kind.NAME: 10, Kind.TAGS: 3}


@pytest.mark.parametrize(
    ("parameters", "pointer"),
    [
        (Parameters(sort="newest"), "/sort"),
        (Parameters(limit=0), "/limit"),
        (Parameters(limit=201), "/limit"),
        (Parameters(q="status:bogus"), "/q"),
        (Parameters(q="updated:yesterday"), "/q"),
        (Parameters(q="updated:"), "/q"),
        (Parameters(q="updated:2026-02-01..2026-01-01"), "/q"),
        (Parameters(q="updated:0001-01-01"), "/q"),
        (Parameters(q="updated:9999-12-31"), "/q"),
        (Parameters(q="created:2026-13-01"), "/q"),
        (Parameters(ingested_after="soon"), "/ingestedAfter"),
        (Parameters(ingested_before="2026-02-30"), "/ingestedBefore"),
        (Parameters(q='framework:"spring'), "/q"),
        (Parameters(q="(language:go"), "/q"),
        (Parameters(tags="la/nguage:go"), "/tags"),
        (Parameters(q="nul\0"), "/q"),
        (Parameters(tags="language:\udcff"), "/tags"),
        (Parameters(q="x" * 1001), "/q"),
        (Parameters(q=" ".join(f"-w{n}" for n in range(13))), "/q"),
        (Parameters(q="a:b " * 51 + "c:d"), "/q"),
        (Parameters(relevance="colour:3"), "/relevance"),
        (Parameters(relevance="name:much"), "/relevance"),
        (Parameters(relevance="name:-1"), "/relevance"),
        (Parameters(relevance="name:nan"), "/relevance"),
        (Parameters(relevance="name"), "/relevance"),
        (Parameters(relevance="{"), "/relevance"),
        (Parameters(relevance='{"name": [1]}'), "/relevance"),
    ],
)
def test_what_cannot_be_right_is_refused_with_a_pointer(parameters: Parameters, pointer: str):
    with pytest.raises(InvalidInput) as error:
        parse(parameters)
    assert [where for where, _ in error.value.pointers] == [pointer]


def test_ten_thousand_tokens_are_refused():
    with pytest.raises(InvalidInput, match="at most 1000 characters"):
        parse(Parameters(q="a " * 10_000))


@given(q=st.text(max_size=60), tags=st.text(max_size=30), relevance=st.text(max_size=20), day=st.text(max_size=12))
def test_any_text_is_understood_or_refused(q: str, tags: str, relevance: str, day: str):
    with suppress(InvalidInput):
        parse(Parameters(q=q, tags=tags, relevance=relevance, ingested_after=day))
