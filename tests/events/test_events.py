"""The event stream: one order, no gaps, nothing lost and nothing of what was rolled back."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from apphub_assets.events import service as events
from apphub_assets.events.errors import InvalidJsonPath, JsonPathTooSlow
from apphub_assets.events.spec import EventQuery
from apphub_assets.kit.db import Database
from tests.fixtures.launches import eventually


def append(database: Database, type: str = "thing.done", payload: dict | None = None) -> str:
    with database.transaction() as session:
        return events.append(session, type=type, source="test", payload=payload or {})


def test_events_of_a_rolled_back_transaction_never_happened(database):
    def fail() -> None:
        with database.transaction() as session:
            events.append(session, type="thing.done", source="test", payload={})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    kept = append(database)

    assert [(event.id, event.sequence) for event in events.read(database, 0)] == [(kept, 1)]


def test_a_transaction_that_commits_late_comes_after_what_was_read_before(database):
    started, finish = threading.Event(), threading.Event()

    def slow() -> None:
        with database.transaction() as session:
            events.append(session, type="slow", source="test", payload={})
            started.set()
            finish.wait(10)

    writer = threading.Thread(target=slow)
    writer.start()
    started.wait(10)
    append(database, "fast")
    first = events.read(database, 0)
    finish.set()
    writer.join()

    assert [event.type for event in first] == ["fast"]
    assert [(event.type, event.sequence) for event in events.read(database, first[-1].sequence)] == [("slow", 2)]


def test_many_writers_and_readers_see_one_order_without_gaps(database):
    def write() -> None:
        for _ in range(25):
            append(database)

    seen: dict[int, list[int]] = {0: [], 1: []}
    done = threading.Event()

    def follow(reader: int) -> None:
        while not done.is_set() or events.read(database, len(seen[reader])):
            seen[reader] += [event.sequence for event in events.read(database, len(seen[reader]))]

    writers = [threading.Thread(target=write) for _ in range(6)]
    readers = [threading.Thread(target=follow, args=(reader,)) for reader in seen]
    for thread in writers + readers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()

    assert seen[0] == seen[1] == list(range(1, 151))


def test_a_listener_is_woken_by_a_commit(database):
    with events.listener(database.url) as wake_ups:
        append(database)
        assert next(wake_ups) is True


def test_the_history_is_filtered_by_type_source_time_and_json_path(database):
    append(database, "build.updated", {"build": {"status": "failed"}})
    append(database, "build.updated", {"build": {"status": "succeeded"}})
    append(database, "launch.updated")
    later = datetime.now(UTC) + timedelta(hours=1)

    def found(**filters) -> list[str]:
        return [event.type for event in events.find(database, EventQuery(**filters)).events]

    assert found(type="launch.updated") == ["launch.updated"]
    assert found(source="elsewhere") == []
    assert found(since=later) == []
    assert len(found(until=later)) == 3
    assert found(json_path='$.payload.build ? (@.status == "failed")') == ["build.updated"]


def test_a_broken_json_path_is_the_callers_mistake(database):
    with pytest.raises(InvalidJsonPath):
        events.find(database, EventQuery(json_path="$.["))


def test_a_slow_json_path_is_ended_and_keeps_no_reader_waiting(database):
    """It compares each of many values with every other."""
    append(database, payload={"a": list(range(50_000))})
    slow = EventQuery(json_path="$.payload.a[*] ? (exists($.payload.a[*] ? (@ < 0)))")

    with ThreadPoolExecutor() as pool:
        search = pool.submit(events.find, database, slow)
        eventually(lambda: searching(database), "the search")
        append(database)
        read, waited_for = events.read(database, 0), search.done()
        with pytest.raises(JsonPathTooSlow):
            search.result()

    assert (len(read), waited_for) == (2, False)


def searching(database: Database) -> bool:
    active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT%jsonb_path_exists%'"
    with database.transaction() as session:
        return bool(session.scalar(text(active + " AND pid <> pg_backend_pid()")))


def test_pages_go_back_in_time_without_overlap(database):
    for _ in range(5):
        append(database)

    first = events.find(database, EventQuery(limit=2))
    assert first.next_cursor
    second = events.find(database, EventQuery(limit=2, before=first.events[-1].sequence))

    assert [event.sequence for event in first.events + second.events] == [5, 4, 3, 2]


def test_old_events_go_and_the_numbers_go_on(database):
    append(database)
    events.read(database, 0)
    with database.transaction() as session:
        assert events.expire(session, 0, datetime.now(UTC) + timedelta(seconds=1)) == 1

    append(database)

    assert [event.sequence for event in events.read(database, 0)] == [2]
