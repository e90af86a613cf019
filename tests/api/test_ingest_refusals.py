"""What POST /datasets/{slug}/ingest refuses, and that a refusal leaves neither a row nor a file behind."""

import io
import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from apphub_assets.settings import Settings
from tests.api.test_errors import check_problem
from tests.fixtures.api import ALONE, running_api
from tests.fixtures.postgres import copy_of

FIELDS = [
    {"name": "timestamp", "type": "timestamp"},
    {"name": "text", "type": "string"},
    {"name": "value", "type": "double"},
    {"name": "count", "type": "integer"},
    {"name": "ok", "type": "boolean"},
    {"name": "price", "type": "decimal(5,2)"},
    {"name": "tags", "type": "list", "items": {"type": "integer"}},
    {"name": "place", "type": "struct", "fields": [{"name": "lat", "type": "double"}]},
    {"name": "extra", "type": "json"},
]
GOOD = {
    "timestamp": "2026-01-01T00:00:00Z", "text": "a", "value": 1.5, "count": 1, "ok": True, "price": "1.50",
    "tags": [1], "place": {"lat": 1.0}, "extra": {"any": "thing"},
}  # fmt: skip
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
ARROW, PARQUET = "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"
TABLES = """
    SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
    WHERE schemaname = 'timestore' OR (schemaname, tablename) = ('events', 'outbox') ORDER BY 1
"""

