"""Search at 100,000 apps and 5,000 tags: suggest p99 ≤ 10 ms and search p95 ≤ 30 ms over HTTP, facets included.

Each row is one kind of request to the real API, beside the same SQL statements sent over a bare connection in the
same run. `python benchmarks/bench_search.py --apps 10000 --requests 50` is a quick look.
"""

import argparse
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from statistics import quantiles
from typing import Any
from urllib.parse import urlencode

import psycopg
from corpus import Corpus
from pyroaring import BitMap
from sqlalchemy import event
from sqlalchemy.orm import Session

from apphub_assets.kit.db import Database
from apphub_assets.search import merging, repository, service
from apphub_assets.search.query import Parameters, parse
from apphub_assets.search.words import Term, fold, pair_term, terms_of, words_of
from apphub_assets.settings import with_driver
from apphub_assets.stack.throwaway import throwaway_database

SUGGEST_P99, SEARCH_P95 = 10.0, 30.0

SUGGESTIONS = ["", "l", "lang", "we", "team:", "team:we", "library:b", "lib:ba", "langauge:we", "wether"]
SEARCHES: dict[str, dict[str, str]] = {
    "everything": {},
    "everything by name": {"sort": "name"},
    "one common word (half of all)": {"q": "service"},
    "one common word, failed": {"q": "service", "status": "failed"},
    "two words": {"q": "weather dashboard"},
    "three beginnings": {"q": "serv wea rep"},
    "first letter": {"q": "s"},
    "three letters": {"q": "ser"},
    "word and tag": {"q": "monitor language:weather"},
    "tag": {"tags": "language:weather"},
    "two values or, one and, one not": {"q": "language:weather language:dashboard stage:report -region:report"},
    "a year": {"q": "updated:2025-01-01..2025-12-31"},
    "old failed ones by update": {"q": "status:failed updated:<2025-06-01", "sort": "updated"},
    "slip": {"q": "wether dashbord"},
    "twelve words": {"q": "a b c d e f g h l m n o"},
    "nothing": {"q": "zzzzzz"},
}


@contextmanager
def copying(connection: psycopg.Connection[Any], target: str) -> Iterator[Callable[[tuple[Any, ...]], None]]:
    with connection.cursor() as cursor, cursor.copy(f"COPY {target} FROM STDIN") as copy:
        yield copy.write_row


def load(url: str, corpus: Corpus) -> None:
    """Write the rows that registering every app and merging would leave, only faster."""
    with psycopg.connect(url) as connection:
        load_catalog(connection, corpus)
        load_search(connection, corpus, stems_of(url, corpus))
        connection.execute("SELECT setval(pg_get_serial_sequence('search.documents', 'doc_id'), %s)", [corpus.size])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def load_catalog(connection: psycopg.Connection[Any], corpus: Corpus) -> None:
    numbers = {tag: number for number, tag in enumerate({tag for app in corpus for tag in app.tags}, 1)}
    with copying(connection, "catalog.tags (id, key, value)") as write:
        for (key, value), number in numbers.items():
            write((number, key, value))
    columns = "id, name, description, repo_url, ingest_status, created_at, updated_at"
    with copying(connection, f"catalog.repositories ({columns})") as write:
        for app in corpus:
            write(
                (app.repository_id, app.name, app.description, app.repo_url, app.status, app.created_at, app.updated_at)
            )
    with copying(connection, "catalog.repository_tags (repository_id, tag_id, source)") as write:
        for app in corpus:
            for tag in app.tags:
                write((app.repository_id, numbers[tag], "author"))


def load_search(connection: psycopg.Connection[Any], corpus: Corpus, stems: dict[str, str]) -> None:
    postings: dict[Term, array[int]] = defaultdict(lambda: array("I"))
    columns = "doc_id, repository_id, name_key, pairs, popularity, created_at, updated_at, ingested_at"
    with copying(connection, f"search.documents ({columns}) ") as write:
        for doc_id, app in enumerate(corpus, 1):
            for term in terms_of(app, lambda words: {word: stems[word] for word in words if word in stems}):
                postings[term].append(doc_id)
            pairs = sorted({pair_term(key, value) for key, value in app.pairs})
            dates = (app.created_at, app.updated_at, app.ingested_at)
            write((doc_id, app.repository_id, fold(app.name), pairs, doc_id * 7919 % 1000, *dates))
    with copying(connection, "search.terms (kind, term, label, uses, docs)") as write:
        for term, docs in sorted(postings.items()):
            write(tuple(merging.term_row(term, BitMap(docs), None).values()))
    with copying(connection, "search.spellings (kind, term, forms)") as write:
        for row in merging.spelling_rows(sorted(postings)):
            write(tuple(row.values()))
    connection.execute("UPDATE search.merges SET name = gen_random_uuid()")


def stems_of(url: str, corpus: Corpus) -> dict[str, str]:
    words = {word for app in corpus for word in words_of(f"{app.name} {app.description} {app.readme} {app.repo_url}")}
    database = Database(with_driver(url, "psycopg"))
    with database.transaction() as session:
        return repository.stems(session, words)


def register_more(database: Database, count: int) -> list[float]:
    """Register apps the ordinary way, and leave as many changes unmerged as are in use; milliseconds of each."""
    times = []
    for app in Corpus(count):
        with database.transaction() as session:
            service.merge(session)
        started = time.perf_counter()
        with database.transaction() as session:
            service.put_document(session, replace(app, repository_id=f"new-{app.repository_id}"))
        times.append((time.perf_counter() - started) * 1000)
    return times


