"""Answers as bytes: every type in every format, in bounded memory."""

import io
import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from apphub_assets.settings import Settings
from apphub_assets.timestore.errors import QueryTooLong
from apphub_assets.timestore.lake import Lake, inlining
from apphub_assets.timestore.query.rendering import FORMATS, Format
from apphub_assets.timestore.query.service import run
from apphub_assets.timestore.spec import DatasetInfo
from tests.fixtures.postgres import copy_of
from tests.timestore.asking import FIELDS, dataset_of, insert, make, planned, rendered

NDJSON, CSV = "application/x-ndjson", "text/csv"
PARQUET, ARROW = "application/vnd.apache.parquet", "application/vnd.apache.arrow.stream"
STRUCT = {
    "name": "s",
    "type": "struct",
    "fields": [{"name": 'a "b"', "type": "string"}, {"name": "c", "type": "double"}],
}
KINDS = [
    {"name": "timestamp", "type": "timestamp"},
    {"name": "text", "type": "string"},
    {"name": "number", "type": "double"},
    {"name": "whole", "type": "integer"},
    {"name": "flag", "type": "boolean"},
    {"name": "exact", "type": "decimal(30,4)"},
    {"name": "document", "type": "json"},
    {"name": "times", "type": "list", "items": {"type": "timestamp"}},
    STRUCT,
    {"name": "nested", "type": "list", "items": {"type": "list", "items": STRUCT}},
]
FULL = """SELECT TIMESTAMP '2025-01-01 12:00:00.5', 'a "quoted" \\ ' || chr(10) || chr(1) || ' line, é😀', -1.5e-7,
    -9223372036854775808, true, '12345678901234567890123456.7890',
    '{"b":' || chr(10) || ' [1, null]}', [TIMESTAMP '2025-01-01 00:00:00.000001', NULL],
    {'a "b"': 'it', 'c': 'inf'::DOUBLE}, [[{'a "b"': NULL, 'c': 2}], NULL, []]"""
NONE = "SELECT TIMESTAMP '1969-12-31 23:59:59.999', NULL, 'nan', NULL, NULL, NULL, 'null', NULL, NULL, NULL"
TEXT = 'a "quoted" \\ \n\x01 line, é😀'


@pytest.fixture
def kinds(lake: Lake) -> DatasetInfo:
    """A row of every kind, and one of nothing."""
    dataset = dataset_of(KINDS)
    make(lake, dataset)
    with lake.writing() as connection:
        connection.execute(inlining(0))
        for row in (NONE, FULL):
            connection.execute(f"INSERT INTO {dataset.relation} {row}")
    return dataset


def ask(lake: Lake, dataset: DatasetInfo, media_type: str = "application/json") -> bytes:
    everything = {"start": "1900-01-01T00:00:00Z", "end": "2100-01-01T00:00:00Z"}
    return rendered(lake, planned(lake, dataset, timeRange=everything), media_type)


def test_json_has_every_kind_and_null_for_what_it_has_not(lake: Lake, kinds: DatasetInfo):
    nothing, full = json.loads(ask(lake, kinds), parse_float=str)["rows"]

    assert nothing == {"timestamp": "1969-12-31T23:59:59.999Z"} | {field["name"]: None for field in KINDS[1:]}
    assert full == {
        "timestamp": "2025-01-01T12:00:00.500Z",
        "text": TEXT,
        "number": "-1.5e-07",
        "whole": -9223372036854775808,
        "flag": True,
        "exact": "12345678901234567890123456.7890",
        "document": {"b": [1, None]},
        "times": ["2025-01-01T00:00:00.000001Z", None],
        "s": {'a "b"': "it", "c": None},
        "nested": [[{'a "b"': None, "c": "2.0"}], None, []],
    }


def test_a_line_of_ndjson_is_a_row_whatever_is_in_it(lake: Lake, kinds: DatasetInfo):
    lines = ask(lake, kinds, NDJSON).decode().split("\n")

    assert [json.loads(line) for line in lines[:-1]] == json.loads(ask(lake, kinds))["rows"]
    assert lines[-1] == ""