Refuse = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def settings(template_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """One database and folder for the whole module: what is refused changes nothing, so tests can't meet in it."""
    with copy_of(template_url, "refusals") as url:
        yield Settings(
            home=tmp_path_factory.mktemp("refusals"),
            database_url=SecretStr(url),
            ingest_max_rows=50_000,
            ingest_max_bytes=8 * 1024 * 1024,
            ingest_max_json_bytes=1024 * 1024,
            **ALONE,
        )


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[TestClient]:
    """The API with datasets `readings`, of one row and every type, and `shelved`, which is archived."""
    with running_api(settings) as client:
        for slug in ("readings", "shelved"):
            body = {"schema": {"fields": FIELDS}, "rows": [GOOD], "idempotencyKey": "first"}
            assert client.post(f"/datasets/{slug}/ingest", json=body).status_code == 201
        with psycopg.connect(_conninfo(settings)) as postgres:
            postgres.execute("UPDATE timestore.datasets SET status = 'inactive' WHERE slug = 'shelved'")
        yield client


def _conninfo(settings: Settings) -> str:
    return settings.sqlalchemy_url.replace("+psycopg", "", 1)


def footprint(settings: Settings) -> dict[str, Any]:
    """A hash of every table that an ingest may write, DuckLake's included, and every file."""
    with psycopg.connect(_conninfo(settings)) as postgres:
        tables = [name for (name,) in postgres.execute(TABLES)]
        hashes = " UNION ALL ".join(
            f"SELECT '{t}', md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM {t} t" for t in tables
        )
        found: dict[str, Any] = dict(postgres.execute(hashes).fetchall())
    files = {str(path): path.stat().st_size for path in Path(settings.home).rglob("*") if path.is_file()}
    return found | {"files": files}


@pytest.fixture
def refuse(api: TestClient, settings: Settings) -> Refuse:
    """Send an ingest that is to be refused with a status and a code; returns the problem when nothing has changed."""

    def send(status: int, code: str, *, slug: str = "readings", **request: Any) -> dict[str, Any]:
        before = footprint(settings)
        answer = api.post(f"/datasets/{slug}/ingest", **request)
        problem = check_problem(answer, status, code)
        assert footprint(settings) == before
        return problem

    return send


def pointers(problem: dict[str, Any]) -> list[str]:
    return [each["pointer"] for each in problem["errors"]]


def lines(*rows: Any) -> dict[str, Any]:
    return raw("\n".join(map(json.dumps, rows)), "application/x-ndjson")


def raw(content: str | bytes, kind: str = "application/json") -> dict[str, Any]:
    return {"content": content, "headers": {"content-type": kind}}


def arrow_bytes(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, **options) as stream:
        stream.write_table(table)
    return sink.getvalue()


def parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def as_arrow(table: pa.Table) -> dict[str, Any]:
    return raw(arrow_bytes(table), ARROW)


def as_parquet(table: pa.Table) -> dict[str, Any]:
    return raw(parquet_bytes(table), PARQUET)


def readings(**columns: Any) -> pa.Table:
    """As many rows as the columns have, a second apart."""
    count = len(next(iter(columns.values()))) if columns else 3
    times = pa.array([MOMENT.timestamp() * 1_000_000 + n * 1_000_000 for n in range(count)]).cast(pa.int64())
    return pa.table({"timestamp": times.cast(pa.timestamp("us")), **columns})


BINARY = pytest.mark.parametrize("form", [as_arrow, as_parquet], ids=["arrow", "parquet"])

# --- values -------------------------------------------------------------------------------------------------------

UNFIT = [
    ("timestamp", "yesterday", "is no time"),
    ("timestamp", True, "is no time"),
    ("timestamp", 1.5, "is no time"),
    ("timestamp", {"at": 1}, "is no time"),
    ("timestamp", "0000-12-31T23:59:59Z", "is no time"),
    ("timestamp", "10000-01-01T00:00:00Z", "is no time"),
    ("timestamp", "9999-12-31T23:59:59-01:00", "is no time"),
    ("timestamp", "0001-01-01T00:00:00+01:00", "is no time"),
    ("timestamp", 2**63, "years 1 to 9999"),
    ("timestamp", 2**63 - 1, "years 1 to 9999"),
    ("timestamp", -(2**63), "years 1 to 9999"),
    ("text", 5, "is no string"),
    ("text", ["a"], "is no string"),
    ("text", False, "is no string"),
    ("value", "1.5", "is no number"),
    ("value", True, "is no number"),
    ("value", {}, "is no number"),
    ("count", 1.5, "is no integer"),
    ("count", "1", "is no integer"),
    ("count", 2**63, "does not fit 64 bits"),
    ("count", -(2**63) - 1, "is no integer"),
    ("count", 1e300, ""),
    ("ok", 1, "is no boolean"),
    ("ok", "true", "is no boolean"),
    ("price", "1000.00", "does not fit decimal(5,2)"),
    ("price", "0.001", "does not fit decimal(5,2)"),
    ("price", "NaN", "does not fit decimal(5,2)"),
    ("price", "Infinity", "does not fit decimal(5,2)"),
    ("price", "dear", "is no decimal"),
    ("price", True, "is no decimal"),
    ("tags", 1, "is no list"),
    ("tags", ["a"], "is no integer"),
    ("tags", [1, [2]], "is no integer"),
    ("place", [1.0], "is no object"),
    ("place", {"lat": "north"}, "is no number"),
    ("place", {"lat": 1.0, "height": 2.0}, "'height'"),
]


@pytest.mark.parametrize(("column", "value", "complaint"), UNFIT)
def test_a_value_of_another_type_is_named_with_its_row_and_column(refuse: Refuse, column, value, complaint):
    bad = GOOD | {column: value}
    for request in ({"json": {"rows": [GOOD, bad, bad]}}, lines(GOOD, bad, bad)):
        if -(2**63) <= value < 2**64 if type(value) is int else True:
            problem = refuse(400, "invalid_rows", **request)
            assert pointers(problem) == [f"/rows/1/{column}", f"/rows/2/{column}"]
            assert f"row 1, column {column!r}: {json.dumps(value, separators=(',', ':'))}" in problem["detail"]
            assert complaint in problem["detail"]
            assert "nothing was written" in problem["detail"]
        else:  # a number that a reader of JSON can only take for a double
            assert complaint in refuse(400, "invalid_rows", **request)["detail"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "nan", "1e", "0x10", "01", "+1"])
def test_what_is_no_number_in_json_is_no_json(refuse: Refuse, number):
    row = f'{{"timestamp": "2026-01-01T00:00:00Z", "value": {number}}}'
    refuse(400, "invalid_body", **raw(f'{{"rows": [{row}]}}'))
    assert "line 1" in refuse(400, "invalid_body", **raw(row, "application/x-ndjson"))["detail"]


@pytest.mark.parametrize("number", ["1e400", "-1e400"])
def test_a_number_beyond_doubles_is_refused_whichever_part_notices(refuse: Refuse, number):
    row = f'{{"timestamp": "2026-01-01T00:00:00Z", "value": {number}}}'
    for request in (raw(f'{{"rows": [{row}]}}'), raw(row, "application/x-ndjson")):
        assert refuse(400, "invalid_body", **request)["detail"]


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_csv_without_commas_is_told_what_it_has_instead(refuse: Refuse, separator: str):
    body = f"timestamp{separator}value\n2026-01-01T00:00:00Z{separator}1,5\n"
    assert "separate cells by commas" in refuse(400, "invalid_body", **raw(body, "text/csv"))["detail"]


