"""The timestore's part of the code location: an asset with its checks for every dataset there is.

Datasets come and go while Dagster runs, so this part is a function, and `is_outdated` tells when to call it again.
"""

import logging
from contextlib import closing
from datetime import UTC, datetime

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from apphub_assets.kit.db import Database
from apphub_assets.settings import SettingMissing, load_settings
from apphub_assets.timestore import lineage
from apphub_assets.timestore.assets import asset_of
from apphub_assets.timestore.checks import checks_of
from apphub_assets.timestore.lineage import Described
from apphub_assets.timestore.resources import LakeResource
from apphub_assets.timestore.schedules import check_daily
from apphub_assets.timestore.sensors import ingested_partitions

log = logging.getLogger(__name__)


class Known:
    """The datasets that definitions were last built of. While Postgres is away they stay those that were known."""

    def __init__(self) -> None:
        self.is_used = False
        self.generation: str | None = None
        self.datasets: list[Described] = []

    def refresh(self) -> None:
        self.is_used = True
        try:
            with closing(connected()) as database, database.transaction() as session:
                # In this order: what changes in between makes a generation that is not this one.
                self.generation, self.datasets = lineage.generation(session), lineage.describe(session)
        except SettingMissing:
            log.info("no database is configured: no datasets")
        except SQLAlchemyError as error:
            self.generation = None
            log.warning("datasets can't be read: %s", str(error).partition("\n")[0])


known = Known()


def connected() -> Database:
    """The database of this process's settings, for its caller to close.

    Raises:
        SettingMissing: none is configured.
    """
    return Database(load_settings().sqlalchemy_url, pool_size=1, application_name="apphub-definitions")


def is_outdated(database: Database) -> bool:
    """Whether `load` would give other definitions than it last did in this process.

    Raises:
        SQLAlchemyError: the database is away.
    """
    if not known.is_used:
        return False
    with database.transaction() as session:
        return lineage.generation(session) != known.generation


def load() -> dg.Definitions:
    """Definitions for the datasets there are now; raises nothing, for the other slices' definitions must load."""
    known.refresh()
    datasets, now = known.datasets, datetime.now(UTC)
    return dg.Definitions(
        assets=[asset_of(each, now) for each in datasets],
        asset_checks=[checks_of(each) for each in datasets],
        sensors=[ingested_partitions(datasets, now)],
        schedules=[check_daily(datasets)] if datasets else [],
        resources={"lake": LakeResource()},
    )
