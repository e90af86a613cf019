"""The base image of samples and relays is there, or the error says how to get it."""

from contextlib import closing

import docker
import pytest

from apphub_assets.containers import Engine, ImageMissing, ensure_base_image

from .conftest import BASE, PrivateEngine

pytestmark = pytest.mark.engine


def test_an_image_that_is_there_stays_as_it_is(engine: Engine, base_image: str) -> None:
    before = engine.image_info(base_image)
    ensure_base_image(engine, base_image)
    assert engine.image_info(base_image) == before


def test_an_empty_engine_gets_a_busybox_that_runs(private_engine: PrivateEngine) -> None:
    with closing(docker.APIClient(private_engine.url, version="auto")) as raw:
        container = raw.create_container(BASE, ["sh", "-c", "echo runs | tee /tmp/file"])["Id"]
        raw.start(container)
        assert raw.wait(container)["StatusCode"] == 0
        assert raw.logs(container) == b"runs\n"


def test_an_image_that_can_not_be_had_is_named(engine: Engine) -> None:
    with pytest.raises(ImageMissing, match=r"apphub-test/none:1 can't be pulled .*docker load"):
        ensure_base_image(engine, "apphub-test/none:1")
