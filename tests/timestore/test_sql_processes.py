"""Statements on a real lake: each in a process of its own, out of which nothing gets and that hurts nobody."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import boto3
import duckdb
import psutil
import pytest
from moto.server import ThreadedMotoServer
from pydantic import SecretStr
from sqlalchemy import text

from apphub_assets.errors import AppHubError
from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings
from apphub_assets.timestore.errors import (
    InvalidSql,
    LakeUnavailable,
    QueryTooBig,
    QueryTooLong,
    SqlBusy,
    SqlProcessFailed,
)
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.sql.processes import WORKER, Answer, Question, SqlProcesses
from apphub_assets.timestore.sql.worker import Job, Opening, answer, lock, open_lake
from tests.timestore.test_sql import ESCAPES

TABLES = {
    "readings": 'SELECT "ts", "site", "value" FROM lake."main"."readings"',
    "a.b": 'SELECT "value" FROM lake."main"."a.b"',
    "my-data": 'SELECT "value" FROM lake."main"."my-data"',
}
ENDLESS = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
CROSS_JOIN = "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range + b.range = -1"
COUNT = "SELECT count(*) AS n FROM readings"
PATIENCE = 60.0
S3_KEYS = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}


class Asking:
    """The processes of one test."""

    def __init__(self, lake: Lake, settings: Settings) -> None:
        self.processes = SqlProcesses(lake, settings)

    def answer(self, sql: str, params: list | dict | None = None, form: str = "json") -> Answer:
        return self.processes.run(Question(sql, params or [], form, TABLES))

    def rows(self, sql: str, params: list | dict | None = None) -> list[dict]:
        return json.loads(self.answer(sql, params).body)

    def code(self, sql: str) -> str:
        with pytest.raises(AppHubError) as caught:
            self.answer(sql)
        return caught.value.code

    def close(self) -> None:
        self.processes.close()


Ask = Callable[..., Asking]


@pytest.fixture
def make(lake: Lake, lake_settings: Settings) -> Iterator[Ask]:
    """Processes over a lake with datasets, under settings of the test's choice."""
    with lake.writing() as connection:
        rows = "SELECT TIMESTAMP '2026-01-01' + i * INTERVAL 1 second AS ts, 's' || i % 2 AS site, i AS value"
        connection.execute(f"CREATE TABLE lake.readings AS {rows} FROM range(5000) t(i)")
        connection.execute('CREATE TABLE lake."a.b" AS SELECT 1 AS value')
        connection.execute('CREATE TABLE lake."my-data" AS SELECT 2 AS value')
        connection.execute("CREATE TABLE lake.others AS SELECT 'secret' AS value FROM range(5000)")
    made = []

    def start(**values) -> Asking:
        made.append(Asking(lake, lake_settings.model_copy(update=values)))
        return made[-1]

    yield start
    for asking in made:
        asking.close()
    assert children() == []


@pytest.fixture
def asking(make: Ask) -> Asking:
    return make()


def children() -> list[psutil.Process]:
    """The processes of statements that this one has started and that still are there."""
    return [child for child in psutil.Process().children() if WORKER in words(child)]


def words(process: psutil.Process) -> list[str]:
    """Its command line, which is empty for a moment after it was started."""
    until(process.cmdline)
    return process.cmdline()


