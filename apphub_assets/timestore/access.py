"""Who may use a dataset: the timestore's scopes, narrowed by the dataset's own (contract C.1, `metadata.iam`)."""

from apphub_assets.errors import Forbidden
from apphub_assets.identity.spec import Identity, Scope
from apphub_assets.timestore.spec import DatasetInfo


class DatasetForbidden(Forbidden):
    code, title = "dataset_forbidden", "Not your dataset"


def may_read(identity: Identity, dataset: DatasetInfo) -> bool:
    """Whether the caller holds `timestore:read` and, where the dataset names read or write scopes, one of them."""
    if not identity.may(Scope.TIMESTORE_READ):
        return False
    wanted = _named(dataset, "readScopes")
    return not wanted or _holds_one(identity, wanted | _named(dataset, "writeScopes"))


def may_write(identity: Identity, dataset: DatasetInfo) -> bool:
    """Whether the caller holds `timestore:write` and, where the dataset names write scopes, one of them."""
    wanted = _named(dataset, "writeScopes")
    return identity.may(Scope.TIMESTORE_WRITE) and (not wanted or _holds_one(identity, wanted))


def check_read(identity: Identity, dataset: DatasetInfo) -> None:
    """Raises DatasetForbidden."""
    if not may_read(identity, dataset):
        raise _refusal(identity, dataset, "read", _named(dataset, "readScopes"))


def check_write(identity: Identity, dataset: DatasetInfo) -> None:
    """Raises DatasetForbidden."""
    if not may_write(identity, dataset):
        raise _refusal(identity, dataset, "write", _named(dataset, "writeScopes"))


def _named(dataset: DatasetInfo, kind: str) -> set[str]:
    return set((dataset.metadata.get("iam") or {}).get(kind) or [])


def _holds_one(identity: Identity, wanted: set[str]) -> bool:
    return identity.may(Scope.TIMESTORE_ADMIN) or any(scope in wanted for scope in identity.scopes)


def _refusal(identity: Identity, dataset: DatasetInfo, verb: str, wanted: set[str]) -> DatasetForbidden:
    return DatasetForbidden(
        f"{identity.subject} may not {verb} dataset {dataset.slug}: it needs timestore:{verb}"
        + (f" and one of {sorted(wanted)}" if wanted else "")
    )