def test_csv_has_json_in_its_cells(lake: Lake, kinds: DatasetInfo):
    options = pa.csv.ParseOptions(newlines_in_values=True)
    as_text = pa.csv.ConvertOptions(
        column_types={field["name"]: pa.string() for field in KINDS},
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    table = pa.csv.read_csv(io.BytesIO(ask(lake, kinds, CSV)), parse_options=options, convert_options=as_text)

    nothing, full = table.to_pylist()
    assert [name for name, value in nothing.items() if value is not None] == ["timestamp", "document"]
    assert (full["text"], full["exact"], full["flag"]) == (TEXT, "12345678901234567890123456.7890", "true")
    assert json.loads(full["nested"]) == [[{'a "b"': None, "c": 2}], None, []]
    assert json.loads(full["times"]) == ["2025-01-01T00:00:00.000001Z", None]


@pytest.mark.parametrize("media_type", [PARQUET, ARROW])
def test_parquet_and_arrow_have_types_all_the_way_down(lake: Lake, kinds: DatasetInfo, media_type: str):
    table = read(media_type, ask(lake, kinds, media_type))

    assert table.schema.field("times").type.value_type == pa.timestamp("us", "UTC")
    assert table.schema.field("exact").type == pa.decimal128(30, 4)
    full = table.to_pylist()[1]
    assert full["s"] == {'a "b"': "it", "c": float("inf")}
    assert str(full["exact"]) == "12345678901234567890123456.7890"
    assert full["timestamp"].isoformat() == "2025-01-01T12:00:00.500000+00:00"


def read(media_type: str, data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data)) if media_type == PARQUET else pa.ipc.open_stream(data).read_all()


@dataclass(frozen=True)
class Big:
    """A dataset of five million rows."""

    settings: Settings
    lake: Lake
    dataset: DatasetInfo


@pytest.fixture(scope="module")
def big(template_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Big]:
    """Made once, and only read."""
    with copy_of(template_url, "rendering") as url:
        settings = Settings(home=tmp_path_factory.mktemp("rendering"), database_url=SecretStr(url))
        with closing(Lake(settings)) as lake:
            dataset = dataset_of(FIELDS)
            make(lake, dataset)
            row = "TIMESTAMP '2025-01-01' + to_milliseconds(i * 500), 's' || i % 7, i / 3, i, true, 1.5, NULL, 'k'"
            insert(lake, dataset, f"SELECT {row} FROM range(5_000_000) t(i)")
            yield Big(settings, lake, dataset)


@pytest.mark.parametrize("wanted", FORMATS, ids=lambda wanted: wanted.media_type)
def test_five_million_rows_need_no_more_memory_than_a_few(big: Big, wanted: Format, tmp_path: Path):
    plan = planned(big.lake, big.dataset, columns=["site", "value", "n"])
    process, peak = psutil.Process(), 0
    before = process.memory_info().rss

    class Watched(io.FileIO):
        def write(self, data: Any) -> int:
            nonlocal peak
            peak = max(peak, process.memory_info().rss - before)
            return super().write(data)

    with Watched(tmp_path / "answer", "w") as sink, run(big.lake, plan, wanted.select(plan.fields)) as answer:
        wanted.write(answer, sink)
    # DuckDB's own, and as much again for what is on the way; the rows are 400 MB of JSON.
    assert peak < 2 * big.settings.query_memory_bytes


def test_a_query_that_takes_too_long_says_so_in_the_midst_of_its_rows(big: Big):
    hasty = Lake(big.settings.model_copy(update={"query_timeout": 1.0}))

    def read_slowly() -> None:
        with run(hasty, planned(hasty, big.dataset), "n") as answer:
            for _ in answer.batches():
                time.sleep(0.05)

    with closing(hasty), pytest.raises(QueryTooLong, match="more than 1 s"):
        read_slowly()
