"""What the API process holds for its lifetime: made once from the settings, closed at the end."""

import asyncio

from prometheus_client import CollectorRegistry

from apphub_api.fanout import Fanout
from apphub_api.limits import Budget
from apphub_api.metrics import StateCollector
from apphub_api.proxy import ReverseProxy
from apphub_assets import containers
from apphub_assets.identity.service import Tokens
from apphub_assets.kit.db import Database
from apphub_assets.launches.keeper import Keeper
from apphub_assets.orchestrator import Orchestrator
from apphub_assets.settings import Settings
from apphub_assets.timestore.ingest.writer import Writer
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.sql.processes import SqlProcesses


class Platform:
    """The process's connections and threads, by the name of what they reach."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tokens = Tokens(settings)
        self.database = Database(settings.sqlalchemy_url, pool_size=20, application_name="apphub-api")
        self.engine = containers.Engine(settings.engine_url)
        dagster = f"http://{settings.dagster_host}:{settings.dagster_port}/dagster"
        self.orchestrator = Orchestrator(dagster, settings.dagster_secret)
        self.fanout = Fanout(self.database)
        # Its own, for the one that is shared by the process refuses a second app's collector.
        self.metrics = CollectorRegistry()
        self.metrics.register(StateCollector(self.database, self.fanout))
        self.proxy = ReverseProxy()
        self.lake = Lake(settings)
        self.sql = SqlProcesses(self.lake, settings)
        self.writer = Writer(self.lake, self.database, settings)
        self.bodies = Budget(settings.ingest_queue_bytes)
        # Bodies grow when they are parsed or unpacked: only few at once.
        self.parsing, self.unpacking = asyncio.Semaphore(2), asyncio.Semaphore(2)
        self.keeper = Keeper(self.database, self.engine, settings, self.orchestrator)

    def start(self) -> None:
        """Start the threads that watch."""
        self.fanout.start()
        self.writer.start()
        self.keeper.start()

    def close(self) -> None:
        """Stop the threads, then close what they use."""
        self.keeper.stop()
        self.fanout.stop()
        self.orchestrator.close()
        self.engine.close()
        self.writer.stop()
        self.sql.close()
        self.lake.close()
        self.database.close()
