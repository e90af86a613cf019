"""The container engine: one connection, its errors in our words, its images."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

import docker
import requests
import urllib3
from docker.errors import APIError, DockerException, ImageNotFound
from docker.types import CancellableStream
from docker.utils import kwargs_from_env

from .errors import EngineFault, EngineUnavailable, ImageMissing

MIB = 1024 * 1024
REQUEST_TIMEOUT = 60


@dataclass(frozen=True)
class EngineInfo:
    """An engine that answered; `latency` is the seconds one request took."""

    version: str
    root_dir: str
    latency: float


@dataclass(frozen=True)
class ImageInfo:
    """An image on the engine; `ports` are the TCP ports it EXPOSEs, `volumes` the paths it declares as VOLUME."""

    id: str
    tags: tuple[str, ...]
    size_bytes: int
    created_at: datetime
    ports: tuple[int, ...]
    volumes: tuple[str, ...]
    labels: Mapping[str, str]


class Engine:
    """A container engine that speaks Docker's API.

    Safe to share between threads; not across a fork. No connection is made before the first call, and every call
    raises EngineUnavailable when the engine can't be reached, EngineFault when it refuses.

    Args:
        url: `unix://…` or `tcp://…`; None: DOCKER_HOST, else the local socket.
        timeout: seconds without an answer after which it can't be reached.
    """

    def __init__(self, url: str | None = None, *, timeout: int = REQUEST_TIMEOUT) -> None:
        self._options: dict[str, Any] = {"base_url": url} if url else {**kwargs_from_env()}
        self.url: str = self._options.get("base_url") or "unix:///var/run/docker.sock"
        self._timeout = timeout
        self._client: docker.APIClient | None = None

    def close(self) -> None:
        """Close the connections that were made; a later call makes new ones."""
        if self._client:
            self._client.close()
        self._client = None

    @contextmanager
    def api(self) -> Iterator[docker.APIClient]:
        """The engine's own API, for this package; what goes wrong inside is raised in AppHub's words."""
        try:
            # Which version of the API both speak is asked once, at the first call.
            client = self._client = self._client or docker.APIClient(
                version="auto", timeout=self._timeout, **self._options
            )
            yield client
        except APIError as error:
            raise EngineFault(f"The container engine at {self.url} refused: {reason(error)}") from error
        except (DockerException, requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise EngineUnavailable(
                f"The container engine at {self.url} does not answer ({error}). Install Docker (Debian: `apt install "
                "docker.io`) and start it, or point APPHUB_ENGINE_URL at an engine that runs."
            ) from error

    def ping(self) -> EngineInfo:
        """Ask the engine who it is."""
        with self.api() as api:
            started = time.perf_counter()
            info = api.info()
            return EngineInfo(info["ServerVersion"], info["DockerRootDir"], time.perf_counter() - started)

    def image_exists(self, tag: str) -> bool:
        """Whether the engine holds an image under this tag or id."""
        try:
            self.image_info(tag)
        except ImageMissing:
            return False
        return True

    def image_info(self, tag: str) -> ImageInfo:
        """Describe an image.

        Raises:
            ImageMissing: there is none under this tag or id.
        """
        with self.api() as api:
            try:
                return _image_info(api.inspect_image(tag))  # type: ignore[no-untyped-call]
            except ImageNotFound as error:
                raise ImageMissing(f"The engine has no image {tag!r}; build or pull it again") from error

    def list_images(self, label: str) -> list[ImageInfo]:
        """Tagged images that carry `label` (`name` or `name=value`), newest first."""
        with self.api() as api:
            found = api.images(filters={"label": label, "dangling": False})
        return sorted(map(self._described, found), key=lambda image: image.created_at, reverse=True)

    def _described(self, summary: Mapping[str, Any]) -> ImageInfo:
        return self.image_info(summary["Id"])

    def remove_image(self, tag: str) -> bool:
        """Remove a tag, and the image with its untagged parents when it was the last one.

        Returns:
            False when there was nothing to remove.

        Raises:
            EngineFault: a container uses the image.
        """
        with self.api() as api:
            try:
                api.remove_image(tag)
            except ImageNotFound:
                return False
        return True


Item = TypeVar("Item")


class Feed(Generic[Item]):
    """Items as they arrive; `close()` ends it from any thread.

    Raises:
        EngineUnavailable: while iterating, when a feed that has no end of its own has ended.
    """

    def __init__(self, source: "CancellableStream[Any]", items: Iterator[Item], *, endless: bool) -> None:
        self._source = source
        self._items = items
        self._endless = endless

    def __iter__(self) -> Iterator[Item]:
        yield from self._items
        if self._endless:
            raise EngineUnavailable("The container engine ended the stream of its events; it was stopped or restarted")

    def close(self) -> None:
        self._endless = False
        self._source.close()


def reason(error: APIError) -> str:
    """What the engine said, without the HTTP around it."""
    return str(error.explanation or error)


def _image_info(document: Mapping[str, Any]) -> ImageInfo:
    config = document["Config"]
    exposed = (port.partition("/") for port in config.get("ExposedPorts") or {})
    return ImageInfo(
        id=document["Id"],
        tags=tuple(document["RepoTags"]),
        size_bytes=document["Size"],
        created_at=datetime.fromisoformat(document["Created"]),
        ports=tuple(sorted(int(number) for number, _, protocol in exposed if protocol in ("", "tcp"))),
        volumes=tuple(config.get("Volumes") or ()),
        labels=config.get("Labels") or {},
    )
