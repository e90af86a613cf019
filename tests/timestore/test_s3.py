"""One lake on S3 and Postgres, used from several hosts and read by other engines."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings
from apphub_assets.timestore import s3
from apphub_assets.timestore.ingest.writing import Written
from apphub_assets.timestore.upkeep import compaction, flushing
from apphub_assets.timestore.upkeep.sweeping import sweep
from tests.fixtures.s3 import KEY, SECRET, LakeOnS3, files
from tests.timestore.batches import BULK, SLUG, SMALL, Host, size_of

MakeHost = Callable[..., Host]


@pytest.fixture
def host(on_s3: LakeOnS3, database: Database) -> Iterator[MakeHost]:
    """Makes hosts with work folders of their own on the test's bucket."""
    with ExitStack() as stack:

        def make(name: str = "a", **values: str) -> Host:
            made = Host(on_s3(name, **values), database)
            stack.callback(made.close)
            return made

        yield make


def paths(one: Host) -> list[str]:
    """Every file of the dataset that the catalog names now, as `bucket/key`."""
    with one.lake.reading() as connection:
        found = connection.execute(f"SELECT data_file FROM ducklake_list_files('lake', '{SLUG}')").fetchall()
    return [path.removeprefix("s3://") for (path,) in found]


def test_batches_go_to_the_bucket_and_come_back(host: MakeHost, s3: str, bucket: str):
    one = host()
    sizes = {1: SMALL, 2: SMALL, 3: BULK, 4: BULK}
    for number, rows in sizes.items():
        assert isinstance(one.send(number, rows), Written)
    assert one.found() == sizes
    assert len(paths(one)) == 2
    flushing.flush(one.lake, one.database, one.dataset())
    assert one.found() == sizes
    assert set(files(s3).find(f"{bucket}/")) == set(paths(one))


def test_small_files_on_s3_are_merged_and_the_old_ones_swept(host: MakeHost, s3: str, bucket: str):
    one = host()
    for number in range(0, 30, 3):
        assert isinstance(one.send(number, BULK), Written)
    before = paths(one)
    done = compaction.compact(one.lake, one.database, one.dataset())
    assert done.merged == len(before) == 10
    assert len(paths(one)) < 10
    assert set(files(s3).find(f"{bucket}/")) == {*before, *paths(one)}
    swept = sweep(one.database, one.settings, datetime.now(UTC) + timedelta(days=30))
    assert set(swept.quarantined) == set(before)
    assert set(files(s3).find(f"{bucket}/apphub/timestore")) == set(paths(one))
    assert one.found() == dict.fromkeys(range(0, 30, 3), BULK)


def test_hosts_with_folders_of_their_own_share_one_lake(host: MakeHost, on_s3: LakeOnS3):
    hosts = [running(on_s3(name), *words) for name, *words in (("a", "0", "12"), ("b", "100", "12"), ("c", "keep-up"))]
    reader = host("d")
    try:
        while any(process.poll() is None for process in hosts[:2]):
            # Whoever looks sees whole batches, whatever the others are doing.
            assert all(rows == size_of(number) for number, rows in reader.found_if_any().items())
        for process in hosts:
            _, errors = process.communicate("", timeout=60)
            assert process.returncode == 0, errors
    finally:
        for process in hosts:
            process.kill()
    assert reader.found() == {number: size_of(number) for number in (*range(12), *range(100, 112))}
    assert reader.waiting_rows() == 0


