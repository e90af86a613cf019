"""What we assume of DuckLake itself; if one of these fails after an update, the design has to be looked at again."""

import traceback
from collections.abc import Callable

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from apphub_assets import migrations
from apphub_assets.settings import Settings
from apphub_assets.timestore.errors import LakeConflict, LakeUnavailable, StorageMoved
from apphub_assets.timestore.lake import Access, Lake
from tests.fixtures.timestore import Timestore

# A lake as the first revision of its tables left it, with one receipt in DuckLake's messages.
AS_IT_WAS = """
DROP FUNCTION timestore.leave_gap CASCADE;
DROP FUNCTION timestore.write_receipt CASCADE;
CREATE FUNCTION timestore.write_receipt() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER write_receipt AFTER INSERT ON timestore.ducklake_snapshot_changes
    FOR EACH ROW EXECUTE FUNCTION timestore.write_receipt();
UPDATE timestore.ducklake_snapshot_changes SET author = 'apphub', commit_extra_info = '{}';
UPDATE alembic_version SET version_num = '20261121_timestore';
"""
COUNTS = """
SELECT count(*), count(c.snapshot_id), count(commit_extra_info)
FROM timestore.ducklake_snapshot s LEFT JOIN timestore.ducklake_snapshot_changes c ON c.snapshot_id = s.snapshot_id
"""


@pytest.fixture
def readings(lake: Lake) -> Lake:
    """A lake with a table of readings by site and day."""
    with lake.writing() as connection:
        connection.execute("CREATE TABLE lake.readings (ts TIMESTAMP, site VARCHAR, value BIGINT)")
        connection.execute("ALTER TABLE lake.readings SET PARTITIONED BY (site, year(ts), month(ts), day(ts))")
    return lake


def insert(lake: Lake, rows: int, day: str = "2025-01-01") -> None:
    with lake.writing() as connection:
        connection.execute(
            f"INSERT INTO lake.readings SELECT TIMESTAMP '{day}', 's' || i % 2, i FROM range({rows}) t(i)"
        )


def ask(lake: Lake, sql: str) -> list[tuple]:
    with lake.query(sql) as found:
        return [tuple(row.values()) for row in found.read_all().to_pylist()]


def test_a_transaction_is_seen_whole_or_not_at_all(readings: Lake):
    with readings.writing() as connection:
        connection.begin()
        connection.execute("INSERT INTO lake.readings VALUES (TIMESTAMP '2025-01-01', 'a', 1)")
        connection.execute("INSERT INTO lake.readings VALUES (TIMESTAMP '2025-01-02', 'b', 2)")
        assert ask(readings, "SELECT count(*) FROM lake.readings") == [(0,)]
        connection.commit()
    assert ask(readings, "SELECT count(*) FROM lake.readings") == [(2,)]


def test_two_inserts_at_once_both_succeed(readings: Lake):
    with readings.writing() as one, readings.writing() as other:
        for connection in (one, other):
            connection.begin()
            connection.execute("INSERT INTO lake.readings SELECT TIMESTAMP '2025-01-01', 'a', i FROM range(5000) t(i)")
        one.commit()
        other.commit()
    assert ask(readings, "SELECT count(*) FROM lake.readings") == [(10_000,)]


def test_an_insert_beside_a_change_of_the_table_is_a_conflict(readings: Lake):
    def insert_beside_a_change() -> None:
        with readings.writing() as one, readings.writing() as other:
            one.begin()
            one.execute("INSERT INTO lake.readings VALUES (TIMESTAMP '2025-01-01', 'a', 1)")
            other.execute("ALTER TABLE lake.readings ADD COLUMN note VARCHAR")
            one.commit()

    with pytest.raises(LakeConflict):
        insert_beside_a_change()
    assert ask(readings, "SELECT count(*) FROM lake.readings") == [(0,)]


def test_few_rows_stay_in_postgres_until_they_are_flushed(readings: Lake):
    insert(readings, 10)
    files = "SELECT count(*) FROM ducklake_list_files('lake', 'readings')"
    assert ask(readings, files) == [(0,)]
    with readings.writing() as connection:
        connection.execute("CALL ducklake_flush_inlined_data('lake')")
    assert ask(readings, files) == [(2,)]
    assert ask(readings, "SELECT count(*), sum(value) FROM lake.readings") == [(10, 45)]


def test_partitions_that_a_filter_rules_out_are_not_read(readings: Lake):
    for day in range(1, 6):
        insert(readings, 2000, f"2025-01-0{day}")
    plan = ask(readings, "EXPLAIN ANALYZE SELECT * FROM lake.readings WHERE site = 's1' AND ts < '2025-01-02'")[0][1]
    assert "Total Files Read: 1" in plan


def test_any_earlier_snapshot_can_be_read(readings: Lake):
    insert(readings, 10)
    ((before,),) = ask(readings, "SELECT max(snapshot_id) FROM ducklake_snapshots('lake')")
    insert(readings, 5000)
    assert ask(readings, f"SELECT count(*) FROM lake.readings AT (VERSION => {before})") == [(10,)]
    assert ask(readings, "SELECT count(*) FROM lake.readings") == [(5010,)]


