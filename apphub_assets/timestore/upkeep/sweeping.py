"""Files that nothing refers to go to a quarantine, and from there for good.

They are left by processes that died between writing and committing, by merges, and by snapshots that expired.
DuckLake's own call compares paths and has taken live files when DATA_PATH ended in a slash (duckdb/ducklake issue
815); here names are compared, which are unique wherever the file lies, and a file that is named anywhere stays.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
from sqlalchemy import text
from sqlalchemy.orm import Session

from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings
from apphub_assets.timestore import s3
from apphub_assets.timestore.commits import exclusive

PREFIXES = ("ducklake-", "tmp_ducklake-")
SUFFIX = ".parquet"
# No dataset can be called so.
QUARANTINE = "~quarantine"
# Files that are looked up in the catalog, moved, and looked up again.
GROUP = 100

# Named by any snapshot that is still there, or taken off so lately that a query may still read it.
NAMED = text(
    r"""
    SELECT regexp_replace(path, '^.*/', '') FROM timestore.ducklake_data_file
    UNION ALL SELECT regexp_replace(path, '^.*/', '') FROM timestore.ducklake_delete_file
    UNION ALL SELECT regexp_replace(path, '^.*/', '') FROM timestore.ducklake_files_scheduled_for_deletion
        WHERE schedule_start > :before
    """
)
UNSCHEDULE = text(
    r"""
    DELETE FROM timestore.ducklake_files_scheduled_for_deletion
    WHERE schedule_start <= :before AND regexp_replace(path, '^.*/', '') <> ALL(:present)
    """
)


@dataclass(frozen=True)
class Found:
    """A file: its path as its filesystem says it, and from the place that was searched."""

    path: str
    relative: str
    bytes: int

    @property
    def name(self) -> str:
        return self.relative.rpartition("/")[2]


@dataclass
class Swept:
    """Paths of files that went to the quarantine, of those that left it for good, and of leftovers on this machine.

    `returned` are files that turned out to be needed after all.
    """

    quarantined: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    bytes: int = 0


@dataclass(frozen=True)
class Place:
    """A folder or URL with files of the lake, and where those of it go that nothing refers to."""

    files: str
    quarantine: str


def sweep(database: Database, settings: Settings, now: datetime, *, dry_run: bool = False) -> Swept:
    """Do all of it; in a dry run only find out what there is to do.

    Raises:
        LakeUnavailable: the catalog is away.
    """
    swept = Swept()
    before = now - timedelta(hours=settings.orphan_grace_hours)
    for place in places(settings):
        storage = Storage(place, settings)
        _quarantine(storage, database, before, now, swept, dry_run=dry_run)
        _remove(storage, database, now - timedelta(hours=settings.quarantine_hours), swept, dry_run=dry_run)
    _clear_leftovers(settings, before, swept, dry_run=dry_run)
    if not dry_run:
        _unschedule(database, settings, before)
    return swept


def places(settings: Settings) -> list[Place]:
    """Where the lake's files are: the default storage, and every further target."""
    default = Place(f"{settings.storage}/timestore", f"{settings.storage}/quarantine/timestore")
    urls = [url.rstrip("/") for url in settings.storage_targets.values()]
    return [default, *(Place(url, f"{url}/{QUARANTINE}") for url in urls)]


