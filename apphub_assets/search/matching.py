"""Which documents answer a query, and where each of its words was found."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyroaring import BitMap
from sqlalchemy.orm import Session

from apphub_assets.search import corrections, repository
from apphub_assets.search.postings import Postings, TermRange
from apphub_assets.search.spec import (
    FACTORS,
    PREFIX_FIELDS,
    STATUSES,
    WEIGHTS,
    Correction,
    Filter,
    Kind,
    Match,
    SearchQuery,
)
from apphub_assets.search.words import SHORT, beginning

FIELDS = tuple(WEIGHTS)
Stems = dict[str, str]


@dataclass(frozen=True)
class WordHits:
    """Documents in which a word was found in one field, in one way. No document is in two of one word and field."""

    word: str
    field: Kind
    match: Match
    docs: BitMap

    @property
    def factor(self) -> float:
        return FACTORS[self.match]


@dataclass(frozen=True)
class Found:
    """What a query found. `everything` holds all documents there are."""

    everything: BitMap
    documents: BitMap
    hits: list[WordHits]
    statuses: dict[str, int]
    words: tuple[str, ...]
    corrections: list[Correction]


def find(session: Session, query: SearchQuery) -> Found:
    """Evaluate the query over all documents."""
    mentioned = {*query.words, *(word for group in query.excluded for word in group)}
    stems = repository.stems(session, mentioned) if mentioned else {}
    # Words without a stem say nothing ("the", "of"); they count only when there are no others.
    words = tuple(word for word in query.words if word in stems) or query.words
    postings = Postings(repository.postings(session, _ranges(query, words, stems)))
    corrected: list[Correction] = []

    documents = everything = postings.docs(Kind.ALL, "")
    for each in query.filters:
        documents = _narrow(documents, _filtered(session, postings, each, corrected), each.excluded)
    for dates in query.ranges:
        documents = _narrow(documents, repository.in_range(session, dates), dates.excluded)
    for group in query.excluded:
        documents = documents - _with_all(postings, group, stems)
    hits = [hit for word in words for hit in _word_hits(session, postings, word, stems, corrected)]
    for word in words:
        documents = documents & BitMap.union(BitMap(), *(hit.docs for hit in hits if hit.word == word))
    return Found(everything, documents, hits, postings.counts(Kind.STATUS, documents), words, corrected)


def _ranges(query: SearchQuery, words: Iterable[str], stems: Stems) -> Iterator[TermRange]:
    yield TermRange.exactly(Kind.ALL, "")
    for status in STATUSES:
        yield TermRange.exactly(Kind.STATUS, status)
    for each in query.filters:
        yield from (TermRange.exactly(each.kind, term) for term in each.terms)
    for word in (*words, *(word for group in query.excluded for word in group)):
        for field in FIELDS:
            yield from (TermRange.exactly(field, form) for form in _forms(word, stems))
    for word in words:
        for field in PREFIX_FIELDS:
            short = len(word) in SHORT
            yield TermRange.exactly(field, beginning(word)) if short else TermRange.beginning(field, word)


def _forms(word: str, stems: Stems) -> tuple[str, str]:
    return word, stems.get(word, word)


def _narrow(documents: BitMap, docs: BitMap, excluded: bool) -> BitMap:
    return documents - docs if excluded else documents & docs


def _filtered(session: Session, postings: Postings, each: Filter, corrected: list[Correction]) -> BitMap:
    """Documents with a term of the filter, or with what an unknown term may have meant."""
    docs = postings.docs(each.kind, *each.terms)
    for term in each.correctable:
        if not postings.docs(each.kind, term) and (used := corrections.of_filter(session, each.kind, term)):
            corrected.append(Correction(term, used))
            docs = docs | _read(session, (each.kind,), used).docs(each.kind, *used)
    return docs


def _with_all(postings: Postings, words: Iterable[str], stems: Stems) -> BitMap:
    """Documents that have each of the words, in whatever field."""
    anywhere = (BitMap.union(*(postings.docs(field, *_forms(word, stems)) for field in FIELDS)) for word in words)
    return BitMap.intersection(*anywhere)


def _word_hits(
    session: Session, postings: Postings, word: str, stems: Stems, corrected: list[Correction]
) -> list[WordHits]:
    """Where a word is found. One that begins no word of a name, tag, description or address is taken for a slip."""
    hits = [hit for field in FIELDS for hit in _field_hits(postings, word, field, stems)]
    if any(hit.docs for hit in hits if hit.field in PREFIX_FIELDS):
        return hits
    used = corrections.of_word(session, word)
    if used:
        corrected.append(Correction(word, used))
    meant = _read(session, FIELDS, used)
    exact = {hit.field: hit.docs for hit in hits if hit.match is Match.EXACT}
    return hits + [WordHits(word, field, Match.CORRECTED, meant.docs(field, *used) - exact[field]) for field in FIELDS]


def _field_hits(postings: Postings, word: str, field: Kind, stems: Stems) -> Iterator[WordHits]:
    exact = postings.docs(field, *_forms(word, stems))
    yield WordHits(word, field, Match.EXACT, exact)
    if field in PREFIX_FIELDS:
        longer = postings.docs(field, beginning(word)) if len(word) in SHORT else postings.beginning(field, word)
        yield WordHits(word, field, Match.PREFIX, longer - exact)


def _read(session: Session, kinds: Iterable[Kind], terms: Iterable[str]) -> Postings:
    return Postings(repository.postings(session, [TermRange.exactly(kind, term) for term in terms for kind in kinds]))
