"""Statements that people keep for `/sql/read`; everybody who may read by SQL sees and changes them."""

import re
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from apphub_assets.errors import InvalidInput
from apphub_assets.kit.view import Instant, View
from apphub_assets.timestore.errors import SavedQueryNotFound, SqlTooLong
from apphub_assets.timestore.models import SavedQuery
from apphub_assets.timestore.sql.guard import MAX_LENGTH

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,119}")
MAX_LABEL = 160


class SavedQueryView(View):
    id: str
    statement: str
    label: str | None
    stats: dict[str, Any] | None
    created_by: str | None
    created_at: Instant
    updated_at: Instant


def list_all(session: Session) -> list[SavedQueryView]:
    """Newest change first."""
    rows = session.scalars(select(SavedQuery).order_by(SavedQuery.updated_at.desc(), SavedQuery.id))
    return [SavedQueryView.model_validate(row) for row in rows]


def get(session: Session, query_id: str) -> SavedQueryView:
    """Raises SavedQueryNotFound."""
    row = session.get(SavedQuery, query_id)
    if row is None:
        raise _missing(query_id)
    return SavedQueryView.model_validate(row)


def put(
    session: Session, query_id: str, statement: str, label: str | None, stats: dict[str, Any] | None, by: str
) -> SavedQueryView:
    """Keep a statement under an id, in place of the one that was there. `stats` are those of its last run.

    Raises:
        InvalidInput: id, statement or label can't be one.
        SqlTooLong: it could never be read.
    """
    _check(query_id, statement, label)
    kept = {"statement": statement, "label": label, "stats": stats}
    upsert = (
        insert(SavedQuery)
        .values(id=query_id, created_by=by, **kept)
        .on_conflict_do_update(index_elements=[SavedQuery.id], set_={**kept, "updated_at": func.clock_timestamp()})
        .returning(SavedQuery)
    )
    return SavedQueryView.model_validate(session.scalars(upsert, execution_options={"populate_existing": True}).one())


def remove(session: Session, query_id: str) -> None:
    """Raises SavedQueryNotFound."""
    if session.scalar(delete(SavedQuery).where(SavedQuery.id == query_id).returning(SavedQuery.id)) is None:
        raise _missing(query_id)


def _check(query_id: str, statement: str, label: str | None) -> None:
    if not ID.fullmatch(query_id):
        raise InvalidInput(f"id {query_id[:130]!r}: use 1 to 120 of letters, digits, '.', '_', ':' and '-'")
    if len(statement) > MAX_LENGTH:
        raise SqlTooLong(f"the statement has {len(statement)} characters, at most {MAX_LENGTH} are read")
    if not statement.strip() or "\0" in statement:
        raise _invalid("/statement", f"statement {statement[:80]!r}: give SQL")
    if label is not None and (len(label) > MAX_LABEL or not label.isprintable()):
        raise _invalid("/label", f"label {label[:80]!r}: give at most {MAX_LABEL} printable characters")


def _invalid(pointer: str, message: str) -> InvalidInput:
    return InvalidInput(message, pointers=[(pointer, message)])


def _missing(query_id: str) -> SavedQueryNotFound:
    return SavedQueryNotFound(f"Saved query {query_id[:120]} not found; GET /sql/saved lists those that exist")
