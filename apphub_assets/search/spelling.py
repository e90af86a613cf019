"""Words that were meant: nearest neighbours by deletion.

Two words within d edits of each other share a form made by deleting at most d letters from each (SymSpell). So the
forms of every word are stored and indexed, and a misspelt word is looked up by its own: complete, unlike trigram
overlap, which loses short words ("pyhton" and "python" share three trigrams of eleven), and without any extension.
"""

from collections.abc import Iterable
from itertools import combinations

LONGEST = 24
MOST_TYPOS = 2


def typos_allowed(word: str) -> int:
    """How many edits a word forgives: 1 from four letters on, 2 from eight; numbers none, as 2024 is not 2025."""
    if len(word) < 4 or len(word) > LONGEST or word.isdigit():
        return 0
    return 1 if len(word) < 8 else MOST_TYPOS


def spellings(word: str) -> set[str]:
    """The word, and what is left of it with letters deleted: one, or up to two from six letters on.

    Six and not eight, because a misspelling of eight letters may have been a word of six.
    """
    if not 3 <= len(word) <= LONGEST or word.isdigit():
        return set()
    deletions = range(3 if len(word) >= 6 else 2)
    return {"".join(kept) for count in deletions for kept in combinations(word, len(word) - count)}


def distance(one: str, other: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours that turn one word into the other."""
    before: list[int] = []
    above = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, opposite in enumerate(other, 1):
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != opposite))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == opposite:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, above = above, row
    return above[-1]


def nearest(word: str, candidates: Iterable[tuple[str, int]], most: int = 3) -> tuple[str, ...]:
    """The closest of (word, uses) candidates within the typos allowed: least distance, then most used."""
    allowed = typos_allowed(word)
    letters = set(word)
    alike = [
        (other, uses)
        for other, uses in candidates
        # An edit changes the length by one at most, and the set of letters by two: cheaper to see than the distance.
        if abs(len(other) - len(word)) <= allowed and len(letters.symmetric_difference(other)) <= 2 * allowed
    ]
    near = sorted((distance(word, other), -uses, other) for other, uses in alike)
    return tuple(dict.fromkeys(other for edits, _, other in near if edits == near[0][0] <= allowed))[:most]
