"""POST /admin/datasets/{id}/migrate: changes of a schema that an ingest may not make."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import ConfigDict, Field

from apphub_api.deps import Caller, Correlation, Platform, requires
from apphub_assets.identity.spec import Scope
from apphub_assets.kit.view import View
from apphub_assets.timestore import spec
from apphub_assets.timestore.admin import migrating
from apphub_assets.timestore.ingest.service import caller_of

router = APIRouter(tags=["datasets"])


class RenameBody(View):
    model_config = ConfigDict(extra="forbid")

    action: Literal["rename"]
    column: str
    to: str

    def step(self, _pointer: str) -> migrating.Step:
        return migrating.Rename(self.column, self.to)


class DropBody(View):
    model_config = ConfigDict(extra="forbid")

    action: Literal["drop"]
    column: str

    def step(self, _pointer: str) -> migrating.Step:
        return migrating.Drop(self.column)


class TransformBody(View):
    """`type` with `items` or `fields` as in a schema; `using` is an SQL expression over the dataset's columns."""

    model_config = ConfigDict(extra="forbid")

    action: Literal["transform"]
    column: str
    type: str
    items: dict[str, Any] | None = None
    members: list[dict[str, Any]] | None = Field(None, alias="fields")
    using: str | None = Field(None, max_length=10_000)

    def step(self, pointer: str) -> migrating.Step:
        described = {"name": self.column, "type": self.type, "items": self.items, "fields": self.members}
        return migrating.Transform(self.column, spec.Field.parse(described, pointer), self.using)


class MigrateBody(View):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"steps": [{"action": "rename", "column": "v", "to": "value"}], "dryRun": True}]
        },
    )

    steps: list[Annotated[RenameBody | DropBody | TransformBody, Field(discriminator="action")]]
    dry_run: bool = False


class MigrateAnswer(View):
    """`plan` has an entry per step: rows to rewrite, values that go, values that do not fit with samples of them."""

    dataset_id: str
    dataset_slug: str
    applied: bool
    plan: list[dict[str, Any]]
    fields: list[dict[str, Any]]


@router.post("/admin/datasets/{dataset}/migrate", dependencies=[requires(Scope.TIMESTORE_ADMIN)])
def migrate_dataset(
    dataset: str, body: MigrateBody, platform: Platform, caller: Caller, correlation: Correlation
) -> MigrateAnswer:
    """Rename, drop or transform columns, all in one commit; `dryRun` tells what it would do."""
    steps = [step.step(f"/steps/{index}") for index, step in enumerate(body.steps)]
    done = migrating.migrate(
        platform.lake, platform.database, dataset, steps, caller_of(caller, correlation), dry_run=body.dry_run
    )
    return MigrateAnswer(
        dataset_id=done.dataset.id,
        dataset_slug=done.dataset.slug,
        applied=not body.dry_run,
        plan=done.plan,
        fields=done.result.to_json(),
    )
