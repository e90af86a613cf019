"""Upkeep that dies anywhere loses nothing, and what it leaves behind is swept."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from apphub_assets.timestore.upkeep.compaction import compact
from apphub_assets.timestore.upkeep.expiry import expire
from apphub_assets.timestore.upkeep.flushing import flush
from apphub_assets.timestore.upkeep.sweeping import sweep
from tests.timestore.dying_upkeep import DIED
from tests.timestore.keeping import Keeper

FILE = 1001


def die(keeper: Keeper, operation: str, point: str) -> None:
    assert keeper.settings.database_url is not None
    environment = os.environ | {
        "APPHUB_DATABASE_URL": keeper.settings.database_url.get_secret_value(),
        "APPHUB_HOME": str(keeper.settings.home),
    }
    command = [sys.executable, "-m", "tests.timestore.dying_upkeep", operation, point]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == DIED, ended.stderr


def later() -> datetime:
    return datetime.now(UTC) + timedelta(days=10)


@pytest.mark.parametrize(
    ("operation", "point"),
    [
        ("flush", "before"),
        ("flush", "after"),
        ("compaction", "before"),
        ("compaction", "after"),
        ("retention", "before"),
        ("expiry", "middle"),
        ("orphans", "middle"),
    ],
)
def test_rows_are_there_once_whatever_dies_where_and_orphans_are_swept(keeper: Keeper, operation: str, point: str):
    for _ in range(3):
        keeper.add(FILE)
    keeper.add()
    if operation == "orphans":
        compact(keeper.lake, keeper.database, keeper.info)
    die(keeper, operation, point)
    keeper.check()
    keeper.add()
    flush(keeper.lake, keeper.database, keeper.info)
    compact(keeper.lake, keeper.database, keeper.info)
    expire(keeper.lake, keeper.database, keeper.settings, later())
    sweep(keeper.database, keeper.settings, later() + timedelta(days=10))
    keeper.check()
    assert len(keeper.on_disk()) == keeper.live_files() == 1


def test_rows_that_retention_took_before_it_died_are_gone_once(keeper: Keeper):
    keeper.add(FILE)
    die(keeper, "retention", "after")
    keeper.model.clear()
    keeper.check()
    assert keeper.catalog("SELECT count(*) FROM timestore.batches WHERE retired_at IS NULL") == [(0,)]
