"""Finding apps: `GET /apps` and `/tags/suggest` (contract F.4; the language is in docs/search.md)."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from apphub_api.deps import ReadDb, requires
from apphub_assets.catalog import service as catalog
from apphub_assets.catalog.views import RepositoryView
from apphub_assets.identity.spec import Scope
from apphub_assets.kit.view import View
from apphub_assets.search import service
from apphub_assets.search.query import Parameters, parse
from apphub_assets.search.spec import Hit, SearchPage

router = APIRouter(tags=["apps"])


class TagCountView(View):
    key: str
    value: str
    count: int


class StatusCountView(View):
    status: str
    count: int


class FacetsView(View):
    """Exact counts over everything that was found, not only over this page."""

    tags: list[TagCountView]
    statuses: list[StatusCountView]
    owners: list[TagCountView]
    frameworks: list[TagCountView]


class ScoreTermView(View):
    word: str
    field: str
    match: str
    weight: float
    factor: float
    score: float


class CorrectionView(View):
    """A word that nothing has, and what was searched instead."""

    word: str
    used: list[str]


class SearchMeta(View):
    tokens: list[str]
    sort: str
    weights: dict[str, float]
    corrections: list[CorrectionView]


class SearchAnswer(View):
    data: list[RepositoryView]
    facets: FacetsView
    total: int
    next_cursor: str | None
    meta: SearchMeta


class SuggestionView(View):
    type: str
    value: str
    label: str
    count: int


class SuggestAnswer(View):
    data: list[SuggestionView]


@router.get("/apps", dependencies=[requires(Scope.APPS_READ)])
def list_apps(
    db: ReadDb,
    q: str | None = None,
    tags: str | None = None,
    status: str | None = None,
    ingested_after: Annotated[str | None, Query(alias="ingestedAfter")] = None,
    ingested_before: Annotated[str | None, Query(alias="ingestedBefore")] = None,
    sort: str | None = None,
    relevance: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: str | None = None,
    explain: bool = False,
) -> SearchAnswer:
    """Find apps by words, tags and state. The query language is in docs/search.md."""
    query = parse(Parameters(q, tags, status, ingested_after, ingested_before, sort, relevance, limit, cursor, explain))
    return _search_answer(db, service.search(db, query), explain=explain)


@router.get("/tags/suggest", dependencies=[requires(Scope.APPS_READ)])
def suggest_tags(
    db: ReadDb, prefix: Annotated[str, Query(max_length=200)] = "", limit: Annotated[int, Query(ge=1, le=50)] = 10
) -> SuggestAnswer:
    """Complete what is being typed: keys first, then `key:value` pairs, by use."""
    found = service.suggest(db, prefix, limit)
    return SuggestAnswer(data=[SuggestionView.model_validate(suggestion) for suggestion in found])


def _search_answer(db: ReadDb, page: SearchPage, *, explain: bool) -> SearchAnswer:
    relevance = {hit.repository_id: _relevance(hit, explain) for hit in page.hits}
    return SearchAnswer(
        data=catalog.show_many(db, list(relevance), relevance),
        facets=FacetsView.model_validate(page.facets),
        total=page.total,
        next_cursor=page.next_cursor,
        meta=SearchMeta.model_validate(page),
    )


def _relevance(hit: Hit, explain: bool) -> dict[str, Any]:
    """`components` tells the score's terms when asked to explain."""
    components = [ScoreTermView.model_validate(term).to_json() for term in hit.explanation or ()]
    told = {"components": components} if explain else {}
    return {"score": hit.score, "normalizedScore": hit.normalized_score, **told}