@pytest.mark.parametrize("cell", ["nan", "NaN", "inf", "-Infinity", "1e400"])
def test_numbers_in_csv_are_finite(refuse: Refuse, cell):
    body = f"timestamp,value\n2026-01-01T00:00:00Z,1\n2026-01-01T00:00:00Z,{cell}\n"
    assert pointers(refuse(400, "invalid_rows", **raw(body, "text/csv"))) == ["/rows/1/value"]
    assert pointers(refuse(400, "invalid_rows", slug="not-there-yet", **raw(body, "text/csv"))) == ["/rows/1/value"]


CELLS = [
    ("timestamp", "soon"), ("timestamp", str(2**63)), ("timestamp", "10000-01-01T00:00:00Z"),
    ("timestamp", "0000-01-01T00:00:00Z"), ("value", "north"),
    ("value", "1_000"), ("count", "1.5"), ("count", str(2**63)), ("ok", "yes"), ("price", "1000"), ("extra", "{"),
    ("tags", "[1"), ("place", "x"),
]  # fmt: skip


@pytest.mark.parametrize(("column", "cell"), CELLS)
def test_a_cell_of_another_type_is_named_with_its_row_and_column(refuse: Refuse, column, cell):
    other = "" if column == "timestamp" else ",timestamp"
    time = "" if column == "timestamp" else ",2026-01-01T00:00:00Z"
    problem = refuse(400, "invalid_rows", **raw(f'{column}{other}\n"{cell}"{time}\n', "text/csv"))
    assert pointers(problem) == [f"/rows/0/{column}"]
    assert cell in problem["detail"]


@BINARY
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [pa.float64(), pa.float32()], ids=str)
def test_numbers_in_files_are_finite(refuse: Refuse, form, value, kind):
    problem = refuse(400, "invalid_rows", **form(readings(value=pa.array([1.0, value, 2.0], kind))))
    assert pointers(problem) == ["/rows/1/value"]
    assert str(value) in problem["detail"]


@BINARY
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_inside_of_lists_and_structs_are_finite(refuse: Refuse, form, value):
    for column in (pa.array([[1.0], [value]]), pa.array([{"x": 1.0}, {"x": value}])):
        refuse(400, "invalid_rows", slug="nested-numbers", **form(readings(nested=column)))


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63)])
@pytest.mark.parametrize(
    ("form", "unit"), [(as_arrow, "s"), (as_arrow, "ms"), (as_arrow, "us"), (as_parquet, "ms"), (as_parquet, "us")]
)
def test_times_in_files_are_within_the_years_1_to_9999(refuse: Refuse, form, unit, number):
    times = pa.array([0, number], pa.int64()).cast(pa.timestamp(unit))
    problem = refuse(400, "invalid_rows", **form(pa.table({"timestamp": times})))
    assert "years 1 to 9999" in problem["detail"]


@BINARY
def test_dates_in_files_are_within_the_years_1_to_9999(refuse: Refuse, form):
    days = pa.array([0, 2**31 - 1], pa.int32()).cast(pa.date32())
    assert "years 1 to 9999" in refuse(400, "invalid_rows", **form(pa.table({"timestamp": days})))["detail"]


@BINARY
def test_unsigned_numbers_in_files_fit_64_bits_with_a_sign(refuse: Refuse, form):
    problem = refuse(400, "invalid_rows", **form(readings(count=pa.array([0, 2**63], pa.uint64()))))
    assert pointers(problem) == ["/rows/1/count"]
    assert str(2**63) in problem["detail"]


def test_a_column_that_changed_its_type_comes_with_the_plan_to_change_the_dataset(refuse: Refuse):
    fields = [FIELDS[0], {"name": "value", "type": "string"}]
    body = {"schema": {"fields": fields}, "rows": [{"timestamp": 0, "value": "high"}]}
    problem = refuse(409, "incompatible_schema", json=body)
    assert problem["plan"] == [{"action": "transform", "column": "value", "from": "double", "to": "string"}]
    refuse(409, "incompatible_schema", **as_arrow(readings(value=["high"])))


