"""What tests of datasets in Dagster share."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import dagster as dg
import pytest

from apphub_assets.kit.db import Database
from apphub_assets.resources import Platform
from apphub_assets.settings import Settings
from apphub_assets.timestore import definitions
from apphub_assets.timestore.lake import Lake
from tests.timestore.keeping import Keeper, own_lake
from tests.timestore.making import Maker

Load = Callable[[], dg.Definitions]


@pytest.fixture
def maker(lake: Lake, database: Database) -> Maker:
    return Maker(lake, database)


@pytest.fixture
def make_keeper(database: Database) -> Iterator[Callable[[Settings], Keeper]]:
    with ExitStack() as opened:
        yield lambda settings: Keeper(settings, opened.enter_context(own_lake(settings)), database)


@pytest.fixture
def keeper(make_keeper: Callable[[Settings], Keeper], lake_settings: Settings) -> Keeper:
    return make_keeper(lake_settings)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def load(lake_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Builds the timestore's definitions for the test's own database."""
    assert lake_settings.database_url is not None
    monkeypatch.setenv("APPHUB_DATABASE_URL", lake_settings.database_url.get_secret_value())
    monkeypatch.setenv("APPHUB_HOME", str(lake_settings.home))

    def build() -> dg.Definitions:
        rest = dg.Definitions(resources={"platform": Platform()}, executor=dg.in_process_executor)
        return dg.Definitions.merge(definitions.load(), rest)

    return build


@pytest.fixture
def outdated(load: Load) -> Callable[[], bool]:
    def look() -> bool:
        with closing(definitions.connected()) as database:
            return definitions.is_outdated(database)

    return look
