"""One turn of the upkeep: what waits in Postgres goes to files, and small files become bigger ones."""

from apphub_assets.kit.db import Database
from apphub_assets.timestore import repository
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.upkeep import compaction, flushing


def keep_up(lake: Lake, database: Database) -> None:
    with database.reading() as session:
        datasets = repository.list_datasets(session)
    for dataset in datasets:
        flushing.flush(lake, database, dataset)
        compaction.compact(lake, database, dataset)
