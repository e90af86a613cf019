"""Use case: change a schema in ways that an ingest may not, in one commit of the lake, after a look at what it costs.

Renaming touches no file. Dropping hides a column from now on; snapshots from before still have it. Transforming
computes a column anew in another type, and rewrites the rows for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import duckdb

from apphub_assets.errors import AppHubError
from apphub_assets.kit.db import Database
from apphub_assets.timestore import repository, store
from apphub_assets.timestore.commits import committing_on
from apphub_assets.timestore.errors import DatasetNotFound, InvalidMigration, MigrationLosesValues
from apphub_assets.timestore.ingest.writing import Caller, note_access, note_schema, schema_version_id
from apphub_assets.timestore.lake import Connection, Lake, clean
from apphub_assets.timestore.spec import DatasetInfo, Field, Schema, is_name, quote
from apphub_assets.timestore.sql.guard import check, parse
from apphub_assets.timestore.upkeep.flushing import flush_on

SAMPLES = 5

Json = dict[str, Any]


@dataclass(frozen=True)
class Rename:
    """Call a column otherwise."""

    column: str
    to: str


@dataclass(frozen=True)
class Drop:
    """Take a column away."""

    column: str


@dataclass(frozen=True)
class Transform:
    """Give a column another type; `using` is an SQL expression over the dataset's columns, else the value itself."""

    column: str
    becomes: Field
    using: str | None = None

    @property
    def expression(self) -> str:
        return self.using or quote(self.column)


Step = Rename | Drop | Transform


@dataclass(frozen=True)
class Migration:
    """What the steps do, one entry each, and the schema that they lead to."""

    dataset: DatasetInfo
    result: Schema
    plan: list[Json]


def migrate(
    lake: Lake, database: Database, id_or_slug: str, steps: Sequence[Step], caller: Caller, *, dry_run: bool
) -> Migration:
    """Do the steps one after the other, all of them or none; a dry run only tells what they would do.

    Raises:
        DatasetNotFound: there is none.
        InvalidMigration: a step can't be done; the pointer names it.
        MigrationLosesValues: values do not fit the new type of their column; says how many, and some of them.
        LakeConflict, LakeUnavailable: not now; try again.
    """
    with database.reading() as session:
        dataset = repository.get_dataset(session, id_or_slug)
    if dataset is None:
        raise DatasetNotFound(id_or_slug)
    with lake.maintaining() as connection:
        migration = _planned(connection, dataset, steps)
        if dry_run:
            return migration
        lost = [step for step in migration.plan if step.get("unfit")]
        if lost:
            raise MigrationLosesValues(
                f"{lost[0]['unfit']} values of column {lost[0]['column']!r} are no {lost[0]['type']},"
                f" such as {lost[0]['samples'][0]!r}; transform them with an expression of your own",
                plan=migration.plan,
            )
        # A column that is gone would be missed by a flush of rows that still have it (duckdb/ducklake issue 704).
        flush_on(connection, database, dataset)
        _commit(connection, database, migration, steps, caller)
    return migration


def _planned(connection: Connection, dataset: DatasetInfo, steps: Sequence[Step]) -> Migration:
    schema, plan, untouched = dataset.schema, list[Json](), dataset
    for index, step in enumerate(steps):
        pointer = f"/steps/{index}"
        field = _migratable(dataset, schema, step.column, pointer)
        if isinstance(step, Rename):
            schema = _renamed(schema, field, step.to, pointer)
            plan.append({"action": "rename", "column": field.name, "to": step.to})
        elif isinstance(step, Drop):
            schema = Schema(tuple(each for each in schema.fields if each is not field))
            plan.append({"action": "drop", "column": field.name} | _held(connection, untouched, field))
        else:
            plan.append(_transformed(connection, untouched, step, pointer))
            changed = replace(step.becomes, name=field.name, is_key=field.is_key)
            schema = Schema(tuple(changed if each is field else each for each in schema.fields))
    if not schema.fields or not steps:
        raise _invalid("/steps", "there is nothing to do" if not steps else "no column would be left")
    return Migration(dataset, schema, plan)


