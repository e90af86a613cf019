"""Every SQL statement of search."""

import sys
from array import array
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from pyroaring import BitMap
from sqlalchemy import (
    Integer,
    Text,
    any_,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import InstrumentedAttribute, Session

from apphub_assets.kit.ids import new_id
from apphub_assets.search.models import Change, Content, Merge, SearchDocument, Spelling, TermRow
from apphub_assets.search.postings import PostingRow, TermRange
from apphub_assets.search.spec import DateField, DateRange, Document, Kind, Sort
from apphub_assets.search.spelling import MOST_TYPOS, spellings
from apphub_assets.search.words import Term, fold, pair_term

MERGE_LOCK = 7_204_117_002
# Up to so many documents it is cheaper to fetch them than to walk an index past others.
FEW = 3000
# A broad result shows a page within so many rows of the order; if it does not, the whole order is read.
WINDOW = 2000

SORT_COLUMNS: dict[Sort, InstrumentedAttribute[Any]] = {
    Sort.RELEVANCE: SearchDocument.updated_at,
    Sort.UPDATED: SearchDocument.updated_at,
    Sort.NAME: SearchDocument.name_key,
    Sort.POPULARITY: SearchDocument.popularity,
}
DATE_COLUMNS: dict[DateField, InstrumentedAttribute[Any]] = {
    DateField.CREATED: SearchDocument.created_at,
    DateField.UPDATED: SearchDocument.updated_at,
    DateField.INGESTED: SearchDocument.ingested_at,
}

# One statement, one snapshot: a merge moves changes into bitmaps, and a search must see each once. OFFSET 0 keeps the
# planner from joining the other way round, past every term there is: it can't know how short the ranges are.
READ_POSTINGS = text(
    """
    WITH wanted AS (
        SELECT * FROM unnest(CAST(:kinds AS text[]), CAST(:lows AS text[]), CAST(:highs AS text[])) w (kind, low, high)
    )
    SELECT t.kind, t.term, t.docs, NULL, NULL, NULL FROM wanted w CROSS JOIN LATERAL (
        SELECT * FROM search.terms WHERE kind = w.kind AND term BETWEEN w.low AND w.high OFFSET 0
    ) t
    UNION ALL
    SELECT c.kind, c.term, NULL, c.id, c.doc_id, c.present FROM wanted w CROSS JOIN LATERAL (
        SELECT * FROM search.changes WHERE kind = w.kind AND term BETWEEN w.low AND w.high OFFSET 0
    ) c
    """
)

# Merged uses and what came since: the same number before and after a merge.
USAGE = """
    SELECT term, coalesce(max(label), term) AS label, CAST(sum(uses) AS int) AS uses FROM (
        SELECT term, label, uses FROM search.terms WHERE kind = :kind AND term BETWEEN :low AND :high
        UNION ALL
        SELECT term, label, CASE WHEN present THEN 1 ELSE -1 END
        FROM search.changes WHERE kind = :kind AND term BETWEEN :low AND :high
    ) known GROUP BY term HAVING sum(uses) > 0
"""
BY_USE = "ORDER BY sum(uses) DESC, term LIMIT :limit"
MOST_USED = text(f"{USAGE} {BY_USE}")
# The value of a pair: both tables are asked for it as their index has it.
VALUE = "substr(term, strpos(term, ':') + 1)"
# Pairs of keys that begin so with values that begin so; pairs of which either begins so.
OF_BOTH = f"term BETWEEN :low AND :high AND {VALUE} BETWEEN :first AND :last"
OF_EITHER = f"(term BETWEEN :low AND :high OR {VALUE} BETWEEN :first AND :last)"
PAIRS = """
    SELECT term, coalesce(max(label), term) AS label, CAST(sum(uses) AS int) AS uses FROM (
        SELECT term, label, uses FROM search.terms WHERE kind = 'pair' AND {those}
        UNION ALL
        SELECT term, label, CASE WHEN present THEN 1 ELSE -1 END FROM search.changes WHERE kind = 'pair' AND {those}
    ) known GROUP BY term HAVING sum(uses) > 0
"""
PAIRS_OF_BOTH = text(f"{PAIRS.format(those=OF_BOTH)} {BY_USE}")
PAIRS_OF_EITHER = text(f"{PAIRS.format(those=OF_EITHER)} {BY_USE}")
# The pairs of a few documents: of those that begin with each prefix the most frequent, as many as wanted.
PAIR_COUNTS = text(
    """
    WITH counted AS MATERIALIZED (
        SELECT pair COLLATE "C" AS pair, count(*) AS uses
        FROM (SELECT unnest(pairs) AS pair FROM search.documents WHERE doc_id = ANY (CAST(:docs AS int[]))) pairs
        GROUP BY 1
    )
    SELECT DISTINCT top.pair, top.uses
    FROM unnest(CAST(:prefixes AS text[]), CAST(:wanted AS int[])) each (prefix, wanted)
    CROSS JOIN LATERAL (
        SELECT * FROM counted WHERE starts_with(pair, prefix) ORDER BY uses DESC, pair LIMIT each.wanted
    ) top
    """
)
# One row at least, for the merge that it belongs to.
PAIR_CHANGES = text(
    """
    SELECT merges.name, c.term, c.label, c.doc_id, c.present
    FROM search.merges LEFT JOIN search.changes c ON c.kind = 'pair' ORDER BY c.id
    """
)
MERGED_PAIRS = text(
    """
    SELECT merges.name, t.term, t.label, t.uses, t.docs
    FROM search.merges LEFT JOIN search.terms t ON t.kind = 'pair'
    """
)
# OFFSET 0 and two needless SELECTs: the planner, seeing the forms or a join, would read every term rather than trust
# the index to find few.
SPELLED_LIKE = text(
    """
    WITH wanted AS (
        SELECT * FROM unnest(
            CAST(:kinds AS text[]), CAST(:lows AS text[]), CAST(:highs AS text[]), CAST(:lengths AS int[])
        ) w (kind, low, high, length)
    )
    SELECT kind, term, CAST(sum(uses) AS int) FROM (
        SELECT s.kind, s.term, (SELECT t.uses FROM search.terms t WHERE t.kind = s.kind AND t.term = s.term) AS uses
        FROM (SELECT * FROM search.spellings WHERE forms && (SELECT CAST(:forms AS text[])) OFFSET 0) s
        JOIN wanted w ON s.kind = w.kind AND s.term BETWEEN w.low AND w.high
        UNION ALL
        SELECT c.kind, c.term, CASE WHEN c.present THEN 1 ELSE -1 END
        FROM wanted w CROSS JOIN LATERAL (
            SELECT * FROM search.changes WHERE kind = w.kind AND term BETWEEN w.low AND w.high
            AND length(term) BETWEEN w.length - :typos AND w.length + :typos OFFSET 0
        ) c
    ) known GROUP BY kind, term HAVING sum(uses) > 0
    """
)
STEMS = text(
    """
    SELECT word, stem[1] FROM (
        SELECT word, ts_lexize('english_stem', word) AS stem FROM unnest(CAST(:words AS text[])) word
    ) stemmed WHERE stem <> '{}'
    """
)


class Usage(NamedTuple):
    """A term, how people write it, and how many documents have it."""

    term: str
    label: str
    uses: int


class Place(NamedTuple):
    """Where a document stands in an order."""

    doc_id: int
    repository_id: str
    value: Any


# Writing


def save_document(session: Session, document: Document) -> int:
    """Insert or update the row, locking it against other writers of this document; returns its doc_id."""
    values = {
        "name_key": fold(document.name),
        "pairs": sorted({pair_term(key, value) for key, value in document.pairs}),
        "created_at": document.created_at,
        "updated_at": document.updated_at,
        "ingested_at": document.ingested_at,
    }
    statement = upsert(SearchDocument).values(repository_id=document.repository_id, **values)
    return session.execute(
        statement.on_conflict_do_update(index_elements=["repository_id"], set_=values).returning(SearchDocument.doc_id)
    ).scalar_one()


def lock_document(session: Session, repository_id: str) -> int | None:
    """The doc_id of a repository, locked against other writers, or None."""
    return session.scalar(
        select(SearchDocument.doc_id).where(SearchDocument.repository_id == repository_id).with_for_update()
    )


def delete_document(session: Session, doc_id: int) -> None:
    session.execute(delete(SearchDocument).where(SearchDocument.doc_id == doc_id))


def terms_of(session: Session, doc_id: int) -> set[Term]:
    terms = session.scalar(select(Content.terms).where(Content.doc_id == doc_id)) or []
    return {(Kind(kind), term) for kind, _, term in (entry.partition(" ") for entry in terms)}


def save_terms(session: Session, doc_id: int, terms: Iterable[Term]) -> None:
    values = {"terms": [f"{kind} {term}" for kind, term in sorted(terms)]}
    statement = upsert(Content).values(doc_id=doc_id, **values)
    session.execute(statement.on_conflict_do_update(index_elements=["doc_id"], set_=values))


def append_changes(
    session: Session, doc_id: int, terms: Collection[Term], present: bool, labels: dict[str, str]
) -> None:
    """Note that the document won or lost these terms. `labels` says how pairs are written."""
    if terms:
        session.execute(
            insert(Change),
            [
                {"kind": kind, "term": term, "doc_id": doc_id, "present": present, "label": labels.get(term)}
                for kind, term in sorted(terms)
            ],
        )


def add_popularity(session: Session, repository_id: str, launches: int) -> None:
    session.execute(
        update(SearchDocument)
        .where(SearchDocument.repository_id == repository_id)
        .values(popularity=SearchDocument.popularity + launches)
    )


# Merging


def try_merge_lock(session: Session) -> bool:
    """Become the only merger until this transaction ends; False when there is one already."""
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(MERGE_LOCK))))


