"""What assets, checks and sensors get from the code location: one object per key.

Opened at first use, never at import or load: the fork server imports this and must hold no connection when it forks.
"""

import dagster as dg
from pydantic import PrivateAttr

from apphub_assets.containers import Engine
from apphub_assets.kit.db import Database
from apphub_assets.settings import Settings, load_settings


class Platform(dg.ConfigurableResource[None]):
    """Settings, database and container engine of this process."""

    _settings: Settings | None = PrivateAttr(None)
    _database: Database | None = PrivateAttr(None)
    _engine: Engine | None = PrivateAttr(None)

    @property
    def settings(self) -> Settings:
        if self._settings is None:
            self._settings = load_settings()
        return self._settings

    @property
    def database(self) -> Database:
        if self._database is None:
            self._database = Database(self.settings.sqlalchemy_url, pool_size=4, application_name="apphub-assets")
        return self._database

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = Engine(self.settings.engine_url)
        return self._engine

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 Dagster's signature
        """Close what this run or tick opened."""
        if self._database is not None:
            self._database.close()
        if self._engine is not None:
            self._engine.close()
        self._database = self._engine = None
