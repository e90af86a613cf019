"""Queries for rows of a dataset, on a real lake: columns, filters, order, pages, newest rows, earlier states."""

from dataclasses import replace
from typing import Any

import pytest

from apphub_assets.kit.cursor import InvalidCursor
from apphub_assets.timestore.errors import InvalidQuery
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.query.explaining import explain
from apphub_assets.timestore.query.language import Query
from apphub_assets.timestore.spec import DatasetInfo, Schema
from tests.timestore.asking import FIELDS, JANUARY, ROWS, Ask, answer, dataset_of, insert, make, planned

BIG = 9007199254740993


@pytest.fixture
def dataset() -> DatasetInfo:
    return dataset_of(FIELDS)


@pytest.fixture
def ask(lake: Lake, dataset: DatasetInfo) -> Ask:
    """Ask the five readings of January 2025."""
    make(lake, dataset, ROWS)
    return lambda **body: answer(lake, dataset, **body)


def numbers(found: dict[str, Any]) -> list[int]:
    return [row["n"] for row in found["rows"]]


def test_rows_come_by_time_with_the_columns_that_were_declared(ask: Ask):
    found = ask()

    assert found["mode"] == "raw"
    assert found["warnings"] == []
    assert found["columns"] == ["timestamp", "site", "value", "n", "ok", "price", "seen"]
    assert numbers(found) == [1, 2, 3, 4, BIG]
    assert found["rows"][0] == {
        "timestamp": "2025-01-01T00:00:00.000Z", "site": "east", "value": 1.5, "n": 1, "ok": True, "price": 1.1,
        "seen": "2025-02-01T00:00:00.000Z",
    }  # fmt: skip


def test_the_time_comes_with_the_columns_that_are_asked_for(ask: Ask):
    found = ask(columns=["n", "INSTRUMENT"])

    assert found["columns"] == ["n", "instrument"]
    assert found["rows"][0] == {"timestamp": "2025-01-01T00:00:00.000Z", "n": 1, "instrument": "alpha"}


def test_rows_come_the_other_way_round(ask: Ask):
    assert numbers(ask(order="desc")) == [BIG, 4, 3, 2, 1]


def test_both_ends_belong_to_the_range(ask: Ask):
    found = ask(timeRange={"start": "2025-01-01T00:30:00Z", "end": "2025-01-01T04:15:00+01:00"})
    assert numbers(found) == [2, 3, 4]


def test_another_column_of_times_may_be_the_time(ask: Ask):
    found = ask(timestampColumn="seen", timeRange={"start": "2025-02-02T00:00:00Z", "end": "2025-02-03T00:00:00Z"})

    assert numbers(found) == [2, 3]
    assert found["rows"][0]["seen"] == "2025-02-02T00:00:00.000Z"


