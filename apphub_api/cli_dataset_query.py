"""`apphub dataset query` and `apphub dataset sql`: rows as a table with a chart, or as a file."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from urllib.parse import quote
from zoneinfo import ZoneInfo

import httpx
import typer
import yaml
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from apphub_api.cli_chart import COLOURS, Line, draw
from apphub_api.cli_client import Client, Exit, fail
from apphub_api.cli_dataset_asking import Asked, Every
from apphub_api.cli_dataset_values import DatasetName

querying = typer.Typer()

TABLE_ROWS = 100
# A cell of so many characters is rather broken into lines than left out.
BROKEN = 24
Json = dict[str, Any]


class Form(StrEnum):
    TABLE = "table"
    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"


class SqlForm(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


MEDIA_TYPES = {
    Form.JSON: "application/json",
    Form.NDJSON: "application/x-ndjson",
    Form.CSV: "text/csv",
    Form.PARQUET: "application/vnd.apache.parquet",
    Form.ARROW: "application/vnd.apache.arrow.stream",
}

File = Annotated[Path | None, typer.Option("--file", metavar="FILE", help="Write the answer there.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait at most.")]


@querying.command("query")
def query(
    slug: DatasetName,
    start: Annotated[str | None, typer.Option("--from", help="2026-01-31, …T12:00:00Z, or -7d; default: -24h.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="The same, or now, the default. It is part of it.")] = None,
    columns: Annotated[list[str] | None, typer.Option("--column", "-c", help="Only this, and the time.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", "-w", help="column=value, or > >= < <=; of several with = for a column, any."),
    ] = None,
    every: Annotated[str | None, typer.Option("--every", help="Downsample: 15m, 1h, 1d, 1w, 1mo.")] = None,
    aggregations: Annotated[
        list[str] | None,
        typer.Option("--agg", "-a", help="avg:value, min max sum median first last count p95; default: avg of all."),
    ] = None,
    by: Annotated[list[str] | None, typer.Option("--by", "-b", help="A column to group by.")] = None,
    fill: Annotated[
        str | None, typer.Option("--fill", help="What empty buckets have: null, previous, linear, a number.")
    ] = None,
    time_zone: Annotated[str | None, typer.Option("--time-zone", help="Whose days: Europe/Berlin.")] = None,
    last: Annotated[bool, typer.Option("--last", help="Only the newest row of each series.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help=f"Most rows; a table has {TABLE_ROWS}.")] = None,
    descending: Annotated[bool, typer.Option("--desc", help="Newest first.")] = False,
    as_of: Annotated[str | None, typer.Option("--as-of", help="As it was: a snapshot's number, or a time.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Tell what is read, instead of the rows.")] = False,
    chart: Annotated[bool | None, typer.Option("--chart/--no-chart", help="Default: in a terminal.")] = None,
    form: Annotated[Form | None, typer.Option("--output", "-o", help="Default: as the file's name says.")] = None,
    file: File = None,
    timeout: Timeout = 120,
) -> None:
    """Ask for rows: `apphub dataset query weather --from -7d --every 1h --agg avg:celsius --by site`."""
    asked = Asked(
        start, end, columns or (), where or (), Every.parse(every) if every else None, aggregations or (), by or (),
        fill, time_zone, last, limit, descending, as_of, explain,
    )  # fmt: skip
    asked.check()
    client, path = Client(timeout), f"/datasets/{quote(slug, safe='')}"
    fields = _fields(client, path) if asked.needs_fields else []
    body = asked.body(fields, datetime.now(UTC))
    wanted = form or (_form_of(file) if file else Form.TABLE)
    if explain:
        told = client.post(f"{path}/query", body)["explain"]
        typer.echo(json.dumps(told, indent=2) if wanted is Form.JSON else yaml.safe_dump(told, sort_keys=False))
    elif wanted is Form.TABLE:
        _show_rows(client, path, asked, body, chart)
    else:
        _save(client, f"{path}/query", {"json": body, "headers": {"Accept": MEDIA_TYPES[wanted]}}, wanted, file)


@querying.command("sql")
def sql(
    statement: Annotated[str, typer.Argument(metavar="SELECT|-", help="The statement, or - for standard input.")],
    form: Annotated[SqlForm, typer.Option("--output", "-o", help="How to show the result.")] = SqlForm.TABLE,
    file: File = None,
    timeout: Timeout = 60,
) -> None:
    """Read datasets by SQL, as tables of their slugs: `apphub dataset sql 'SELECT count(*) FROM "weather"'`."""
    client = Client(timeout)
    body = {"sql": sys.stdin.read() if statement == "-" else statement}
    if form is not SqlForm.TABLE:
        _save(client, "/sql/read", {"json": body, "params": {"format": form.value}}, Form(form), file)
        return
    answer = client.post("/sql/read", body)
    _show_table(Console(), [column["name"] for column in answer["columns"]], answer["rows"])
    _warn(answer["warnings"])


def _fields(client: Client, path: str) -> list[Json]:
    """The columns as they are now; none before there is a schema."""
    versions = client.get(f"/admin{path}/schemas")["schemas"]
    return list(versions[0]["fields"]) if versions else []


def _form_of(file: Path) -> Form:
    suffix = file.suffix.lower().removeprefix(".")
    if suffix not in set(Form) - {Form.TABLE}:
        fail(f"--file {file}: say what it is to be with -o: {', '.join(MEDIA_TYPES)}", Exit.USAGE)
    return Form(suffix)


def _show_rows(client: Client, path: str, asked: Asked, body: Json, chart: bool | None) -> None:
    if not (asked.limit or asked.every or asked.last):
        body["limit"] = TABLE_ROWS
    answer, console = client.post(f"{path}/query", body), Console()
    rows = answer["rows"]
    names = list(rows[0]) if rows else answer["columns"]
    shown = rows if asked.limit else rows[:TABLE_ROWS]
    _show_table(console, names, shown)
    if rows and (console.is_terminal if chart is None else chart) and console.encoding.startswith("utf"):
        time = "timestamp" if asked.every else client.get(f"/admin{path}")["dataset"]["timestampColumn"]
        _draw(console, lines_of(rows, time, asked))
    _warn(answer["warnings"])
    if len(shown) < len(rows) or (answer.get("nextCursor") and not asked.limit):
        _warn([f"there are more than these {len(shown)} rows: --limit or --every show others, --file all.parquet all"])
    if not rows and "timeRange" in body:
        _warn(["no rows from {start} to {end}; say another time with --from and --to".format(**body["timeRange"])])


def _warn(messages: Sequence[str]) -> None:
    for message in messages:
        typer.secho(message, fg="yellow", err=True)


def _show_table(console: Console, names: Sequence[str], rows: Sequence[Json]) -> None:
    """A table of the columns that there is room for; narrower ones would show nothing at all."""
    room, shown = console.width, list[str]()
    for name in names:
        room -= min(max([len(name), *(len(_cell(row[name])) for row in rows)]), BROKEN) + 2
        if shown and room < -2:
            break
        shown.append(name)
    console.print(_table(shown, rows))
    if len(shown) < len(names):
        _warn(
            [f"there are {len(names) - len(shown)} more columns; name those to show, or write a file: --file all.csv"]
        )


def _table(names: Sequence[str], rows: Sequence[Json]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        numbers = any(isinstance(row[name], int | float) for row in rows)
        table.add_column(Text(name), justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*(Text(_cell(row[name])) for name in names))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.10g}"
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value)


def lines_of(rows: Sequence[Json], time: str, asked: Asked) -> list[Line]:
    """A line per group and number; none where rows are of several series that nothing tells apart."""
    zone = ZoneInfo(asked.time_zone) if asked.time_zone else UTC
    gap = asked.every.gap if asked.every else timedelta.max
    groups: dict[tuple[str, ...], list[tuple[datetime, Json]]] = {}
    for row in rows:
        group = tuple(_cell(row[name]) for name in asked.by)
        groups.setdefault(group, []).append((datetime.fromisoformat(row[time]).astimezone(zone), row))
    numbers = [name for name in rows[0] if name not in {time, *asked.by} and _is_numeric(rows, name)]
    lines = []
    for group, found in groups.items():
        found.sort(key=lambda each: each[0])
        if len({moment for moment, _ in found}) < len(found):
            return []
        for name in numbers:
            title = " ".join([*group, *([name] if len(numbers) > 1 or not group else [])])
            lines.append(Line(title, [(moment, row[name]) for moment, row in found], gap))
    return [line for line in lines if len(line.known) > 1]


def _is_numeric(rows: Sequence[Json], name: str) -> bool:
    values = [row[name] for row in rows if row[name] is not None]
    return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _draw(console: Console, lines: Sequence[Line]) -> None:
    shown = lines[: len(COLOURS)]
    # Without colours lines that cross can't be told apart, so each has a chart of its own.
    has_colours = console.color_system is not None and not console.no_color
    for together in [shown] if has_colours and shown else [[line] for line in shown]:
        console.print()
        for row in draw(together, console.width):
            console.print(row, no_wrap=True, overflow="crop")
    if len(lines) > len(shown):
        _warn([f"the chart has {len(shown)} of {len(lines)} lines; --where and --agg choose others"])


def _save(client: Client, path: str, request: Json, form: Form, file: Path | None) -> None:
    """The API's answer as it comes, into a file that is only there when it is whole, or to standard output."""
    if file is None:
        if form in (Form.PARQUET, Form.ARROW) and sys.stdout.isatty():
            fail(f"{form} is nothing to look at: give a --file", Exit.USAGE)
        with client.opened("POST", path, **request) as response:
            _copy(response, sys.stdout.buffer)
        return
    unfinished = file.with_name(f"{file.name}.part")
    try:
        with client.opened("POST", path, **request) as response, unfinished.open("wb") as sink:
            _copy(response, sink)
        unfinished.replace(file)
    except OSError as error:
        fail(f"{file} can't be written: {error.strerror}", Exit.FAILED)
    finally:
        unfinished.unlink(missing_ok=True)


def _copy(response: httpx.Response, sink: BinaryIO) -> None:
    console = Console(stderr=True)
    hidden = not console.is_terminal or sink is sys.stdout.buffer
    with Progress(DownloadColumn(), TransferSpeedColumn(), console=console, disable=hidden) as progress:
        length = response.headers.get("content-length")
        task = progress.add_task("", total=int(length) if length else None)
        try:
            for chunk in response.iter_bytes():
                sink.write(chunk)
                progress.update(task, advance=len(chunk))
        except httpx.TransportError as error:
            fail(f"the answer broke off and is not whole: {error}", Exit.FAILED)
    sink.flush()
