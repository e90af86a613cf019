"""/sql: read datasets by SQL, and keep statements (contract C.1)."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import ConfigDict, Field

from apphub_api.deps import Caller, Db, Platform, ReadDb, requires
from apphub_assets.identity.spec import Scope
from apphub_assets.kit.view import View
from apphub_assets.timestore.errors import SqlExecNotOffered, SqlFormatUnknown
from apphub_assets.timestore.sql import saved
from apphub_assets.timestore.sql import service as sql_service
from apphub_assets.timestore.sql.saved import SavedQueryView
from apphub_assets.timestore.sql.service import Reading, SchemaView, Statement

router = APIRouter(tags=["sql"])

MEDIA_TYPES = {"json": "application/json", "csv": "text/csv; charset=utf-8", "table": "text/plain; charset=utf-8"}
# Stands where the rows go: they are JSON already, and may be many.
ROWS = b'"rows":[]'


class ReadBody(View):
    """`params` are values for `?` and `$1`, or an object for `$name`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"sql": 'SELECT site, avg(value) FROM "my-dataset" WHERE ts > ? GROUP BY 1', "params": ["2026-01-01"]}
            ]
        }
    )

    sql: str
    params: list[Any] | dict[str, Any] = Field([])


class ResultColumn(View):
    name: str
    type: str


class Statistics(View):
    row_count: int
    elapsed_ms: int


class ReadAnswer(View):
    execution_id: str
    columns: list[ResultColumn]
    rows: list[dict[str, Any]]
    truncated: bool
    warnings: list[str]
    statistics: Statistics


class SavedBody(View):
    statement: str
    label: str | None = None
    stats: Statistics | None = None


class SavedAnswer(View):
    saved_query: SavedQueryView


class SavedListAnswer(View):
    saved_queries: list[SavedQueryView]


@router.post("/sql/read", dependencies=[requires(Scope.TIMESTORE_SQL_READ)], response_model=ReadAnswer)
def read_sql(
    body: ReadBody, caller: Caller, platform: Platform, form: Annotated[str, Query(alias="format")] = "json"
) -> Response:
    """One SELECT over the datasets that you may read, named by their slugs; as JSON, CSV or a table for people."""
    if form not in MEDIA_TYPES:
        raise SqlFormatUnknown(f"format {form[:40]!r}: use {', '.join(MEDIA_TYPES)}")
    reading = sql_service.read(platform.database, platform.sql, caller, Statement(body.sql, body.params, form))
    content = _document(reading) if form == "json" else reading.answer.body
    headers = {"X-Execution-Id": reading.execution_id, "X-Truncated": str(reading.answer.truncated).lower()}
    return Response(content, headers=headers, media_type=MEDIA_TYPES[form])


@router.get("/sql/schema", dependencies=[requires(Scope.TIMESTORE_SQL_READ)])
def show_sql_schema(caller: Caller, db: ReadDb, platform: Platform) -> SchemaView:
    """The datasets that you may read, as tables with their columns."""
    platform.sql.warm()  # who looks will soon ask
    return sql_service.schema(db, caller)


@router.post("/sql/exec", dependencies=[requires(Scope.TIMESTORE_SQL_READ)], include_in_schema=False)
@router.post("/sql/admin/clickhouse", dependencies=[requires(Scope.TIMESTORE_SQL_READ)], include_in_schema=False)
def refuse_sql() -> None:
    """What the first AppHub had: SQL that changes things behind its back."""
    raise SqlExecNotOffered(
        "SQL that writes, or that runs on the database itself, is not offered;"
        " read by POST /sql/read, and change by the REST API: POST /datasets/{slug}/ingest, /admin/datasets"
    )


@router.get("/sql/saved", dependencies=[requires(Scope.TIMESTORE_SQL_READ)])
def list_saved_queries(db: ReadDb) -> SavedListAnswer:
    """Kept statements, the last changed first."""
    return SavedListAnswer(saved_queries=saved.list_all(db))


@router.get("/sql/saved/{query_id}", dependencies=[requires(Scope.TIMESTORE_SQL_READ)])
def show_saved_query(query_id: str, db: ReadDb) -> SavedAnswer:
    """One kept statement."""
    return SavedAnswer(saved_query=saved.get(db, query_id))


@router.put("/sql/saved/{query_id}", dependencies=[requires(Scope.TIMESTORE_SQL_READ)])
def save_query(query_id: str, body: SavedBody, caller: Caller, db: Db) -> SavedAnswer:
    """Keep a statement under an id of your choice, in place of the one that was there."""
    stats = body.stats.to_json() if body.stats else None
    return SavedAnswer(saved_query=saved.put(db, query_id, body.statement, body.label, stats, caller.subject))


@router.delete("/sql/saved/{query_id}", status_code=204, dependencies=[requires(Scope.TIMESTORE_SQL_READ)])
def delete_saved_query(query_id: str, db: Db) -> None:
    """Forget a kept statement."""
    saved.remove(db, query_id)


def _document(reading: Reading) -> bytes:
    answer = reading.answer
    document = orjson.dumps(
        {
            "executionId": reading.execution_id,
            "rows": [],
            "columns": answer.columns,
            "truncated": answer.truncated,
            "warnings": reading.warnings,
            "statistics": {"rowCount": answer.row_count, "elapsedMs": reading.elapsed_ms},
        }
    )
    return document.replace(ROWS, b'"rows":' + answer.body, 1)
