"""What all tests share: fixtures by topic, and the rule on skipping."""

import os
from collections.abc import Generator

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything is installed on purpose (APPHUB_REQUIRE_ENGINE=1, as in CI), a skipped test is a failed one."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("APPHUB_REQUIRE_ENGINE"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} would be skipped, which APPHUB_REQUIRE_ENGINE forbids: {report.longrepr}"
    return report
