"""`apphub dataset …` against a running API."""

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from apphub_api import cli_dataset_parts
from apphub_api.cli import app
from apphub_api.cli_client import Exit
from tests.fixtures.servers import serving

Apphub = Callable[..., Result]

GUIDE = Path(__file__).parents[2] / "docs" / "datasets.md"
HEADER = "timestamp,value,site\n"
ESCAPE = re.compile(r"\x1b\[[\d;?]*[a-zA-Z]")
JANUARY = ("--from", "2026-01-01", "--to", "2026-02-01")


@pytest.fixture
def url(api) -> Iterator[str]:
    """A running API."""
    with serving(api.app) as address:
        yield f"http://{address}"


@pytest.fixture
def apphub(url: str) -> Apphub:
    return commands(url)


def commands(url: str) -> Apphub:
    """Run a command: `apphub("list")` is `apphub dataset list`; what it prints is not for a terminal."""
    runner = CliRunner(env={"APPHUB_URL": url, "COLUMNS": "160", "TERM": "dumb"})
    return lambda *arguments, **values: runner.invoke(app, ["dataset", *map(str, arguments)], **values)


@pytest.fixture
def start(url: str) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a command as a process of its own."""
    started: list[subprocess.Popen] = []
    program = [sys.executable, "-c", "from apphub_api.cli import main; main()", "dataset"]

    def start(*arguments: Any, stdin: bytes = b"", **environment: str) -> subprocess.Popen:
        values = os.environ | {"APPHUB_URL": url} | environment
        process = subprocess.Popen(
            [*program, *map(str, arguments)],
            env=values,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        process.stdin.buffer.write(stdin)
        process.stdin.close()
        process.stdin = None
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def done(result: Result) -> str:
    """What a command printed that went well."""
    assert result.exit_code == 0, result.output
    return result.stdout


def lines_of(values: Sequence[Any], site: str = "north") -> str:
    return "".join(f"2026-01-01T{at // 60:02}:{at % 60:02}:00Z,{value},{site}\n" for at, value in enumerate(values))


def csv_file(folder: Path, values: Sequence[Any], site: str = "north") -> Path:
    file = folder / "readings.csv"
    file.write_text(HEADER + lines_of(values, site))
    return file


def summary(result: Result) -> dict[str, Any]:
    return json.loads(done(result))


def values_of(apphub: Apphub, slug: str = "readings") -> list[Any]:
    answer = done(apphub("query", slug, *JANUARY, "-o", "ndjson"))
    return [json.loads(line)["value"] for line in answer.splitlines()]


class TestIngesting:
    def test_a_csv_goes_in_parts_each_of_them_once(self, apphub, tmp_path):
        file = csv_file(tmp_path, range(10))

        first = summary(apphub("ingest", "readings", file, "--batch-rows", 4, "-o", "json"))
        again = summary(apphub("ingest", "readings", file, "--batch-rows", 4, "-o", "json"))

        assert (first["batches"], first["rows"], first["replayed"]) == (3, 10, 0)
        assert (again["batches"], again["rows"], again["replayed"]) == (3, 10, 3)
        assert values_of(apphub) == list(range(10))

    def test_a_column_that_had_to_change_on_the_way_leaves_what_was_there_once(self, apphub, tmp_path):
        file = csv_file(tmp_path, [1, 2, 3.5, 4])
        refused = apphub("ingest", "readings", file, "--batch-rows", 2)
        assert "'3.5' is no integer" in refused.stderr
        assert "apphub dataset migrate readings --transform COLUMN:TYPE" in refused.stderr

        done(apphub("migrate", "readings", "--transform", "value:double", "--yes"))

        again = summary(apphub("ingest", "readings", file, "--batch-rows", 2, "-o", "json"))
        assert (again["rows"], again["replayed"]) == (4, 1)
        assert values_of(apphub) == [1, 2, 3.5, 4]

    def test_what_a_killed_command_left_out_the_next_one_brings(self, api, url, apphub, start, tmp_path):
        file = csv_file(tmp_path, range(40))
        seen, gate = threading.Semaphore(0), threading.Event()
        with serving(Turnstile(api.app, seen, gate, at=3)) as address:
            process = start("ingest", "readings", file, "--batch-rows", 10, APPHUB_URL=f"http://{address}")
            assert seen.acquire(timeout=60), "the third part was never sent"
            process.send_signal(signal.SIGKILL)
            process.wait()
            gate.set()
        assert len(values_of(apphub)) < 40

        again = summary(apphub("ingest", "readings", file, "--batch-rows", 10, "-o", "json"))

        assert (again["rows"], again["replayed"]) == (40, 2)
        assert values_of(apphub) == list(range(40))

    def test_an_interrupted_command_says_what_is_there(self, api, start, tmp_path):
        file = csv_file(tmp_path, range(40))
        seen, gate = threading.Semaphore(0), threading.Event()
        with serving(Turnstile(api.app, seen, gate, at=3)) as address:
            process = start("ingest", "readings", file, "--batch-rows", 10, APPHUB_URL=f"http://{address}")
            assert seen.acquire(timeout=60), "the third part was never sent"
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=30)
            gate.set()

        assert process.returncode == Exit.FAILED
        assert "20 rows in 2 batches are written; the same command again goes on from there" in told

    def test_an_answer_that_is_lost_is_asked_for_again(self, api, start, tmp_path):
        file = csv_file(tmp_path, range(4))
        with serving(Forgetful(api.app, at=2)) as address:
            process = start("ingest", "readings", file, "--batch-rows", 2, "-o", "json", APPHUB_URL=f"http://{address}")
            out, told = process.communicate(timeout=90)

        assert process.returncode == 0, told
        assert "waiting 2 s" in told
        assert json.loads(out)["replayed"] == 1

    def test_a_busy_api_is_waited_for_as_long_as_it_says(self, api, apphub, start, tmp_path):
        file = csv_file(tmp_path, range(4))
        with api.app.state.platform.bodies.holding() as take:
            take(2**40)
            process = start("ingest", "readings", file, "-o", "json")
            assert "waiting 1 s: the bodies that arrive now" in process.stderr.readline()
        out, told = process.communicate(timeout=60)

        assert process.returncode == 0, told
        assert json.loads(out)["rows"] == 4

    def test_an_api_that_stays_busy_is_given_up(self, api, apphub, tmp_path):
        file = csv_file(tmp_path, range(4))
        with api.app.state.platform.bodies.holding() as take:
            take(2**40)
            result = apphub("ingest", "readings", file, "--timeout", "1.5")

        assert result.exit_code == Exit.TIMEOUT
        assert "the bodies that arrive now" in result.stderr

    def test_a_row_that_does_not_fit_is_named_and_the_mended_file_goes_on(self, apphub, tmp_path):
        bad = csv_file(tmp_path, [0, 1, 2, 3, 4, "x", 6, 7])
        refused = apphub("ingest", "readings", bad, "--batch-rows", 2)
        assert refused.exit_code == Exit.USAGE
        assert "error: row 6 of the file, column 'value': 'x' is no integer" in refused.stderr
        assert "4 rows in 2 batches are written; repeat the command then" in refused.stderr

        mended = summary(apphub("ingest", "readings", csv_file(tmp_path, range(8)), "--batch-rows", 2, "-o", "json"))

        assert (mended["rows"], mended["replayed"]) == (8, 2)
        assert values_of(apphub) == list(range(8))

    def test_the_same_rows_of_another_partition_key_are_other_rows(self, apphub, tmp_path):
        file = tmp_path / "rows.ndjson"
        file.write_text('{"timestamp": "2026-01-01T00:00:00Z", "value": 1}\n')

        for site in ("north", "south", "north"):
            done(apphub("ingest", "readings", file, "-k", f"site={site}"))

        newest = json.loads(done(apphub("query", "readings", *JANUARY, "-c", "site", "-o", "json")))["rows"]
        assert sorted(row["site"] for row in newest) == ["north", "south"]

    def test_a_line_that_is_no_json_is_placed_too(self, apphub, tmp_path):
        file = tmp_path / "rows.ndjson"
        file.write_text('{"timestamp": "2026-01-01T00:00:00Z", "value": 1}\n{"timestamp": \n')
        refused = apphub("ingest", "readings", file, "--batch-rows", 1)

        assert refused.exit_code == Exit.USAGE
        assert "error: rows 2 to 2 of the file: line 1 is not JSON" in refused.stderr

    def test_a_key_of_ones_own_refuses_other_rows(self, apphub, tmp_path):
        done(apphub("ingest", "readings", csv_file(tmp_path, [1]), "--key", "mine"))
        refused = apphub("ingest", "readings", csv_file(tmp_path, [2]), "--key", "mine")

        assert refused.exit_code == Exit.USAGE
        assert "Other rows were sent under --key mine" in refused.stderr
        assert values_of(apphub) == [1]

    @pytest.mark.parametrize("name", ["rows.ndjson", "rows.json", "rows.csv", "rows.parquet", "rows.arrow", "data"])
    def test_a_file_says_what_it_is(self, apphub, tmp_path, name):
        file = tmp_path / name
        file.write_bytes(written(name.rpartition(".")[2]))

        assert summary(apphub("ingest", "readings", file, "-o", "json"))["rows"] == 3
        assert values_of(apphub) == [0.5, 1.5, 2.5]

    @pytest.mark.parametrize("form", ["ndjson", "json", "csv", "parquet", "arrow", "data"])
    def test_standard_input_is_a_file_too(self, apphub, start, form):
        process = start("ingest", "readings", "-", stdin=written(form))
        assert process.wait(60) == 0, process.stderr.read()
        assert values_of(apphub) == [0.5, 1.5, 2.5]

    def test_json_says_of_every_part_what_it_says_of_all(self, apphub, tmp_path):
        file = tmp_path / "body.json"
        fields = [{"name": "timestamp", "type": "timestamp"}, {"name": "value", "type": "decimal(10,2)"}]
        rows = [{"timestamp": f"2026-01-01T00:00:0{each}Z", "value": each} for each in range(5)]
        file.write_text(json.dumps({"schema": {"fields": fields}, "partition": {"key": {"a": "b"}}, "rows": rows}))

        done(apphub("ingest", "readings", file, "--batch-rows", 2, "-k", "site=north"))

        told = done(apphub("schema", "readings"))
        assert "value:decimal(10,2) a:string site:string" in told
        assert len(values_of(apphub)) == 5

    @pytest.mark.parametrize(
        ("content", "why"),
        [(HEADER, "has no rows"), ("", "has no rows"), ("{", "is not JSON"), ('{"a": 1\n}', '{"rows": […]}')],
    )
    def test_what_has_no_rows_is_refused(self, apphub, tmp_path, content, why):
        file = tmp_path / "rows"
        file.write_text(content)

        refused = apphub("ingest", "readings", file)

        assert refused.exit_code == Exit.USAGE
        assert why in refused.stderr

    def test_what_is_not_what_its_name_says_is_refused(self, apphub, tmp_path):
        damaged, odd = tmp_path / "rows.arrow", tmp_path / "rows.json"
        damaged.write_bytes(written("arrow")[:200])
        odd.write_text('{"rows": [{}], "partition": {"key": ["site"]}}')

        for file, why in ((damaged, "the Arrow file is damaged"), (odd, "its key, and schema have to be objects")):
            refused = apphub("ingest", "readings", file, "-k", "a=b")
            assert refused.exit_code == Exit.USAGE
            assert why in refused.stderr

    def test_a_type_that_can_not_change_comes_with_the_command_that_changes_it(self, apphub, tmp_path):
        done(apphub("ingest", "readings", csv_file(tmp_path, [1])))
        refused = apphub("ingest", "readings", csv_file(tmp_path, ["true"]), "--field", "timestamp:timestamp",
                         "--field", "value:boolean", "--field", "site:string")  # fmt: skip

        assert refused.exit_code == Exit.CONFLICT
        assert "apphub dataset migrate readings --transform value:boolean --dry-run" in refused.stderr


class TestParts:
    def test_a_line_break_within_quotes_ends_no_record(self):
        text = b'timestamp,note\n2026-01-01,"a\n""b"",\nc"\n2026-01-02,d\n'

        parts = list(cli_dataset_parts.parts_of(io.BytesIO(text), cli_dataset_parts.Form.CSV, 1, NOTHING))

        assert [part.body for part in parts] == [
            b'timestamp,note\n2026-01-01,"a\n""b"",\nc"\n',
            b"timestamp,note\n2026-01-02,d\n",
        ]
        assert sum(part.size for part in parts) == len(text)

    def test_parts_are_bounded_by_their_bytes_too(self, monkeypatch):
        monkeypatch.setattr(cli_dataset_parts, "PART_BYTES", 20)
        text = b'{"a": 1}\n' * 5

        parts = list(cli_dataset_parts.parts_of(io.BytesIO(text), cli_dataset_parts.Form.NDJSON, 1000, NOTHING))

        assert [part.size for part in parts] == [18, 18, 9]
        assert [part.rows for part in parts] == [range(1, 3), range(3, 5), range(5, 6)]

    def test_a_key_is_that_of_all_up_to_the_part(self):
        parts = [
            [
                part.key
                for part in cli_dataset_parts.parts_of(io.BytesIO(text), cli_dataset_parts.Form.NDJSON, 1, NOTHING)
            ]
            for text in (b"1\n1\n2\n", b"1\n1\n3\n")
        ]

        assert parts[0][:2] == parts[1][:2]
        assert len({*parts[0], *parts[1]}) == 4


class TestAsking:
    """Nothing is changed here, so all ask the same API."""

    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, shared_api) -> Iterator[str]:
        with serving(shared_api.app) as address:
            yield f"http://{address}"

    @pytest.fixture(scope="class")
    @classmethod
    def readings(cls, url, tmp_path_factory) -> Apphub:
        """Two sites, each with a reading per minute for four hours: 0, 1, 2 … and 1000, 1001 …"""
        apphub, folder = commands(url), tmp_path_factory.mktemp("readings")
        for site, first in (("north", 0), ("south", 1000)):
            done(apphub("ingest", "readings", csv_file(folder, range(first, first + 240), site)))
        return apphub

    def test_rows_are_a_table(self, readings):
        shown = done(readings("query", "readings", *JANUARY, "-w", "site=south", "--limit", 2)).splitlines()

        assert [line.split() for line in shown] == [
            ["timestamp", "value", "site"],
            ["2026-01-01T00:00:00.000Z", "1000", "south"],
            ["2026-01-01T00:01:00.000Z", "1001", "south"],
        ]

    def test_a_table_is_cut_off_and_says_so(self, readings):
        result = readings("query", "readings", *JANUARY)

        assert len(done(result).splitlines()) == 101
        assert "there are more than these 100 rows" in result.stderr

    def test_conditions_hold_together_and_of_equal_ones_any(self, readings):
        asked = ["-w", "value>=100", "-w", "value<102", "-w", "site=north", "-w", "site=south"]
        assert [row["value"] for row in rows(readings("query", "readings", *JANUARY, *asked, "-o", "json"))] == [
            100,
            101,
        ]

    def test_a_wide_table_shows_the_columns_that_fit_and_says_so(self, apphub, tmp_path):
        (tmp_path / "wide.json").write_text(
            json.dumps([{"timestamp": "2026-01-01"} | {f"c{n:03}": n for n in range(150)}])
        )
        apphub("ingest", "wide", tmp_path / "wide.json")

        for shown in (apphub("query", "wide", *JANUARY), apphub("sql", "FROM wide")):
            assert done(shown).splitlines()[0].split()[:3] == ["timestamp", "c000", "c001"]
            assert max(map(len, shown.stdout.splitlines())) <= 160
            assert "more columns" in shown.stderr
        assert "--agg avg:c000" in apphub("query", "wide", *JANUARY, "--every", "1d").stderr

    def test_a_long_table_is_cut_off_but_not_its_chart(self, readings):
        result = readings("query", "readings", *JANUARY, "--every", "1m", "--chart", "--agg", "max:value")

        assert "2026-01-01T01:39:00.000Z" in done(result)
        assert "2026-01-01T01:40:00.000Z" not in done(result)
        assert "2026-01-01 03:59" in done(result)
        assert "there are more than these 100 rows" in result.stderr

    def test_hours_by_site(self, readings):
        asked = ["--every", "1h", "--by", "site", "-a", "avg:value", "-a", "p50:value", "-a", "count"]
        found = rows(readings("query", "readings", *JANUARY, *asked, "-o", "json"))

        assert len(found) == 8
        assert found[0] == {
            "timestamp": "2026-01-01T00:00:00.000Z", "site": "north", "avg_value": 29.5, "p50_value": 29.5, "count": 60,
        }  # fmt: skip

    def test_without_an_aggregation_all_numbers_are_averaged(self, readings):
        found = rows(readings("query", "readings", *JANUARY, "--every", "1d", "-o", "json"))

        assert found == [{"timestamp": "2026-01-01T00:00:00.000Z", "avg_value": 619.5}]

    def test_gaps_are_filled_and_days_are_those_of_a_zone(self, readings):
        asked = ["--from", "2025-12-31", "--to", "2026-01-01T12:00:00Z", "--every", "1d", "-a", "count"]
        found = rows(
            readings("query", "readings", *asked, "--fill", "0", "--time-zone", "America/New_York", "-o", "json")
        )

        assert [row["timestamp"] for row in found] == [
            "2025-12-30T05:00:00.000Z", "2025-12-31T05:00:00.000Z", "2026-01-01T05:00:00.000Z",
        ]  # fmt: skip
        assert [row["count"] for row in found] == [0, 480, 0]

    def test_the_newest_of_each_site(self, readings):
        found = rows(readings("query", "readings", "--last", "--by", "site", "-o", "json"))

        assert sorted(row["value"] for row in found) == [239, 1239]

    def test_time_travel_by_snapshot(self, readings):
        (_, first) = json.loads(done(readings("snapshots", "readings", "-o", "json")))
        asked = ["--every", "1d", "-a", "count", "--as-of", first["id"]]

        assert rows(readings("query", "readings", *JANUARY, *asked, "-o", "json"))[0]["count"] == 240

    def test_explaining_tells_what_is_read(self, readings):
        assert "inlinedRows: 480" in done(readings("query", "readings", *JANUARY, "--explain"))
        assert (
            json.loads(done(readings("query", "readings", *JANUARY, "--explain", "-o", "json")))["inlinedRows"] == 480
        )

    @pytest.mark.parametrize("name", ["all.parquet", "all.csv", "all.arrow"])
    def test_a_file_has_all_rows(self, readings, tmp_path, name):
        file = tmp_path / name
        done(readings("query", "readings", *JANUARY, "--file", file))

        if file.suffix == ".parquet":
            assert pq.read_table(file).num_rows == 480
        elif file.suffix == ".arrow":
            assert pa.ipc.open_stream(file.read_bytes()).read_all().num_rows == 480
        else:
            assert len(file.read_text().splitlines()) == 481
        assert not list(tmp_path.glob("*.part"))

    def test_a_refused_query_leaves_no_file(self, readings, tmp_path):
        refused = readings("query", "readings", "--column", "nope", "--file", tmp_path / "all.csv")

        assert refused.exit_code == Exit.USAGE
        assert "unknown column 'nope'" in refused.stderr
        assert not list(tmp_path.glob("all*"))

    def test_what_is_drawn_has_a_line_per_site(self, readings):
        plain = done(readings("query", "readings", *JANUARY, "--every", "1h", "--by", "site"))
        drawn = done(readings("query", "readings", *JANUARY, "--every", "1h", "--by", "site", "--chart"))

        assert drawn.startswith(plain)
        chart = drawn[len(plain) :]
        # Without colours each has a chart of its own.
        assert [line for line in chart.splitlines() if line.startswith("●")] == ["● north  ", "● south  "]
        assert "209.5 ┤" in chart
        assert "1209.5 ┤" in chart
        assert "2026-01-01 00:00" in chart
        assert "2026-01-01 03:00" in chart

    def test_a_terminal_gets_the_chart_in_colours_unless_it_wants_none(self, readings, url):
        command = ["query", "readings", *JANUARY, "--every", "1h", "--by", "site"]
        coloured, plain = in_terminal(url, command), in_terminal(url, command, NO_COLOR="1")

        assert coloured.count("┤") == 3
        assert "\x1b[36m● north" in coloured
        assert plain.count("┤") == 6
        assert "\x1b[36m" not in plain
        assert max(len(ESCAPE.sub("", line)) for line in plain.splitlines()) == 80

    def test_raw_rows_of_several_series_are_not_drawn(self, readings):
        assert "┤" not in done(readings("query", "readings", *JANUARY, "--chart", "--limit", 10))
        assert "┤" in done(readings("query", "readings", *JANUARY, "--chart", "-w", "site=north"))

    def test_nothing_found_says_where_it_was_looked_for(self, readings):
        result = readings("query", "readings", "--from", "2020-01-01", "--to", "2020-01-02")

        assert done(result).split() == ["timestamp", "value", "site"]
        assert "no rows from 2020-01-01T00:00:00Z to 2020-01-02T00:00:00Z" in result.stderr

    @pytest.mark.parametrize(
        ("asked", "why"),
        [
            (["--from", "yesterday"], "--from 'yesterday': write it as"),
            (["--where", "value!=1"], "--where 'value!=1': write it as"),
            (["--where", "value=x"], "the column is a integer; write a number"),
            (["--where", "value=nan"], "write a number"),
            (["--every", "1y"], "--every '1y': write it as"),
            (["--agg", "avg:value"], "need --every"),
            (["--by", "site"], "--by needs --every or --last"),
            (["--every", "1h", "--column", "value"], "name what to group by as --by"),
            (["--every", "1h", "--agg", "mean:value"], "use avg, min"),
            (["--file", "rows.xlsx"], "say what it is to be with -o"),
        ],
    )
    def test_what_can_not_be_asked_says_how_to(self, readings, asked, why):
        refused = readings("query", "readings", *asked)

        assert refused.exit_code == Exit.USAGE
        assert why in " ".join(refused.stderr.split())

    def test_sql(self, readings):
        statement = 'SELECT site, count(*) AS n FROM "readings" GROUP BY 1 ORDER BY 1'

        assert done(readings("sql", statement)).split() == ["site", "n", "north", "240", "south", "240"]
        assert done(readings("sql", "-", "-o", "csv", input=statement)).split() == ["site,n", "north,240", "south,240"]
        refused = readings("sql", "SELEC")
        assert refused.exit_code == Exit.USAGE
        assert "syntax error" in refused.stderr


class TestManaging:
    @pytest.fixture
    def weather(self, apphub) -> Apphub:
        """The dataset `weather`, declared, without rows."""
        fields = [("timestamp", "timestamp"), ("celsius", "double"), ("tags", "string[]"), ("site", "string")]
        done(apphub("create", "weather", "-k", "site", *(each for pair in fields for each in ("-f", ":".join(pair)))))
        return apphub

    def test_a_dataset_is_created_listed_and_shown(self, weather):
        assert done(weather("list", "-o", "name")) == "weather\n"
        assert done(weather("list", "--search", "nothing", "-o", "json")) == "[]\n"
        shown = json.loads(done(weather("show", "weather", "-o", "json")))
        assert (shown["slug"], shown["partitionKeys"], shown["granularity"]) == ("weather", ["site"], "day")
        assert "tags:string[]" in done(weather("schema", "weather"))

    def test_datasets_is_dataset(self, weather, url):
        assert CliRunner(env={"APPHUB_URL": url}).invoke(app, ["datasets", "list", "-o", "name"]).stdout == "weather\n"

    def test_an_archived_dataset_says_how_it_takes_rows_again(self, weather, tmp_path):
        done(weather("archive", "weather", "--reason", "moved"))
        refused = weather("ingest", "weather", csv_file(tmp_path, [1]))
        assert refused.exit_code == Exit.CONFLICT
        assert "apphub dataset unarchive weather" in refused.stderr
        assert done(weather("list", "--status", "inactive", "-o", "name")) == "weather\n"

        done(weather("unarchive", "weather"))

        assert done(weather("list", "-o", "name")) == "weather\n"

    def test_deleting_shows_what_goes_and_asks(self, weather):
        planned = json.loads(done(weather("delete", "weather", "--dry-run", "-o", "json")))
        assert (planned["dryRun"], planned["rows"]) == (True, 0)
        assert weather("delete", "weather", input="n\n").exit_code == Exit.FAILED
        assert done(weather("list", "-o", "name")) == "weather\n"

        done(weather("delete", "weather", input="y\n"))

        assert weather("show", "weather").exit_code == Exit.NOT_FOUND
        assert done(weather("restore", "weather", "-o", "name")) == "weather\n"

    def test_a_renamed_dataset_has_its_history(self, weather):
        done(weather("rename", "weather", "climate"))

        assert "admin.dataset.created" in done(weather("audit", "climate"))
        assert weather("rename", "weather", "other").exit_code == Exit.NOT_FOUND

    def test_retention_changes_what_is_given(self, weather):
        done(weather("retention", "weather", "--max-age", "30d", "--max-bytes", "10G", "--grace", "1h"))
        after = json.loads(done(weather("retention", "weather", "--max-bytes", "none", "-o", "json")))

        assert after["policy"] == {"mode": "time", "rules": {"maxAgeHours": 720}, "deleteGraceMinutes": 60}
        refused = weather("retention", "weather", "--max-age", "month")
        assert refused.exit_code == Exit.USAGE
        assert "--max-age 'month': write it as" in refused.stderr

    def test_days_and_their_batches_are_listed(self, weather, tmp_path):
        done(weather("ingest", "readings", csv_file(tmp_path, [1, 2]), "--batch-rows", 1))

        (day,) = json.loads(done(weather("manifest", "readings", "-o", "json")))
        assert (day["manifestShard"], day["partitionCount"], len(day["partitions"])) == ("2026-01-01", 2, 2)
        assert len(json.loads(done(weather("manifest", "readings", "--day", "2026-01-01", "-o", "json")))) == 2
        assert len(json.loads(done(weather("snapshots", "readings", "--limit", 1, "-o", "json")))) == 1

    def test_a_migration_is_planned_asked_for_and_done(self, weather, tmp_path):
        done(weather("ingest", "readings", csv_file(tmp_path, [1, 2])))
        steps = ["--rename", "value=reading", "--transform", "value:double=value / 2"]

        planned = json.loads(done(weather("migrate", "readings", *steps, "--dry-run", "-o", "json")))
        assert [step["action"] for step in planned["plan"]] == ["transform", "rename"]
        assert weather("migrate", "readings", *steps, input="n\n").exit_code == Exit.FAILED
        assert values_of(weather) == [1, 2]

        done(weather("migrate", "readings", *steps, "--yes"))

        answer = done(weather("query", "readings", *JANUARY, "-o", "json"))
        assert [row["reading"] for row in json.loads(answer)["rows"]] == [0.5, 1]

    def test_upkeep_of_one_dataset(self, weather, tmp_path):
        done(weather("ingest", "readings", csv_file(tmp_path, [1, 2]), "--batch-rows", 1))

        assert upkept(weather("flush", "readings", "--dry-run", "-o", "json"))["rows"] == 2
        assert upkept(weather("flush", "readings", "-o", "json"))["rows"] == 2
        assert upkept(weather("flush", "readings", "--dry-run", "-o", "json")).get("rows", 0) == 0
        assert upkept(weather("compact", "readings", "-o", "json"))["merged"] == 0
        done(weather("retention", "readings", "--max-age", "1h", "--max-bytes", "none"))
        assert upkept(weather("expire", "readings", "--dry-run", "-o", "json"))["rows"] == 2
        assert values_of(weather) == [1, 2]

        assert "readings" in done(weather("expire", "readings"))

        assert values_of(weather) == []
        assert weather("compact", "nothing").exit_code == Exit.NOT_FOUND

    def test_a_migration_of_nothing_says_what_there_is(self, weather):
        refused = weather("migrate", "weather")
        assert refused.exit_code == Exit.USAGE
        assert "--rename old=new" in refused.stderr


class TestTheGuide:
    """docs/datasets.md is run as it stands."""

    @pytest.mark.timeout(600)
    def test_every_command_works(self, url, tmp_path):
        script = "\n".join(re.findall(r"```sh\n(.*?)```", GUIDE.read_text(), re.DOTALL))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

        ran = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script], env=os.environ | {"APPHUB_URL": url, "PATH": path},
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip

        assert ran.returncode == 0, ran.stderr
        assert pq.read_table(tmp_path / "january.parquet").num_rows == 2017

    def test_the_assets_work(self, database, tmp_path, monkeypatch):
        import dagster as dg  # the command line does without

        (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
        monkeypatch.setenv("APPHUB_HOME", str(tmp_path / "state"))
        monkeypatch.setenv("APPHUB_DATABASE_URL", database.url.replace("+psycopg", ""))
        names: dict[str, Any] = {"__name__": "guide"}
        exec(compile(code, str(GUIDE), "exec"), names)

        with dg.DagsterInstance.ephemeral() as instance:
            done = (
                names["defs"]
                .resolve_implicit_global_asset_job_def()
                .execute_in_process(partition_key="2026-01-02", instance=instance)
            )

        (made,) = done.asset_materializations_for_node("rainy")
        assert (made.metadata["dataset"].value, made.metadata["rows"].value) == ("rainy", 1)


NOTHING = cli_dataset_parts.Said({}, [])


def upkept(result: Result) -> dict[str, Any]:
    found = json.loads(done(result))
    assert found["status"] == "completed"
    return found


def rows(result: Result) -> list[dict[str, Any]]:
    return json.loads(done(result))["rows"]


def written(form: str) -> bytes:
    """Three rows in a format; `data` is CSV that nothing announces, and `arrow` a file rather than a stream."""
    objects = [{"timestamp": f"2026-01-01T00:00:0{at}Z", "value": at + 0.5} for at in range(3)]
    if form == "json":
        return json.dumps(objects).encode()
    if form == "ndjson":
        return "".join(json.dumps(each) + "\n" for each in objects).encode()
    if form in ("csv", "data"):
        return ("timestamp,value\n" + "".join(f"{each['timestamp']},{each['value']}\n" for each in objects)).encode()
    moments = pa.array([each["timestamp"][:-1] for each in objects]).cast(pa.timestamp("us"))
    table = pa.table({"timestamp": moments, "value": [each["value"] for each in objects]})
    sink = io.BytesIO()
    if form == "parquet":
        pq.write_table(table, sink)
    else:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


class Turnstile:
    """An API that keeps the ingest of a number waiting before it, until the gate is opened."""

    def __init__(self, app: Any, seen: threading.Semaphore, gate: threading.Event, at: int) -> None:
        self._app, self._seen, self._gate, self._left = app, seen, gate, at

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/ingest"):
            self._left -= 1
            if self._left == 0:
                self._seen.release()
                while not self._gate.is_set():
                    await asyncio.sleep(0.02)
                return
        await passed(self._app, scope, receive, send)


class Forgetful:
    """An API that does the ingest of a number, and loses the connection before it has answered."""

    def __init__(self, app: Any, at: int) -> None:
        self._app, self._left = app, at

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def cut(message: Any) -> None:
            if message["type"] == "http.response.start":
                await send(message)
            elif message.get("body"):
                await send(message | {"body": message["body"][:1], "more_body": True})

        if scope["type"] == "http" and scope["path"].endswith("/ingest"):
            self._left -= 1
            if self._left == 0:
                await self._app(scope, receive, cut)
                return
        await passed(self._app, scope, receive, send)


async def passed(app: Any, scope: Any, receive: Any, send: Any) -> None:
    """All but the lifespan, for the API runs already."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await app(scope, receive, send)


def in_terminal(url: str, command: Sequence[str], **environment: str) -> str:
    """What a terminal of 80 columns shows of a command."""
    leader, follower = os.openpty()
    program = [sys.executable, "-c", "from apphub_api.cli import main; main()", "dataset", *command]
    values = {**os.environ, "APPHUB_URL": url, "TERM": "xterm-256color", "COLUMNS": "80", **environment}
    with subprocess.Popen(program, env=values, stdout=follower, stderr=subprocess.DEVNULL):
        os.close(follower)
        seen = b""
        try:
            while part := os.read(leader, 65536):
                seen += part
        except OSError:  # what Linux says at the end of a terminal
            pass
    os.close(leader)
    return seen.decode().replace("\r\n", "\n")