def _migratable(dataset: DatasetInfo, schema: Schema, column: str, pointer: str) -> Field:
    field = schema.find(column)
    if field is None:
        raise _invalid(
            f"{pointer}/column", f"no column {column!r}; there are {', '.join(each.name for each in schema.fields)}"
        )
    if field.name in {dataset.timestamp_column, *dataset.partition_keys}:
        raise _invalid(
            f"{pointer}/column", f"column {field.name!r} places rows in files and can't be changed; make a new dataset"
        )
    return field


def _renamed(schema: Schema, field: Field, to: str, pointer: str) -> Schema:
    if not is_name(to) or (schema.find(to) not in {None, field}):
        raise _invalid(f"{pointer}/to", f"{to!r} can't be the name of a column, or is that of another")
    return Schema(tuple(replace(each, name=to) if each is field else each for each in schema.fields))


def _held(connection: Connection, dataset: DatasetInfo, field: Field) -> Json:
    """How many values a dropped column takes with it."""
    if dataset.schema.find(field.name) is None:
        return {}
    found = connection.execute(f"SELECT count({quote(field.name)}) FROM {dataset.relation}").fetchone()
    return {"values": found[0] if found else 0}


def _transformed(connection: Connection, dataset: DatasetInfo, step: Transform, pointer: str) -> Json:
    """What a transformation finds: how many values it changes, and how many it can't."""
    _check_expression(connection, dataset, step, pointer)
    cast = f"TRY_CAST(({step.expression}) AS {step.becomes.sql_type})"
    unfit = f"({step.expression}) IS NOT NULL AND {cast} IS NULL"
    try:
        rows, lost, samples = connection.execute(
            f"SELECT count(*), count(*) FILTER ({unfit}),"
            f" array_slice(list(DISTINCT CAST(({step.expression}) AS VARCHAR)) FILTER ({unfit}), 1, {SAMPLES})"
            f" FROM {dataset.relation} AS {quote(dataset.slug)}"
        ).fetchone() or (0, 0, None)
    except duckdb.Error as error:
        raise _invalid(f"{pointer}/using", f"the expression can't be computed: {clean(error)}") from error
    told: Json = {"action": "transform", "column": step.column, "type": step.becomes.type, "rows": rows}
    return told | ({"unfit": lost, "samples": samples} if lost else {})


def _check_expression(connection: Connection, dataset: DatasetInfo, step: Transform, pointer: str) -> None:
    """An expression may do what /sql/read may, on this dataset alone."""
    if step.using is None:
        return
    statement = f"SELECT ({step.using}) FROM {quote(dataset.slug)}"
    try:
        check(parse(connection, statement), {dataset.slug}, statement)
    except (AppHubError, duckdb.Error) as error:
        raise _invalid(f"{pointer}/using", f"no expression: {clean(error)}") from error


def _commit(
    connection: Connection, database: Database, migration: Migration, steps: Sequence[Step], caller: Caller
) -> None:
    old = migration.dataset
    dataset = replace(old, schema=migration.result, schema_version=old.schema_version + 1)
    with committing_on(connection, database, f"migrate {old.slug}") as commit:
        for step in steps:
            if isinstance(step, Rename):
                store.rename_column(connection, old, step.column, step.to)
            elif isinstance(step, Drop):
                store.drop_column(connection, old, step.column)
            else:
                store.transform_column(connection, old, step.column, step.becomes.sql_type, step.expression)
        note_schema(commit, dataset, {"status": "migrated", "steps": migration.plan}, caller)
        payload = {
            "datasetId": old.id,
            "datasetSlug": old.slug,
            "schemaVersionId": schema_version_id(old.id, dataset.schema_version),
            "steps": migration.plan,
        }
        commit.receipt.add_event(
            "timestore.schema.migrated", payload, source="timestore.api", correlation_id=caller.correlation_id
        )
        note_access(commit, old, caller, "admin.dataset.migrated", {"steps": migration.plan})


def _invalid(pointer: str, message: str) -> InvalidMigration:
    return InvalidMigration(message, pointers=[(pointer, message)])
