"""The audit log, newest first."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from apphub_api.deps import Db, requires
from apphub_assets.audit import service as audit
from apphub_assets.identity.spec import Scope
from apphub_assets.kit.cursor import decode_number, encode_cursor
from apphub_assets.kit.view import Instant, View

router = APIRouter(tags=["admin"])


class AuditView(View):
    id: int
    at: Instant
    actor: str | None
    address: str | None
    action: str
    resource: str | None
    status: str
    code: str | None
    correlation_id: str | None
    details: dict[str, Any]


class AuditAnswer(View):
    data: list[AuditView]
    next_cursor: str | None


@router.get("/admin/audit", dependencies=[requires(Scope.ADMIN_READ)])
def list_audit(db: Db, limit: Annotated[int, Query(ge=1, le=200)] = 50, cursor: str | None = None) -> AuditAnswer:
    """Who did or tried what."""
    entries = audit.recent(db, before=decode_number(cursor) if cursor else None, limit=limit)
    following = encode_cursor([entries[-1].id]) if len(entries) == limit else None
    return AuditAnswer(data=[AuditView.model_validate(entry) for entry in entries], next_cursor=following)
