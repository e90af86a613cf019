"""`apphub dataset ingest`: a file into a dataset, part by part, each exactly once."""

import io
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import quote

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from apphub_api.cli_client import EXIT_OF_STATUS, Client, Exit, fail, problem_of
from apphub_api.cli_dataset_parts import MEDIA_TYPES, Form, Part, Said, form_of, parts_of
from apphub_api.cli_dataset_values import Fields, field_of, pair_of
from apphub_api.cli_output import Format, Output, show

ingesting = typer.Typer()

SUMMARY = {
    "DATASET": "dataset",
    "ROWS": "rows",
    "BATCHES": "batches",
    "THERE BEFORE": "replayed",
    "SNAPSHOT": "snapshot",
}
# What a proxy, or a server that starts again, answers; others say `retryable`.
PASSING = {429, 502, 503, 504}
LONGEST_WAIT = 30.0


@ingesting.command("ingest")
def ingest(
    slug: Annotated[str, typer.Argument(metavar="DATASET", help="Slug; the dataset is made if there is none.")],
    path: Annotated[str, typer.Argument(metavar="FILE|-", help="File with rows, or - for standard input.")],
    form: Annotated[Form, typer.Option("--format", help="What the file is; auto looks at its name and beginning.")] = (
        Form.AUTO
    ),
    key: Annotated[str | None, typer.Option(help="Idempotency key; default: from the content.")] = None,
    partition_key: Annotated[
        list[str] | None, typer.Option("--partition-key", "-k", help="name=value, a column that all rows have.")
    ] = None,
    fields: Fields = None,
    batch_rows: Annotated[
        int, typer.Option(min=1, help="Most rows per batch; keep it when you repeat a command.")
    ] = 50_000,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for a batch at most.")] = 300,
    output: Output = Format.TABLE,
) -> None:
    """Bring the rows of a file: `apphub dataset ingest weather readings.csv -k site=north`.

    JSON, NDJSON and CSV go in parts, each of which is there as a whole or not at all. The same command again, after
    an interruption or with the rest of the file mended, writes nothing twice.
    """
    keys = dict(pair_of(each, "--partition-key") for each in partition_key or [])
    said = Said(keys, [field_of(each) for each in fields or []])
    with _opened(path) as file:
        found = form_of(Path(path), file) if form is Form.AUTO else form
        sender = Sender(Client(timeout), slug, found, said, key, timeout)
        try:
            with _progress(path) as sender.progress:
                for part in parts_of(file, found, batch_rows, said):
                    sender.send(part)
        except KeyboardInterrupt:
            fail(f"interrupted: {sender.so_far}; the same command again goes on from there", Exit.FAILED)
    if not sender.batches:
        fail(f"{path} has no rows", Exit.USAGE)
    show(sender.summary, output, SUMMARY, "dataset")