# --- rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        {"json": {"rows": []}}, lines(), raw("", "application/x-ndjson"), raw("timestamp,value\n", "text/csv"),
        as_arrow(readings(value=pa.array([], pa.float64()))), as_parquet(readings(value=pa.array([], pa.float64()))),
    ],
    ids=["json", "ndjson", "blank", "csv", "arrow", "parquet"],
)  # fmt: skip
def test_no_rows(refuse: Refuse, request_):
    assert pointers(refuse(400, "invalid_rows", **request_)) == ["/rows"]


@pytest.mark.parametrize("row", [1, None, "row", [1]])
def test_a_row_that_is_no_object(refuse: Refuse, row):
    for request in ({"json": {"rows": [GOOD, row]}}, lines(GOOD, row)):
        assert pointers(refuse(400, "invalid_rows", **request)) == ["/rows/1"]


def test_every_row_has_a_time(refuse: Refuse):
    for request in ({"json": {"rows": [GOOD, {"value": 1.0}]}}, lines(GOOD, GOOD | {"timestamp": None})):
        assert pointers(refuse(400, "invalid_rows", **request)) == ["/rows/1/timestamp"]
    refuse(400, "invalid_rows", json={"rows": [{"value": 1.0}]})
    refuse(400, "invalid_rows", slug="not-there-yet", json={"rows": [{"value": 1.0}]})
    refuse(400, "invalid_rows", json={"schema": {"fields": FIELDS[1:3]}, "rows": [GOOD]})
    times = pa.array([0, None], pa.timestamp("us"))
    for form in (as_arrow, as_parquet):
        problem = refuse(400, "invalid_rows", **form(pa.table({"timestamp": times})))
        assert pointers(problem) == ["/rows/1/timestamp"]
        refuse(400, "invalid_rows", **form(pa.table({"value": [1.0]})))


def test_a_row_that_contradicts_its_partition_key(refuse: Refuse):
    body = {"partition": {"key": {"text": "north"}}, "rows": [GOOD | {"text": "north"}, GOOD | {"text": "south"}]}
    problem = refuse(400, "invalid_rows", json=body)
    assert pointers(problem) == ["/rows/1/text"]
    assert "south" in problem["detail"]


@BINARY
def test_more_rows_than_one_ingest_may_bring(refuse: Refuse, form):
    table = pa.table({"timestamp": pa.array(np.zeros(50_001, "int64")).cast(pa.timestamp("us"))})
    problem = refuse(413, "batch_too_large", **form(table))
    assert "50001" in problem["detail"]
    assert "50000 (APPHUB_INGEST_MAX_ROWS)" in problem["detail"]


def test_more_rows_than_one_ingest_may_bring_as_text(refuse: Refuse):
    body = "timestamp\n" + "2026-01-01\n" * 50_001
    assert "APPHUB_INGEST_MAX_ROWS" in refuse(413, "batch_too_large", **raw(body, "text/csv"))["detail"]


# --- columns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("twin", ["value", "Value", " value "])
def test_no_two_columns_have_one_name(refuse: Refuse, twin):
    fields = [FIELDS[0], {"name": "value", "type": "double"}, {"name": twin, "type": "double"}]
    problem = refuse(400, "invalid_dataset", json={"schema": {"fields": fields}, "rows": [GOOD]})
    assert pointers(problem) == ["/schema/fields/2/name"]
    refuse(400, "invalid_body", **raw(f"timestamp,value,{twin}\n0,1,2\n", "text/csv"))
    fields_in_query = {"params": {"fields": json.dumps(fields)}}
    assert pointers(refuse(400, "invalid_dataset", **lines(GOOD), **fields_in_query)) == ["/fields/2/name"]
    schema = pa.schema([("timestamp", pa.timestamp("us")), ("value", pa.float64()), (twin, pa.float64())])
    table = pa.Table.from_arrays(
        [pa.array([0]).cast(pa.timestamp("us")), pa.array([1.0]), pa.array([2.0])], schema=schema
    )
    for form in (as_arrow, as_parquet):
        assert pointers(refuse(400, "invalid_dataset", **form(table))) == ["/schema/fields/2/name"]


@pytest.mark.parametrize("slug", ["readings", "not-there-yet"])
def test_no_two_columns_of_rows_have_names_that_differ_in_case_only(refuse: Refuse, slug):
    row = {"timestamp": 0, "value": 1.0, "Value": 2.0}
    for request in ({"json": {"rows": [row]}}, lines(row)):
        problem = refuse(400, "invalid_rows", slug=slug, **request)
        assert "Value" in problem["detail"]


