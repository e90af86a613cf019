"""Time-series datasets on DuckLake: files on the storage, catalog in Postgres, both in the schema `timestore`.

Nouns. A *dataset* is one table of the lake with a timestamp column, a schema that evolves in *versions*, and rules on
who may use it and how long its rows stay. A *batch* is what one ingest brought: its rows become visible together or
not at all; the contract calls it a partition. A *manifest* is the state of one UTC day of a dataset: how many batches,
rows and bytes. A *snapshot* is DuckLake's: the state of the whole lake after one commit, which a query may go back to.
A *storage target* is where files of a dataset lie.

Tables whose names begin with `ducklake_` are DuckLake's own and only it writes them; the others are in `models.py`.
What AppHub notes about a commit of the lake (batches, versions, events, audit) travels inside that commit as a
*receipt*, from which a trigger writes our rows in DuckLake's own transaction: see `receipt.py`.

People who write assets take `DatasetIOManager` and `Timestore` from here.
"""

from importlib import import_module
from typing import Any

__all__ = ["DatasetIOManager", "Timestore"]


def __getattr__(name: str) -> Any:
    """Import what needs Dagster only for who asks for it: the API must not."""
    if name in __all__:
        return getattr(import_module("apphub_assets.timestore.io_manager"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
