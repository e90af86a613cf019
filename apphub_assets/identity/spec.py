"""Identities, scopes and what they imply."""

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """Everything that a token can be allowed. Contract F.1, and `apps:*` and `events:*` for what was open there."""

    APPS_READ = "apps:read"
    APPS_WRITE = "apps:write"
    APPS_RUN = "apps:run"
    EVENTS_READ = "events:read"
    SERVICES_READ = "services:read"
    SERVICES_WRITE = "services:write"
    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    JOBS_RUN = "jobs:run"
    WORKFLOWS_READ = "workflows:read"
    WORKFLOWS_WRITE = "workflows:write"
    WORKFLOWS_RUN = "workflows:run"
    JOB_BUNDLES_READ = "job-bundles:read"
    JOB_BUNDLES_WRITE = "job-bundles:write"
    METASTORE_READ = "metastore:read"
    METASTORE_WRITE = "metastore:write"
    METASTORE_DELETE = "metastore:delete"
    METASTORE_ADMIN = "metastore:admin"
    FILESTORE_READ = "filestore:read"
    FILESTORE_WRITE = "filestore:write"
    FILESTORE_ADMIN = "filestore:admin"
    TIMESTORE_READ = "timestore:read"
    TIMESTORE_WRITE = "timestore:write"
    TIMESTORE_ADMIN = "timestore:admin"
    TIMESTORE_SQL_READ = "timestore:sql:read"
    TIMESTORE_SQL_EXEC = "timestore:sql:exec"
    TIMESTORE_METRICS = "timestore:metrics"
    RUNTIME_WRITE = "runtime:write"
    OBSERVATORY_READ = "observatory:read"
    OBSERVATORY_WRITE = "observatory:write"
    OBSERVATORY_REPROCESS = "observatory:reprocess"
    MANAGE_API_KEYS = "auth:manage-api-keys"
    ADMIN_READ = "admin:read"
    DANGER_ZONE = "admin:danger-zone"


IMPLIES: dict[Scope, set[Scope]] = {
    Scope.APPS_WRITE: {Scope.APPS_READ},
    Scope.APPS_RUN: {Scope.APPS_READ},
    Scope.SERVICES_WRITE: {Scope.SERVICES_READ},
    Scope.JOBS_WRITE: {Scope.JOBS_READ, Scope.JOB_BUNDLES_READ, Scope.JOB_BUNDLES_WRITE},
    Scope.JOBS_RUN: {Scope.JOBS_READ},
    Scope.WORKFLOWS_WRITE: {Scope.WORKFLOWS_READ},
    Scope.WORKFLOWS_RUN: {Scope.WORKFLOWS_READ},
    Scope.JOB_BUNDLES_WRITE: {Scope.JOB_BUNDLES_READ},
    Scope.METASTORE_WRITE: {Scope.METASTORE_READ},
    Scope.METASTORE_DELETE: {Scope.METASTORE_READ},
    Scope.METASTORE_ADMIN: {Scope.METASTORE_WRITE, Scope.METASTORE_DELETE},
    Scope.FILESTORE_WRITE: {Scope.FILESTORE_READ},
    Scope.FILESTORE_ADMIN: {Scope.FILESTORE_WRITE},
    Scope.TIMESTORE_WRITE: {Scope.TIMESTORE_READ},
    Scope.TIMESTORE_ADMIN: {Scope.TIMESTORE_WRITE, Scope.TIMESTORE_METRICS},
    Scope.DANGER_ZONE: {Scope.ADMIN_READ},
}

ALL_SCOPES = frozenset(Scope)


@dataclass(frozen=True)
class Identity:
    """Who is asking. `scopes` is closed under implication."""

    subject: str
    kind: str
    scopes: frozenset[Scope]
    is_local: bool = False

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes


LOCAL_OPERATOR = Identity("local-operator", "user", ALL_SCOPES, is_local=True)


def close(scopes: set[Scope]) -> frozenset[Scope]:
    """Add everything that the scopes imply."""
    closed, fresh = set(scopes), set(scopes)
    while fresh := set().union(*(IMPLIES.get(scope, set()) for scope in fresh)) - closed:
        closed |= fresh
    return frozenset(closed)
