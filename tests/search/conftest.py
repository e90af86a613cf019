"""A search index on a real database, with its changes merged or not: no test may see the difference."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import text

from apphub_assets.kit.db import Database
from apphub_assets.search import service
from apphub_assets.search.query import Parameters, parse
from apphub_assets.search.spec import Document, SearchPage, Suggestion
from apphub_assets.settings import with_driver

DAY = datetime(2026, 3, 1, tzinfo=UTC)


def app(repository_id: str, name: str = "", *tags: str, **values) -> Document:
    """A document; tags are written `key:value`."""
    pairs = [tuple(tag.split(":", 1)) for tag in tags]
    defaults = {"status": "ready", "created_at": DAY, "updated_at": DAY, "tags": pairs}
    return Document(**{"repository_id": repository_id, "name": name or repository_id, **defaults, **values})


@dataclass(frozen=True)
class Index:
    """Search as a caller sees it, each use in its own transaction."""

    database: Database
    merges: bool

    def put(self, *documents: Document) -> None:
        """Put documents, each a minute older than the one before unless it says otherwise."""
        for age, document in enumerate(documents):
            given = document.updated_at if document.updated_at != DAY else DAY - timedelta(minutes=age)
            with self.database.transaction() as session:
                service.put_document(session, replace(document, updated_at=given))
        if self.merges:
            self.merge()

    def remove(self, repository_id: str) -> None:
        with self.database.transaction() as session:
            service.remove_document(session, repository_id)
        if self.merges:
            self.merge()

    def merge(self) -> int:
        with self.database.transaction() as session:
            return service.merge(session, at_least=1)

    def page(self, q: str = "", **parameters) -> SearchPage:
        with self.database.transaction() as session:
            return service.search(session, parse(Parameters(q=q, **parameters)))

    def find(self, q: str = "", **parameters) -> list[str]:
        """Ids of what is found, in order."""
        return [hit.repository_id for hit in self.page(q, **parameters).hits]

    def suggest(self, prefix: str, limit: int = 10) -> list[Suggestion]:
        with self.database.transaction() as session:
            return service.suggest(session, prefix, limit)


@pytest.fixture(scope="session")
def search_database(template_url: str) -> Iterator[Database]:
    """One database for all of these tests: there are many, and emptying it is ten times quicker than a new one."""
    with psycopg.connect(make_conninfo(template_url, dbname="postgres"), autocommit=True) as server:
        server.execute("CREATE DATABASE search_tests TEMPLATE apphub")
    database = Database(with_driver(template_url.replace("/apphub?", "/search_tests?"), "psycopg"))
    yield database
    database.close()


@pytest.fixture
def database(search_database: Database) -> Database:
    with search_database.transaction() as session:
        session.execute(
            text("TRUNCATE search.documents, search.contents, search.terms, search.spellings, search.changes")
        )
        # As every merge does: no other state of the index has this name.
        session.execute(text("UPDATE search.merges SET name = gen_random_uuid()"))
    return search_database


@pytest.fixture(params=["unmerged", "merged"])
def index(database: Database, request: pytest.FixtureRequest) -> Index:
    return Index(database, merges=request.param == "merged")


@pytest.fixture
def unmerged(database: Database) -> Index:
    return Index(database, merges=False)
