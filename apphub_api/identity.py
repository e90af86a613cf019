"""Who am I?"""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from apphub_api.deps import requires
from apphub_assets.identity.spec import Identity, Scope
from apphub_assets.kit.view import View

router = APIRouter(tags=["identity"])


class IdentityView(View):
    subject: str
    kind: str
    scopes: list[Scope]
    user_id: str | None = None
    session_id: str | None = None
    api_key_id: str | None = None
    auth_disabled: bool
    display_name: str | None = None
    email: str | None = None
    roles: list[str] = Field([])


class IdentityAnswer(View):
    data: IdentityView


@router.get("/auth/identity")
async def show_identity(caller: Annotated[Identity, requires()]) -> IdentityAnswer:
    """The caller's subject and scopes. `authDisabled` says that the local operator is signed in without a token."""
    view = IdentityView(
        subject=caller.subject, kind=caller.kind, scopes=sorted(caller.scopes), auth_disabled=caller.is_local
    )
    return IdentityAnswer(data=view)
