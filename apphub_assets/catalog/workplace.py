"""Folders in which workers unpack what they read, each named after the lock that its worker holds.

So a folder whose lock is free was left by a worker that died, and whoever gets the lock may clear it.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings


@contextmanager
def workplace(settings: Settings, lock_name: str) -> Iterator[Path]:
    """An empty folder for who holds the lock; it is gone afterwards."""
    folder = _root(settings) / lock_name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def clear_abandoned(database: Database, settings: Settings) -> None:
    """Remove the folders of workers that died."""
    root = _root(settings)
    for folder in root.iterdir() if root.exists() else ():
        with database.lock(folder.name) as held:
            if held:
                shutil.rmtree(folder, ignore_errors=True)


def _root(settings: Settings) -> Path:
    return settings.state / "work"
