"""Any combination of filters finds what going through the documents one by one finds."""

from collections.abc import Callable
from datetime import timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apphub_assets.search.spec import STATUSES, Document
from apphub_assets.search.words import words_of
from tests.search.conftest import DAY, Index, app

# Their stems are themselves, none begins another, and no two are near: what each finds is plain.
WORDS = ("alpha", "gondola", "jumbo", "mustard", "quiz", "turbo")
KEYS = ("colour", "shape")
VALUES = ("red", "oval", "flat iron")

Predicate = Callable[[Document], bool]

documents = st.lists(
    st.builds(
        lambda name, description, tags, status, day: (name, description, tags, status, day),
        st.sampled_from(WORDS),
        st.lists(st.sampled_from(WORDS), max_size=2).map(" ".join),
        st.sets(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), max_size=3),
        st.sampled_from(STATUSES),
        st.integers(0, 9),
    ),
    max_size=12,
)


def has_word(word: str) -> Predicate:
    return lambda document: word in words_of(f"{document.name} {document.description}")


def has_tag(key: str, value: str | None = None) -> Predicate:
    return lambda document: any(key == other and value in (None, found) for other, found in document.tags)


@st.composite
def queries(draw: st.DrawFn) -> tuple[str, list[Predicate]]:
    """A query and what each of its parts means; values of one key are one part."""
    texts: list[str] = []
    parts: list[Predicate] = []
    for word in draw(st.sets(st.sampled_from(WORDS), max_size=2)):
        texts.append(draw(st.sampled_from([word, word[:3], word.upper()])))
        parts.append(has_word(word))
    for word in draw(st.sets(st.sampled_from(WORDS), max_size=1)):
        texts.append(f"-{word}")
        parts.append(lambda document, word=word: not has_word(word)(document))
    for key in draw(st.sets(st.sampled_from(KEYS), max_size=2)):
        # Known to some document or not, these are not near to each other: nothing is corrected.
        values = sorted(draw(st.sets(st.sampled_from(VALUES), min_size=1, max_size=2)))
        sign = draw(st.sampled_from(["", "-"]))
        texts += [f'{sign}{key}:"{value}"' for value in values]
        carries = lambda document, key=key, values=values: any(has_tag(key, value)(document) for value in values)  # noqa: E731
        parts.append((lambda document, carries=carries: not carries(document)) if sign else carries)
    for key in draw(st.sets(st.sampled_from(KEYS), max_size=1)):
        texts.append(f"-{key}:")
        parts.append(lambda document, key=key: not has_tag(key)(document))
    if statuses := sorted(draw(st.sets(st.sampled_from(STATUSES), max_size=2))):
        texts += [f"status:{status}" for status in statuses]
        parts.append(lambda document: document.status in statuses)
    if (days := draw(st.none() | st.tuples(st.integers(0, 9), st.integers(0, 9)))) is not None:
        first, last = (DAY + timedelta(days=day) for day in sorted(days))
        texts.append(f"created:{first.date()}..{last.date()}")
        parts.append(lambda document: first <= document.created_at < last + timedelta(days=1))
    return " ".join(draw(st.permutations(texts))), parts


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_documents=documents, asked=st.lists(queries(), min_size=1, max_size=5), merge=st.booleans())
def test_what_is_found_is_what_matches(unmerged: Index, given_documents, asked, merge: bool):
    corpus = [
        app(
            f"id{n}",
            name,
            *(f"{key}:{value}" for key, value in tags),
            description=text,
            status=status,
            created_at=DAY + timedelta(days=day),
        )
        for n, (name, text, tags, status, day) in enumerate(given_documents)
    ]
    for stale in unmerged.find(limit=200):
        unmerged.remove(stale)
    unmerged.put(*corpus)
    if merge:
        unmerged.merge()
    for q, parts in asked:
        expected = {document.repository_id for document in corpus if all(part(document) for part in parts)}
        page = unmerged.page(q, limit=200)
        assert {hit.repository_id for hit in page.hits} == expected, q
        assert page.total == len(expected)
        assert sum(status.count for status in page.facets.statuses) == len(expected)
