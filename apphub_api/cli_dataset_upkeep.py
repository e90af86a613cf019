"""`apphub dataset retention|migrate|flush|compact|expire`: how long rows stay, what becomes of columns and files."""

from typing import Annotated, Any

import typer

from apphub_api.cli_client import Client, Exit, fail
from apphub_api.cli_dataset_values import (
    DatasetName,
    DryRun,
    Json,
    Yes,
    pair_of,
    path_of,
    size_of,
    span_of,
    type_of,
)
from apphub_api.cli_output import Format, Output, show

upkeep = typer.Typer()

RETENTION_COLUMNS = {
    "DATASET": "datasetSlug", "MODE": "effectivePolicy.mode", "HOURS": "effectivePolicy.rules.maxAgeHours",
    "BYTES": "effectivePolicy.rules.maxTotalBytes", "GRACE MINUTES": "effectivePolicy.deleteGraceMinutes",
}  # fmt: skip
PLAN_COLUMNS = {
    "STEP": "action", "COLUMN": "column", "TO": "to", "TYPE": "type", "ROWS": "rows", "VALUES LOST": "values",
    "DO NOT FIT": "unfit", "SUCH AS": "samples",
}  # fmt: skip
KEPT_COLUMNS = {"DATASET": "dataset", "STATUS": "status", "DRY RUN": "dryRun"}
MODES = {("maxAgeHours",): "time", ("maxTotalBytes",): "size"}
# A migration rewrites rows, and a compaction files.
SECONDS = 3600.0

Steps = list[str] | None


@upkeep.command("retention")
def retention(
    slug: DatasetName,
    max_age: Annotated[str | None, typer.Option("--max-age", help="30d, or none.")] = None,
    max_bytes: Annotated[str | None, typer.Option("--max-bytes", help="10G, or none.")] = None,
    grace: Annotated[str | None, typer.Option("--grace", help="How long what went can be had back: 5m.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show how long a dataset's rows stay, or change it; what is not given stays as it is."""
    client, path = Client(), f"{path_of(slug)}/retention"
    found = client.get(path)
    if max_age or max_bytes or grace:
        version = {"If-Match": found["updatedAt"]} if found["updatedAt"] else {}
        found = client.put(path, _policy(found["effectivePolicy"], max_age, max_bytes, grace), **version)
    show(found, output, RETENTION_COLUMNS, "datasetSlug")


@upkeep.command("migrate")
def migrate(
    slug: DatasetName,
    transform: Annotated[
        Steps, typer.Option("--transform", help="column:type or column:type=expression, as v:double=v / 10.")
    ] = None,
    drop: Annotated[Steps, typer.Option("--drop", help="A column.")] = None,
    rename: Annotated[Steps, typer.Option("--rename", help="old=new.")] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """Change columns in one commit: transform some, then drop some, then rename some. First the plan is shown."""
    steps = [_transformation(each) for each in transform or []]
    steps += [{"action": "drop", "column": each} for each in drop or []]
    renamed = (pair_of(each, "--rename") for each in rename or [])
    steps += [{"action": "rename", "column": old, "to": new} for old, new in renamed]
    if not steps:
        fail("say what to change: --rename old=new, --drop column or --transform column:type", Exit.USAGE)
    client, path = Client(SECONDS), f"{path_of(slug)}/migrate"
    if dry_run or not yes:
        planned = client.post(path, {"steps": steps, "dryRun": True})
        show(planned["plan"] if output is Format.TABLE else planned, output, PLAN_COLUMNS, "datasetSlug")
        if dry_run:
            return
        typer.confirm(f"Change {slug}?", abort=True, err=True)
    done = client.post(path, {"steps": steps})
    show(done["plan"] if output is Format.TABLE else done, output, PLAN_COLUMNS, "datasetSlug")


@upkeep.command("flush")
def flush(slug: DatasetName, dry_run: DryRun = False, output: Output = Format.TABLE) -> None:
    """Write rows that wait in Postgres to files now; it happens by itself."""
    done = _kept(slug, "flush", dry_run=dry_run)
    show(done, output, KEPT_COLUMNS | {"ROWS": "rows"}, "dataset")


@upkeep.command("compact")
def compact(slug: DatasetName, dry_run: DryRun = False, output: Output = Format.TABLE) -> None:
    """Merge small files now; it happens by itself."""
    done = _kept(slug, "compaction", dry_run=dry_run)
    done["merged"] = done.get("merged", done.get("files", 0))
    show(done, output, KEPT_COLUMNS | {"FILES": "merged", "INTO": "created", "BYTES": "bytes"}, "dataset")


@upkeep.command("expire")
def expire(slug: DatasetName, dry_run: DryRun = False, output: Output = Format.TABLE) -> None:
    """Take out the rows that `retention` keeps no longer now; it happens by itself."""
    done = _kept(slug, "retention", dry_run=dry_run)
    show(done, output, KEPT_COLUMNS | {"PARTITIONS": "partitionCount", "ROWS": "rows", "BYTES": "bytes"}, "dataset")


def _kept(slug: str, operation: str, *, dry_run: bool) -> Json:
    """What an operation did to a dataset, or would do; ends the command when it failed."""
    body = {"datasetSlug": slug, "operations": [operation], "dryRun": dry_run}
    (outcome,) = Client(SECONDS).post("/admin/lifecycle/run", body)["report"]["operations"]
    details: Json = next(iter(outcome["details"].get("datasets", [])), {})
    reason = details.get("postponed") or details.get("error") or outcome["details"].get("error")
    reason = reason or outcome["details"].get("reason")
    if outcome["status"] != "completed":
        code = Exit.FAILED if outcome["status"] == "failed" else Exit.CONFLICT
        fail(f"{operation} of {slug} is {outcome['status']}: {reason or 'a later run goes on'}", code)
    return {"dataset": slug, "status": outcome["status"], "dryRun": dry_run} | details


def _policy(now: Json, max_age: str | None, max_bytes: str | None, grace: str | None) -> Json:
    """The policy that holds, changed; a rule that is `none` goes."""
    rules = dict(now["rules"])
    if max_age:
        rules["maxAgeHours"] = None if max_age == "none" else span_of(max_age, "--max-age").total_seconds() / 3600
    if max_bytes:
        rules["maxTotalBytes"] = None if max_bytes == "none" else size_of(max_bytes, "--max-bytes")
    rules = {name: limit for name, limit in rules.items() if limit is not None}
    minutes = span_of(grace, "--grace").total_seconds() / 60 if grace else now["deleteGraceMinutes"]
    return {"mode": MODES.get(tuple(rules), "hybrid"), "rules": rules, "deleteGraceMinutes": minutes}


def _transformation(given: str) -> Json:
    described, _, expression = given.partition("=")
    column, colon, kind = described.rpartition(":")
    if not colon or not column or not kind:
        fail(f"--transform {given!r}: write it as column:type or column:type=expression", Exit.USAGE)
    step: dict[str, Any] = {"action": "transform", "column": column, **type_of(kind.strip())}
    return step | ({"using": expression} if expression else {})
