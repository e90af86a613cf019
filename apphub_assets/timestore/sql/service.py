"""Read by SQL: answer a statement over the caller's datasets, and tell what there is to read."""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from apphub_assets.identity.spec import Identity, Scope
from apphub_assets.kit.db import Database
from apphub_assets.kit.ids import new_id
from apphub_assets.kit.view import Instant, View
from apphub_assets.timestore import repository
from apphub_assets.timestore.access import may_read
from apphub_assets.timestore.errors import InvalidSql, SqlTooLong
from apphub_assets.timestore.models import Access
from apphub_assets.timestore.spec import DatasetInfo, Field, quote
from apphub_assets.timestore.sql.guard import MAX_LENGTH
from apphub_assets.timestore.sql.processes import Answer, Question, SqlProcesses

READ = "sql.read"
NOTED_LENGTH = 500

Json = dict[str, Any]


@dataclass(frozen=True)
class Statement:
    """What was asked: parameters by position or by name, and the form of the answer: json, csv or table."""

    sql: str
    params: list[Any] | Json
    form: str


@dataclass(frozen=True)
class Reading:
    execution_id: str
    answer: Answer
    warnings: list[str]
    elapsed_ms: int


class ColumnView(View):
    name: str
    type: str
    nullable: bool
    description: str | None


class TableView(View):
    name: str
    description: str | None
    partition_keys: list[str]
    columns: list[ColumnView]


class SchemaView(View):
    fetched_at: Instant
    tables: list[TableView]
    warnings: list[str]


def read(database: Database, processes: SqlProcesses, identity: Identity, statement: Statement) -> Reading:
    """Answer a statement, and note who read what.

    Raises:
        SqlTooLong, InvalidSql, SqlNotAllowed, SqlUnknownDataset: it is not one that may be asked, or fails.
        QueryTooLong, QueryTooBig, SqlBusy, SqlProcessFailed: it needs too much, or too many are asked at once.
        LakeUnavailable, StorageMoved: the lake can't be read.
    """
    started = time.monotonic()
    _check(statement)
    with database.reading() as session:
        visible = {
            each.slug: each for each in repository.find_named(session, statement.sql) if may_read(identity, each)
        }
    tables = {slug: _select(dataset) for slug, dataset in visible.items()}
    answer = processes.run(Question(statement.sql, statement.params, statement.form, tables))
    reading = Reading(
        execution_id=new_id(),
        answer=answer,
        warnings=_warnings(identity) + answer.warnings,
        elapsed_ms=round((time.monotonic() - started) * 1000),
    )
    used: list[DatasetInfo | None] = [visible[slug] for slug in answer.datasets]
    with database.transaction() as session:
        session.add_all(_access(identity, dataset, statement, reading) for dataset in used or [None])
    return reading


def schema(session: Session, identity: Identity) -> SchemaView:
    """The caller's datasets as tables. The timestamp is never null; a dataset without a schema has no columns yet."""
    said = repository.descriptions(session)
    visible = [dataset for dataset in repository.list_datasets(session) if may_read(identity, dataset)]
    return SchemaView(
        fetched_at=datetime.now(UTC),
        tables=[_table(dataset, said.get(dataset.id)) for dataset in visible],
        warnings=_warnings(identity),
    )


def _check(statement: Statement) -> None:
    sql = statement.sql
    if len(sql) > MAX_LENGTH:
        raise SqlTooLong(
            f"the statement has {len(sql)} characters, at most {MAX_LENGTH} are read; put values into params"
        )
    if "\0" in sql:
        raise _invalid("/sql", "the statement has a NUL character")
    try:
        json.dumps(statement.params, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        raise _invalid("/params", "a parameter is no text, or nested too deeply") from None


def _invalid(pointer: str, message: str) -> InvalidSql:
    return InvalidSql(message, pointers=[(pointer, message)])


def _select(dataset: DatasetInfo) -> str:
    """What a dataset's name stands for; columns by name, for the table may have more by the time it is read.

    Without a schema there is no table yet: then it has its timestamp alone, and no row.
    """
    if not dataset.schema.fields:
        return f"SELECT NULL::TIMESTAMP AS {quote(dataset.timestamp_column)} WHERE false"
    columns = ", ".join(quote(field.name) for field in dataset.schema.fields)
    return f"SELECT {columns} FROM {dataset.relation}"


def _table(dataset: DatasetInfo, description: str | None) -> TableView:
    return TableView(
        name=dataset.slug,
        description=description,
        partition_keys=[field.name for field in dataset.schema.fields if _is_key(dataset, field)],
        columns=[
            ColumnView(
                name=field.name,
                type=field.sql_type,
                nullable=field.name != dataset.timestamp_column,
                description="partition key" if _is_key(dataset, field) else None,
            )
            for field in dataset.schema.fields
        ],
    )


def _is_key(dataset: DatasetInfo, field: Field) -> bool:
    return field.is_key or field.name in dataset.partition_keys


def _warnings(identity: Identity) -> list[str]:
    if identity.may(Scope.TIMESTORE_READ):
        return []
    return [f"{identity.subject} lacks the scope timestore:read, and so may read no dataset"]


def _access(identity: Identity, dataset: DatasetInfo | None, statement: Statement, reading: Reading) -> Access:
    return Access(
        dataset_id=dataset and dataset.id,
        dataset_slug=dataset.slug if dataset else "",
        actor_id=identity.subject,
        actor_scopes=sorted(identity.scopes),
        action=READ,
        success=True,
        details={
            "sql": statement.sql[:NOTED_LENGTH],
            "executionId": reading.execution_id,
            "rowCount": reading.answer.row_count,
            "elapsedMs": reading.elapsed_ms,
        },
    )