@contextmanager
def api(url: str) -> Iterator[int]:
    """The real API in a process of its own; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as free, tempfile.TemporaryDirectory() as home:
        port = free.getsockname()[1]
        free.close()
        environment = {**os.environ, "APPHUB_DATABASE_URL": url, "APPHUB_HOME": home, "APPHUB_PORT": str(port)}
        process = subprocess.Popen([sys.executable, "-m", "apphub_api.server"], env=environment)
        try:
            until_listening(port, process)
            yield port
        finally:
            process.terminate()
            process.wait()


def until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise SystemExit(f"the API ended with {process.returncode}")


def timed(count: int, action: Callable[[], object]) -> list[float]:
    """Milliseconds of `count` runs, after three to warm up."""
    for _ in range(3):
        action()
    times = []
    for _ in range(count):
        started = time.perf_counter()
        action()
        times.append((time.perf_counter() - started) * 1000)
    return times


def get(client: http.client.HTTPConnection, path: str) -> None:
    client.request("GET", path)
    response = client.getresponse()
    body = response.read()
    if response.status != 200:
        raise SystemExit(f"GET {path}: {response.status} {body[:500]!r}")


Statements = list[tuple[str, Any]]


def statements_of(database: Database, action: Callable[[Session], object]) -> Statements:
    """The SQL that an action sends, with its parameters."""
    sent: Statements = []

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        sent.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    with database.transaction() as session:
        action(session)
    event.remove(database.engine, "before_cursor_execute", note)
    return sent


def replay(connection: psycopg.Connection[Any], statements: Statements) -> None:
    for statement, parameters in statements:
        connection.execute(statement, parameters).fetchall()


@dataclass
class Bench:
    """What a row needs: the API, the service in this process, and a bare connection."""

    port: int
    database: Database
    bare: psycopg.Connection[Any]
    requests: int

    def row(self, label: str, path: str, action: Callable[[Session], object]) -> list[float]:
        """Measure one kind of request and print its line; returns the times over HTTP."""

        def call() -> None:
            with self.database.transaction() as session:
                action(session)

        call()
        statements = statements_of(self.database, action)
        client = http.client.HTTPConnection("127.0.0.1", self.port)
        over_http = timed(self.requests, lambda: get(client, path))
        client.close()
        in_process = timed(self.requests, call)
        bare = timed(self.requests, lambda: replay(self.bare, statements))
        p50, p95, p99 = percentiles(over_http)
        service_p50, sql_p50 = percentiles(in_process)[0], percentiles(bare)[0]
        print(f"{label:34} {p50:7.1f} {p95:7.1f} {p99:7.1f} {service_p50:9.1f} {sql_p50:7.1f} {p50 / sql_p50:8.1f}×")
        return over_http


def percentiles(times: list[float]) -> tuple[float, float, float]:
    cuts = quantiles(times, n=100, method="inclusive")
    return cuts[49], cuts[94], cuts[98]


def heading(title: str) -> None:
    print(f"\n{title:34} {'p50':>7} {'p95':>7} {'p99':>7} {'service':>9} {'SQL':>7} {'HTTP/SQL':>9}   (ms)")


def suggestions(bench: Bench) -> float:
    heading("GET /tags/suggest")
    times: list[float] = []
    for prefix in SUGGESTIONS:
        path = f"/tags/suggest?{urlencode({'prefix': prefix})}"
        times += bench.row(repr(prefix), path, lambda session, prefix=prefix: service.suggest(session, prefix))
    return percentiles(times)[2]


def searches(bench: Bench) -> float:
    heading("GET /apps")
    times: list[float] = []
    for label, given in SEARCHES.items():
        query = parse(Parameters(**given))
        path = f"/apps?{urlencode(given)}"
        times += bench.row(label, path, lambda session, query=query: service.search(session, query))
    return percentiles(times)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--apps", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=100, help="of each kind")
    parser.add_argument("--database", help="an existing, migrated and loaded database instead of a throw-away one")
    arguments = parser.parse_args()
    with nullcontext(arguments.database) if arguments.database else throwaway_database() as url:
        if not arguments.database:
            started = time.perf_counter()
            load(url, Corpus(arguments.apps))
            print(f"loaded {arguments.apps} apps in {time.perf_counter() - started:.0f} s")
        measure(url, arguments.requests)


def measure(url: str, requests: int) -> None:
    database = Database(with_driver(url, "psycopg"))
    p50, p95, _ = percentiles(register_more(database, 100))
    print(f"registering: p50 {p50:.1f} ms, p95 {p95:.1f} ms; the last ones stay unmerged while the rest is measured")
    with api(url) as port, psycopg.connect(url, autocommit=True) as bare:
        bench = Bench(port, database, bare, requests)
        suggest_p99, search_p95 = suggestions(bench), searches(bench)
    started = time.perf_counter()
    with database.transaction() as session:
        merged = service.merge(session, at_least=1)
    print(f"\nmerged {merged} changes in {time.perf_counter() - started:.2f} s")
    print(f"suggest p99 {suggest_p99:.1f} ms (target {SUGGEST_P99:g})")
    print(f"search p95 {search_p95:.1f} ms (target {SEARCH_P95:g})")


if __name__ == "__main__":
    main()
