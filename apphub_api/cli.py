"""`apphub …`: thin over the stack and over the REST API.

What is slow to import (Dagster's database drivers, Alembic, the engine's SDK) is imported by the command that needs it.
"""

import asyncio
import shlex
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from apphub_api.cli_apps import apps, search_and_launch
from apphub_api.cli_datasets import datasets
from apphub_api.cli_output import Format, Output, show
from apphub_assets.errors import AppHubError
from apphub_assets.settings import SettingError, load_settings

app = typer.Typer(
    name="apphub",
    help="The home for a company's web apps and the data around them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
admin = typer.Typer(no_args_is_help=True, help="Look after an installation.")
app.add_typer(apps, name="app")
app.add_typer(apps, name="apps", hidden=True)
app.add_typer(datasets, name="dataset")
app.add_typer(datasets, name="datasets", hidden=True)
app.add_typer(search_and_launch)
app.add_typer(admin, name="admin")

console = Console(highlight=False)


@app.command()
def up() -> None:
    """Start everything and keep it running until Ctrl-C."""
    from apphub_assets.stack.stack import Stack, run

    stack = Stack(load_settings())

    async def stay() -> int:
        print_addresses(stack.url)
        await asyncio.Event().wait()
        return 0

    raise typer.Exit(run(stack, print_progress, stay))


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Stop everything when the samples ran; exit 1 if one did not.")
    ] = False,
) -> None:
    """Start everything, register the sample apps, and show each from its repository to its preview."""
    from apphub_api.demo import Demo
    from apphub_assets.stack.stack import Stack, run

    stack = Stack(load_settings())
    raise typer.Exit(run(stack, print_progress, Demo(stack, console, once=once).run))


@app.command()
def env() -> None:
    """Print the running stack's variables: `eval "$(apphub env)"`, then any `dagster …` command works on it."""
    from apphub_assets.stack.layout import Layout
    from apphub_assets.stack.lock import read_holder

    holder = read_holder(Layout(load_settings().state).lock)
    for name, value in (holder.environment | {"APPHUB_URL": holder.url}).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@admin.command()
def doctor(output: Output = Format.TABLE) -> None:
    """Check everything that can be wrong with this installation, and say how to mend it; exit 1 if something is."""
    from apphub_assets.stack.doctor import Verdict, diagnose

    findings = diagnose(load_settings())
    columns = {"CHECK": "id", "STATUS": "status", "FOUND": "found", "FIX": "fix"}
    show([finding.document() for finding in findings], output, columns)
    raise typer.Exit(any(finding.verdict is Verdict.FAILED for finding in findings))


@admin.command()
def migrate() -> None:
    """Bring the configured database to this version's shape, Dagster's tables included."""
    from apphub_assets.stack.stack import Stack, migrate_everything

    migrate_everything(Stack(load_settings()))
    typer.echo("the database is up to date")


def print_progress(child: str, what: str) -> None:
    """One line of what happens to the stack."""
    console.print(Text.assemble((f"{child:>9}  ", "bold"), what), soft_wrap=True)


def print_addresses(url: str) -> None:
    """Where everything is, once it is up."""
    console.print()
    for name, path in (("AppHub", ""), ("API", "/docs"), ("Dagster", "/dagster")):
        console.print(f"[bold green]{name:>9}[/]  {url}{path}")
    console.print("[dim]Ctrl-C stops everything.[/]\n")


def main() -> None:
    """Run a command; what AppHub refuses is shown as one sentence."""
    try:
        app()
    except (AppHubError, SettingError) as error:
        Console(stderr=True).print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(1)