def until(fact: Callable[[], object]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_a_statement_reads_datasets_by_their_slugs(asking: Asking):
    assert asking.rows("SELECT site, count(*) AS n FROM readings GROUP BY ALL ORDER BY 1") == [
        {"site": "s0", "n": 2500},
        {"site": "s1", "n": 2500},
    ]
    assert asking.rows('SELECT a.value AS a, b.value AS b FROM "a.b" a, "My-Data" b') == [{"a": 1, "b": 2}]


def test_what_was_committed_since_the_process_began_to_wait_is_read(asking: Asking, lake: Lake):
    assert asking.rows(COUNT) == [{"n": 5000}]
    with lake.writing() as connection:
        connection.execute("INSERT INTO lake.readings SELECT * FROM lake.readings LIMIT 10")
        connection.execute("ALTER TABLE lake.readings ADD COLUMN unit VARCHAR")
    assert asking.rows(COUNT) == [{"n": 5010}]


def test_parameters_are_values_by_position_or_by_name(asking: Asking):
    assert asking.rows("SELECT value FROM readings WHERE value = ? AND site = ?", [3, "s1"]) == [{"value": 3}]
    assert asking.rows("SELECT $1::INT + $1::INT AS twice", [21]) == [{"twice": 42}]
    assert asking.rows("SELECT $name AS x", {"name": "'; DROP TABLE readings --"}) == [
        {"x": "'; DROP TABLE readings --"}
    ]
    with pytest.raises(InvalidSql, match="Values were not provided"):
        asking.answer("SELECT ?")


def test_values_are_written_as_queries_write_them(asking: Asking):
    row = asking.rows(
        """SELECT TIMESTAMP '2026-01-01 00:00:00.25' AS t, TIMESTAMP '2026-01-01 00:00:00.000001' AS micro,
        TIMESTAMPTZ '2026-01-01 01:00:00+01' AS zoned, DATE '2026-01-01' AS day, 'nan'::DOUBLE AS nan, 1e400 AS inf,
        170141183460469231731687303715884105727 AS huge, '{"b": [1]}'::JSON AS document, [1, NULL] AS list,
        {'a': TIMESTAMP '2026-01-01'} AS struct, MAP {1: 2} AS map, 'ab'::BLOB AS blob, NULL AS none, true AS yes,
        MAP {[1]: 2::HUGEINT} AS odd"""
    )
    assert row == [
        {
            "t": "2026-01-01T00:00:00.250Z", "micro": "2026-01-01T00:00:00.000001Z",
            "zoned": "2026-01-01T00:00:00.000Z", "day": "2026-01-01", "nan": None, "inf": None,
            "huge": 170141183460469231731687303715884105727,
            "document": {"b": [1]}, "list": [1, None], "struct": {"a": "2026-01-01T00:00:00.000Z"}, "map": {"1": 2},
            "blob": "YWI=", "none": None, "yes": True, "odd": {"key": [[1]], "value": [2]},
        }
    ]  # fmt: skip
    assert b'{"d":12345678901234567890.50}' in asking.answer("SELECT 12345678901234567890.50 AS d").body


def test_an_answer_is_a_csv_or_a_table_for_people(asking: Asking):
    sql = (
        "SELECT ts, site, 'a,\"b\"\nc' AS odd, NULL AS none, '' AS empty, [value] AS list FROM readings WHERE value = 1"
    )
    csv, table = asking.answer(sql, form="csv").body, asking.answer(sql, form="table").body

    assert csv.decode() == 'ts,site,odd,none,empty,list\r\n2026-01-01T00:00:01.000Z,s1,"a,""b""\nc",,"",[1]\r\n'
    assert table.decode() == (
        "ts\tsite\todd\tnone\tempty\tlist\n---\t----\t---\t----\t-----\t----\n"
        '2026-01-01T00:00:01.000Z\ts1\ta,"b"\\nc\t\t\t[1]\n(1 row)\n'
    )


def test_columns_of_one_name_are_told_apart(asking: Asking):
    answer = asking.answer("SELECT 1 AS a, 2 AS a, 3 AS a_1")

    assert json.loads(answer.body) == [{"a": 1, "a_1": 2, "a_1_1": 3}]
    assert len(answer.warnings) == 2


def test_no_more_rows_come_than_may(make: Ask):
    asking = make(sql_max_rows=10)

    cut = asking.answer("FROM range(1000000000000)")
    assert (cut.row_count, cut.truncated, len(json.loads(cut.body))) == (10, True, 10)
    assert "APPHUB_SQL_MAX_ROWS" in cut.warnings[0]
    whole = asking.answer("FROM range(10)")
    assert (whole.row_count, whole.truncated, whole.warnings) == (10, False, [])


def test_no_more_bytes_come_than_may(make: Ask):
    answer = make(sql_max_rows=100_000).answer("SELECT repeat('x', 100000) AS x FROM range(1000)")

    assert answer.truncated
    assert 100 < answer.row_count < 1000
    assert len(answer.body) < 17 * 2**20


def state(database: Database, settings: Settings) -> dict[str, object]:
    """All that is on the disk and in Postgres, in short."""
    with database.transaction() as session:
        tables = session.execute(
            text("SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables"
                 " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')")
        ).scalars()  # fmt: skip
        rows = {
            table: session.scalar(text(f"SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} t"))
            for table in tables
        }
    files = [path for path in Path(settings.home).parent.rglob("*") if path.is_file()]
    return rows | {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def opened(make: Ask, lake: Lake) -> Iterator[duckdb.DuckDBPyConnection]:
    """The lake as a process has it open, here."""
    make()
    with closing(open_lake(Opening(**asdict(lake.recipe(2**28)), memory_bytes=2**28, cpu_seconds=60))) as connection:
        yield connection


def code(answered: bytes) -> str:
    return json.loads(answered.partition(b"\n")[0])["error"]["code"]


def test_no_escape_succeeds_or_changes_anything(
    opened: duckdb.DuckDBPyConnection, database: Database, lake_settings: Settings
):
    before = state(database, lake_settings)
    for sql, expected in ESCAPES.items():
        assert code(answer(opened, Job(sql, [], "json", TABLES, 100, 10_000))) == expected, sql
    assert state(database, lake_settings) == before


@pytest.mark.parametrize(
    "sql", ["DELETE FROM readings", "FROM others", "FROM read_text('/etc/passwd')", "SELECT 1; SELECT 2"]
)
def test_an_escape_is_refused_by_its_code(asking: Asking, sql: str):
    assert asking.code(sql) == ({"FROM others": "sql_unknown_dataset"} | ESCAPES)[sql]


# What DuckDB, Postgres and the kernel stop by themselves, should the lists have a hole.
HELD = [
    "FROM read_text('/etc/passwd')",
    "FROM glob('/etc/*')",
    "FROM '/etc/passwd'",
    "FROM read_csv('https://example.org/x.csv')",
    "FROM read_parquet('s3://bucket/x.parquet')",
    "COPY (SELECT 1) TO '/tmp/escaped.csv'",
    "ATTACH '/tmp/escaped.db'",
    "INSTALL spatial",
    "LOAD spatial",
    "SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "SET memory_limit = '1TB'",
    "RESET lock_configuration",
    "FROM frame",
    "INSERT INTO lake.readings FROM lake.readings",
    "DROP TABLE lake.readings",
    "CALL ducklake_expire_snapshots('lake', older_than => now())",
    "CALL postgres_execute('__ducklake_metadata_lake', 'DELETE FROM timestore.ducklake_snapshot')",
    "CREATE TABLE __ducklake_metadata_lake.public.escaped (i INT)",
    "FROM postgres_query('__ducklake_metadata_lake', 'CREATE TABLE public.escaped (i INT)')",
]


def test_an_open_lake_gives_nothing_away_even_without_the_lists(
    opened: duckdb.DuckDBPyConnection, database: Database, lake_settings: Settings
):
    frame = {"a": [1]}  # noqa: F841 a variable that DuckDB would find by its name
    before = state(database, lake_settings)
    lock(opened)
    for statement in HELD:
        with pytest.raises(duckdb.Error):
            pytest.fail(f"{statement}: {opened.execute(statement).fetchall()}")
    assert opened.execute("SELECT count(*) FROM lake.readings").fetchone() == (5000,)
    assert state(database, lake_settings) == before


def test_a_process_has_no_secret_in_its_environment_or_arguments(
    asking: Asking, monkeypatch: pytest.MonkeyPatch, lake_settings: Settings
):
    monkeypatch.setenv("APPHUB_OPERATOR_TOKENS", "s3cret")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:s3cret@h/d")
    asking.processes.warm()
    until(children)
    (child,) = children()

    assert "s3cret" not in str(child.environ()) + str(child.cmdline())


def test_a_process_serves_one_statement_and_the_next_one_waits_already(asking: Asking):
    asking.processes.warm()
    until(children)
    (first,) = children()
    asking.rows(COUNT)
    until(lambda: first not in children())
    (second,) = children()

    assert first.pid != second.pid


@pytest.mark.parametrize("statement", [ENDLESS, CROSS_JOIN])
def test_a_statement_without_end_is_ended_while_others_are_answered(make: Ask, statement: str):
    asking = make(sql_timeout=8)
    asking.rows(COUNT)
    with ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        endless: Future[Answer] = pool.submit(asking.answer, statement)
        time.sleep(0.5)
        assert asking.rows(COUNT) == [{"n": 5000}]
        assert not endless.done()
        with pytest.raises(QueryTooLong, match="APPHUB_SQL_TIMEOUT"):
            endless.result()
    assert 8 <= time.monotonic() - started < 12


GREEDY = [
    "SELECT list(i) FROM range(1000000000) t(i)",
    "SELECT hash(i) AS h, repeat('x', 1000) AS x FROM range(100000000) t(i) ORDER BY h",
    "SELECT repeat(repeat('x', 1000000), 4000)",
    "SELECT string_agg(repeat('x', 1000000), '') FROM range(4000)",
]


@pytest.mark.parametrize("statement", GREEDY)
def test_a_statement_that_eats_memory_ends_alone(make: Ask, statement: str):
    asking = make(sql_memory_bytes=64 * 2**20)
    with ThreadPoolExecutor(1) as pool:
        greedy = pool.submit(asking.answer, statement)
        assert asking.rows(COUNT) == [{"n": 5000}]
        with pytest.raises((QueryTooBig, SqlProcessFailed), match="memory"):
            greedy.result()


def test_eight_at_once_are_answered(make: Ask):
    asking = make(sql_concurrency=4)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(asking.rows, [COUNT] * 8)) == [[{"n": 5000}]] * 8
    assert len(children()) == 1


def test_whoever_comes_when_enough_run_and_wait_is_sent_away(make: Ask):
    asking = make(sql_concurrency=1, sql_timeout=8)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(asking.code, ENDLESS) for _ in range(2)]
        until(lambda: asking.processes._admitted._value == 0)
        with pytest.raises(SqlBusy) as caught:
            asking.answer(COUNT)
        assert caught.value.retry_after
        # One runs, the other waited as long as one may.
        assert sorted(each.result() for each in both) == ["query_too_long", "sql_busy"]
    assert asking.rows(COUNT) == [{"n": 5000}]


