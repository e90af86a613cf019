"""What tests of launches share."""

from collections.abc import Iterator

import pytest

from apphub_assets.containers import Engine
from tests.fixtures.door import Door


@pytest.fixture
def door() -> Iterator[Door]:
    """An open door to this machine's engine."""
    door = Door(Engine().url.removeprefix("unix://"))
    door.open()
    yield door
    door.close()
