"""`python -m tests.timestore.dying_upkeep <operation> <point>`: the upkeep of `readings`, dying at a named point."""

import os
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from apphub_assets.kit.db import Database
from apphub_assets.settings import load_settings
from apphub_assets.timestore import commits, repository
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.upkeep import compaction, expiry, flushing, purging, sweeping, trimming
from apphub_assets.timestore.upkeep.retention import Mode, Retention

DIED = 86


def die(*_: Any, **__: Any) -> None:
    os._exit(DIED)


def dying_before_commit() -> None:
    """Files are staged, and nothing is committed."""
    commits._finish = die  # type: ignore[assignment]


def dying_after_commit() -> None:
    finish = commits._finish

    def finish_and_die(*arguments: Any) -> None:
        finish(*arguments)
        die()

    commits._finish = finish_and_die


def dying_in_the_middle() -> None:
    """After the first half of what is no commit of the lake."""
    expiry._put_back = die  # type: ignore[assignment]
    move = sweeping.Storage.move

    def move_and_die(*arguments: Any) -> None:
        move(*arguments)
        die()

    sweeping.Storage.move = move_and_die  # type: ignore[method-assign]
    purging.repository.delete_purged = die  # type: ignore[assignment]


POINTS = {"before": dying_before_commit, "after": dying_after_commit, "middle": dying_in_the_middle}


@contextmanager
def opened() -> Any:
    settings = load_settings()
    database, lake = Database(settings.sqlalchemy_url), Lake(settings)
    yield settings, database, lake


def main(operation: str, point: str) -> None:
    POINTS[point]()
    with opened() as (settings, database, lake):
        with database.transaction() as session:
            info = repository.find_dataset(session, "readings")
        later = datetime.now(UTC) + timedelta(days=10)
        if operation == "flush":
            flushing.flush(lake, database, info)
        elif operation == "compaction":
            compaction.compact(lake, database, info)
        elif operation == "retention":
            trimming.trim(lake, database, info, Retention(Mode.TIME, 24.0, None, 0.0), later)
        elif operation == "expiry":
            expiry.expire(lake, database, settings, later)
        elif operation == "orphans":
            sweeping.sweep(database, settings, later)


if __name__ == "__main__":
    main(*sys.argv[1:])
