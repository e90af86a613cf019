"""`apphub demo`: three real repositories on their way to a page in a browser."""

import asyncio
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from apphub_assets.containers import Engine, ensure_base_image
from apphub_assets.containers.errors import EngineUnavailable
from apphub_assets.errors import AppHubError
from apphub_assets.stack.stack import PROJECT, Stack

SAMPLES = PROJECT / "samples"
POLL_SECONDS = 0.25
PATIENCE = 180.0
COLOURS = {"ready": "green", "succeeded": "green", "running": "green", "failed": "red"}
# The same author and date every time: unchanged files give the same commit, and so the same image.
AUTHOR = {"NAME": "AppHub", "EMAIL": "demo@apphub.invalid", "DATE": "2026-01-01T00:00:00Z"}
GIT_ENVIRONMENT = {
    "PATH": os.environ.get("PATH", os.defpath),
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
} | {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in AUTHOR.items()}


class SampleFailed(Exception):
    """A sample did not get to its preview."""


@dataclass
class Progress:
    """How far one sample has come, as its row shows it."""

    app: str
    commit: str
    ingestion: str = ""
    build: str = ""
    launch: str = ""
    address: str = ""
    failure: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        return self.app, self.commit[:8], self.ingestion, self.build, self.launch, self.failure or self.address


class Demo:
    """Registers the samples on a running stack and follows them.

    Args:
        once: end when all have arrived or failed, instead of staying until a signal.
    """

    def __init__(self, stack: Stack, console: Console, *, once: bool) -> None:
        self._stack = stack
        self._console = console
        self._once = once
        self._began = time.monotonic()
        self._rows: list[Progress] = []

    async def run(self) -> int:
        """Bring every sample to its preview; returns 1 when one failed and nobody stays to look at it."""
        await asyncio.to_thread(self._prepare)
        token = os.environ.get("APPHUB_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with httpx.AsyncClient(base_url=self._stack.url, headers=headers, timeout=30) as client:
            work = asyncio.gather(*(self._follow(client, row) for row in self._rows))
            try:
                await self._show_until(work)
            finally:
                work.cancel()
        self._print_addresses()
        if not self._once:
            await asyncio.Event().wait()
        return int(any(row.failure for row in self._rows))

    def _prepare(self) -> None:
        settings = self._stack.settings
        try:
            ensure_base_image(Engine(settings.engine_url), settings.relay_image)
        except AppHubError as error:
            self._console.print(Text.assemble(("no images: ", "yellow"), error.message), soft_wrap=True)
        for source in sorted(folder for folder in SAMPLES.iterdir() if folder.is_dir()):
            commit = make_repository(source, self._repository(source.name))
            self._rows.append(Progress(source.name, commit))

    def _repository(self, app: str) -> Path:
        return self._stack.layout.samples / app

    async def _follow(self, client: httpx.AsyncClient, row: Progress) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._register(client, row)
                await _build(client, row)
                await _launch(client, row)
        except SampleFailed as failure:
            row.failure = str(failure)
        except TimeoutError:
            row.failure = f"not there after {PATIENCE:.0f} s; `apphub logs {row.app} --build` tells more"
        except httpx.TransportError as error:
            row.failure = f"the API at {self._stack.url} went away: {error}"

    async def _register(self, client: httpx.AsyncClient, row: Progress) -> None:
        """Register what is new; ask for another look at what changed or failed since the last demo."""
        known = await client.get(f"/apps/{row.app}")
        if known.status_code == httpx.codes.NOT_FOUND:
            name = row.app.replace("-", " ").capitalize()
            body = {"id": row.app, "name": name, "repoUrl": self._repository(row.app).as_uri(), "tags": ["demo:sample"]}
            await _call(client, "POST", "/apps", body)
            return
        app = known.raise_for_status().json()["data"]
        if app["commitSha"] != row.commit or app["ingestStatus"] == "failed" or _build_failed(app):
            await _call(client, "POST", f"/apps/{row.app}/retry")

    async def _show_until(self, work: asyncio.Future[Any]) -> None:
        """Show the rows while `work` goes on: a live table on a terminal, else a line for each change."""
        if not self._console.is_terminal:
            await self._print_changes_until(work)
            return
        with Live(console=self._console, get_renderable=self._table, refresh_per_second=8):
            await work

    async def _print_changes_until(self, work: asyncio.Future[Any]) -> None:
        shown: list[tuple[str, ...]] = [()] * len(self._rows)
        while True:
            done, _ = await asyncio.wait({work}, timeout=POLL_SECONDS)
            for index, row in enumerate(self._rows):
                if row.cells != shown[index]:
                    shown[index] = row.cells
                    self._console.print("  ".join(filter(None, row.cells)), soft_wrap=True)
            if done:
                await work
                return

    def _table(self) -> Table:
        table = Table("app", "commit", "ingestion", "build", "launch", "", box=None, header_style="bold")
        for row in self._rows:
            table.add_row(*(Text(cell, COLOURS.get(cell, "red" if cell == row.failure else "")) for cell in row.cells))
        return table

    def _print_addresses(self) -> None:
        url = self._stack.url
        self._console.print(f"\nafter {time.monotonic() - self._began:.1f} s:")
        addresses = [(row.app, row.address) for row in self._rows if row.address]
        addresses += [("search", f"{url}/apps?q=demo:sample"), ("API", f"{url}/docs"), ("Dagster", f"{url}/dagster")]
        for name, address in addresses:
            self._console.print(Text.assemble((f"{name:>9}  ", "bold green"), address), soft_wrap=True)
        if not self._once:
            self._console.print("\n[dim]Ctrl-C stops everything.[/]")


def make_repository(source: Path, repository: Path) -> str:
    """Commit the folder `source` to the bare repository `repository`; returns the commit.

    Nothing happens when it is committed already.
    """
    if not repository.exists():
        _git("init", "--quiet", "--bare", "--initial-branch=main", str(repository))
    here = ("--git-dir", str(repository), "--work-tree", str(source))
    _git(*here, "add", "--all")
    if _git(*here, "status", "--porcelain"):
        _git(*here, "commit", "--quiet", "--message", f"The sample {source.name}")
    return _git(*here, "rev-parse", "HEAD")


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, env=GIT_ENVIRONMENT, capture_output=True, text=True, check=True).stdout.strip()


