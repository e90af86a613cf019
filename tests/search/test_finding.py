"""What finds an app, in which order, and why."""

import pytest

from apphub_assets.search import service
from apphub_assets.search.spec import FACTORS, Correction, Kind, Match
from tests.search.conftest import DAY, Index, app


@pytest.mark.parametrize(
    ("word", "where"),
    [
        ("weather", "name"),
        ("wea", "beginning of a word of the name"),
        ("w", "first letter"),
        ("shows", "description"),
        ("showing", "other form of a word of the description"),
        ("python", "value of a tag"),
        ("lang", "beginning of a key"),
        ("acme", "address"),
        ("barometer", "README"),
        ("ann", "owner"),
        ("weather-1", "id"),
        ("WEATHER", "whatever the case"),
        ("cafe", "whatever the accents"),
    ],
)
def test_a_word_is_found_in(index: Index, word: str, where: str):
    index.put(
        app(
            "weather-1",
            "Weather Café",
            "language:Python",
            description="It shows the sky",
            repo_url="https://git.example.com/acme/sky",
            owner="ann",
            readme="Reads a barometer.",
        ),
        app("other"),
    )
    assert index.find(word) == ["weather-1"]


def test_a_readme_is_found_by_whole_words_only(index: Index):
    index.put(app("sky", readme="Reads a barometer."))
    assert index.find("baro") == []


def test_every_word_must_be_found_but_not_in_the_same_field(index: Index):
    index.put(app("one", "Weather", "language:go"), app("two", "Weather", "language:php"))
    assert index.find("weather go") == ["one"]


def test_words_that_say_nothing_are_left_out_unless_alone(index: Index):
    index.put(app("one", "Weather"), app("two", "The Weather"))
    assert index.page("the weather of").tokens == ("weather",)
    assert index.find("the") == ["two"]


def test_nothing_asked_is_everything_newest_first(index: Index):
    index.put(app("new"), app("old"), app("older"))
    assert index.find() == ["new", "old", "older"]


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("language:go", {"a", "b"}),
        ("language:GO", {"a", "b"}),
        ("language:go team:core", {"a"}),
        ("language:go language:php", {"a", "b", "c"}),
        ("-language:go", {"c", "d"}),
        ("license:", {"d"}),
        ("-license:", {"a", "b", "c"}),
        ("-language: -license:", set()),
        ('framework:"spring boot"', {"c"}),
        ("status:failed", {"b"}),
        ("-status:failed", {"a", "c", "d"}),
        ("status:failed status:ready", {"a", "b", "c", "d"}),
        ("-alpha", {"b", "c", "d"}),
        ("-spring-boot", {"a", "b", "d"}),
        ("language:go -team:core -beta", set()),
    ],
)
def test_filters(index: Index, q: str, found: set[str]):
    index.put(
        app("a", "Alpha", "language:Go", "team:core"),
        app("b", "Beta", "language:go", "team:edge", status="failed"),
        app("c", "Gamma", "language:php", "framework:Spring Boot"),
        app("d", "Delta", "license:MIT"),
    )
    assert set(index.find(q)) == found


def test_words_tags_and_status_work_together(index: Index):
    index.put(app("a", "Weather", "language:go"), app("b", "Weather", "language:go", status="failed"), app("c"))
    assert index.find("weather", tags="language:go", status="failed") == ["b"]


def test_a_tag_parameter_without_key_means_a_word_of_any_tag(index: Index):
    index.put(app("a", "Alpha", "framework:spring-boot"), app("b", "Boot"))
    assert index.find(tags="boot") == ["a"]


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("updated:2026-02-15", {"february"}),
        ("updated:>2026-01-15", {"february", "march"}),
        ("updated:>=2026-01-15 updated:<2026-03-01", {"january", "february"}),
        ("updated:2026-01-15..2026-02-15", {"january", "february"}),
        ("-updated:2026-02-15", {"january", "march"}),
        ("ingested:<=2026-01-20", {"january"}),
        ("-ingested:<=2026-01-20", {"february", "march"}),
    ],
)
def test_dates(index: Index, q: str, found: set[str]):
    month = {"january": DAY.replace(month=1, day=15), "february": DAY.replace(month=2, day=15, hour=12)}
    index.put(*(app(name, updated_at=day, ingested_at=day) for name, day in month.items()))
    index.put(app("march", updated_at=DAY.replace(day=15)))
    assert set(index.find(q)) == found


