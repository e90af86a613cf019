"""Scores of many documents at once: a bit-sliced sum (O'Neil and Quass, 1997).

Slice n holds the documents whose score has bit n set. Adding points to a set of documents is a ripple-carry addition
on whole bitmaps, and reading from the top slice down yields groups of equal score, best first, without ever looking
at a single document. Cost depends on the number of words and fields, not on how the weights were chosen.
"""

from collections.abc import Iterator

from pyroaring import BitMap


class BitSlicedSum:
    """Points of a set of documents, all zero at first."""

    def __init__(self, documents: BitMap) -> None:
        self._documents = documents
        self._slices: list[BitMap] = []

    def add(self, points: int, documents: BitMap) -> None:
        """Give `points` to each of `documents` that is in the set."""
        earning = documents & self._documents
        for place in range(points.bit_length()):
            if points >> place & 1:
                self._carry(place, earning)

    def descending(self, at_most: int | None = None) -> Iterator[tuple[int, BitMap]]:
        """(points, documents with so many), most first, leaving out what is above `at_most`."""
        return self._descend(self._documents, len(self._slices), 0, at_most)

    def _carry(self, place: int, carried: BitMap) -> None:
        while carried:
            while len(self._slices) <= place:
                self._slices.append(BitMap())
            self._slices[place], carried = self._slices[place] ^ carried, self._slices[place] & carried
            place += 1

    def _descend(self, documents: BitMap, places: int, score: int, at_most: int | None) -> Iterator[tuple[int, BitMap]]:
        if not documents or (at_most is not None and score > at_most):
            return
        if places == 0:
            yield score, documents
            return
        place = places - 1
        yield from self._descend(documents & self._slices[place], place, score + (1 << place), at_most)
        yield from self._descend(documents - self._slices[place], place, score, at_most)