def running(settings: Settings, *words: str) -> "subprocess.Popen[str]":
    """A process on a host: it ingests `<first> <count>`, or keeps up until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.timestore.batches", *words],
        env=os.environ | variables_of(settings), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def variables_of(settings: Settings) -> dict[str, str]:
    """The settings as a host is given them."""
    assert settings.database_url
    assert settings.s3_endpoint_url
    return {
        "APPHUB_HOME": str(settings.home),
        "APPHUB_DATABASE_URL": settings.database_url.get_secret_value(),
        "APPHUB_STORAGE_URL": settings.storage,
        "APPHUB_S3_ENDPOINT_URL": settings.s3_endpoint_url,
        "APPHUB_S3_ACCESS_KEY_ID": KEY,
        "APPHUB_S3_SECRET_ACCESS_KEY": SECRET,
    }


def test_other_engines_read_the_same(host: MakeHost, s3: str):
    one = host()
    for number in range(4):
        assert isinstance(one.send(number, BULK), Written)
    assert isinstance(one.send(5, SMALL), Written)
    flushing.flush(one.lake, one.database, one.dataset())
    with one.lake.query(f"SELECT count(*), sum(batch), round(sum(noise)) FROM lake.{SLUG}") as answer:
        expected = tuple(answer.read_all().to_pylist()[0].values())
    assert expected[0] == 4 * BULK + SMALL
    assert by_polars(paths(one), s3) == expected
    assert by_pyarrow(paths(one), s3) == expected
    assert by_bare_ducklake(one) == expected


def by_polars(found: list[str], s3: str) -> tuple[object, ...]:
    options = {
        "aws_endpoint_url": s3, "aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "aws_region": "us-east-1",
        "aws_allow_http": "true",
    }  # fmt: skip
    frame = pl.scan_parquet([f"s3://{path}" for path in found], storage_options=options, extra_columns="ignore")
    return frame.select(pl.len(), pl.col("batch").sum(), pl.col("noise").sum().round()).collect().row(0)


def by_pyarrow(found: list[str], s3: str) -> tuple[object, ...]:
    filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(files(s3)))
    tables = [pq.ParquetFile(path, filesystem=filesystem).read() for path in found]
    return (
        sum(table.num_rows for table in tables),
        sum(sum(table["batch"].to_pylist()) for table in tables),
        float(round(sum(sum(table["noise"].to_pylist()) for table in tables))),
    )


BARE = """
import json, sys
import duckdb
from duckdb_extensions import import_extension

endpoint, key, secret, url, query = sys.argv[1:]
connection = duckdb.connect()
for extension in ("ducklake", "postgres_scanner", "httpfs"):
    import_extension(extension)
    connection.execute(f"LOAD {extension}")
connection.execute(
    f"CREATE SECRET (TYPE s3, KEY_ID '{key}', SECRET '{secret}', ENDPOINT '{endpoint}', URL_STYLE path, USE_SSL false)"
)
connection.execute(f"ATTACH 'ducklake:postgres:{url}' AS lake (META_SCHEMA 'timestore', READ_ONLY)")
print(json.dumps([float(value) for value in connection.execute(query).fetchone()]))
"""


def by_bare_ducklake(one: Host) -> tuple[object, ...]:
    """DuckDB in a process that has nothing of AppHub."""
    endpoint = str(one.settings.s3_endpoint_url).removeprefix("http://")
    url = one.settings.sqlalchemy_url.replace("+psycopg", "", 1)
    query = f"SELECT count(*), sum(batch), round(sum(noise)) FROM lake.main.{SLUG}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", BARE, endpoint, KEY, SECRET, url, query],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout))


def test_without_keys_those_are_taken_that_the_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    profile = tmp_path / "credentials"
    profile.write_text(
        "[default]\naws_access_key_id = id\naws_secret_access_key = hidden\naws_session_token = for now\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    monkeypatch.setattr(s3, "_found", [])
    of_machine = s3.secret(Settings(s3_region="eu-central-1"))
    given = s3.secret(Settings(s3_access_key_id=SecretStr("mine"), s3_secret_access_key=SecretStr("too")))
    assert of_machine == {"REGION": "eu-central-1", "KEY_ID": "id", "SECRET": "hidden", "SESSION_TOKEN": "for now"}
    assert given == {"REGION": "us-east-1", "KEY_ID": "mine", "SECRET": "too"}
