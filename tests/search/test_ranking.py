"""Adding up on bitmaps gives what adding up one by one gives."""

from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from apphub_assets.search.ranking import BitSlicedSum

SETS = st.sets(st.integers(0, 20))


def total(documents: set[int], added: list[tuple[int, set[int]]]) -> BitSlicedSum:
    summed = BitSlicedSum(BitMap(documents))
    for points, docs in added:
        summed.add(points, BitMap(docs))
    return summed


@given(documents=SETS, added=st.lists(st.tuples(st.integers(0, 1000), SETS), max_size=8))
def test_groups_are_sums_of_points_best_first(documents: set[int], added: list[tuple[int, set[int]]]):
    groups = [(points, set(docs)) for points, docs in total(documents, added).descending()]
    expected = {doc: sum(points for points, docs in added if doc in docs) for doc in documents}
    assert {doc: points for points, docs in groups for doc in docs} == expected
    assert [points for points, _ in groups] == sorted({*expected.values()}, reverse=True)


@given(added=st.lists(st.tuples(st.integers(0, 50), SETS), max_size=5), ceiling=st.integers(0, 100))
def test_a_ceiling_leaves_out_what_is_above_it(added: list[tuple[int, set[int]]], ceiling: int):
    summed = total(set(range(21)), added)
    below = [(points, docs) for points, docs in summed.descending() if points <= ceiling]
    assert list(summed.descending(at_most=ceiling)) == below