def has_changes(session: Session, at_least: int) -> bool:
    return session.scalar(select(Change.id).offset(at_least - 1).limit(1)) is not None


def take_changes(session: Session, most: int) -> Sequence[Change]:
    """Remove the oldest committed changes and return them, oldest first."""
    oldest = select(Change.id).order_by(Change.id).limit(most).scalar_subquery()
    taken = session.scalars(delete(Change).where(Change.id.in_(oldest)).returning(Change))
    return sorted(taken, key=lambda change: change.id)


def merged_terms(session: Session, terms: Collection[Term]) -> dict[Term, TermRow]:
    """Those of the terms that have been merged before."""
    kinds, names = literal([kind for kind, _ in terms], ARRAY(Text)), literal([term for _, term in terms], ARRAY(Text))
    wanted = func.unnest(kinds, names).table_valued("kind", "term").render_derived()
    rows = session.scalars(
        select(TermRow).join(wanted, (TermRow.kind == wanted.c.kind) & (TermRow.term == wanted.c.term))
    )
    return {(Kind(row.kind), row.term): row for row in rows}


def write_terms(session: Session, rows: list[dict[str, Any]]) -> None:
    if rows:
        statement = upsert(TermRow)
        new = {name: statement.excluded[name] for name in ("label", "uses", "docs")}
        session.execute(statement.on_conflict_do_update(index_elements=["kind", "term"], set_=new), rows)


