"""The database that a stack stands on, embedded or not: its shape, and how Dagster reaches it."""

import psycopg

from apphub_assets import migrations
from apphub_assets.errors import Unavailable
from apphub_assets.settings import with_driver


def prepare_database(url: str) -> None:
    """Bring the database to this code's shape, and make the schema in which Dagster keeps its own tables.

    Raises:
        Unavailable: it does not answer.
    """
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
            connection.execute("CREATE SCHEMA IF NOT EXISTS dagster")
    except psycopg.OperationalError as error:
        raise Unavailable(
            f"the database does not answer: {error}; see that it runs, or mend APPHUB_DATABASE_URL"
        ) from error
    migrations.upgrade(with_driver(url, "psycopg"))


def dagster_url(url: str) -> str:
    """The same database for Dagster: through the driver it was written for, in its own schema."""
    return with_driver(url, "psycopg2") + ("&" if "?" in url else "?") + "options=-csearch_path%3Ddagster"
