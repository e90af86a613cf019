"""Alembic's entry: which tables there are, and under which guards a migration runs."""

from alembic import context
from sqlalchemy import create_engine, text

# Imported for what they register with Base.metadata.
import apphub_assets.audit.models
import apphub_assets.catalog.models
import apphub_assets.events.models
import apphub_assets.idempotency.models
import apphub_assets.launches.models
import apphub_assets.search.models
import apphub_assets.timestore.models  # noqa: F401
from apphub_assets.kit.db import SCHEMAS, Base
from apphub_assets.settings import load_settings

LOCK = 7_204_117_001


def include_name(name: str | None, kind: str, _parents: object) -> bool:
    """Leave alone what is not ours: Dagster's schema and DuckLake's tables look after themselves."""
    if kind == "table":
        return not str(name).startswith("ducklake_")
    return kind != "schema" or name in SCHEMAS


url = context.config.attributes.get("url") or load_settings().sqlalchemy_url
engine = create_engine(url)
with engine.connect() as connection:
    # A migration that can't get its table lock soon gives up instead of queueing every reader behind it.
    connection.execute(text("SET lock_timeout = '5s'"))
    connection.execute(text("SET statement_timeout = '60s'"))
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": LOCK})
    for schema in SCHEMAS:
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_schemas=True,
        include_name=include_name,
        transaction_per_migration=True,
        compare_server_default=False,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
engine.dispose()
