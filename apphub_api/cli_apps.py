"""`apphub app …`, `apphub search`, `apphub launch`, `apphub logs`."""

import time
from typing import Annotated, Any

import typer

from apphub_api.cli_client import Client, Exit, fail
from apphub_api.cli_output import Format, Output, show

apps = typer.Typer(no_args_is_help=True, help="Register apps, look at them, build, launch and stop them.")
search_and_launch = typer.Typer()

APP_COLUMNS = {
    "ID": "id",
    "NAME": "name",
    "STATE": "ingestStatus",
    "BUILD": "latestBuild.status",
    "LAUNCH": "latestLaunch.status",
    "UPDATED": "updatedAt",
    "TAGS": "tags",
}
BUILD_COLUMNS = {"ID": "id", "STATUS": "status", "COMMIT": "commitSha", "IMAGE": "imageTag", "CREATED": "createdAt"}
LAUNCH_COLUMNS = {
    "ID": "id",
    "STATUS": "status",
    "PREVIEW": "previewLink",
    "EXPIRES": "expiresAt",
    "ERROR": "errorMessage",
}
# How work ends well, and how else. `running` is where a launch arrives, and where a build only begins.
APP_ENDS = {"ready"}, {"failed"}
BUILD_ENDS = {"succeeded"}, {"failed", "canceled"}
LAUNCH_ENDS = {"running"}, {"failed", "stopped", "expired"}
POLL_SECONDS = 0.3

AppId = Annotated[str, typer.Argument(metavar="APP", help="Id of the app.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it has ended; exit 1 if it failed.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait at most.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")]