@pytest.mark.parametrize(
    "name", ["", " ", "a" * 64, "é" * 32, "nul\0", "two\nlines", "row_id", "BEGIN_SNAPSHOT", "ctid", 5, None, ["a"]]
)
def test_names_that_no_column_can_have(refuse: Refuse, name):
    fields = [FIELDS[0], {"name": name, "type": "double"}]
    problem = refuse(400, "invalid_dataset", json={"schema": {"fields": fields}, "rows": [{"timestamp": 0}]})
    assert pointers(problem) == ["/schema/fields/1/name"]
    if isinstance(name, str):
        refuse(400, "invalid_dataset", json={"rows": [{"timestamp": 0, name: 1.0}]})


@pytest.mark.parametrize("kind", ["float", "TIMESTAMP", "", None, 1, "decimal(39,2)", "decimal(2,3)", "list", "struct"])
def test_types_that_no_column_has(refuse: Refuse, kind):
    fields = [FIELDS[0], {"name": "value", "type": kind}]
    problem = refuse(400, "invalid_dataset", json={"schema": {"fields": fields}, "rows": [GOOD]})
    assert pointers(problem) == ["/schema/fields/1/type"]
    assert repr(kind) in problem["detail"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"x"]), pa.array([None], pa.null()), pa.array([1], pa.duration("s")), pa.array([1], pa.time64("us")),
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), pa.array([b"0123"], pa.binary(4)),
        pa.array([(1, 2, 3)], pa.month_day_nano_interval()), pa.array([[1]], pa.list_view(pa.int64())),
        pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]),
        pa.RunEndEncodedArray.from_arrays([1], [1.0]),
    ],
    ids=lambda column: str(column.type)[:20],
)  # fmt: skip
def test_arrow_types_that_no_dataset_has(refuse: Refuse, column):
    problem = refuse(400, "invalid_body", **as_arrow(readings(odd=column)))
    assert "'odd'" in problem["detail"]
    assert pointers(problem) == ["/schema/fields"]


def test_columns_nested_too_deep(refuse: Refuse):
    field: dict[str, Any] = {"type": "integer"}
    for _ in range(20):
        field = {"type": "list", "items": field}
    refuse(400, "invalid_dataset", json={"schema": {"fields": [FIELDS[0], field | {"name": "deep"}]}, "rows": [GOOD]})


# --- bodies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/rows"),
        ({"rows": "none"}, "/rows"),
        ({"rows": [GOOD], "partitions": {}}, "/partitions"),
        ({"rows": [GOOD], "partition": {"keys": {}}}, "/partition/keys"),
        ({"rows": [GOOD], "partition": {"timeRange": {"start": "2026-01-01T00:00:00Z"}}}, "/partition/timeRange/end"),
        ({"rows": [GOOD], "schema": {"fields": []}}, "/schema/fields"),
        ({"rows": [GOOD], "schema": {"fields": [5]}}, "/schema/fields/0"),
        ({"rows": [GOOD], "idempotencyKey": ""}, "/idempotencyKey"),
        ({"rows": [GOOD], "idempotencyKey": "k" * 256}, "/idempotencyKey"),
        ({"rows": [GOOD], "datasetName": "n" * 161}, "/datasetName"),
        ({"rows": [GOOD], "idempotencyKey": "a\0"}, "/idempotencyKey"),
        ({"rows": [GOOD], "datasetName": "a\0"}, "/datasetName"),
        ({"rows": [GOOD], "storageTargetId": "a\0"}, "/storageTargetId"),
        ({"rows": [GOOD], "partition": {"key": {"nul": "a\0"}}}, "/partition/key/nul"),
        ({"rows": [GOOD], "partition": {"key": {"ctid": "a"}}}, "/partition/key/ctid"),
        ({"rows": [GOOD], "partition": {"key": {f"k{n}": "v" for n in range(33)}}}, "/partition/key"),
        ([GOOD], "/"),
    ],
)
def test_members_of_the_body_that_are_wrong_are_pointed_at(refuse: Refuse, body, pointer):
    answer = refuse(400, "invalid_dataset" if pointer == "/schema/fields/0" else "invalid_body", json=body)
    assert pointer in pointers(answer)


