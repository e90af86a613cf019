"""Files that are ingested, cut into parts that are small enough for one batch each.

A part's key is the SHA-256 of all that was sent up to its end, and its number. So the same command, sent again after
an interruption or with a row mended further on, brings nothing twice.
"""

import hashlib
import io
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import orjson

from apphub_api.cli_client import Exit, fail

PART_BYTES = 4 * 2**20
CHUNK = 2**18
# https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format
ARROW_FILE = b"ARROW1"


class Form(StrEnum):
    """What a file can be."""

    AUTO = "auto"
    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"

    @property
    def is_binary(self) -> bool:
        return self in {Form.PARQUET, Form.ARROW}


MEDIA_TYPES = {
    Form.JSON: "application/json",
    Form.NDJSON: "application/x-ndjson",
    Form.CSV: "text/csv",
    Form.PARQUET: "application/vnd.apache.parquet",
    Form.ARROW: "application/vnd.apache.arrow.stream",
}
SUFFIXES = {
    ".json": Form.JSON,
    ".ndjson": Form.NDJSON,
    ".jsonl": Form.NDJSON,
    ".csv": Form.CSV,
    ".parquet": Form.PARQUET,
    ".pq": Form.PARQUET,
    ".arrow": Form.ARROW,
    ".arrows": Form.ARROW,
}


@dataclass(frozen=True)
class Part:
    """What becomes one batch. `size` is how many bytes of the file it is, `rows` which of its rows, counted from 1.

    Of a binary file `rows` is empty: it goes as a whole, and only the server looks into it.
    """

    number: int
    key: str
    body: bytes | BinaryIO
    size: int
    rows: range = range(0)

    def content(self, sent: Callable[[int], None]) -> bytes | Iterator[bytes]:
        """The body from its start, as often as it has to be sent; a file's tells how many bytes it got rid of."""
        return self.body if isinstance(self.body, bytes) else _chunks(self.body, sent)


def _chunks(file: BinaryIO, sent: Callable[[int], None]) -> Iterator[bytes]:
    file.seek(0)
    while chunk := file.read(CHUNK):
        yield chunk
        sent(file.tell())


@dataclass(frozen=True)
class Said:
    """What a command says of all rows, beside the file: columns of one value, and the types of columns."""

    partition_key: dict[str, str]
    fields: list[dict[str, Any]]

    @property
    def salt(self) -> bytes:
        """The same file with another partition key is other rows."""
        return orjson.dumps(self.partition_key, option=orjson.OPT_SORT_KEYS) if self.partition_key else b""

    @property
    def params(self) -> dict[str, Any]:
        """The query of a batch whose body is nothing but rows."""
        fields = {"fields": orjson.dumps(self.fields).decode()} if self.fields else {}
        return fields | {"partitionKey": [f"{name}={value}" for name, value in self.partition_key.items()]}

    def add_to(self, envelope: dict[str, Any]) -> None:
        """Say it in the body of an ingest."""
        if self.partition_key:
            partition = envelope.get("partition") or {}
            envelope["partition"] = partition | {"key": {**partition.get("key", {}), **self.partition_key}}
        if self.fields:
            envelope["schema"] = (envelope.get("schema") or {}) | {"fields": self.fields}


def form_of(path: Path, file: io.BufferedReader) -> Form:
    """What a file is, by its name or else by how it begins."""
    if path.suffix.lower() in SUFFIXES:
        return SUFFIXES[path.suffix.lower()]
    head = file.peek(CHUNK)
    if head.startswith(b"PAR1"):
        return Form.PARQUET
    if head.startswith((ARROW_FILE, b"\xff\xff\xff\xff")):
        return Form.ARROW
    if head.startswith(b"\x1f\x8b"):
        fail("the file is compressed: `gunzip -c FILE | apphub dataset ingest DATASET - --format …`", Exit.USAGE)
    first = head.lstrip().split(b"\n", 1)[0]
    if first.startswith(b"{"):
        return Form.NDJSON if _is_json(first) else Form.JSON
    return Form.JSON if first.startswith(b"[") else Form.CSV


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def parts_of(file: BinaryIO, form: Form, most_rows: int, said: Said) -> Iterator[Part]:
    """The parts of a file, in its order."""
    if form.is_binary:
        with _seekable(file, form) as whole:
            digest = hashlib.sha256(said.salt)
            while chunk := whole.read(CHUNK):
                digest.update(chunk)
            yield Part(1, f"{digest.hexdigest()}:1", whole, whole.tell())
        return
    texts = {Form.NDJSON: _of_ndjson, Form.CSV: _of_csv}
    pieces = texts[form](file, most_rows) if form in texts else _of_json(file, most_rows, said)
    running, first = hashlib.sha256(said.salt), 1
    for number, (count, size, body) in enumerate(pieces, 1):
        running.update(body)
        yield Part(number, f"{running.hexdigest()}:{number}", body, size, range(first, first + count))
        first += count