def test_the_score_adds_up_the_weights_of_the_fields(index: Index):
    index.put(
        app("a", "Weather", "domain:weather", description="weather", repo_url="https://x/weather", readme="weather")
    )
    hit = index.page("weather").hits[0]
    assert (hit.score, hit.normalized_score) == (4 + 2 + 1.5 + 1 + 0.5, 1.0)


def test_relevance_sorts_by_the_score_and_then_by_newness(index: Index):
    index.put(
        app("in-readme", readme="weather"),
        app("in-description", description="weather"),
        app("newer-in-tag", "", "domain:weather"),
        app("older-in-tag", "", "domain:weather"),
        app("beginning", "Weatherproof"),
        app("in-name", "Weather"),
    )
    page = index.page("weather")
    assert [hit.repository_id for hit in page.hits] == [
        "in-name", "beginning", "newer-in-tag", "older-in-tag", "in-description", "in-readme",
    ]  # fmt: skip
    assert [hit.score for hit in page.hits] == [4, 2.8, 2, 2, 1.5, 0.5]


def test_weights_given_change_the_order(index: Index):
    index.put(app("named", "Weather"), app("described", description="weather"))
    assert index.find("weather", relevance="description:10") == ["described", "named"]


def test_other_orders(index: Index):
    index.put(app("c", "Bravo"), app("a", "charlie"), app("b", "Alpha"))
    with index.database.transaction() as session:
        service.add_popularity(session, "a", 2)
        service.add_popularity(session, "b")
    assert index.find(sort="name") == ["b", "c", "a"]
    assert index.find(sort="popularity") == ["a", "b", "c"]
    assert index.find(sort="updated") == ["c", "a", "b"]


def test_an_explanation_adds_up_to_the_score(index: Index):
    index.put(app("a", "Weather", description="weathering the storm"), app("b"))
    hit = index.page("weath storm", explain=True).hits[0]
    assert hit.explanation is not None
    assert [(term.word, term.field, term.match) for term in hit.explanation] == [
        ("weath", Kind.NAME, Match.PREFIX),
        ("weath", Kind.DESCRIPTION, Match.PREFIX),
        ("storm", Kind.DESCRIPTION, Match.EXACT),
    ]
    assert sum(term.score for term in hit.explanation) == pytest.approx(hit.score)
    assert all(term.score == pytest.approx(term.weight * FACTORS[term.match]) for term in hit.explanation)


def test_there_is_no_explanation_unless_asked_for(index: Index):
    index.put(app("a", "Weather"))
    assert index.page("weather").hits[0].explanation is None


def test_a_slip_finds_what_was_meant_for_less_and_says_so(index: Index):
    index.put(app("a", "Weather Dashboard"), app("b", "Wetlands"))
    page = index.page("wether dashbaord", explain=True)
    assert [hit.repository_id for hit in page.hits] == ["a"]
    assert page.corrections == [Correction("wether", ("weather",)), Correction("dashbaord", ("dashboard",))]
    assert page.hits[0].score < index.page("weather dashboard").hits[0].score
    assert {term.match for term in page.hits[0].explanation or ()} == {Match.CORRECTED}


def test_a_word_that_something_has_is_no_slip(index: Index):
    index.put(app("a", "Weather"), app("b", "Wether"))
    page = index.page("wether")
    assert ([hit.repository_id for hit in page.hits], page.corrections) == (["b"], [])


@pytest.mark.parametrize("q", ["language:pyhton", "langauge:python", "langauge:pyhton"])
def test_a_slip_in_a_tag_finds_the_tag_and_says_so(index: Index, q: str):
    index.put(app("a", "Alpha", "language:Python"), app("b", "Beta", "language:php"))
    page = index.page(q)
    assert [hit.repository_id for hit in page.hits] == ["a"]
    assert page.corrections == [Correction(q, ("language:python",))]


def test_the_parameter_tags_is_literal(index: Index):
    index.put(app("a", "Alpha", "language:Python"))
    page = index.page(tags="language:pyhton")
    assert (page.hits, page.corrections) == ([], [])


def test_a_tag_that_is_removed_everywhere_corrects_nothing(index: Index):
    index.put(app("a", "Alpha", "language:python"))
    index.remove("a")
    assert index.page("language:pyhton").corrections == []


@pytest.mark.parametrize(
    "q", ["%", "'; DROP TABLE search.documents; --", "\\", "*", "a:*", "🙂", "key:%", '""', "-", "::", "ẞ", "٣"]
)
def test_whatever_is_typed_is_only_text(index: Index, q: str):
    index.put(app("a", "Alpha", "key:value"))
    index.find(q)
    assert index.find("alpha") == ["a"]