def test_identical_rows_are_all_there(ask: Ask, lake: Lake, dataset: DatasetInfo):
    insert(lake, dataset, ROWS)
    assert numbers(ask()) == [1, 1, 2, 2, 3, 3, 4, 4, BIG, BIG]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"site": {"type": "string", "eq": "east"}}, [1, 3, BIG]),
        ({"site": {"eq": "east"}}, [1, 3, BIG]),
        ({"site": {"in": ["west", "north"]}}, [2, 4]),
        ({"n": {"type": "number", "gt": 2}}, [3, 4, BIG]),
        ({"n": {"type": "number", "gte": 2, "lt": 4}}, [2, 3]),
        ({"n": {"lte": 2.5}}, [1, 2]),
        ({"n": {"eq": 2.0}}, [2]),
        ({"n": {"in": [1, 2.5, BIG]}}, [1, BIG]),
        ({"n": {"eq": BIG}}, [BIG]),
        ({"n": {"gt": 1e300}}, []),
        ({"n": {"lt": 10**40}}, [1, 2, 3, 4, BIG]),
        ({"value": {"type": "number", "gt": 2}}, [2, 4, BIG]),
        ({"value": {"in": [1.5, 4.5]}}, [1, 4]),
        ({"price": {"eq": 2.2}}, [2]),
        ({"price": {"gte": 3.3, "lt": 5.505}}, [3, 4, BIG]),
        ({"price": {"eq": 2.2001}}, []),
        ({"ok": {"type": "boolean", "eq": True}}, [1, 3]),
        ({"ok": {"in": [False]}}, [2, BIG]),
        ({"seen": {"type": "timestamp", "gt": "2025-02-01T00:00:00Z", "lte": "2025-02-03T01:00:00+01:00"}}, [2, 3]),
        ({"seen": {"in": ["2025-02-05"]}}, [BIG]),
        ({"site": {"eq": "east"}, "n": {"gt": 1}}, [3, BIG]),
        ({"instrument": {"eq": "alpha"}}, [1, 3]),
    ],
    ids=str,
)
def test_filters_of_columns(ask: Ask, filters: dict[str, Any], expected: list[int]):
    assert numbers(ask(filters={"columns": filters})) == expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ({"type": "string", "eq": "bravo"}, [2, 4]),
        (["alpha", "bravo"], [1, 2, 3, 4]),
        ({"in": ["alpha", "7"]}, [1, 3, BIG]),
        ({"type": "number", "gt": 6}, [BIG]),
        ({"type": "timestamp", "lt": "2025-01-01T00:00:00Z"}, []),
    ],
    ids=str,
)
def test_filters_of_partition_keys(ask: Ask, key: Any, expected: list[int]):
    assert numbers(ask(filters={"partitionKey": {"instrument": key}})) == expected


@pytest.mark.parametrize(
    ("body", "pointer", "said"),
    [
        ({"columns": ["n", "nope"]}, "/columns/1", "there are timestamp, site"),
        ({"timestampColumn": "site"}, "/timestampColumn", "timestamp, seen"),
        ({"filters": {"columns": {"nope": {"eq": "x"}}}}, "/filters/columns/nope", "unknown column"),
        ({"filters": {"columns": {"a/b": {"eq": "x"}}}}, "/filters/columns/a~1b", "unknown column"),
        ({"filters": {"partitionKey": {"site": {"eq": "x"}}}}, "/filters/partitionKey/site", "there are instrument"),
        ({"filters": {"columns": {"n": {"type": "string", "eq": "x"}}}}, "/filters/columns/n/type", "write number"),
        ({"filters": {"columns": {"site": {"type": "number", "gt": 1}}}}, "/filters/columns/site/type", "string"),
        ({"filters": {"columns": {"n": {"eq": "1"}}}}, "/filters/columns/n/eq", "no finite number"),
        ({"filters": {"columns": {"site": {"gt": "a"}}}}, "/filters/columns/site/gt", "use eq, in"),
        ({"filters": {"columns": {"ok": {"eq": 1}}}}, "/filters/columns/ok/eq", "neither true nor false"),
    ],
    ids=str,
)
def test_what_the_dataset_has_not_is_told_where_it_was_asked_for(
    lake: Lake, dataset: DatasetInfo, body: dict[str, Any], pointer: str, said: str
):
    with pytest.raises(InvalidQuery, match=said) as refused:
        planned(lake, dataset, **body)
    assert refused.value.pointers[0][0] == pointer


def test_names_and_values_that_are_sql_are_names_and_values(lake: Lake):
    name = 'a" FROM x; --'
    dataset = dataset_of([{"name": "timestamp", "type": "timestamp"}, {"name": name, "type": "string"}])
    make(lake, dataset, "('2025-01-01', 'it''s'), ('2025-01-02', ''' OR 1=1 --')")

    for value in ("it's", "' OR 1=1 --"):
        found = answer(lake, dataset, filters={"columns": {name: {"eq": value}}})
        assert [row[name] for row in found["rows"]] == [value]


def test_pages_have_every_row_once_whatever_their_times(lake: Lake, dataset: DatasetInfo):
    make(lake, dataset)
    for batch in range(3):
        row = f"TIMESTAMP '2025-01-01' + to_seconds(i % 3), 's', i, i + {batch * 50}, true, 1, NULL, 'k' || i % 2"
        insert(lake, dataset, f"SELECT {row} FROM range(50) t(i)")

    for order in ("asc", "desc"):
        pages = walk(lake, dataset, order=order, limit=7)
        assert sorted(numbers(pages)) == list(range(150))
        times = [row["timestamp"] for row in pages["rows"]]
        assert times == sorted(times, reverse=order == "desc")


