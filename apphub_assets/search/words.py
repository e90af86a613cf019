"""From text to words and terms: the one place that decides what a document can be found by."""

import re
import unicodedata
from collections.abc import Callable, Iterable

from apphub_assets.search.spec import PREFIX_FIELDS, README_LENGTH, Document, Kind

WORD = re.compile(r"[^\W_]+")
WORD_LENGTH = 40
# Beginnings this short have too many words to collect while somebody types, so they are terms of their own.
SHORT = (1, 2)

Term = tuple[Kind, str]
Stemmer = Callable[[Iterable[str]], dict[str, str]]


def fold(text: str) -> str:
    """Lower case without accents: how everything is compared."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def words_of(text: str) -> list[str]:
    """The distinct words of a text, folded, in order; a word longer than 40 characters is cut there."""
    return list(dict.fromkeys(word[:WORD_LENGTH] for word in WORD.findall(fold(text))))


def pair_term(key: str, value: str) -> str:
    return f"{fold(key)}:{fold(value)}"


def beginning(word: str) -> str:
    """The term that stands for every word beginning like this."""
    return f"{word}*"


def terms_of(document: Document, stem: Stemmer) -> set[Term]:
    """Every term that the document can be found by. `stem` maps words to their stems."""
    terms: set[Term] = {(Kind.ALL, ""), (Kind.STATUS, document.status)}
    for key, value in document.pairs:
        terms |= {(Kind.KEY, fold(key)), (Kind.PAIR, pair_term(key, value))}
    found = {field: words_of(text) for field, text in _texts(document).items()}
    stems = stem({word for words in found.values() for word in words})
    for field, words in found.items():
        terms |= {(field, term) for word in words for term in (word, stems.get(word, word))}
        if field in PREFIX_FIELDS:
            terms |= {(field, beginning(word[:length])) for word in words for length in SHORT}
    return terms


def _texts(document: Document) -> dict[Kind, str]:
    return {
        Kind.NAME: f"{document.name} {document.repository_id}",
        Kind.TAGS: " ".join(f"{key} {value}" for key, value in document.pairs),
        Kind.DESCRIPTION: document.description,
        Kind.URL: document.repo_url,
        Kind.README: document.readme[:README_LENGTH],
    }