@apps.command("list")
def list_apps(
    query: Annotated[str | None, typer.Option("--query", "-q", help="Only what `apphub search` would find.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 50,
    output: Output = Format.TABLE,
) -> None:
    """List apps, those changed last first."""
    show(Client().get("/apps", q=query, limit=limit)["data"], output, APP_COLUMNS)


@apps.command("register")
def register(
    app_id: AppId,
    repo_url: Annotated[str, typer.Argument(metavar="URL", help="Address of the Git repository.")],
    name: Annotated[str | None, typer.Option(help="Name to show; default: the id.")] = None,
    description: Annotated[str, typer.Option(help="What it is for; default: from the repository.")] = "",
    dockerfile: Annotated[str | None, typer.Option(help="Path of the Dockerfile; default: found.")] = None,
    ref: Annotated[str | None, typer.Option(help="Branch or tag; default: the remote's.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", "-t", help="key:value, any number of times.")] = None,
    wait: Wait = False,
    timeout: Timeout = 600,
    output: Output = Format.TABLE,
) -> None:
    """Register a repository, or change and ingest again what is registered under this id."""
    client = Client()
    body = {"id": app_id, "name": name or app_id, "description": description, "repoUrl": repo_url, "tags": tag or []}
    body |= {"dockerfilePath": dockerfile} if dockerfile else {}
    body |= {"gitRef": ref} if ref else {}
    app = client.post("/apps", body)["data"]
    if wait:
        app = _wait_for_build(client, app_id, timeout)
    show(app, output, APP_COLUMNS)


@apps.command("show")
def show_app(app_id: AppId, output: Output = Format.YAML) -> None:
    """Show all that is known of an app."""
    show(Client().get(f"/apps/{app_id}")["data"], output, APP_COLUMNS)


@apps.command("history")
def history(app_id: AppId, output: Output = Format.TABLE) -> None:
    """Show what happened to an app's ingestion."""
    columns = {"WHEN": "createdAt", "STATUS": "status", "ATTEMPT": "attempt", "MS": "durationMs", "MESSAGE": "message"}
    show(Client().get(f"/apps/{app_id}/history")["data"], output, columns)


@apps.command("tag")
def tag_app(
    app_id: AppId,
    tags: Annotated[list[str], typer.Argument(metavar="KEY:VALUE…", help="All manual tags; others go.")],
    output: Output = Format.TABLE,
) -> None:
    """Replace the tags that people gave an app."""
    show(Client().put(f"/apps/{app_id}/tags", {"tags": tags})["data"], output, APP_COLUMNS)


@apps.command("refresh")
def refresh(app_id: AppId, wait: Wait = False, timeout: Timeout = 600, output: Output = Format.TABLE) -> None:
    """Look for a newer commit now, and build it."""
    client = Client()
    app = client.post(f"/apps/{app_id}/refresh")["data"]
    show(_wait_for_build(client, app_id, timeout) if wait else app, output, APP_COLUMNS)


@apps.command("build")
def build(
    app_id: AppId,
    ref: Annotated[str | None, typer.Option(help="Branch, tag or commit; default: what was ingested last.")] = None,
    wait: Wait = False,
    timeout: Timeout = 1200,
    output: Output = Format.TABLE,
) -> None:
    """Build an app's image again."""
    client = Client()
    made = client.post(f"/apps/{app_id}/builds", {"ref": ref} if ref else {})["data"]
    if wait:
        made = _wait(lambda: client.get(f"/builds/{made['id']}")["data"], BUILD_ENDS, timeout)
    show(made, output, BUILD_COLUMNS)


@apps.command("builds")
def builds(app_id: AppId, output: Output = Format.TABLE) -> None:
    """List an app's builds, newest first."""
    show(Client().get(f"/apps/{app_id}/builds")["data"], output, BUILD_COLUMNS)


@apps.command("cancel")
def cancel(build_id: Annotated[str, typer.Argument(metavar="BUILD")], output: Output = Format.TABLE) -> None:
    """Stop a build."""
    show(Client().post(f"/builds/{build_id}/cancel")["data"], output, BUILD_COLUMNS)


@apps.command("launches")
def launches(app_id: AppId, output: Output = Format.TABLE) -> None:
    """List an app's launches, newest first."""
    show(Client().get(f"/apps/{app_id}/launches")["data"], output, LAUNCH_COLUMNS)


@apps.command("stop")
def stop(
    app_id: AppId,
    launch_id: Annotated[str, typer.Argument(metavar="LAUNCH")],
    output: Output = Format.TABLE,
) -> None:
    """Stop a launch."""
    show(Client().post(f"/apps/{app_id}/launches/{launch_id}/stop")["data"]["launch"], output, LAUNCH_COLUMNS)


@apps.command("delete")
def delete(app_id: AppId, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Stop an app's launches and forget it with its history, builds and logs."""
    if not yes:
        typer.confirm(f"Delete {app_id} with its history, builds and logs?", abort=True)
    Client().delete(f"/apps/{app_id}")
    typer.echo(f"deleted {app_id}")


@search_and_launch.command("search")
def search(
    words: Annotated[list[str] | None, typer.Argument(metavar="WORD|KEY:VALUE…")] = None,
    sort: Annotated[str | None, typer.Option(help="relevance, updated, name or popularity.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    output: Output = Format.TABLE,
) -> None:
    """Find apps by words and tags: `apphub search clock language:shell -- -status:failed`."""
    found = Client().get("/apps", q=" ".join(words or []) or None, sort=sort, limit=limit)
    show(found["data"], output, APP_COLUMNS)
    if output is Format.TABLE:
        typer.echo(f"{len(found['data'])} of {found['total']}", err=True)


@search_and_launch.command("launch")
@apps.command("launch")
def launch(
    app_id: AppId,
    profile: Annotated[str | None, typer.Option(help="Resource profile: small, medium or large.")] = None,
    env: Annotated[list[str] | None, typer.Option("--env", "-e", help="KEY=VALUE, any number of times.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it answers.")] = True,
    timeout: Timeout = 120,
    output: Output = Format.TABLE,
) -> None:
    """Launch an app's newest image in a sandbox, and show where it is."""
    client = Client()
    body: dict[str, Any] = {"env": [_pair(entry) for entry in env or []]}
    body |= {"resourceProfile": profile} if profile else {}
    started = client.post(f"/apps/{app_id}/launch", body)["data"]["launch"]
    if wait:
        started = _wait(lambda: client.get(f"/launches/{started['id']}")["data"], LAUNCH_ENDS, timeout)
    show(started, output, LAUNCH_COLUMNS)


@search_and_launch.command("logs")
@apps.command("logs")
def logs(
    app_id: AppId,
    follow: Follow = False,
    build: Annotated[bool, typer.Option("--build", help="The build's log rather than the running app's.")] = False,
) -> None:
    """Print the log of an app's newest launch, or of its newest build."""
    client = Client()
    app = client.get(f"/apps/{app_id}")["data"]
    latest = app["latestBuild" if build or not app["latestLaunch"] else "latestLaunch"]
    if latest is None:
        fail(f"{app_id} has neither a launch nor a build yet", Exit.NOT_FOUND)
    kind = "builds" if latest is app["latestBuild"] else "launches"
    if not follow:
        typer.echo(client.get(f"/{kind}/{latest['id']}/logs")["data"]["logs"], nl=False)
        return
    with client.stream(f"/{kind}/{latest['id']}/logs", follow="true") as parts:
        for part in parts:
            typer.echo(part, nl=False)


def _wait_for_build(client: Client, app_id: str, timeout: float) -> Any:
    app = _wait(lambda: client.get(f"/apps/{app_id}")["data"], APP_ENDS, timeout)
    if app["latestBuild"]:
        _wait(lambda: client.get(f"/builds/{app['latestBuild']['id']}")["data"], BUILD_ENDS, timeout)
    return client.get(f"/apps/{app_id}")["data"]


def _wait(look: Any, ends: tuple[set[str], set[str]], timeout: float) -> Any:
    """Look until the thing has ended; fail when it ended badly or not in time."""
    good, bad = ends
    deadline = time.monotonic() + timeout
    while (status := _status(found := look())) not in good | bad:
        if time.monotonic() > deadline:
            fail(f"{found['id']} is still {status} after {timeout:g} s", Exit.TIMEOUT)
        time.sleep(POLL_SECONDS)
    if status in bad:
        reason = found.get("ingestError") or found.get("errorMessage") or "see its log"
        fail(f"{found['id']} is {status}: {reason}", Exit.FAILED)
    return found


def _status(found: Any) -> str:
    return str(found.get("ingestStatus") or found.get("status"))


def _pair(entry: str) -> dict[str, str]:
    key, equals, value = entry.partition("=")
    if not equals:
        fail(f"--env {entry!r}: write it as KEY=VALUE", Exit.USAGE)
    return {"key": key, "value": value}