def name_merge(session: Session) -> None:
    session.execute(update(Merge).values(name=new_id()))


def write_spellings(session: Session, rows: list[dict[str, Any]]) -> None:
    if rows:
        session.execute(insert(Spelling), rows)


def delete_terms(session: Session, terms: list[Term]) -> None:
    """Delete terms that no document has any more, and their spellings."""
    if terms:
        for table in (TermRow, Spelling):
            session.execute(delete(table).where(tuple_(table.kind, table.term).in_(terms)))


# Reading


def stems(session: Session, words: Iterable[str]) -> dict[str, str]:
    """English stems of words; words that say nothing ("the", "of") are left out."""
    return dict(session.execute(STEMS, {"words": list(words)}).all())


def postings(session: Session, ranges: Iterable[TermRange]) -> list[PostingRow]:
    wanted = list(dict.fromkeys(ranges))
    rows = session.execute(
        READ_POSTINGS,
        {
            "kinds": [each.kind for each in wanted],
            "lows": [each.low for each in wanted],
            "highs": [each.high for each in wanted],
        },
    )
    return list(map(PostingRow._make, rows.all()))


def in_range(session: Session, dates: DateRange) -> BitMap:
    """Documents with a date in the range."""
    column = DATE_COLUMNS[dates.field]
    statement = select(func.array_send(func.array_agg(SearchDocument.doc_id))).where(column.is_not(None))
    if dates.start is not None:
        statement = statement.where(column >= dates.start)
    if dates.end is not None:
        statement = statement.where(column < dates.end)
    return BitMap(_unpacked(session.scalar(statement) or b""))


def first(session: Session, sort: Sort, docs: BitMap, after: tuple[Any, int] | None, count: int) -> list[int]:
    """The first `count` of `docs` in the order of `sort`, behind the place `after` (sort value, doc_id)."""
    statement = _ordered(sort, after)
    if len(docs) <= FEW:
        return list(session.scalars(statement.where(_among(docs)).limit(count)))
    for window in (WINDOW, None):
        rows = statement.limit(window).subquery()
        # The aggregate reads the ordered subquery as it comes; an array is ten times cheaper than rows.
        ordered = session.scalar(select(func.array_agg(rows.c.doc_id))) or []
        found = [doc for doc in ordered if doc in docs][:count]
        if len(found) == count:
            break
    return found