def test_a_process_that_is_killed_under_its_statement_is_told_of(asking: Asking):
    asking.processes.warm()
    until(children)
    (child,) = children()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(asking.answer, CROSS_JOIN)
        until(lambda: child.cpu_times().user > 1)
        child.kill()
        with pytest.raises(SqlProcessFailed, match="killed by SIGKILL"):
            asked.result()
    assert asking.rows(COUNT) == [{"n": 5000}]


def test_a_process_that_died_while_it_waited_is_replaced(asking: Asking):
    asking.processes.warm()
    until(children)
    (child,) = children()
    child.kill()
    assert asking.rows(COUNT) == [{"n": 5000}]


def test_a_process_that_lost_its_connection_to_postgres_is_replaced(asking: Asking, database: Database):
    asking.rows(COUNT)
    lost = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE application_name = 'apphub-lake'"

    def lose() -> int:
        with database.transaction() as session:
            return int(session.scalar(text(lost)) or 0)

    until(lose)
    assert asking.rows(COUNT) == [{"n": 5000}]


def test_a_lake_that_is_away_is_no_fault_of_the_statement(make: Ask, lake: Lake, lake_settings: Settings):
    files = Path(lake.data_path)
    files.rename(files.with_name("elsewhere"))
    with pytest.raises(LakeUnavailable) as caught:
        make().answer("SELECT sum(value) FROM readings")
    assert str(lake_settings.home) not in caught.value.message


