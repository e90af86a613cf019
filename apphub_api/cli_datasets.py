"""`apphub dataset …`: make datasets, look at them, change them, and look after their files."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import typer

from apphub_api.cli_client import Client
from apphub_api.cli_dataset_ingest import ingesting
from apphub_api.cli_dataset_query import querying
from apphub_api.cli_dataset_upkeep import upkeep
from apphub_api.cli_dataset_values import DatasetName, DryRun, Fields, Json, Yes, field_of, path_of
from apphub_api.cli_output import Format, Output, show

datasets = typer.Typer(no_args_is_help=True, help="Time-series datasets: make them, bring rows, ask, look after them.")
datasets.add_typer(ingesting)
datasets.add_typer(querying)
datasets.add_typer(upkeep)

COLUMNS = {
    "DATASET": "slug", "NAME": "name", "STATUS": "status", "SCHEMA": "schemaVersion", "TIME": "timestampColumn",
    "KEYS": "partitionKeys", "FILES BY": "granularity", "UPDATED": "updatedAt",
}  # fmt: skip
SNAPSHOT_COLUMNS = {
    "SNAPSHOT": "id", "WHEN": "createdAt", "BATCHES": "batches", "ROWS": "rows", "CHANGES": "changes",
    "MESSAGE": "message",
}  # fmt: skip
MANIFEST_COLUMNS = {
    "DAY": "manifestShard", "VERSION": "version", "BATCHES": "partitionCount", "ROWS": "totalRows",
    "BYTES": "totalBytes", "SCHEMA": "schemaVersion.version", "SNAPSHOT": "snapshotId", "UPDATED": "updatedAt",
}  # fmt: skip
AUDIT_COLUMNS = {"WHEN": "createdAt", "WHO": "actorId", "ACTION": "action", "OK": "success", "WHY NOT": "metadata.code"}
BATCH_COLUMNS = {
    "FROM": "startTime", "TO": "endTime", "ROWS": "rowCount", "BYTES": "fileSizeBytes", "KEY": "partitionKey",
    "RECEIVED": "createdAt", "BATCH": "id",
}  # fmt: skip
REMOVAL_COLUMNS = {
    "DATASET": "datasetSlug", "ROWS": "rows", "BATCHES": "batches", "FILES": "files", "BYTES": "bytes",
    "GONE FOR GOOD": "purgeAfter",
}  # fmt: skip

Limit = Annotated[int, typer.Option(min=1, help="Most entries.")]


@datasets.command("list")
def list_datasets(
    status: Annotated[
        Literal["active", "inactive", "deleted", "all"], typer.Option(help="inactive ones are archived.")
    ] = "active",
    search: Annotated[str | None, typer.Option(help="Part of slug, name or description.")] = None,
    limit: Limit = 100,
    output: Output = Format.TABLE,
) -> None:
    """List datasets, those changed last first."""
    found = _pages("/admin/datasets", "datasets", limit, 100, status=status, search=search)
    show(found, output, COLUMNS, "slug")


@datasets.command("show")
def show_dataset(slug: DatasetName, output: Output = Format.YAML) -> None:
    """Show all that is known of a dataset."""
    show(Client().get(path_of(slug))["dataset"], output, COLUMNS, "slug")


@datasets.command("create")
def create(
    slug: DatasetName,
    name: Annotated[str | None, typer.Option(help="Name to show; default: the slug.")] = None,
    fields: Fields = None,
    timestamp: Annotated[str | None, typer.Option(help="Column that places rows in time.")] = None,
    partition_key: Annotated[
        list[str] | None, typer.Option("--partition-key", "-k", help="Column whose values have files of their own.")
    ] = None,
    granularity: Annotated[
        Literal["hour", "day", "month"], typer.Option(help="How much time one file holds at most.")
    ] = "day",
    description: Annotated[str | None, typer.Option(help="What it is.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a dataset: `apphub dataset create weather -f timestamp:timestamp -f celsius:double -f site:string -k site`.

    Types are timestamp, string, double, integer, boolean, decimal(p,s), json, and lists as double[].
    """
    body: Json = {"slug": slug, "name": name or slug, "granularity": granularity, "partitionKeys": partition_key or []}
    body |= {"schema": {"fields": [field_of(each) for each in fields]}} if fields else {}
    body |= {"timestampColumn": timestamp} if timestamp else {}
    body |= {"description": description} if description else {}
    show(Client().post("/admin/datasets", body)["dataset"], output, COLUMNS, "slug")


@datasets.command("rename")
def rename(
    slug: DatasetName, new: Annotated[str, typer.Argument(metavar="NEW")], output: Output = Format.TABLE
) -> None:
    """Give a dataset another slug; its rows and its history stay."""
    show(Client().patch(path_of(slug), {"slug": new})["dataset"], output, COLUMNS, "slug")