@contextmanager
def _seekable(file: BinaryIO, form: Form) -> Iterator[BinaryIO]:
    """The same from its start, where it can be read again; an Arrow file becomes a stream, which the API takes."""
    with ExitStack() as copies:
        if not file.seekable():
            given, file = file, copies.enter_context(TemporaryFile())
            shutil.copyfileobj(given, file)
        file.seek(0)
        if form is Form.ARROW and file.read(len(ARROW_FILE)) == ARROW_FILE:
            file = _as_stream(file, copies.enter_context(TemporaryFile()))
        file.seek(0)
        yield file


def _as_stream(file: BinaryIO, stream: BinaryIO) -> BinaryIO:
    import pyarrow as pa  # slow, and seldom needed

    try:
        with pa.ipc.open_file(file) as source, pa.ipc.new_stream(stream, source.schema) as sink:
            for index in range(source.num_record_batches):
                sink.write_batch(source.get_batch(index))
    except (pa.ArrowException, OSError) as error:
        fail(f"the Arrow file is damaged: {error}", Exit.USAGE)
    return stream


Piece = tuple[int, int, bytes]


def _of_ndjson(file: BinaryIO, most_rows: int) -> Iterator[Piece]:
    """Rows, bytes of the file, and body of each part."""
    for lines in _grouped((line for line in file if line.strip()), most_rows):
        body = b"".join(lines)
        yield len(lines), len(body), body


def _of_csv(file: BinaryIO, most_rows: int) -> Iterator[Piece]:
    """Each part begins with the header."""
    records = _records(file)
    header = next(records, b"")
    header += b"" if header.endswith(b"\n") else b"\n"
    read = len(header)
    for lines in _grouped(records, most_rows):
        body = b"".join([header, *lines])
        yield len(lines), len(body) - len(header) + read, body
        read = 0


def _records(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Records of CSV: a line break within quotes ends none (RFC 4180, 2.6)."""
    held, within = list[bytes](), False
    for line in lines:
        held.append(line)
        within ^= line.count(b'"') % 2 == 1
        if not within:
            record, held = b"".join(held), []
            if record.strip():
                yield record
    if held:
        yield b"".join(held)


def _of_json(file: BinaryIO, most_rows: int, said: Said) -> Iterator[Piece]:
    """A list of rows, or the body of an ingest with its rows; each part says all that the whole said but the rows.

    But for its key, too, which can't be that of several batches.
    """
    content = file.read()
    try:
        given = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        fail(f"the file is not JSON: {error}; for a row per line use --format ndjson", Exit.USAGE)
    envelope = {"rows": given} if isinstance(given, list) else given
    if not isinstance(envelope, dict) or not isinstance(envelope.get("rows"), list):
        fail('give a JSON list of rows, or {"rows": […]}; for a row per line use --format ndjson', Exit.USAGE)
    try:
        said.add_to(envelope)
    except (AttributeError, TypeError):
        fail("partition, its key, and schema have to be objects", Exit.USAGE)
    rows = [orjson.dumps(row) for row in envelope.pop("rows")]
    envelope.pop("idempotencyKey", None)
    opening = (orjson.dumps(envelope)[:-1] + (b"," if envelope else b"")) + b'"rows":['
    sent = 0
    for group in _grouped(iter(rows), most_rows):
        body = opening + b",".join(group) + b"]}"
        size = min(len(body), len(content) - sent)
        sent += size
        yield len(group), size, body


def _grouped(records: Iterator[bytes], most_rows: int) -> Iterator[list[bytes]]:
    """As many records as fit in a part, at least one."""
    held, size = list[bytes](), 0
    for record in records:
        if held and (len(held) >= most_rows or size + len(record) > PART_BYTES):
            yield held
            held, size = [], 0
        held.append(record)
        size += len(record)
    if held:
        yield held
