"""POST /datasets/{slug}/query (contract C.3; the language is in docs/queries.md)."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import JSONResponse, Response

from apphub_api.deps import Caller, Platform, requires
from apphub_api.platform import Platform as PlatformState
from apphub_api.spool import Spool, respond
from apphub_assets.errors import AppHubError
from apphub_assets.identity.spec import Identity, Scope
from apphub_assets.timestore import repository
from apphub_assets.timestore.access import check_read
from apphub_assets.timestore.errors import DatasetNotFound
from apphub_assets.timestore.query.explaining import explain
from apphub_assets.timestore.query.language import Query
from apphub_assets.timestore.query.rendering import FORMATS, Format
from apphub_assets.timestore.query.service import Plan, plan_query, run
from apphub_assets.timestore.spec import DatasetInfo

router = APIRouter(tags=["timestore"])

NEXT_CURSOR = "X-Next-Cursor"
MEDIA_TYPES = [each.media_type for each in FORMATS]
EXAMPLES = [
    {
        "timeRange": {"start": "2026-01-01T00:00:00Z", "end": "2026-01-31T23:59:59Z"},
        "columns": ["temperature_c"],
        "filters": {"partitionKey": {"instrument": {"eq": "alpha"}}, "columns": {"temperature_c": {"gt": 20}}},
        "limit": 1000,
    },
    {
        "timeRange": {"start": "2026-01-01T00:00:00Z", "end": "2026-01-31T23:59:59Z"},
        "columns": ["site"],
        "downsample": {
            "intervalUnit": "day",
            "timeZone": "Europe/Berlin",
            "gapFill": "previous",
            "aggregations": [
                {"fn": "avg", "column": "temperature_c"},
                {"fn": "percentile", "column": "temperature_c", "percentile": 0.95},
            ],
        },
    },
]


class NotAcceptable(AppHubError):
    status, code, title = 406, "not_acceptable", "Not acceptable"


@router.post(
    "/datasets/{slug}/query",
    dependencies=[requires(Scope.TIMESTORE_READ)],
    response_class=Response,
    responses={200: {"content": {media_type: {} for media_type in MEDIA_TYPES}}},
)
def query_dataset(
    slug: str,
    body: Annotated[dict[str, Any], Body(examples=EXAMPLES)],
    platform: Platform,
    caller: Caller,
    request: Request,
) -> Response:
    """Rows of a dataset: as they are, downsampled, or the newest of each series; in the format of `Accept`.

    Where there is a `limit`, `X-Next-Cursor` is the cursor of the next page, in JSON also `nextCursor`.
    """
    wanted = _format(request.headers.get("accept", "*/*"))
    query = Query.parse(body)
    dataset = _dataset(platform, slug, caller)
    plan = plan_query(query, dataset, platform.lake)
    if query.explain:
        explained = explain(platform.lake, dataset, query, plan)
        told = {"rows": [], "columns": plan.columns, "mode": plan.mode, "warnings": plan.warnings}
        return JSONResponse(told | {"explain": explained})
    return _answer(platform, plan, wanted)


def _dataset(platform: PlatformState, slug: str, caller: Identity) -> DatasetInfo:
    # A session of its own, for the database's connection is not to wait for the lake.
    with platform.database.reading() as session:
        dataset = repository.find_dataset(session, slug)
    if dataset is None:
        raise DatasetNotFound(slug)
    check_read(caller, dataset)
    return dataset


def _answer(platform: PlatformState, plan: Plan, wanted: Format) -> Response:
    headers: dict[str, str] = {}

    def write(spool: Spool) -> None:
        with run(platform.lake, plan, wanted.select(plan.fields)) as answer:
            wanted.write(answer, spool)
        if answer.next_cursor is not None:
            headers[NEXT_CURSOR] = answer.next_cursor

    settings = platform.settings
    spool = Spool(settings.state / "timestore" / "tmp", settings.query_temp_bytes)
    spool.fill(write)
    # A page has a header that is known at its end.
    return respond(spool, wanted.media_type, whole=plan.page is not None, headers=lambda: headers)


def _format(accept: str) -> Format:
    """The best of the formats that the client accepts (RFC 9110, 12.5.1); of several, JSON.

    Raises:
        NotAcceptable: there is none.
    """
    ranges = [_media_range(each) for each in accept.split(",") if each.strip()] or [("*/*", 1.0)]
    weight, wanted = max(((_weight(each.media_type, ranges), each) for each in FORMATS), key=lambda found: found[0])
    if weight <= 0:
        raise NotAcceptable(f"no answer as {accept[:200]!r}; there are {', '.join(MEDIA_TYPES)}")
    return wanted


def _media_range(given: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in given.split(";"))
    quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
    try:
        return name, float(quality)
    except ValueError:
        return name, 0.0


def _weight(media_type: str, ranges: list[tuple[str, float]]) -> float:
    """What the most specific range that covers the type says of it."""
    kind = media_type.split("/", maxsplit=1)[0]
    given = dict(ranges)
    return next((given[name] for name in (media_type, f"{kind}/*", "*/*") if name in given), 0.0)