class Storage:
    """A place on its filesystem."""

    def __init__(self, place: Place, settings: Settings) -> None:
        scheme = urlsplit(place.files).scheme or "file"
        self._files: Any = fsspec.filesystem(scheme, **(s3.filesystem_options(settings) if scheme == "s3" else {}))
        self.root = str(self._files._strip_protocol(place.files)).rstrip("/")  # noqa: SLF001 its name for it
        self.quarantine = str(self._files._strip_protocol(place.quarantine)).rstrip("/")  # noqa: SLF001

    def files(self) -> Iterator[tuple[Found, datetime]]:
        """The lake's files here, with when they were written; what is in quarantine is none."""
        inside = f"{self.quarantine.removeprefix(self.root)}/"
        for found, written in self._walk(self.root):
            is_ours = found.name.startswith(PREFIXES) and found.name.endswith(SUFFIX)
            if is_ours and not f"/{found.relative}".startswith(inside):
                yield found, written

    def quarantined(self) -> Iterator[tuple[Found, date]]:
        """The files in quarantine, with the day on which they came there."""
        for found, _ in self._walk(self.quarantine):
            try:
                day = date.fromisoformat(found.relative.partition("/")[0])
            except ValueError:
                continue
            yield found, day

    def move(self, source: str, target: str) -> None:
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._files.mv(source, target)

    def remove(self, path: str) -> None:
        self._files.rm_file(path)

    def _walk(self, root: str) -> Iterator[tuple[Found, datetime]]:
        self._files.invalidate_cache()
        if not self._files.exists(root):
            return
        for path, details in self._files.find(root, detail=True).items():
            yield Found(path, path[len(root) :].lstrip("/"), details["size"] or 0), _written(details)


def _quarantine(
    storage: Storage, database: Database, before: datetime, now: datetime, swept: Swept, *, dry_run: bool
) -> None:
    with database.reading() as session:
        named = _named(session, before)
    orphans = [found for found, written in storage.files() if written < before and found.name not in named]
    for start in range(0, len(orphans), GROUP):
        group = orphans[start : start + GROUP]
        if not dry_run:
            # Nobody commits while this looks; so what is not named now will not be, but by one who began a day ago.
            with exclusive(database) as session:
                named = _named(session, before)
            group = [found for found in group if found.name not in named]
            _move_away(storage, database, group, now, swept)
        swept.quarantined += [found.path for found in group]
        swept.bytes += sum(found.bytes for found in group)


def _move_away(storage: Storage, database: Database, group: Sequence[Found], now: datetime, swept: Swept) -> None:
    """Move files, and back those that a commit has named meanwhile."""
    targets = {found: f"{storage.quarantine}/{now:%Y-%m-%d}/{found.relative}" for found in group}
    for found, target in targets.items():
        storage.move(found.path, target)
    with database.reading() as session:
        named = _named(session, now)
    for found, target in targets.items():
        if found.name in named:
            storage.move(target, found.path)
            swept.returned.append(found.path)


def _remove(storage: Storage, database: Database, before: datetime, swept: Swept, *, dry_run: bool) -> None:
    with database.reading() as session:
        named = _named(session, before)
    for found, day in storage.quarantined():
        if day >= before.date():
            continue
        if found.name in named:
            swept.returned.append(found.path)
            if not dry_run:
                storage.move(found.path, f"{storage.root}/{found.relative.partition('/')[2]}")
            continue
        swept.removed.append(found.path)
        if not dry_run:
            storage.remove(found.path)


def _unschedule(database: Database, settings: Settings, before: datetime) -> None:
    """Forget files that were to be deleted and are not there any more."""
    present = [found.name for place in places(settings) for found, _ in Storage(place, settings).files()]
    with database.transaction() as session:
        session.execute(UNSCHEDULE, {"before": before, "present": present})


def _clear_leftovers(settings: Settings, before: datetime, swept: Swept, *, dry_run: bool) -> None:
    """Bodies of requests and DuckDB's own files whose process was killed; they are on the machine that wrote them."""
    for name in ("staging", "tmp"):
        folder = settings.state / "timestore" / name
        for path in folder.rglob("*") if folder.is_dir() else ():
            if path.is_file() and datetime.fromtimestamp(path.stat().st_mtime, UTC) < before:
                swept.leftovers.append(str(path))
                if not dry_run:
                    Path(path).unlink(missing_ok=True)


def _named(session: Session, before: datetime) -> set[str]:
    return set(session.scalars(NAMED, {"before": before}))


def _written(details: dict[str, Any]) -> datetime:
    """When a file was written; one of which that is not known is taken for new."""
    given = details.get("LastModified") or details.get("mtime") or details.get("last_modified")
    if isinstance(given, int | float):
        return datetime.fromtimestamp(given, UTC)
    return given.astimezone(UTC) if isinstance(given, datetime) else datetime.max.replace(tzinfo=UTC)
