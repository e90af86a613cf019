"""What Dagster is told of launches: by HTTP, to a server that listens as Dagster's webserver does."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apphub_assets.launches import service
from apphub_assets.launches.lineage import Lineage
from apphub_assets.launches.models import Launch
from apphub_assets.orchestrator import Orchestrator
from tests.fixtures.launches import Launches, eventually
from tests.fixtures.servers import serving


class Dagster:
    """Takes reports, unless they are of an app that it is told to refuse."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []
        self.refused = ""

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/dagster/report_asset_{kind}/preview", self.report, methods=["POST"])])

    async def report(self, request: Request) -> Response:
        body = await request.json()
        if body["partition"] == self.refused:
            return JSONResponse({"error": "no such partition"}, 400)
        self.told.append((request.path_params["kind"], body["partition"], body["metadata"]["status"]))
        return JSONResponse({})


@pytest.fixture
def dagster() -> Dagster:
    return Dagster()


@contextmanager
def reporting(launches: Launches, dagster: Dagster) -> Iterator[None]:
    """As long as AppHub and Dagster are up."""
    with serving(dagster.app()) as authority:
        orchestrator = Orchestrator(f"http://{authority}/dagster")
        lineage = Lineage(launches.database, orchestrator)
        lineage.start()
        yield
        lineage.stop()
        orchestrator.close()


def running(launches: Launches, app_id: str = "app") -> Launch:
    return launches.stand_in("127.0.0.1:1", repository_id=app_id, build_id=launches.add_build(app_id))


def test_what_ends_while_nobody_reports_is_told_at_the_next_start(launches: Launches, dagster: Dagster) -> None:
    running(launches)
    with reporting(launches, dagster):
        eventually(lambda: dagster.told, "a report")
    with launches.database.transaction() as session:
        service.close_all(session, launches.settings)
    with reporting(launches, dagster):
        eventually(lambda: len(dagster.told) > 1, "another report")
    assert dagster.told == [("materialization", "app", "running"), ("observation", "app", "stopped")]


def test_what_was_told_is_not_told_again_and_is_no_change_of_the_launch(launches: Launches, dagster: Dagster) -> None:
    before = running(launches)
    with reporting(launches, dagster):
        eventually(lambda: launches.row(before).reported_status, "a report that was noted")
    assert launches.row(before).updated_at == before.updated_at
    launches.add_app("other")
    running(launches, "other")
    with reporting(launches, dagster):
        eventually(lambda: len(dagster.told) > 1, "another report")
    assert [app for _, app, _ in dagster.told] == ["app", "other"]


def test_an_app_that_dagster_refuses_does_not_hold_up_the_others(launches: Launches, dagster: Dagster) -> None:
    launches.add_app("other")
    running(launches)
    running(launches, "other")
    dagster.refused = "app"
    with reporting(launches, dagster):
        eventually(lambda: dagster.told, "a report of the other")
        dagster.refused = ""
        eventually(lambda: len(dagster.told) > 1, "the report that was refused")
    assert [app for _, app, _ in dagster.told] == ["other", "app"]