@dataclass
class Sender:
    """Sends parts one after the other, waits where the API asks to, and counts what is there."""

    client: Client
    slug: str
    form: Form
    said: Said
    key: str | None
    timeout: float
    progress: Callable[[int, int], None] = lambda _bytes, _rows: None
    size: int = 0
    batches: int = 0
    rows: int = 0
    replayed: int = 0
    snapshot: int | None = None
    warnings: set[str] = field(default_factory=set)

    @property
    def so_far(self) -> str:
        """What a command that ends early leaves behind."""
        return f"{self.rows:,} rows in {self.batches} batches are written"

    @property
    def summary(self) -> dict[str, Any]:
        counted = {"batches": self.batches, "rows": self.rows, "replayed": self.replayed, "snapshot": self.snapshot}
        return {"dataset": self.slug} | counted

    def send(self, part: Part) -> None:
        """Bring a part; ends the command when it is refused."""
        response = self._answered(part)
        is_known = response.is_error and problem_of(response).get("code") == "idempotency_key_reused"
        if is_known and self.key is None:
            # The key is made of the bytes, so they are there; the dataset's types have changed since.
            rows, self.replayed = len(part.rows), self.replayed + 1
        elif response.is_error:
            self._refuse(part, response)
        else:
            rows = self._note(response)
        self.batches += 1
        self.rows += rows
        self.size += part.size
        self.progress(self.size, self.rows)

    def _note(self, response: httpx.Response) -> int:
        answer = response.json()
        self.replayed += "idempotency-replayed" in response.headers
        self.snapshot = answer["manifest"]["snapshotId"]
        for warning in sorted(set(answer["warnings"]) - self.warnings):
            _say(f"warning: {warning}")
        self.warnings.update(answer["warnings"])
        return int(answer["manifest"]["partitions"][0]["rowCount"])

    def _answered(self, part: Part) -> httpx.Response:
        """The answer to a part once it is not "later": what has a key may be sent any number of times."""
        deadline, tries = time.monotonic() + self.timeout, 0
        while True:
            tries += 1
            try:
                response = self._post(part)
            except httpx.TransportError as error:
                # When not even the first arrives, nobody is there.
                if not self.batches or time.monotonic() > deadline:
                    with self.client.reachable():
                        raise
                reason, wait = str(error) or type(error).__name__, None
            else:
                if not _is_passing(response) or time.monotonic() > deadline:
                    return response
                reason, wait = problem_of(response)["detail"], response.headers.get("retry-after")
            seconds = float(wait) if wait and wait.isdigit() else min(2.0**tries, LONGEST_WAIT)
            _say(f"waiting {seconds:g} s: {reason}")
            time.sleep(max(0, min(seconds, deadline - time.monotonic())))

    def _post(self, part: Part) -> httpx.Response:
        key = f"{self.key}:{part.number}" if self.key else part.key
        return self.client.http.post(
            f"/datasets/{quote(self.slug, safe='')}/ingest",
            content=part.content(lambda sent: self.progress(self.size + sent, self.rows)),
            params={} if self.form is Form.JSON else self.said.params,
            headers={"Content-Type": MEDIA_TYPES[self.form], "Idempotency-Key": key},
        )

    def _refuse(self, part: Part, response: httpx.Response) -> NoReturn:
        problem = problem_of(response)
        advice = [self._advice(response.status_code, problem)]
        if self.batches:
            advice.append(f"{self.so_far}; repeat the command then, and they are not written again.")
        code = Exit.TIMEOUT if _is_passing(response) else EXIT_OF_STATUS.get(response.status_code, Exit.FAILED)
        fail("\n".join([_placed(problem, part.rows), *filter(None, advice)]), code)

    def _advice(self, status: int, problem: dict[str, Any]) -> str:
        if problem.get("code") == "incompatible_schema":
            changes = (f"{step['column']}:{step['to']}" for step in problem.get("plan", []))
            steps = " ".join(f"--transform {shlex.quote(change)}" for change in changes)
            return f"  apphub dataset migrate {self.slug} {steps} --dry-run"
        if problem.get("code") == "dataset_inactive":
            return f"  apphub dataset unarchive {self.slug}"
        if problem.get("code") == "invalid_rows" and self.batches:
            return (
                "Columns have the types that the first rows gave them. Mend these rows, or if they are right:\n"
                f"  apphub dataset migrate {self.slug} --transform COLUMN:TYPE --dry-run"
            )
        if problem.get("code") == "idempotency_key_reused":
            return f"Other rows were sent under --key {self.key}; give these another."
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return "Cut the file into several." if self.form.is_binary else "Give a smaller --batch-rows."
        return ""


def _placed(problem: dict[str, Any], rows: range) -> str:
    """What is wrong with a part, by the rows of the file, of which the API has seen only some."""
    detail: str = problem["detail"]
    if not rows or problem.get("code") not in {"invalid_rows", "invalid_body"}:
        return detail
    named = re.match(r"row (\d+)\b", detail)
    if named and int(named[1]) < len(rows):
        return f"row {rows[int(named[1])]} of the file{detail[named.end() :]}"
    return f"rows {rows[0]} to {rows[-1]} of the file: {detail}"


def _is_passing(response: httpx.Response) -> bool:
    """Whether it is worth while to send the same again."""
    return response.is_error and (response.status_code in PASSING or bool(problem_of(response).get("retryable")))


def _say(message: str) -> None:
    typer.secho(message, fg="yellow", err=True)


@contextmanager
def _opened(path: str) -> Iterator[io.BufferedReader]:
    if path == "-":
        yield sys.stdin.buffer  # type: ignore[misc]  # it is a BufferedReader
        return
    try:
        file = Path(path).open("rb")  # noqa: SIM115 what goes wrong later is not about opening
    except OSError as error:
        fail(f"{path} can't be read: {error.strerror}", Exit.USAGE)
    with file:
        yield file


@contextmanager
def _progress(path: str) -> Iterator[Callable[[int, int], None]]:
    """Yields what to call with the bytes and rows so far; a bar tells of them where somebody is looking."""
    columns = (BarColumn(), DownloadColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    total = None if path == "-" else Path(path).stat().st_size
    console, began = Console(stderr=True), time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, rate="")

        def tell(size: int, rows: int) -> None:
            rate = f"{rows / max(time.monotonic() - began, 1e-3):,.0f} rows/s" if rows else ""
            bar.update(task, completed=size, rate=rate)

        yield tell