@datasets.command("archive")
def archive(
    slug: DatasetName,
    reason: Annotated[str | None, typer.Option(help="Why, for the audit log.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Let a dataset take no more rows; it can still be read. `unarchive` undoes it."""
    body = {"reason": reason} if reason else {}
    show(Client().post(f"{path_of(slug)}/archive", body)["dataset"], output, COLUMNS, "slug")


@datasets.command("unarchive")
def unarchive(slug: DatasetName, output: Output = Format.TABLE) -> None:
    """Let an archived dataset take rows again."""
    show(Client().patch(path_of(slug), {"status": "active"})["dataset"], output, COLUMNS, "slug")


@datasets.command("delete")
def delete(slug: DatasetName, dry_run: DryRun = False, yes: Yes = False, output: Output = Format.TABLE) -> None:
    """Delete a dataset; until its grace is over, `restore` brings it back."""
    client = Client()
    planned = client.delete(path_of(slug), dryRun=True)
    if dry_run:
        show(planned, output, REMOVAL_COLUMNS, "datasetSlug")
        return
    if not yes:
        show(planned, Format.TABLE, REMOVAL_COLUMNS)
        typer.confirm(f"Delete {slug}?", abort=True)
    show(client.delete(path_of(slug)), output, REMOVAL_COLUMNS, "datasetSlug")


@datasets.command("restore")
def restore(slug: DatasetName, output: Output = Format.TABLE) -> None:
    """Bring a deleted dataset back, while its grace lasts."""
    show(Client().post(f"{path_of(slug)}/restore")["dataset"], output, COLUMNS, "slug")


@datasets.command("schema")
def schema(slug: DatasetName, output: Output = Format.TABLE) -> None:
    """Show every version of a dataset's schema, newest first."""
    versions = Client().get(f"{path_of(slug)}/schemas")["schemas"]
    shown = [version | {"columns": " ".join(map(_field, version["fields"]))} for version in versions]
    columns = {"VERSION": "version", "WHEN": "createdAt", "BY": "createdBy", "COLUMNS": "columns"}
    show(shown if output is Format.TABLE else versions, output, columns)


@datasets.command("snapshots")
def snapshots(slug: DatasetName, limit: Limit = 50, output: Output = Format.TABLE) -> None:
    """List the commits that touched a dataset, newest first; `query --as-of` goes back to any of them."""
    show(_pages(f"{path_of(slug)}/snapshots", "snapshots", limit, 200), output, SNAPSHOT_COLUMNS)


@datasets.command("manifest")
def manifest(
    slug: DatasetName,
    day: Annotated[str | None, typer.Option(help="Only this day: 2026-01-31.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List the days that have rows, newest first; or the batches of one."""
    if day is None:
        show(_days(path_of(slug)), output, MANIFEST_COLUMNS)
    else:
        show(_batches(path_of(slug), day), output, BATCH_COLUMNS)


@datasets.command("audit")
def audit(
    slug: DatasetName,
    action: Annotated[list[str] | None, typer.Option(help="Only this, as admin.dataset.updated.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only what was refused.")] = False,
    limit: Limit = 50,
    output: Output = Format.TABLE,
) -> None:
    """List who did or tried what with a dataset, newest first."""
    asked = {"action": action, "success": "false" if failed else None}
    show(_pages(f"{path_of(slug)}/audit", "events", limit, 200, **asked), output, AUDIT_COLUMNS)


def _pages(path: str, member: str, limit: int, most: int, **asked: Any) -> list[Json]:
    """The first entries of a list that comes in pages of so many at most."""
    client, found, cursor = Client(), list[Json](), None
    while len(found) < limit:
        page = client.get(path, limit=min(limit - len(found), most), cursor=cursor, **asked)
        found += page[member]
        cursor = page["nextCursor"]
        if cursor is None:
            break
    return found


def _days(path: str) -> list[Json]:
    """A manifest per day; its partitions may be on several pages."""
    days: dict[str, Json] = {}
    for each in _manifests(path):
        for day in each["manifests"]:
            days.setdefault(day["manifestShard"], day | {"partitions": []})["partitions"] += day["partitions"]
    return list(days.values())


def _batches(path: str, day: str) -> list[Json]:
    return [batch for each in _manifests(path, shard=day) for batch in each["manifest"]["partitions"]]


def _manifests(path: str, **asked: Any) -> Iterator[Json]:
    """The answers of the route of manifests, until there are no more."""
    client, cursor = Client(), None
    while True:
        page = client.get(f"{path}/manifest", limit=1000, cursor=cursor, **asked)
        yield page
        cursor = page["nextCursor"]
        if cursor is None:
            return


def _field(field: Json) -> str:
    return f"{field['name']}:{_type(field)}"


def _type(field: Json) -> str:
    return f"{_type(field['items'])}[]" if field["type"] == "list" else str(field["type"])
