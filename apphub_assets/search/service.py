"""Search: keep documents up to date, find them, complete what is being typed."""

from sqlalchemy.orm import Session

from apphub_assets.search import facets, matching, merging, paging, repository, suggesting
from apphub_assets.search.spec import Document, SearchPage, SearchQuery
from apphub_assets.search.words import pair_term, terms_of

merge = merging.merge
suggest = suggesting.suggest


def put_document(session: Session, document: Document) -> None:
    """Make a repository findable as it is now, from the commit of this transaction on.

    Writes rows of this document only and so waits for no other; call `merge` after the commit, from work that
    nobody waits for.
    """
    doc_id = repository.save_document(session, document)
    old = repository.terms_of(session, doc_id)
    new = terms_of(document, lambda words: repository.stems(session, words))
    if new != old:
        repository.save_terms(session, doc_id, new)
        repository.append_changes(session, doc_id, new - old, present=True, labels=_labels(document))
        repository.append_changes(session, doc_id, old - new, present=False, labels={})


def remove_document(session: Session, repository_id: str) -> None:
    """Make a repository unfindable; one that is not known is left alone."""
    doc_id = repository.lock_document(session, repository_id)
    if doc_id is not None:
        terms = repository.terms_of(session, doc_id)
        repository.append_changes(session, doc_id, terms, present=False, labels={})
        repository.delete_document(session, doc_id)


def add_popularity(session: Session, repository_id: str, launches: int = 1) -> None:
    """Count launches of a repository."""
    repository.add_popularity(session, repository_id, launches)


def search(session: Session, query: SearchQuery) -> SearchPage:
    """A page of what was found, with exact counts over all of it.

    Raises:
        InvalidCursor: the query's cursor belongs to another search.
    """
    found = matching.find(session, query)
    hits, next_cursor = paging.page(session, query, found)
    return SearchPage(
        hits=hits,
        facets=facets.count(session, found),
        total=len(found.documents),
        next_cursor=next_cursor,
        tokens=found.words,
        sort=query.sort,
        weights=query.weights,
        corrections=found.corrections,
    )


def _labels(document: Document) -> dict[str, str]:
    """How pairs are written, where that is not how they are compared."""
    written = {pair_term(key, value): f"{key}:{value}" for key, value in document.pairs}
    return {term: label for term, label in written.items() if label != term}