async def _build(client: httpx.AsyncClient, row: Progress) -> None:
    """Wait until the commit is ingested and its image built."""

    def note(app: Any) -> bool:
        row.ingestion, build = app["ingestStatus"], app["latestBuild"]
        row.build = build["status"] if build else ""
        if row.ingestion == "failed":
            raise SampleFailed(app["ingestError"])
        if build and build["errorCode"] == EngineUnavailable.code:
            # It is tried again, but whoever looks at a demo should hear at once what to install.
            raise SampleFailed(build["errorMessage"])
        is_current = app["commitSha"] == row.commit and build and build["commitSha"] == row.commit
        if is_current and row.build == "failed":
            raise SampleFailed(build["errorMessage"])
        return bool(is_current and row.build == "succeeded")

    await _until(client, f"/apps/{row.app}", note)


async def _launch(client: httpx.AsyncClient, row: Progress) -> None:
    """Launch the image, wait until the app runs, and fetch its page."""
    launch = (await _call(client, "POST", f"/apps/{row.app}/launch", {}))["launch"]

    def note(launches: Any) -> bool:
        mine = next(one for one in launches if one["id"] == launch["id"])
        row.launch = mine["status"]
        if row.launch in {"failed", "stopped", "expired"}:
            raise SampleFailed(mine["errorMessage"] or f"the launch {row.launch}")
        launch.update(mine)
        return bool(row.launch == "running")

    await _until(client, f"/apps/{row.app}/launches", note)
    page = await client.get(launch["instanceUrl"], follow_redirects=True)
    if page.is_error:
        raise SampleFailed(f"{launch['instanceUrl']} answered {page.status_code}")
    row.address = launch["instanceUrl"]


async def _until(client: httpx.AsyncClient, path: str, note: Callable[[Any], bool]) -> None:
    while not note(await _call(client, "GET", path)):  # noqa: ASYNC110 what happens elsewhere sets no event here
        await asyncio.sleep(POLL_SECONDS)


async def _call(client: httpx.AsyncClient, method: str, path: str, body: Any = None) -> Any:
    """The `data` of an answer.

    Raises:
        SampleFailed: the API refused, with its reason.
    """
    response = await client.request(method, path, json=body)
    if response.is_error:
        is_problem = response.headers.get("content-type", "").startswith("application/problem+json")
        raise SampleFailed(response.json()["detail"] if is_problem else f"{method} {path}: {response.status_code}")
    return response.json()["data"]


def _build_failed(app: Any) -> bool:
    build = app["latestBuild"]
    return bool(build and build["status"] in {"failed", "canceled"})
