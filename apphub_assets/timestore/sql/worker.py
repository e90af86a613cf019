"""The process of one statement of `/sql/read`: it opens the lake, waits for the statement, answers and ends.

It is started ahead and imports little, for whoever asks waits for the rest. What comes over its connection is JSON:
first an `Opening`, then a `Job`, which it acknowledges. Its answer is a line of JSON, `{datasets, columns, rowCount,
truncated, warnings}` or `{error: {code, message, position}}`, and after it the rows in the form that was asked for.

What holds a statement in: the lists of `guard.py`; DuckDB, locked, with access to nothing but the lake's files;
Postgres, in a session that can't write; and the kernel, that lets this process write no file, take no more memory and
time.
"""

import base64
import json
import os
import re
import resource
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, NoReturn

import duckdb
import orjson

from apphub_assets.errors import AppHubError
from apphub_assets.forkserver import limit_memory
from apphub_assets.timestore.spec import quote
from apphub_assets.timestore.sql import guard

# Python, stacks of threads, what allocators keep in hand, and rows on their way out: beside what DuckDB counts itself.
OWN_MEMORY = 512 * 1024 * 1024
CHUNK_ROWS = 200
ACKNOWLEDGED = b"taken"
# Enough for any syntax tree: DuckDB refuses expressions that are nested 1000 deep.
RECURSION = 20_000
NICENESS = 5
JSON_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS

# The statement's own fault; everything else is the lake's, and passes.
STATEMENT_ERRORS = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConstraintException,
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.InvalidTypeException,
    duckdb.NotImplementedException,
    duckdb.NotSupportedError,
    duckdb.OutOfRangeException,
    duckdb.ParserException,
    duckdb.PermissionException,
    duckdb.SyntaxException,
    duckdb.TypeMismatchException,
)
INTERNAL_ERRORS = (duckdb.InternalException, duckdb.FatalException)
# What DuckLake writes around an error of its catalog, which it raises as one of any kind.
CATALOG_FAILED = ("DuckLake", "Failed to execute query", "Failed to prepare")

Json = dict[str, Any]


@dataclass(frozen=True)
class Opening:
    """How to open the lake (see `lake.Recipe`), and how much of the machine to use."""

    config: dict[str, str]
    filesystems: list[str]
    statements: list[str]
    places: list[str]
    memory_bytes: int
    cpu_seconds: int


@dataclass(frozen=True)
class Job:
    """A statement. `tables` are the SELECTs that its caller's datasets stand for, by slug."""

    sql: str
    params: list[Any] | Json
    form: str
    tables: dict[str, str]
    max_rows: int
    max_bytes: int


@dataclass(frozen=True)
class Taken:
    """Rows in the form that was asked for, one line each."""

    lines: list[bytes]
    warnings: list[str]
    truncated: bool


def main() -> NoReturn:
    """Serve the connection whose file descriptor is the first argument; end with it, whatever goes on."""
    inbox: SimpleQueue[bytes] = SimpleQueue()
    connection = Connection(int(sys.argv[1]))
    threading.Thread(target=_receive, args=(connection, inbox), daemon=True).start()
    sys.setrecursionlimit(RECURSION)
    # DuckDB imports it, for a second, as soon as a statement has a parameter, to see whether that is a frame.
    sys.modules["pandas"] = None  # type: ignore[assignment]
    opening = Opening(**json.loads(inbox.get()))
    limit(opening)
    respond = opened(opening)
    job = Job(**json.loads(inbox.get()))
    connection.send_bytes(ACKNOWLEDGED)
    connection.send_bytes(respond(job))
    os._exit(0)


def _receive(connection: Connection, inbox: "SimpleQueue[bytes]") -> None:
    try:
        while True:
            inbox.put(connection.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)