def walk(lake: Lake, dataset: DatasetInfo, **body: Any) -> dict[str, Any]:
    """Every page after the other; between the first two, inlined rows become files."""
    found = answer(lake, dataset, **body)
    rows = found["rows"]
    with lake.writing() as connection:
        connection.execute("CALL ducklake_flush_inlined_data('lake')")
        connection.execute("CALL ducklake_merge_adjacent_files('lake')")
    while (cursor := found.get("nextCursor")) is not None:
        assert len(found["rows"]) == body["limit"]
        found = answer(lake, dataset, cursor=cursor, **body)
        rows += found["rows"]
    return {"rows": rows}


def test_a_page_that_has_all_has_no_next(ask: Ask):
    assert "nextCursor" not in ask(limit=5)
    assert "nextCursor" in ask(limit=4)
    assert "nextCursor" not in ask()


def test_a_cursor_is_of_one_query_only(ask: Ask):
    cursor = ask(limit=2)["nextCursor"]

    assert numbers(ask(limit=3, cursor=cursor)) == [3, 4, BIG]
    for other in ({"order": "desc"}, {"columns": ["n"]}, {"filters": {"columns": {"n": {"gt": 0}}}}):
        with pytest.raises(InvalidCursor):
            ask(limit=2, cursor=cursor, **other)
    for foreign in ("", "x", "W10", "WyJhIiwxLDJd"):
        with pytest.raises(InvalidCursor):
            ask(limit=2, cursor=foreign)


def test_the_newest_row_of_each_series(ask: Ask, lake: Lake, dataset: DatasetInfo):
    insert(lake, dataset, "('2025-01-01 01:00:00', 'east', 0, 6, true, 0, NULL, 'alpha')")

    found = ask(lastValue=True)

    # Of two with the same time, that of the later batch.
    assert {row["instrument"]: row["n"] for row in found["rows"]} == {"alpha": 6, "bravo": 4, "7": BIG}
    assert {row["site"]: row["n"] for row in ask(lastValue={"by": ["site"]})["rows"]} == {"east": BIG, "west": 4}


def test_the_newest_row_needs_no_range_and_heeds_filters(lake: Lake, dataset: DatasetInfo):
    make(lake, dataset, ROWS)
    east = {"columns": {"site": {"eq": "east"}, "n": {"lt": 9}}}

    found = answer(lake, dataset, timeRange=None, lastValue=True, filters=east, columns=["n"])

    assert found["rows"] == [{"instrument": "alpha", "timestamp": "2025-01-01T01:00:00.000Z", "n": 3}]


def test_the_newest_row_of_a_dataset_without_series(ask: Ask, lake: Lake, dataset: DatasetInfo):
    alone = replace(dataset, partition_keys=())
    ask()
    assert numbers(answer(lake, alone, lastValue=True)) == [BIG]


def test_a_series_may_have_no_name(ask: Ask, lake: Lake, dataset: DatasetInfo):
    insert(lake, dataset, "('2025-01-02', NULL, 0, 6, true, 0, NULL, 'alpha')")
    found = ask(lastValue={"by": ["site"]})
    assert {row["site"]: row["n"] for row in found["rows"]} == {"east": BIG, "west": 4, None: 6}


def test_an_earlier_state_is_asked_for_by_snapshot_or_time(ask: Ask, lake: Lake, dataset: DatasetInfo):
    snapshot, moment = newest_snapshot(lake)
    insert(lake, dataset, ROWS)

    assert len(ask()["rows"]) == 10
    for then in (snapshot, str(snapshot), moment):
        assert len(ask(asOf=then)["rows"]) == 5