def test_no_error_names_a_path_or_an_internal_of_the_lake(asking: Asking, lake: Lake, lake_settings: Settings):
    for sql in ("SELECT nope FROM readings", "SELECT site::INT FROM readings", "SELECT error(site) FROM readings"):
        with pytest.raises(InvalidSql) as caught:
            asking.answer(sql)
        assert str(lake_settings.home) not in caught.value.message
    with pytest.raises(InvalidSql) as caught:
        asking.answer("SELECT 'ää', nope FROM readings")
    assert caught.value.extra == {"position": 13}


def test_closing_ends_what_runs_and_what_waits(asking: Asking):
    asking.rows(COUNT)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(asking.answer, ENDLESS)
        until(lambda: asking.processes._idle is None)
        asking.close()
        with pytest.raises(LakeUnavailable, match="stopping"):
            asked.result()
    assert children() == []
    with pytest.raises(LakeUnavailable, match="stopping"):
        asking.answer(COUNT)


def test_processes_end_with_whoever_started_them_however_that_ends(make: Ask, lake_settings: Settings):
    make()
    script = (
        "import sys, json, time; from pathlib import Path; from apphub_assets.settings import Settings;"
        "from apphub_assets.timestore.lake import Lake; from apphub_assets.timestore.sql.processes import *;"
        "settings = Settings(home=Path(sys.argv[1]), database_url=sys.argv[2]);"
        "processes = SqlProcesses(Lake(settings), settings); processes.warm();"
        "print('waits', flush=True); processes.run(Question(sys.argv[3], [], 'json', {}))"
    )
    assert lake_settings.database_url is not None
    url = lake_settings.database_url.get_secret_value()
    command = [sys.executable, "-c", script, str(lake_settings.home), url, CROSS_JOIN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "waits\n"
        (worker,) = psutil.Process(starter.pid).children()
        until(lambda: worker.cpu_times().user > 1)
        starter.kill()
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


@pytest.fixture
def bucket() -> Iterator[str]:
    """The address of an S3 server with a bucket of that name, and a file that is not the lake's."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client("s3", endpoint_url=address, **S3_KEYS, region_name="us-east-1")
    client.create_bucket(Bucket="bucket")
    client.put_object(Bucket="bucket", Key="private.csv", Body=b"secret\n1\n")
    yield address
    server.stop()


def test_a_lake_on_s3_is_read_and_nothing_beside_it(bucket: str, lake_settings: Settings):
    values = {"storage_url": "s3://bucket/lake", "s3_endpoint_url": bucket.replace("0.0.0.0", "127.0.0.1")}
    keys = {"s3_access_key_id": SecretStr("key"), "s3_secret_access_key": SecretStr("secret")}
    settings = lake_settings.model_copy(update=values | keys)
    with closing(Lake(settings)) as lake, closing(Asking(lake, settings)) as asking:
        with lake.writing() as connection:
            connection.execute(
                "CREATE TABLE lake.readings AS SELECT NOW()::TIMESTAMP ts, '' site, 1 AS value FROM range(5000)"
            )
        assert asking.rows(COUNT) == [{"n": 5000}]
        with closing(
            open_lake(Opening(**asdict(lake.recipe(2**28)), memory_bytes=2**28, cpu_seconds=60))
        ) as connection:
            lock(connection)
            for place in ("s3://bucket/private.csv", f"{bucket}/bucket/private.csv"):
                with pytest.raises(duckdb.PermissionException):
                    connection.execute(f"FROM read_csv('{place}')")