def places(session: Session, sort: Sort, docs: Iterable[int]) -> list[Place]:
    """Where documents stand, in the order of `sort`."""
    column, doc_id = SORT_COLUMNS[sort], SearchDocument.doc_id
    statement = _ordered(sort, None).with_only_columns(doc_id, SearchDocument.repository_id, column)
    return [Place(*row) for row in session.execute(statement.where(_among(docs)))]


def pair_counts(session: Session, docs: BitMap, wanted: Iterable[tuple[str, int]]) -> dict[str, int]:
    """How many of `docs` have the pairs that are most frequent there; `wanted` says (prefix, how many pairs)."""
    prefixes, numbers = zip(*wanted, strict=True)
    values = {"docs": _array(docs), "prefixes": list(prefixes), "wanted": list(numbers)}
    return dict(session.execute(PAIR_COUNTS, values).all())


def most_used(session: Session, terms: TermRange, limit: int) -> list[Usage]:
    """Terms in the range, most used first."""
    return _usage(session, MOST_USED, terms, {"limit": limit})


def pairs_beginning(session: Session, key: str, value: str, limit: int) -> list[Usage]:
    """Pairs of keys that begin with `key` and values that begin with `value`, most used first."""
    return _pairs(session, PAIRS_OF_BOTH, key, value, limit)


def pairs_of_either(session: Session, typed: str, limit: int) -> list[Usage]:
    """Pairs of which key or value begins with what was typed, most used first."""
    return _pairs(session, PAIRS_OF_EITHER, typed, typed, limit)


def pair_changes(session: Session) -> tuple[str, list[tuple[Any, ...]]]:
    """The newest merge, and (term, label, doc_id, present) of the changes to pairs since then, oldest first."""
    return _of_merge(session, PAIR_CHANGES)


def merged_pairs(session: Session) -> tuple[str, list[tuple[Any, ...]]]:
    """The newest merge, and (term, label, uses, docs) of the pairs it left."""
    return _of_merge(session, MERGED_PAIRS)


def spelled_like(session: Session, ranges: Iterable[TermRange], word: str) -> list[tuple[str, str, int]]:
    """(kind, term, uses) of terms in the ranges that may be the word misspelt: of unmerged ones those of its length."""
    wanted = list(ranges)
    rows = session.execute(
        SPELLED_LIKE,
        {
            "kinds": [each.kind for each in wanted],
            "lows": [each.low for each in wanted],
            "highs": [each.high for each in wanted],
            "lengths": [len(each.low) + len(word) for each in wanted],
            "typos": MOST_TYPOS,
            "forms": sorted(spellings(word)),
        },
    )
    return [(kind, term, uses) for kind, term, uses in rows]


def _of_merge(session: Session, statement: Any) -> tuple[str, list[tuple[Any, ...]]]:
    rows = session.execute(statement).all()
    return rows[0][0], [tuple(row[1:]) for row in rows if row[1] is not None]


def _pairs(session: Session, statement: Any, key: str, value: str, limit: int) -> list[Usage]:
    keys, values = TermRange.beginning(Kind.PAIR, key), TermRange.beginning(Kind.PAIR, value)
    bounds = {"low": keys.low, "high": keys.high, "first": values.low, "last": values.high}
    return list(map(Usage._make, session.execute(statement, bounds | {"limit": limit})))


def _usage(session: Session, statement: Any, terms: TermRange, values: dict[str, Any]) -> list[Usage]:
    rows = session.execute(statement, {"kind": terms.kind, "low": terms.low, "high": terms.high, **values})
    return list(map(Usage._make, rows.all()))


def _ordered(sort: Sort, after: tuple[Any, int] | None) -> Any:
    column, doc_id = SORT_COLUMNS[sort], SearchDocument.doc_id
    ascending = sort is Sort.NAME
    statement = select(doc_id)
    if after is not None:
        place, start = tuple_(column, doc_id), tuple_(*after)
        statement = statement.where(place > start if ascending else place < start)
    return statement.order_by(*((column, doc_id) if ascending else (column.desc(), doc_id.desc())))


def _among(docs: Iterable[int]) -> Any:
    return SearchDocument.doc_id == any_(cast(literal(_array(docs), Text), ARRAY(Integer)))


def _unpacked(sent: bytes) -> "array[int]":
    """The numbers of Postgres's binary `int4[]`: a header of 20 bytes, then length and value of each, big endian.

    Half of all documents are read ten times faster this way than as a list.
    """
    numbers = array("I", sent[20:])
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers[1::2]


def _array(docs: Iterable[int]) -> str:
    """An array literal: one text is adapted several times faster than thousands of numbers."""
    return "{" + str(list(docs))[1:-1] + "}"