def limit(opening: Opening) -> None:
    """Give way to the API, and bind this process to its share; no file can get a byte from it any more."""
    os.nice(NICENESS)
    limit_memory(2 * opening.memory_bytes + OWN_MEMORY)
    resource.setrlimit(resource.RLIMIT_CPU, (opening.cpu_seconds, opening.cpu_seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def opened(opening: Opening) -> Callable[[Job], bytes]:
    """What answers a job: over the lake, or that it can't be opened."""
    try:
        lake = open_lake(opening)
    except duckdb.Error as error:
        failure = _failure("lake_unavailable", str(error))
        return lambda _: failure
    return lambda job: answer(lake, job)


def open_lake(opening: Opening) -> duckdb.DuckDBPyConnection:
    """An instance with the lake attached. Nothing spills to the disk: what needs more memory ends.

    Raises:
        duckdb.Error: the catalog does not answer.
    """
    lake = duckdb.connect(":memory:", config={**opening.config, "temp_directory": ""})
    for scheme in opening.filesystems:
        import fsspec  # slow, and needed for few storages

        lake.register_filesystem(fsspec.filesystem(scheme))
    for statement in opening.statements:
        lake.execute(statement)
    lake.execute("SET errors_as_json = true")
    lake.execute("SET python_enable_replacements = false")
    lake.execute(f"SET allowed_directories = [{', '.join(_literal(place) for place in opening.places)}]")
    return lake


def answer(lake: duckdb.DuckDBPyConnection, job: Job) -> bytes:
    """Run a statement; what is wrong with it, or with the lake, is an answer too."""
    try:
        return run(lake, job)
    except AppHubError as error:
        return _failure(error.code, error.message, error.extra.get("position"))
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        return _failure("query_too_big", str(error))
    except duckdb.Error as error:
        message, position = _message(error, job.sql)
        return _failure(_code(error, message), message, position)


def run(lake: duckdb.DuckDBPyConnection, job: Job) -> bytes:
    """The answer to a statement.

    Raises:
        InvalidSql, SqlNotAllowed, SqlUnknownDataset: it is not one that may be asked.
        duckdb.Error: it fails.
    """
    used = guard.check(guard.parse(lake, job.sql), job.tables, job.sql)
    for slug in used:
        lake.execute(f"CREATE VIEW {quote(slug)} AS {job.tables[slug]}")
    lock(lake)
    result = lake.execute(job.sql, job.params or None)
    columns = [{"name": name, "type": str(kind)} for name, kind, *_ in result.description]
    warnings = _tell_apart(columns)
    form = FORMS[job.form]([column["name"] for column in columns], [column["type"] == "JSON" for column in columns])
    taken = _take(result, form, job)
    head = {
        "datasets": sorted(used),
        "columns": columns,
        "rowCount": len(taken.lines),
        "truncated": taken.truncated,
        "warnings": warnings + taken.warnings,
    }
    return orjson.dumps(head) + b"\n" + form.frame(taken.lines)


def lock(lake: duckdb.DuckDBPyConnection) -> None:
    """Leave nothing within reach but the lake's files, for good."""
    lake.execute("SET enable_external_access = false")
    lake.execute("SET lock_configuration = true")


def _take(result: duckdb.DuckDBPyConnection, form: "Form", job: Job) -> Taken:
    """As many rows as may be; the rest is never computed."""
    lines, size = list[bytes](), 0
    for row in _rows(result):
        if len(lines) == job.max_rows:
            return Taken(lines, [f"only the first {job.max_rows} rows are here (APPHUB_SQL_MAX_ROWS)"], truncated=True)
        line = form.line(row)
        size += len(line)
        if size > job.max_bytes:
            warning = f"only the first {len(lines)} rows are here: an answer has at most {job.max_bytes} bytes"
            return Taken(lines, [warning], truncated=True)
        lines.append(line)
    return Taken(lines, [], truncated=False)


def _rows(result: duckdb.DuckDBPyConnection) -> Iterator[Sequence[Any]]:
    while chunk := result.fetchmany(CHUNK_ROWS):
        yield from chunk


def _tell_apart(columns: list[dict[str, str]]) -> list[str]:
    """Rename columns that are called like one before them, as DuckDB does in subqueries."""
    seen, renamed = set[str](), list[str]()
    for column in columns:
        name, number = column["name"], 0
        while column["name"] in seen:
            number += 1
            column["name"] = f"{name}_{number}"
        seen.add(column["name"])
        renamed += [f"a second column {name!r} is called {column['name']!r}"] if number else []
    return renamed


# --- Forms of an answer


class Form(ABC):
    """Rows as lines. `documents` says which columns are JSON already."""

    def __init__(self, names: list[str], documents: list[bool]) -> None:
        self.names = names
        self.documents = documents

    @abstractmethod
    def line(self, row: Sequence[Any]) -> bytes:
        """A row."""

    @abstractmethod
    def frame(self, lines: list[bytes]) -> bytes:
        """The lines as one document."""


class JsonForm(Form):
    """An array of objects. Times are RFC 3339 in UTC, decimals have all their digits, NaN and infinities are null."""

    def line(self, row: Sequence[Any]) -> bytes:
        values = (
            orjson.Fragment(value) if is_document and value is not None else value
            for value, is_document in zip(row, self.documents, strict=True)
        )
        return encode(dict(zip(self.names, values, strict=True)))

    def frame(self, lines: list[bytes]) -> bytes:
        return b"[" + b",\n".join(lines) + b"]"


class CsvForm(Form):
    """RFC 4180 with a header; nothing is null and `""` the empty text, lists and structs are JSON."""

    def line(self, row: Sequence[Any]) -> bytes:
        return (",".join("" if value is None else _quoted(text(value)) for value in row) + "\r\n").encode()

    def frame(self, lines: list[bytes]) -> bytes:
        return self.line(self.names) + b"".join(lines)


class TableForm(Form):
    """For people: tabs between columns, a rule under the names, and the count of rows at the end."""

    def line(self, row: Sequence[Any]) -> bytes:
        return self._joined(text(value) for value in row)

    def frame(self, lines: list[bytes]) -> bytes:
        rule = self._joined("-" * max(3, len(name)) for name in self.names)
        count = f"({len(lines)} row{'' if len(lines) == 1 else 's'})\n"
        return self._joined(self.names) + rule + b"".join(lines) + count.encode()

    @staticmethod
    def _joined(cells: "Iterator[str] | list[str]") -> bytes:
        return ("\t".join(cell.translate(BLANKS) for cell in cells) + "\n").encode()


FORMS: dict[str, Callable[[list[str], list[bool]], Form]] = {"json": JsonForm, "csv": CsvForm, "table": TableForm}
IN_QUOTES = re.compile(r'[",\r\n]|^\s|\s$')
BLANKS = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})


