"""Use case: a window of a dataset is put in order, and told what it holds. Rows stay as they are."""

from dataclasses import dataclass
from datetime import datetime

from apphub_assets.kit.db import Database
from apphub_assets.timestore import lineage, repository
from apphub_assets.timestore.errors import DatasetNotFound
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.lineage import Window
from apphub_assets.timestore.spec import DatasetInfo, quote
from apphub_assets.timestore.upkeep.compaction import Compacted, compact
from apphub_assets.timestore.upkeep.flushing import flush


@dataclass(frozen=True)
class Sealed:
    """What a window of a dataset holds: `version` is the commit that last brought something to it.

    `files` may hold rows of other windows too.
    """

    rows: int
    files: lineage.Files
    version: int
    snapshot: int
    totals: lineage.Totals
    compacted: Compacted


def reseal(lake: Lake, database: Database, dataset_id: str, window: Window) -> Sealed:
    """Write to files what waits in Postgres, merge the files of the window, and tell what it holds.

    Raises:
        DatasetNotFound: it was deleted since the definitions were loaded.
        LakeBusy, LakeConflict, LakeUnavailable: the lake can't be written now.
    """
    with database.transaction() as session:
        info = repository.get_dataset(session, dataset_id)
    if info is None:
        raise DatasetNotFound(dataset_id)
    flush(lake, database, info)
    compacted = compact(lake, database, info, window)
    with database.transaction() as session:
        files = lineage.files_in(session, info, window)
        version = lineage.version_of(session, info, window)
        totals = lineage.totals(session, info.id)
    with lake.query(
        f"SELECT count(*), (SELECT id FROM lake.current_snapshot()) FROM {info.relation} WHERE {in_window(info)}",
        naive(window),
    ) as found:  # fmt: skip
        rows, snapshot = found.read_all().to_pylist()[0].values()
    return Sealed(rows, files, version, snapshot, totals, compacted)


def in_window(info: DatasetInfo) -> str:
    """A condition on the dataset's rows, with start and end of a window as its parameters."""
    time = quote(info.timestamp_column)
    return f"{time} >= ? AND {time} < ?"


def naive(window: Window) -> list[datetime]:
    """Both ends as the lake has them: UTC without saying so."""
    return [moment.replace(tzinfo=None) for moment in window]