def test_a_type_is_widened_and_a_column_added_without_rewriting_what_is_there(readings: Lake):
    insert(readings, 2000)
    with readings.writing() as connection:
        connection.execute("ALTER TABLE lake.readings ALTER value SET DATA TYPE DOUBLE")
        connection.execute("ALTER TABLE lake.readings ADD COLUMN unit VARCHAR DEFAULT 'C'")
        connection.execute("INSERT INTO lake.readings VALUES (TIMESTAMP '2025-01-03', 's3', 0.5, 'F')")
    found = "SELECT unit, count(*), max(value) FROM lake.readings GROUP BY unit ORDER BY unit"
    assert ask(readings, found) == [("C", 2000, 1999.0), ("F", 1, 0.5)]


def test_a_reader_can_not_write(readings: Lake):
    with pytest.raises(Exception, match="read-only"), readings.reading() as connection:
        connection.execute("DELETE FROM lake.readings")


def test_a_storage_target_has_its_own_folder(lake_settings: Settings, tmp_path):
    cold = tmp_path / "cold"
    cold.mkdir()
    lake = Lake(lake_settings.model_copy(update={"storage_targets": {"cold": str(cold)}}))
    with lake.writing() as connection:
        connection.execute("CREATE TABLE lake.target_cold.t AS SELECT i FROM range(5000) t(i)")
    lake.close()
    assert list(cold.glob("t/*.parquet"))


def test_a_lake_follows_its_folder_and_is_not_opened_without_its_files(
    readings: Lake, lake_settings: Settings, move: Callable[[Settings], Settings]
):
    insert(readings, 5000)
    readings.close()
    elsewhere = lake_settings.model_copy(update={"storage_url": str(lake_settings.state / "other")})
    with pytest.raises(StorageMoved, match="copy them there"):
        Lake(elsewhere).prepare()
    moved = move(elsewhere)
    assert ask(Lake(moved), "SELECT count(*) FROM lake.readings") == [(5000,)]


@pytest.fixture
def move(lake_settings: Settings) -> Callable[[Settings], Settings]:
    """Move the lake's folder to where other settings have it."""

    def move(to: Settings) -> Settings:
        lake_settings.state.joinpath("storage").rename(to.storage)
        return to

    return move


@pytest.mark.parametrize("change", ["ADD COLUMN note VARCHAR", "DROP COLUMN unit", "RENAME COLUMN unit TO scale"])
def test_rows_that_are_inlined_after_a_change_by_another_are_in_their_columns(lake: Lake, change: str):
    with lake.writing() as one, lake.writing() as other:
        one.execute("CREATE TABLE lake.readings (ts TIMESTAMP, unit VARCHAR, site VARCHAR, kind VARCHAR)")
        one.execute("INSERT INTO lake.readings VALUES (TIMESTAMP '2025-01-01', 'C', 'north', 'air')")
        other.execute(f"ALTER TABLE lake.readings {change}")
        one.execute(
            "INSERT INTO lake.readings BY NAME SELECT TIMESTAMP '2025-01-02' AS ts, 'south' AS site, 'soil' AS kind"
        )
        other.execute("CALL ducklake_flush_inlined_data('lake')")
    assert ask(lake, "SELECT site, kind FROM lake.readings ORDER BY ts") == [("north", "air"), ("south", "soil")]


def test_each_instance_spills_into_a_folder_of_its_own_that_goes_with_it(readings: Lake, lake_settings: Settings):
    spill = "CREATE TEMP TABLE t AS SELECT i, md5(i::VARCHAR) AS m FROM range(2000000) t(i)"
    little = Access(read_only=False, memory_bytes=64 * 2**20)
    with readings.opened(little) as one, readings.opened(little) as other:
        for connection in (one, other):
            connection.execute(spill)
        folders = list((lake_settings.state / "timestore" / "tmp").iterdir())
        assert len(folders) == 2
        for connection in (one, other):
            assert connection.execute("SELECT count(*) FROM t WHERE m = md5(i::VARCHAR)").fetchone() == (2_000_000,)
    assert not any(folder.exists() for folder in folders)


def test_the_password_of_the_database_is_in_no_error_and_in_none_of_its_causes(tmp_path):
    url = SecretStr("postgresql://somebody:open-sesame@127.0.0.1:1/nowhere")
    lake = Lake(Settings(home=tmp_path, database_url=url))
    lake._is_prepared = True
    with pytest.raises(LakeUnavailable) as told, lake.reading():
        pass
    assert "open-sesame" not in "".join(traceback.format_exception(told.value))


def test_the_receipt_is_not_kept_where_ducklake_would_read_it_again(timestore: Timestore):
    timestore.ingest("readings", "2026-01-01")
    kept = timestore.ask("SELECT author, commit_extra_info FROM ducklake_snapshots('lake') ORDER BY snapshot_id DESC")
    assert kept[0] == ("apphub", None)


def test_a_lake_of_before_its_triggers_changed_is_upgraded_and_loses_nothing_of_what_ducklake_writes(
    timestore: Timestore,
):
    with timestore.database.transaction() as session:
        session.execute(text(AS_IT_WAS))
    migrations.upgrade(timestore.database.url)
    lake = Lake(timestore.settings)
    with lake.writing() as connection:
        connection.execute("CREATE TABLE lake.others AS SELECT 1 AS value")
    lake.close()
    timestore.ingest("readings", "2026-01-01")
    with timestore.database.reading() as session:
        snapshots, changes, receipts = session.execute(text(COUNTS)).one()
    assert (changes, receipts) == (snapshots, 0)
