"""Pages follow each other without gaps or overlap, and counts are exact over all of them."""

import pytest

from apphub_assets.kit.cursor import InvalidCursor, decode_cursor, encode_cursor
from apphub_assets.search import facets, repository, service
from apphub_assets.search.spec import SearchPage, StatusCount, TagCount
from tests.search.conftest import DAY, Index, app


def pages(index: Index, q: str = "", **parameters) -> list[SearchPage]:
    found = [index.page(q, **parameters)]
    while found[-1].next_cursor:
        found.append(index.page(q, cursor=found[-1].next_cursor, **parameters))
    return found


@pytest.fixture
def thirty(index: Index) -> Index:
    """Apps in three groups of equal score, many with the same name or the same time."""
    index.put(
        *(
            app(
                f"app-{n}",
                ("Weather", "Weatherproof", f"App {n % 4}")[n % 3],
                f"group:{n % 4}",
                updated_at=DAY.replace(hour=n % 5),
            )
            for n in range(30)
        )
    )
    return index


@pytest.mark.parametrize("sort", ["relevance", "updated", "name", "popularity"])
@pytest.mark.parametrize("q", ["", "weather", "app"])
def test_pages_follow_each_other(thirty: Index, sort: str, q: str):
    whole = thirty.find(q, sort=sort, limit=200)
    found = pages(thirty, q, sort=sort, limit=7)
    assert [hit.repository_id for page in found for hit in page.hits] == whole
    assert {page.total for page in found} == {len(whole)}
    assert len({*whole}) == len(whole)


@pytest.mark.parametrize("sort", ["relevance", "updated", "name"])
def test_broad_results_are_walked_in_the_same_order(thirty: Index, sort: str, monkeypatch: pytest.MonkeyPatch):
    narrow = thirty.find("weather", sort=sort, limit=200)
    monkeypatch.setattr(repository, "FEW", 0)
    monkeypatch.setattr(repository, "WINDOW", 3)
    found = pages(thirty, "weather", sort=sort, limit=7)
    assert [hit.repository_id for page in found for hit in page.hits] == narrow


def test_a_walk_starts_where_the_dates_end(thirty: Index, monkeypatch: pytest.MonkeyPatch):
    q = f"updated:<={DAY.replace(hour=2).isoformat()}"
    narrow = thirty.find(q, limit=200)
    monkeypatch.setattr(repository, "FEW", 0)
    found = pages(thirty, q, limit=4)
    assert [hit.repository_id for page in found for hit in page.hits] == narrow
    assert found[0].total == 18


def test_a_page_that_just_holds_everything_is_the_last(index: Index):
    index.put(app("a"), app("b"))
    assert index.page(limit=2).next_cursor is None
    assert index.page(limit=1).next_cursor is not None


def test_an_app_registered_between_two_pages_shifts_nothing(index: Index):
    index.put(app("a"), app("b"), app("c"))
    first = index.page(limit=2)
    index.put(app("newest", updated_at=DAY.replace(day=2)))
    assert index.find(limit=2, cursor=first.next_cursor) == ["c"]


def test_a_cursor_of_another_search_is_refused(unmerged: Index):
    unmerged.put(app("a"), app("b"))
    cursor = unmerged.page(limit=1).next_cursor
    with pytest.raises(InvalidCursor):
        unmerged.page("language:go", limit=1, cursor=cursor)


@pytest.mark.parametrize("cursor", ["=", "x", "!!", "bnVsbA", encode_cursor([]), encode_cursor(["a", 1, "b", 2])])
def test_what_is_no_cursor_is_refused(unmerged: Index, cursor: str):
    with pytest.raises(InvalidCursor):
        unmerged.page(cursor=cursor)


@pytest.mark.parametrize(
    "values", [(None, "2026-01-01", 1), (0, "soon", 1), (0, None, 1), (0, [], 1), (0, 5, 1), (0, "2026-01-01", {})]
)
def test_a_forged_cursor_is_refused(unmerged: Index, values: tuple):
    unmerged.put(app("a"), app("b"))
    fingerprint = decode_cursor(unmerged.page(limit=1).next_cursor or "", 4)[0]
    with pytest.raises(InvalidCursor):
        unmerged.page(limit=1, cursor=encode_cursor([fingerprint, *values]))


@pytest.fixture
def company(index: Index) -> Index:
    index.put(
        app("a", "Weather", "language:Go", "framework:gin", owner="ann"),
        app("b", "Weather", "language:go", "framework:echo", owner="bob", status="failed"),
        app("c", "Other", "language:php", owner="ann"),
    )
    return index


def test_facets_count_what_was_found_most_frequent_first(company: Index):
    counted = company.page("weather", limit=1).facets
    assert [(f"{tag.key}:{tag.value}".lower(), tag.count) for tag in counted.tags] == [
        ("language:go", 2),
        ("framework:echo", 1),
        ("framework:gin", 1),
        ("owner:ann", 1),
        ("owner:bob", 1),
    ]
    assert counted.frameworks == [TagCount("framework", "echo", 1), TagCount("framework", "gin", 1)]
    assert counted.owners == [TagCount("owner", "ann", 1), TagCount("owner", "bob", 1)]


def test_every_status_is_counted_even_if_nothing_has_it(company: Index):
    assert company.page("weather").facets.statuses == [
        StatusCount("seed", 0),
        StatusCount("pending", 0),
        StatusCount("processing", 0),
        StatusCount("ready", 1),
        StatusCount("failed", 1),
    ]


@pytest.mark.parametrize("q", ["", "weather", "language:go", "-status:failed", "group:1"])
def test_counts_by_postings_are_the_counts_by_documents(index: Index, q: str, monkeypatch: pytest.MonkeyPatch):
    index.put(
        *(
            app(f"app-{n}", "Weather" if n % 2 else "Other", f"group:{n % 7}", f"rare:{n}", owner=f"o{n % 13}")
            for n in range(80)
        )
    )
    by_documents = index.page(q).facets
    monkeypatch.setattr(facets, "FEW", 0)
    assert index.page(q).facets == by_documents


def test_at_most_fifty_tags_ten_owners_and_ten_frameworks(index: Index):
    index.put(*(app(f"app-{n}", "", f"rare:{n}", f"framework:f{n}", owner=f"o{n}") for n in range(60)))
    counted = index.page().facets
    assert (len(counted.tags), len(counted.owners), len(counted.frameworks)) == (50, 10, 10)


def test_popularity_counts_launches(index: Index):
    index.put(app("a"), app("b"))
    with index.database.transaction() as session:
        service.add_popularity(session, "b", 3)
    index.put(app("b", "Renamed"))
    assert index.find(sort="popularity") == ["b", "a"]
