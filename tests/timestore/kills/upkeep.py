"""One turn of the upkeep: what waits in Postgres goes to files, and small files become bigger ones."""

from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings
from apphub_assets.timestore.commits import exclusive
from apphub_assets.timestore.lake import Lake


def keep_up(lake: Lake, database: Database, settings: Settings) -> None:
    for call in ("ducklake_flush_inlined_data", "ducklake_merge_adjacent_files"):
        with lake.writing() as connection, exclusive(database):
            connection.begin()
            connection.execute(f"CALL {call}('lake')")
            connection.execute("CALL ducklake_set_commit_message('lake', 'upkeep', ?)", [call])
            connection.commit()