def text(value: Any) -> str:
    """A value as a cell."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    encoded = encode(value).decode()
    if encoded == "null":
        return ""
    return str(json.loads(encoded)) if encoded.startswith('"') else encoded


def encode(value: Any) -> bytes:
    """A value as JSON."""
    try:
        return orjson.dumps(value, _known, JSON_OPTIONS)
    except TypeError:  # an integer of more than 64 bits, or a map whose keys are lists
        return json.dumps(_plain(value), ensure_ascii=False).encode()


def _known(value: Any) -> Any:
    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f")) if value.is_finite() else None
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        precision = "microseconds" if value.microsecond % 1000 else "milliseconds"
        moment = value.astimezone(UTC) if value.tzinfo else value
        return f"{moment.replace(tzinfo=None).isoformat(timespec=precision)}Z"
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {text(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, int) else json.loads(orjson.dumps(value, _known, JSON_OPTIONS))


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if not cell or IN_QUOTES.search(cell) else cell


# --- Errors


def _message(error: duckdb.Error, statement: str) -> tuple[str, int | None]:
    """DuckDB's own words and where in the statement, from `Binder Error: {"exception_message": …}`."""
    shown = str(error)
    try:
        told = json.loads(shown[shown.index("{") :])
        return told["exception_message"], guard.characters(statement, told.get("position"))
    except (ValueError, KeyError, TypeError):
        return shown, None


def _code(error: duckdb.Error, message: str) -> str:
    if isinstance(error, INTERNAL_ERRORS):
        return "sql_process_failed"
    if isinstance(error, STATEMENT_ERRORS) and not message.startswith(CATALOG_FAILED):
        return "invalid_sql"
    return "lake_unavailable"


def _failure(code: str, message: str, position: int | None = None) -> bytes:
    return orjson.dumps({"error": {"code": code, "message": message[:2000], "position": position}}) + b"\n"


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


if __name__ == "__main__":
    main()
