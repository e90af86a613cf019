"""NDJSON and CSV: rows without a schema of their own, one per line."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from apphub_assets.timestore.errors import InvalidBody, InvalidRows
from apphub_assets.timestore.ingest.columns import MOST_ERRORS
from apphub_assets.timestore.spec import Field

BOOLEANS = {"true": True, "false": False}

# What others put where CSV (RFC 4180) has a comma.
SEPARATORS = (";", "\t", "|")


def objects_of_ndjson(body: bytes) -> list[Any]:
    """The values of the lines that are not blank.

    Raises:
        InvalidBody: a line is not JSON; names it.
    """
    found = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if line.strip():
            try:
                found.append(orjson.loads(line))
            except orjson.JSONDecodeError as error:
                raise InvalidBody(f"line {number} is not JSON: {error}; nothing was written") from None
    return found


def objects_of_csv(body: bytes, fields: Sequence[Field] | None) -> list[dict[str, Any]]:
    """Rows by the names in the first line; an empty cell is null.

    Cells of columns with a known type are read as that; others as what all the cells of their column can be.

    Raises:
        InvalidBody: it is not UTF-8, two columns have one name, or a line has another number of cells.
        InvalidRows: a cell does not fit its column.
    """
    try:
        text = body.decode("utf-8-sig")
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = [name.strip() for name in next(lines, [])]
        _check_header(header)
        rows = list(_rows(header, lines))
    except UnicodeDecodeError as error:
        raise InvalidBody(f"the CSV is not UTF-8: byte {error.start}; nothing was written") from None
    except csv.Error as error:
        raise InvalidBody(f"the CSV can't be read: {error}; nothing was written") from None
    kinds = {each.name.lower(): each.type for each in fields or ()}
    columns = [_column(name, [row[at] for row in rows], kinds.get(name.lower())) for at, name in enumerate(header)]
    return [dict(zip(header, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _check_header(header: Sequence[str]) -> None:
    if not header:
        raise InvalidBody("the CSV is empty; its first line names the columns")
    if len(header) == 1 and (found := next((each for each in SEPARATORS if each in header[0]), None)):
        raise InvalidBody(f"the CSV's first line has no comma but {found!r}; separate cells by commas")
    names = [name.lower() for name in header]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidBody(
            f"the CSV has several columns {twice[0]!r} (case does not tell them apart); nothing was written"
        )


def _rows(header: Sequence[str], lines: "Iterator[list[str]]") -> Iterator[list[str]]:
    for number, cells in enumerate(lines, 2):
        if cells and len(cells) != len(header):
            raise InvalidBody(f"line {number} has {len(cells)} cells, the header {len(header)}; nothing was written")
        if cells:
            yield cells


def _column(name: str, cells: Sequence[str], kind: str | None) -> list[Any]:
    readers = {"integer": _integer, "double": _double, "boolean": _boolean, "json": orjson.loads}
    if kind is None:
        # The strictest type that every cell can be.
        for reader in (_integer, _double, _boolean):
            try:
                return [None if cell == "" else reader(cell) for cell in cells]
            except ValueError:
                continue
    if kind not in readers:
        return [cell or None for cell in cells]
    problems, values = list[tuple[str, str]](), list[Any]()
    for row, cell in enumerate(cells):
        try:
            values.append(None if cell == "" else readers[kind](cell))
        except ValueError:
            problems.append((f"/rows/{row}/{name}", f"row {row}, column {name!r}: {cell[:80]!r} is no {kind}"))
            if len(problems) == MOST_ERRORS:
                break
    if problems:
        raise InvalidRows(f"{problems[0][1]}; nothing was written", pointers=problems)
    return values


def _integer(cell: str) -> int:
    return int(_number(cell))


def _double(cell: str) -> float:
    return float(_number(cell))


def _number(cell: str) -> str:
    """Python reads 1_000 as a number; nobody means it by that."""
    if "_" in cell:
        raise ValueError
    return cell


def _boolean(cell: str) -> bool:
    try:
        return BOOLEANS[cell.strip().lower()]
    except KeyError:
        raise ValueError from None