def test_an_earlier_state_has_the_columns_of_then(ask: Ask, lake: Lake, dataset: DatasetInfo):
    snapshot, _ = newest_snapshot(lake)
    with lake.writing() as connection:
        connection.execute(f"ALTER TABLE {dataset.relation} ADD COLUMN unit VARCHAR")
        connection.execute(f"ALTER TABLE {dataset.relation} DROP COLUMN site")
    now = replace(
        dataset, schema=Schema.parse([*(f for f in FIELDS if f["name"] != "site"), {"name": "unit", "type": "string"}])
    )

    assert "unit" in answer(lake, now)["columns"]
    assert answer(lake, now, asOf=snapshot)["rows"][0]["site"] == "east"
    with pytest.raises(InvalidQuery, match="unknown column 'unit'"):
        answer(lake, now, asOf=snapshot, columns=["unit"])


@pytest.mark.parametrize("moment", [0, 10**9, "2000-01-01T00:00:00Z"])
def test_a_state_that_never_was_is_refused(ask: Ask, moment: Any):
    with pytest.raises(InvalidQuery, match="no such state") as refused:
        ask(asOf=moment)
    assert refused.value.pointers[0][0] == "/asOf"


def newest_snapshot(lake: Lake) -> tuple[int, str]:
    with lake.query(
        "SELECT snapshot_id, snapshot_time FROM ducklake_snapshots('lake') ORDER BY 1 DESC LIMIT 1"
    ) as found:
        row = found.read_all().to_pylist()[0]
    return row["snapshot_id"], row["snapshot_time"].isoformat()


def test_a_dataset_without_a_schema_has_no_rows(lake: Lake):
    found = answer(lake, replace(dataset_of(FIELDS), schema=Schema(()), schema_version=0), limit=5)

    assert found["rows"] == []
    assert found["warnings"] == ["the dataset has no rows yet"]


def test_a_column_may_be_called_as_what_an_explanation_looks_at(lake: Lake):
    dataset = dataset_of([{"name": "timestamp", "type": "timestamp"}, {"name": "filename", "type": "double"}])
    make(lake, dataset, "('2025-01-01', 5)")

    found = explain(lake, dataset, Query.parse({"timeRange": JANUARY}), planned(lake, dataset))

    assert found["inlinedRows"] is None
    assert answer(lake, dataset)["rows"] == [{"timestamp": "2025-01-01T00:00:00.000Z", "filename": 5.0}]


def test_an_earlier_state_is_explained(ask: Ask, lake: Lake, dataset: DatasetInfo):
    for then in newest_snapshot(lake):
        body = {"timeRange": JANUARY, "asOf": then}
        assert explain(lake, dataset, Query.parse(body), planned(lake, dataset, asOf=then))["inlinedRows"] == 5


def test_files_that_time_or_key_rules_out_are_not_read(lake: Lake, dataset: DatasetInfo):
    make(lake, dataset)
    with lake.writing() as connection:
        connection.execute(f"ALTER TABLE {dataset.relation} SET PARTITIONED BY (instrument, day(timestamp))")
    for day in range(1, 5):
        row = f"TIMESTAMP '2025-01-0{day}' + to_seconds(i), 's', i, i, true, 1, NULL, 'k' || i % 2"
        insert(lake, dataset, f"SELECT {row} FROM range(4000) t(i)")
    insert(lake, dataset, "('2025-01-09', 's', 0, 0, true, 1, NULL, 'k0')")

    def read(**body: Any) -> dict[str, Any]:
        return explain(lake, dataset, Query.parse({"timeRange": day_two} | body), planned(lake, dataset, **body))

    day_two = {"start": "2025-01-02T00:00:00Z", "end": "2025-01-02T23:00:00Z"}
    of_key = {"partitionKey": {"instrument": ["k1"]}}
    found = read(timeRange=day_two, filters=of_key, limit=10)
    assert found["files"] | {"bytes": 0} == {"total": 8, "scanned": 1, "pruned": 7, "bytes": 0}
    assert found["files"]["bytes"] > 0
    assert found["inlinedRows"] == 1
    assert found["planningMs"] > 0
    assert "FROM lake" in found["sql"]
    assert read(timeRange=day_two)["files"]["scanned"] == 2
    assert read(filters=of_key)["files"]["scanned"] == 4
    assert read()["files"]["scanned"] == 8
    assert read(timeRange=day_two, lastValue=True)["files"]["scanned"] == 2
