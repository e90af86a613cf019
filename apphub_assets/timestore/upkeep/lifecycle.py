"""The names by which upkeep is asked for: operations, Dagster's jobs, tags of their runs. It brings no DuckDB."""

from collections.abc import Iterable
from enum import StrEnum

JOB = "keep_lake"
OP = "keep"
# On every run of the upkeep, and what it does.
TAGS = {"apphub/lifecycle": "true"}
OPERATIONS_TAG = "apphub/operations"
DATASET_TAG = "apphub/dataset-id"
DRY_RUN_TAG = "apphub/dry-run"


class Operation(StrEnum):
    """What can be done to the lake; the first three to one dataset, too."""

    FLUSH = "flush"
    COMPACTION = "compaction"
    RETENTION = "retention"
    PURGE = "purge"
    EXPIRY = "expiry"
    ORPHANS = "orphans"

    @property
    def is_of_a_dataset(self) -> bool:
        return self in {Operation.FLUSH, Operation.COMPACTION, Operation.RETENTION}


def run_tags(operations: Iterable[str], dataset_id: str | None = None, *, dry_run: bool = False) -> dict[str, str]:
    """The tags of a run that does this."""
    tags = TAGS | {OPERATIONS_TAG: ",".join(operations)}
    tags |= {DATASET_TAG: dataset_id} if dataset_id else {}
    return tags | ({DRY_RUN_TAG: "true"} if dry_run else {})


def run_config(operations: Iterable[str], dataset_id: str | None = None, *, dry_run: bool = False) -> dict[str, object]:
    """The run configuration of JOB."""
    task = {"operations": [str(each) for each in operations], "dry_run": dry_run} | (
        {"dataset_id": dataset_id} if dataset_id else {}
    )
    return {"ops": {OP: {"config": task}}}
