"""A few of the kills that `python -m tests.timestore.kills` does by the hundred."""

import tempfile
from pathlib import Path

import pytest

from tests.timestore.kills.harness import killing


@pytest.mark.timeout(600)
def test_what_was_acknowledged_survives_kills_of_the_api_and_of_the_upkeep():
    with tempfile.TemporaryDirectory(prefix="apphub-kills-") as folder, killing(Path(folder), seed=3) as harness:
        harness.run(6)
    assert harness.findings.kills.total() == 6
    assert harness.findings.acknowledged == harness.findings.sent > 0