def test_a_window_that_ends_before_it_starts(refuse: Refuse):
    window = {"start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"}
    problem = refuse(400, "invalid_body", json={"rows": [GOOD], "partition": {"timeRange": window}})
    assert pointers(problem) == ["/partition/timeRange/end"]
    refuse(400, "invalid_body", **lines(GOOD), params=window)
    refuse(400, "invalid_body", **lines(GOOD), params={"start": window["start"]})


def test_an_unknown_storage_target(refuse: Refuse):
    body = {"rows": [GOOD], "storageTargetId": "nowhere"}
    assert "nowhere" in refuse(404, "storage_target_not_found", slug="not-there-yet", json=body)["detail"]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/json", b""), ("application/json", b"{"), ("application/json", b"\xff\xfe"),
        ("application/json", b'{"rows": [{"timestamp": 0}]} trailing'), ("application/json", b"[" * 100_000),
        ("application/x-ndjson", b'{"timestamp": 0}\n{"timestamp": '), ("application/x-ndjson", b"\xff"),
        ("text/csv", b""), ("text/csv", b"timestamp,value\n0\n"), ("text/csv", b"timestamp,value\n0,1,2\n"),
        ("text/csv", b"timestamp\n\xff\n"), ("text/csv", b'timestamp,text\n0,"open\n'),
        ("text/csv", b"timestamp\n\0\n"),
        (ARROW, b""), (ARROW, b"garbage"), (ARROW, b"\xff\xff\xff\xff\x00\x00\x00\x00"), (ARROW, b"\xff" * 64),
        (ARROW, b"ARROW1\0\0" + b"\0" * 64), (PARQUET, b""), (PARQUET, b"PAR1"), (PARQUET, b"PAR1PAR1"),
        (PARQUET, b"PAR1\x00\x00\x00\x00PAR1"), (PARQUET, b"PAR1\xff\xff\xff\x7fPAR1"),
        (PARQUET, b"PAR1" + b"\x15" * 64 + b"\x40\x00\x00\x00PAR1"), (PARQUET, b"garbage" * 10),
    ],
)  # fmt: skip
def test_a_body_that_is_not_what_its_type_says(refuse: Refuse, kind, content):
    problem = refuse(400, "invalid_rows" if content == b"timestamp\n\0\n" else "invalid_body", **raw(content, kind))
    assert len(problem["detail"]) < 1000


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", "multipart/form-data; boundary=x", "x"])
def test_a_type_that_can_not_be_ingested(refuse: Refuse, kind):
    problem = refuse(415, "unsupported_format", **raw(b"x", kind))
    assert kind.partition(";")[0] in problem["detail"]
    assert "application/json" in problem["detail"]


def test_bodies_over_the_limit_by_form(refuse: Refuse):
    assert "1048576" in refuse(413, "body_too_large", **raw(b" " * (1024 * 1024 + 1)))["detail"]
    assert "8388608" in refuse(413, "body_too_large", **raw(b" " * (8 * 1024 * 1024 + 1), ARROW))["detail"]


# --- Arrow and Parquet that is damaged, or lies ----------------------------------------------------------------------


def boundaries(stream: bytes) -> list[int]:
    """Where one message of a stream ends and the next begins."""
    ends = []
    reader = pa.BufferReader(stream)
    while reader.tell() < len(stream) - 8:
        pa.ipc.read_message(reader)
        ends.append(reader.tell())
    return ends


def test_an_arrow_stream_that_is_cut_at_any_message_or_within_one(refuse: Refuse):
    table = readings(text=pa.array(["a", "b", "a"]).dictionary_encode(), value=[1.0, 2.0, 3.0])
    whole = arrow_bytes(pa.concat_tables([table, table.slice(1)]))
    ends = boundaries(whole)
    assert len(ends) >= 4
    cuts = {cut for end in ends for cut in (end, end - 1, end + 4, end - 40)}
    for cut in sorted(cuts | {len(whole) - 1, len(whole) - 4, 4, 8}):
        refuse(400, "invalid_body", **raw(whole[:cut], ARROW))
        # The same with the marker that says it were whole: what comes before it is counted, and may not be cut.
        if cut not in ends:
            refuse(400, "invalid_body", **raw(whole[:cut] + b"\xff\xff\xff\xff\x00\x00\x00\x00", ARROW))


