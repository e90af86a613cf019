"""The database's shape over time: Alembic revisions, applied one at a time under a lock."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

HERE = Path(__file__).parent


def upgrade(url: str) -> None:
    """Bring the database at `url` (`postgresql+psycopg://…`) to the newest revision; safe to call from many at once."""
    command.upgrade(_config(url), "head")


def pending(url: str) -> bool:
    """Whether the database at `url` lacks a revision that this code has."""
    heads = set(ScriptDirectory.from_config(_config(url)).get_heads())
    engine = create_engine(url)
    with engine.connect() as connection:
        current = set(MigrationContext.configure(connection).get_current_heads())
    engine.dispose()
    return current != heads


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(HERE))
    config.attributes["url"] = url
    return config
