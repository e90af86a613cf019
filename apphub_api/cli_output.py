"""How commands show what they got: a table for people, json, yaml or bare names for programs."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

Item = Mapping[str, Any]
Columns = Mapping[str, str]


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


Output = Annotated[Format, typer.Option("--output", "-o", help="How to show the result.")]

COLOURS = {
    "ready": "green",
    "succeeded": "green",
    "running": "green",
    "active": "green",
    "failed": "red",
    "inactive": "yellow",
    "pending": "yellow",
    "processing": "yellow",
    "starting": "yellow",
}


def show(found: Item | Sequence[Item], output: Format, columns: Columns, name: str = "id") -> None:
    """Print one item or many.

    `columns` maps a heading to a dotted path into an item, for the table; `name` is the member that commands take.
    """
    items = [found] if isinstance(found, Mapping) else list(found)
    if output is Format.JSON:
        typer.echo(json.dumps(found, indent=2))
    elif output is Format.YAML:
        typer.echo(yaml.safe_dump(found, sort_keys=False), nl=False)
    elif output is Format.NAME:
        typer.echo("\n".join(str(item[name]) for item in items))
    else:
        Console().print(_table(items, columns))


def _table(items: Sequence[Item], columns: Columns) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in columns:
        table.add_column(heading)
    for item in items:
        table.add_row(*(_cell(item, path) for path in columns.values()))
    return table


def _cell(item: Item, path: str) -> Text:
    value: Any = item
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if path.endswith("tags"):
        return Text(" ".join(f"{tag['key']}:{tag['value']}" for tag in value or []))
    if path.endswith("At") and value:
        return Text(_ago(value))
    if path.endswith("ytes") and isinstance(value, int):
        return Text(_size(value))
    shown = "" if value is None else _said(value)
    return Text(shown, COLOURS.get(shown, ""))


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    return json.dumps(value) if isinstance(value, Mapping) else str(value)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def _ago(moment: str) -> str:
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return f"{max(seconds, 0)}s ago"
