"""One running AppHub for every test here, with repositories that it may read."""

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from apphub_assets.containers import OWNER_LABEL, Engine
from apphub_assets.settings import Settings
from tests.e2e.hub import Hub
from tests.e2e.stream import EventStream
from tests.fixtures.git import GitServer
from tests.fixtures.stack import Stack, put_away


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of every test's repositories: the stack is told once which one it may read."""
    return tmp_path_factory.mktemp("repositories")


@pytest.fixture(scope="module")
def stack(repositories: Path) -> Iterator[Stack]:
    # A short path, for the sockets in it.
    with tempfile.TemporaryDirectory(prefix="apphub-e2e-", ignore_cleanup_errors=True) as folder:
        stack = Stack(Path(folder) / "s")
        stack.environment |= {
            "APPHUB_GIT_LOCAL_ROOTS": str(repositories),
            "APPHUB_GIT_PRIVATE_HOSTS": "127.0.0.1",
            "APPHUB_REFRESH_INTERVAL": "5",
        }
        try:
            stack.start()
            yield stack
        finally:
            put_away(stack)
            remove_images(f"{Settings(home=stack.home).stack_id}.")


def remove_images(owners: str) -> None:
    with closing(Engine()) as engine:
        made = [image for image in engine.list_images(OWNER_LABEL) if image.labels[OWNER_LABEL].startswith(owners)]
        for tag in (tag for image in made for tag in image.tags):
            engine.remove_image(tag)


@pytest.fixture
def hub(stack: Stack, git_server: GitServer) -> Iterator[Hub]:
    """The running AppHub as its clients see it; every part works when a test begins."""
    stack.until(stack.is_ready)
    hub = Hub(stack)
    yield hub
    # A remote that ends with its test would be asked, in vain, for the rest of the run.
    git_server.gate.set()
    hub.close()


@pytest.fixture
def stream(hub: Hub) -> Iterator[EventStream]:
    """Every event from now on."""
    stream = EventStream(hub)
    yield stream
    stream.close()