def patched(array: pa.Array, at: int, buffer: Any) -> pa.Array:
    """The array with one of its own buffers replaced; what is wrong with it, nobody has checked."""
    buffers = array.buffers()[: 2 if pa.types.is_list(array.type) else 3]
    buffers[at] = pa.py_buffer(buffer)
    children = [array.values] if pa.types.is_list(array.type) else []
    return pa.Array.from_buffers(array.type, len(array), buffers, children=children)


def offsets(*values: int) -> bytes:
    return np.array(values, "int32").tobytes()


@pytest.mark.parametrize(
    "column",
    [
        patched(pa.array(["aa", "bb", "cc"]), 1, offsets(0, 2, 1 << 30, 6)),
        patched(pa.array(["aa", "bb", "cc"]), 1, offsets(0, 4, 2, 6)),
        patched(pa.array(["aa", "bb", "cc"]), 2, b"\xff\xfe\xff\xfe\xff\xfe"),
        patched(pa.array([[1], [2], [3]]), 1, offsets(0, 1, 99, 3)),
        pa.DictionaryArray.from_arrays(pa.array([0, 9, 1], pa.int32()), ["a", "b"], safe=False),
    ],
    ids=["offset beyond", "offset back", "not UTF-8", "list beyond", "index beyond"],
)
def test_an_arrow_stream_with_values_that_point_elsewhere(refuse: Refuse, column):
    problem = refuse(400, "invalid_body", slug="pointing-elsewhere", **as_arrow(readings(odd=column)))
    assert "Arrow stream" in problem["detail"]


def test_a_parquet_file_that_is_cut_or_damaged_anywhere(refuse: Refuse):
    whole = parquet_bytes(readings(text=["a", "b", "c"], value=[1.0, 2.0, 3.0]), write_page_checksum=True)
    for cut in (1, 4, len(whole) // 2, len(whole) - 9, len(whole) - 4, len(whole) - 1):
        refuse(400, "invalid_body", **raw(whole[:cut], PARQUET))
        refuse(400, "invalid_body", **raw(whole[cut:], PARQUET))
    footer = int.from_bytes(whole[-8:-4], "little")
    refuse(400, "invalid_body", **raw(whole[: -8 - footer] + b"\xff" * footer + whole[-8:], PARQUET))
    refuse(400, "invalid_body", **raw(b"PAR1" + b"\xff" * (len(whole) - 12 - footer) + whole[-8 - footer :], PARQUET))


def test_a_tiny_parquet_file_of_billions_of_rows(refuse: Refuse):
    bomb = repeated(parquet_bytes(constant_rows(1_000_000), write_statistics=False), 3000)
    assert len(bomb) < 1024 * 1024
    assert "3000000000 rows" in refuse(413, "batch_too_large", **raw(bomb, PARQUET))["detail"]


def test_a_parquet_file_that_claims_fewer_rows_than_it_has(refuse: Refuse):
    whole = parquet_bytes(constant_rows(300_000), write_statistics=False)
    true, claimed = (varint(2 * rows) for rows in (300_000, 30_000))
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    assert whole[footer:].count(true) == 4
    lying = whole[:footer] + whole[footer:].replace(true, claimed, 1)
    assert "APPHUB_INGEST_MAX_ROWS" in refuse(413, "batch_too_large", **raw(lying, PARQUET))["detail"]


def constant_rows(count: int) -> pa.Table:
    times = pa.array(np.zeros(count, "int64")).cast(pa.timestamp("us"))
    return pa.table({"timestamp": times})


def repeated(parquet: bytes, times: int) -> bytes:
    """The file with a footer that has its row groups many times over, each at the same place."""
    once = pq.read_metadata(io.BytesIO(parquet))
    many = pq.read_metadata(io.BytesIO(parquet))
    for _ in range(times - 1):
        many.append_row_groups(once)
    footer = io.BytesIO()
    many.write_metadata_file(footer)
    length = int.from_bytes(parquet[-8:-4], "little")
    return parquet[: -8 - length] + footer.getvalue()[4:]


def varint(number: int) -> bytes:
    """Thrift's compact form of an unsigned number, always of three bytes."""
    return bytes([number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14 & 0x7F])


# --- slugs, keys and datasets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "slug", ["ab", "a" * 121, "two words", "x'; DROP TABLE datasets; --", 'x"y"z', "lake;.x", "dots%00", "ünicode"]
)
def test_slugs_that_no_dataset_can_have(refuse: Refuse, slug):
    for request in ({"json": {"rows": [GOOD]}}, as_arrow(readings(value=[1.0]))):
        assert pointers(refuse(400, "invalid_dataset", slug=slug, **request)) == ["/slug"]


