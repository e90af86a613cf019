"""Documents change with the transaction that changes the repository, and writers never wait for each other."""

import threading

from sqlalchemy import text

from apphub_assets.kit.db import Database
from apphub_assets.search import service
from tests.search.conftest import Index, app


def test_an_app_is_found_from_its_commit_on_and_not_before(unmerged: Index):
    with unmerged.database.transaction() as session:
        service.put_document(session, app("a", "Weather"))
        assert unmerged.find("weather") == []
    assert unmerged.find("weather") == ["a"]


def test_a_rolled_back_change_leaves_no_trace(index: Index):
    index.put(app("a", "Weather", "language:go"))
    with index.database.transaction() as session:
        service.put_document(session, app("a", "Billing", "language:php"))
        service.remove_document(session, "a")
        session.rollback()
    assert (index.find("weather language:go"), index.find("billing")) == (["a"], [])


def test_a_changed_app_is_found_by_what_it_is_now(index: Index):
    index.put(app("a", "Weather", "language:go"))
    index.put(app("a", "Billing", "language:php", status="failed"))
    assert index.find("billing language:php status:failed") == ["a"]
    assert index.find("weather") + index.find("language:go") + index.find("status:ready") == []


def test_a_change_and_its_undoing_cancel_out(index: Index):
    for name in ("Weather", "Billing", "Weather"):
        index.put(app("a", name))
    assert (index.find("weather"), index.find("billing")) == (["a"], [])


def test_a_removed_app_is_gone_and_may_come_back(index: Index):
    index.put(app("a", "Weather", "language:go"), app("b"))
    index.remove("a")
    assert (index.find("weather"), index.find(), index.page().total) == ([], ["b"], 1)
    index.put(app("a", "Weather"))
    assert index.find("weather") == ["a"]


def test_removing_what_is_not_there_is_no_error(index: Index):
    index.remove("nobody")
    assert index.find() == []


def test_putting_the_same_again_changes_nothing(unmerged: Index):
    unmerged.put(app("a", "Weather"))
    unmerged.merge()
    unmerged.put(app("a", "Weather"))
    assert unmerged.merge() == 0


def test_merging_shows_in_nothing(unmerged: Index):
    unmerged.put(*(app(f"app-{n}", f"Weather {n}", f"group:{n % 3}", owner=f"o{n % 4}") for n in range(20)))
    unmerged.merge()
    unmerged.put(*(app(f"app-{n}", f"Billing {n}", f"group:{n % 2}") for n in range(5)))
    unmerged.remove("app-19")
    before = [unmerged.page(q) for q in ("", "weather", "bill", "group:1")], unmerged.suggest("")
    assert unmerged.merge() > 0
    assert ([unmerged.page(q) for q in ("", "weather", "bill", "group:1")], unmerged.suggest("")) == before


def test_when_all_apps_are_removed_and_merged_no_term_is_left(unmerged: Index):
    unmerged.put(app("a", "Weather", "language:go"))
    unmerged.merge()
    unmerged.remove("a")
    unmerged.merge()
    with unmerged.database.transaction() as session:
        left = session.scalar(
            text("SELECT (SELECT count(*) FROM search.terms) + (SELECT count(*) FROM search.spellings)")
        )
    assert left == 0


def test_few_changes_are_left_to_gather(unmerged: Index):
    unmerged.put(app("a", "Weather"))
    with unmerged.database.transaction() as session:
        assert service.merge(session) == 0


def test_two_open_registrations_with_the_same_tags_do_not_wait_for_each_other(database: Database):
    with database.transaction() as one, database.transaction() as other:
        other.execute(text("SET LOCAL lock_timeout = '2s'"))
        service.put_document(one, app("a", "Weather", "language:go", "team:core"))
        service.put_document(other, app("b", "Weather", "team:core", "language:go"))
    assert Index(database, merges=False).page("weather language:go").total == 2


def test_a_merge_takes_what_is_committed_and_does_not_wait_for_the_rest(database: Database):
    index = Index(database, merges=False)
    index.put(app("a", "Weather"))
    with database.transaction() as writing:
        service.put_document(writing, app("b", "Weather"))
        assert index.merge() > 0
    assert set(index.find("weather")) == {"a", "b"}


def test_while_one_merges_another_leaves_it_at_that(database: Database):
    index = Index(database, merges=False)
    index.put(app("a", "Weather"))
    with database.transaction() as merging:
        assert service.merge(merging, at_least=1) > 0
        assert index.merge() == 0
        index.put(app("b", "Weather"))
    assert set(index.find("weather")) == {"a", "b"}


def test_many_writers_and_a_merger_at_once_lose_nothing(database: Database):
    index = Index(database, merges=False)
    stop = threading.Event()
    failures: list[Exception] = []

    def write(worker: int) -> None:
        try:
            for n in range(8):
                index.put(app(f"app-{worker}-{n % 4}", f"Weather {n}", "language:go", f"round:{n}"))
        except Exception as error:  # noqa: BLE001 - whatever it is, the test reports it
            failures.append(error)

    def merge() -> None:
        while not stop.is_set():
            index.merge()

    merger = threading.Thread(target=merge)
    writers = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in (merger, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    merger.join()
    assert failures == []
    assert index.page("weather language:go").total == 16
    assert {tag.value: tag.count for tag in index.page("round:").facets.tags if tag.key == "round"} == dict.fromkeys(
        "4567", 4
    )
