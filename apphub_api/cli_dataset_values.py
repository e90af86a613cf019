"""What people write on the command line about datasets, as values: times, spans, sizes, fields, pairs."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote

import typer

from apphub_api.cli_client import Exit, fail

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", re.IGNORECASE)
POWERS = ("", "K", "M", "G", "T")

Json = dict[str, Any]

DatasetName = Annotated[str, typer.Argument(metavar="DATASET", help="Slug of the dataset.")]
Fields = Annotated[
    list[str] | None, typer.Option("--field", "-f", help="name:type, in the order of the columns; type[] is a list.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def path_of(slug: str) -> str:
    """The admin route of a dataset."""
    return f"/admin/datasets/{quote(slug, safe='')}"


def pair_of(given: str, option: str) -> tuple[str, str]:
    """`name=value`."""
    name, equals, value = given.partition("=")
    if not equals or not name:
        fail(f"{option} {given!r}: write it as name=value", Exit.USAGE)
    return name, value


def field_of(given: str) -> Json:
    """`name:type` as a field of a schema; names may have colons, types have none."""
    name, colon, kind = given.rpartition(":")
    if not colon or not name or not kind:
        fail(f"--field {given!r}: write it as name:type, as temperature:double", Exit.USAGE)
    return {"name": name, **type_of(kind)}


def type_of(given: str) -> Json:
    """A type of a schema; `double[]` is a list of doubles."""
    if given.endswith("[]"):
        return {"type": "list", "items": type_of(given[:-2])}
    return {"type": given}


def span_of(given: str, option: str) -> timedelta:
    """`90s`, `5m`, `24h`, `30d`, `2w`."""
    match = SPAN.fullmatch(given)
    if match is None:
        fail(f"{option} {given!r}: write it as 90s, 5m, 24h, 30d or 2w", Exit.USAGE)
    try:
        return timedelta(seconds=float(match[1]) * SECONDS[match[2]])
    except OverflowError:
        fail(f"{option} {given!r} is longer than there was time", Exit.USAGE)


def size_of(given: str, option: str) -> int:
    """`500M`, `10G` and so on in bytes; units are powers of 1024."""
    match = SIZE.fullmatch(given)
    if match is None:
        fail(f"{option} {given!r}: write it as 500M, 10G or 1T", Exit.USAGE)
    return int(float(match[1]) * 1024 ** POWERS.index(match[2].upper()))


def moment_of(given: str, option: str, now: datetime) -> str:
    """A time of ISO 8601, which is in UTC unless it says otherwise, `now`, or how long before: `-24h`."""
    if given == "now":
        return _shown(now)
    try:
        if SPAN.fullmatch(given.removeprefix("-")):
            return _shown(now - span_of(given.removeprefix("-"), option))
        moment = datetime.fromisoformat(given)
        return _shown(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        fail(f"{option} {given!r}: write it as 2026-01-31, 2026-01-31T12:00:00Z, now or -24h", Exit.USAGE)


def _shown(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