def test_an_archived_dataset(refuse: Refuse):
    for request in ({"json": {"rows": [GOOD]}}, lines(GOOD), as_arrow(readings(value=[1.0]))):
        assert "shelved" in refuse(409, "dataset_inactive", slug="shelved", **request)["detail"]


def test_a_key_that_was_used_for_other_content(refuse: Refuse):
    problem = refuse(422, "idempotency_key_reused", json={"rows": [GOOD | {"value": 2.0}], "idempotencyKey": "first"})
    assert "under a new key" in problem["detail"]
    refuse(422, "idempotency_key_reused", headers={"idempotency-key": "first"}, json={"rows": [GOOD | {"count": 7}]})
    request = as_arrow(readings(value=[9.0]))
    request["headers"]["idempotency-key"] = "first"
    refuse(422, "idempotency_key_reused", **request)


# --- what looks wrong and is right -----------------------------------------------------------------------------------

HOSTILE = 'v"; DROP TABLE timestore.datasets; --'


def test_names_that_are_sql_are_only_names(api: TestClient, settings: Settings):
    rows = [{"timestamp": 0, HOSTILE: 1.5, "select": 2, "'": "'); DELETE FROM timestore.batches; --"}]
    partition = {"key": {"or 1=1; --": "x' OR ''='"}}
    answer = api.post("/datasets/drop-table--/ingest", json={"rows": rows, "partition": partition})
    assert answer.status_code == 201, answer.text
    again = {"rows": [rows[0] | {"new; column": None, HOSTILE: 2}], "partition": partition}
    assert api.post("/datasets/drop-table--/ingest", json=again).status_code == 201
    table = readings(**{HOSTILE: [3.5], "it's": ["a\\'b"]})
    assert api.post("/datasets/drop-table--/ingest", **as_arrow(table)).status_code == 201
    columns = f'sum("{HOSTILE.replace(chr(34), chr(34) * 2)}"), any_value("\'")'
    assert rows_of(settings, f'SELECT {columns} FROM lake."drop-table--"') == [
        (7.0, "'); DELETE FROM timestore.batches; --")
    ]


def test_moments_of_any_zone_become_utc(api: TestClient, settings: Settings):
    same = ["2026-01-01T12:00:00Z", "2026-01-01T13:00:00+01:00", "2026-01-01T12:00:00", "2025-12-31T23:30-12:30"]
    rows = [{"timestamp": moment} for moment in [*same, 1767268800000]]
    body = "timestamp\n" + "\n".join(same)
    zones = [None, "UTC", "Europe/Berlin", "+09:00"]
    requests = [{"json": {"rows": rows}}, lines(*rows), raw(body, "text/csv")]
    micros = pa.array([1767268800_000_000])
    for unit, zone in [("us", zone) for zone in zones] + [
        ("ns", "Asia/Kathmandu"),
        ("s", None),
        ("ms", "America/Lima"),
    ]:
        times = micros.cast(pa.timestamp("us")).cast(pa.timestamp(unit)).cast(pa.int64()).cast(pa.timestamp(unit, zone))
        requests += [form(pa.table({"timestamp": times})) for form in (as_arrow, as_parquet)]
    for number, request in enumerate(requests):
        answer = api.post("/datasets/zones/ingest", params={"attribute": f"n={number}"}, **request)
        assert answer.status_code == 201, answer.text
    assert rows_of(settings, "SELECT DISTINCT timestamp::VARCHAR FROM lake.zones") == [("2026-01-01 12:00:00",)]


def test_one_key_from_eight_clients_at_once_is_written_once(api: TestClient, settings: Settings):
    body = {"rows": [{"timestamp": n, "n": n} for n in range(10)], "idempotencyKey": "same"}
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: api.post("/datasets/crowd/ingest", json=body), range(8)))
    assert [answer.status_code for answer in answers] == [201] * 8
    assert len({answer.text for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert rows_of(settings, "SELECT count(*), count(DISTINCT n) FROM lake.crowd") == [(10, 10)]


def rows_of(settings: Settings, sql: str) -> list[tuple[Any, ...]]:
    from apphub_assets.timestore.lake import Lake

    lake = Lake(settings)
    with lake.query(sql) as found:
        rows = [tuple(row.values()) for row in found.read_all().to_pylist()]
    lake.close()
    return rows
