"""Merging: changes become part of the bitmaps, and nothing that a search can see changes by it.

Writers append rows of their own and so never wait for each other, however popular a tag is; the price is that
searches read those rows one by one. One merger at a time pays it off, as Postgres does with the pending list of a
GIN index.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from pyroaring import BitMap
from sqlalchemy.orm import Session

from apphub_assets.search import repository
from apphub_assets.search.corrections import spelled_part
from apphub_assets.search.models import Change
from apphub_assets.search.spec import Kind
from apphub_assets.search.spelling import spellings
from apphub_assets.search.words import Term

# About 20 registrations; a search reads what its own terms have of it, some hundred rows at most.
WORTHWHILE = 5_000
MOST = 100_000


def merge(session: Session, at_least: int = WORTHWHILE) -> int:
    """Merge the oldest changes if there are `at_least` so many and nobody else is at it; returns how many it merged.

    Use a transaction of its own, soon committed. Waits for nobody and holds up nobody.
    """
    if not repository.has_changes(session, at_least) or not repository.try_merge_lock(session):
        return 0
    changes = repository.take_changes(session, MOST)
    by_term: dict[Term, list[Change]] = defaultdict(list)
    for change in changes:
        by_term[Kind(change.kind), change.term].append(change)
    _write(session, by_term)
    repository.name_merge(session)
    return len(changes)


def _write(session: Session, changes: dict[Term, list[Change]]) -> None:
    merged = repository.merged_terms(session, changes)
    docs = {term: _changed(merged[term].docs if term in merged else None, made) for term, made in changes.items()}
    labels = {term: merged[term].label for term in merged} | {
        term: change.label for term, made in changes.items() for change in made if change.label
    }
    used = [term for term, bitmap in docs.items() if bitmap]
    repository.write_terms(session, [term_row(term, docs[term], labels.get(term)) for term in used])
    repository.write_spellings(session, spelling_rows(term for term in used if term not in merged))
    repository.delete_terms(session, [term for term in merged if not docs[term]])


def _changed(docs: bytes | None, changes: list[Change]) -> BitMap:
    bitmap = BitMap.deserialize(docs) if docs else BitMap()
    for change in changes:
        bitmap.add(change.doc_id) if change.present else bitmap.discard(change.doc_id)
    return bitmap


def term_row(term: Term, docs: BitMap, label: str | None) -> dict[str, Any]:
    """The row of a term that exactly `docs` have."""
    docs.run_optimize()
    return {"kind": term[0], "term": term[1], "label": label, "uses": len(docs), "docs": docs.serialize()}


def spelling_rows(terms: Iterable[Term]) -> list[dict[str, Any]]:
    """The rows of those terms that something may be corrected to."""
    forms = {term: spellings(spelled_part(*term)) for term in terms}
    return [{"kind": kind, "term": term, "forms": sorted(found)} for (kind, term), found in forms.items() if found]
