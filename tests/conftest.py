"""What all tests share: fixtures by topic, the order of files, and the rule on skipping."""

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

# Those that others import come first: pytest rewrites the assertions of a module before it is imported.
pytest_plugins = [
    "tests.fixtures.git",
    "tests.fixtures.engine",
    "tests.fixtures.database",
    "tests.fixtures.timestore",
    "tests.fixtures.s3",
    "tests.fixtures.catalog",
    "tests.fixtures.api",
    "tests.fixtures.launches",
    "tests.fixtures.stack",
]

# The files that take longest, though they have few tests. Two that want the whole machine are not neighbours: one of
# the pair mostly waits for containers or the clock.
LONGEST_FIRST = (
    "e2e/test_whole.py",
    "launches/test_keeper.py",
    "containers/test_sandbox.py",
    "containers/test_build.py",
    "stack/test_up.py",
    "timestore/test_sql_processes.py",
    "catalog/test_building.py",
    "api/test_cli_datasets.py",
    "timestore/test_assets.py",
    "stack/test_demo.py",
    "dagster/test_launcher.py",
    "timestore/test_faults.py",
    "timestore/test_kills.py",
    "dagster/test_orchestrator.py",
    "e2e/test_datasets.py",
    "launches/test_pool.py",
    "api/test_ingest_memory.py",
)


def pytest_configure() -> None:
    """Take signals as in a terminal: started in the background, this ignores them, and so would all that it starts."""
    defaults = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGQUIT: signal.SIG_DFL,
    }
    for number, default in defaults.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, default)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that the processes of `make test` end at about the same time."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything is installed on purpose (APPHUB_REQUIRE_ENGINE=1, as in CI), a skipped test is a failed one."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("APPHUB_REQUIRE_ENGINE"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} would be skipped, which APPHUB_REQUIRE_ENGINE forbids: {report.longrepr}"
    return report
