"""Errors of the timestore."""

from apphub_assets.errors import AppHubError, Conflict, InvalidInput, NotFound, Refused, TooLarge, TooMany, Unavailable


class DatasetNotFound(NotFound):
    code, title = "dataset_not_found", "Dataset not found"

    def __init__(self, dataset: str) -> None:
        super().__init__(f"dataset {dataset[:120]} not found; `apphub dataset list` shows those that exist")


class DatasetExists(Conflict):
    code, title = "dataset_exists", "Dataset exists already"


class DatasetInactive(Conflict):
    code, title = "dataset_inactive", "Dataset is archived"


class DatasetHasRows(Conflict):
    code, title = "dataset_has_rows", "Dataset has rows"


class GraceOver(Conflict):
    code, title = "grace_over", "Too late to restore"


class ManifestNotFound(NotFound):
    code, title = "manifest_not_found", "Manifest not found"


class StorageTargetNotFound(NotFound):
    code, title = "storage_target_not_found", "Storage target not found"


class InvalidDataset(InvalidInput):
    code, title = "invalid_dataset", "Invalid dataset"


class InvalidRows(InvalidInput):
    """Rows that do not fit the dataset; the pointers name row and column, the messages the value."""

    code, title = "invalid_rows", "Invalid rows"


class InvalidBody(InvalidInput):
    """The body is not what its Content-Type says."""

    code, title = "invalid_body", "Invalid body"


class UnsupportedFormat(InvalidInput):
    status, code, title = 415, "unsupported_format", "Unsupported format"


class BatchTooLarge(TooLarge):
    code, title = "batch_too_large", "Batch too large"


class IncompatibleSchema(Conflict):
    """The batch would break the dataset's schema; `plan` says what a managed migration would do instead."""

    code, title = "incompatible_schema", "Incompatible schema"


class KeyReused(Refused):
    code, title = "idempotency_key_reused", "Idempotency key reused"


class IngestBusy(TooMany):
    """More is waiting to be written than may wait."""

    code, title = "ingest_busy", "Too much waits to be written"


class LakeUnavailable(Unavailable):
    """The lake's catalog or its storage does not answer."""

    code, title = "lake_unavailable", "The lake is unavailable"


class LakeConflict(Conflict):
    """Another commit changed the same table; the work is to be done again on what is there now."""

    code, title, retryable = "lake_conflict", "The dataset was changed meanwhile", True


class StorageMoved(Unavailable):
    """The lake's files are not where the settings say."""

    code, title = "storage_moved", "The storage is elsewhere"


class LakeBusy(TooMany):
    """Every connection to the lake is in use."""

    code, title = "lake_busy", "The lake is busy"


class InvalidQuery(InvalidInput):
    code, title = "invalid_query", "Invalid query"


class QueryTooLong(Refused):
    code, title = "query_too_long", "Query took too long"


class QueryTooBig(Refused):
    code, title = "query_too_big", "Query needs too much"


class InvalidSql(InvalidInput):
    """DuckDB can't make sense of it, or failed at a value; `position` counts characters from 0 where it is known."""

    code, title = "invalid_sql", "Invalid SQL"


class SqlNotAllowed(InvalidInput):
    code, title = "sql_not_allowed", "Not offered in SQL"


class SqlUnknownDataset(InvalidInput):
    code, title = "sql_unknown_dataset", "No such dataset in SQL"


class SqlTooLong(TooLarge):
    code, title = "sql_too_long", "Statement too long"


class SqlFormatUnknown(InvalidInput):
    status, code, title = 406, "not_acceptable", "Not acceptable"


class SqlBusy(TooMany):
    """As many statements run and wait as may."""

    code, title = "sql_busy", "Too many statements at once"


class SqlProcessFailed(AppHubError):
    """The process of the statement ended by itself, or DuckDB failed in it for reasons of its own."""

    code, title = "sql_process_failed", "The statement's process failed"


class SqlExecNotOffered(Refused):
    code, title = "sql_exec_not_offered", "Not offered"


class SavedQueryNotFound(NotFound):
    code, title = "saved_query_not_found", "Saved query not found"


class WindowStraddled(Conflict):
    """A batch lies across an end of the window, so it can neither stay nor go as a whole."""

    code, title = "window_straddled", "A batch lies across the window's end"


class InvalidMigration(InvalidInput):
    code, title = "invalid_migration", "Invalid migration"


class MigrationLosesValues(Conflict):
    """Values do not fit the type that their column is to have; `plan` says which."""

    code, title = "migration_loses_values", "The migration would lose values"
