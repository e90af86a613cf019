"""What people say of a dataset when they create or change it: values that check themselves (contract C.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from apphub_assets.timestore.errors import InvalidDataset
from apphub_assets.timestore.spec import (
    Field,
    Granularity,
    Json,
    Schema,
    Status,
    check_document,
    is_name,
    parse_slug,
)
from apphub_assets.timestore.upkeep.retention import parse_policy

MAX_NAME, MAX_DESCRIPTION = 160, 1000
MAX_METADATA_BYTES = 64 * 1024
MAX_SCOPES, MAX_SCOPE = 16, 128
MAX_PARTITION_KEYS = 16
DEFAULT_TARGET, DEFAULT_TIMESTAMP = "default", "timestamp"
# What can't name a folder of files, or never has the same value twice.
NO_KEYS = {"list", "struct", "json", "double"}


@dataclass(frozen=True)
class Declaration:
    """A dataset as it is to be created; without a schema, the first ingest makes one."""

    slug: str
    name: str
    description: str | None
    status: Status
    storage_target_id: str
    schema: Schema | None
    timestamp_column: str
    partition_keys: tuple[str, ...]
    granularity: Granularity
    retention: Json | None
    metadata: Json

    @classmethod
    def parse(cls, given: Json) -> Self:
        """From the members of a request in snake_case, of which `slug` and `name` must be there.

        `schema` is `{"fields": […]}`. The timestamp column is by default the metadata's `timestampColumn`, or the only
        timestamp of the schema, or "timestamp". Partition keys that the schema does not have become strings.

        Raises:
            InvalidDataset: something can't be as it was said; the pointer tells what.
        """
        metadata = merged({}, given.get("metadata") or {})
        schema = Schema.parse(given["schema"]["fields"]) if given.get("schema") else None
        timestamp = _timestamp_column(schema, given.get("timestamp_column") or metadata.get("timestampColumn"))
        keys = _partition_keys(given.get("partition_keys") or (), schema, timestamp)
        policy = given.get("retention")
        return cls(
            slug=parse_slug(given["slug"]),
            name=checked_name(given["name"]),
            description=checked_description(given.get("description")),
            status=checked_status(given.get("status", Status.ACTIVE)),
            storage_target_id=given.get("storage_target_id") or DEFAULT_TARGET,
            schema=schema and _with_keys(schema, keys),
            timestamp_column=timestamp,
            partition_keys=keys,
            granularity=_granularity(given.get("granularity", Granularity.DAY)),
            retention=None if policy is None else parse_policy(policy, "/retention"),
            metadata=metadata,
        )


def checked_name(name: str) -> str:
    """Raises InvalidDataset unless there are 1 to 160 printable characters."""
    if not 1 <= len(name.strip()) <= MAX_NAME or not name.strip().isprintable():
        raise _invalid("/name", f"name {name[:200]!r}: use 1 to {MAX_NAME} printable characters")
    return name.strip()


def checked_description(description: str | None) -> str | None:
    """Raises InvalidDataset for more than 1000 characters, or NUL among them."""
    if description is not None and (len(description) > MAX_DESCRIPTION or "\0" in description):
        raise _invalid("/description", f"description: use at most {MAX_DESCRIPTION} characters, none of them NUL")
    return description


def checked_status(status: str) -> Status:
    """Raises InvalidDataset unless it is one that people set."""
    if status not in (Status.ACTIVE, Status.INACTIVE):
        raise _invalid("/status", f"status {status!r}: use active or inactive; DELETE deletes a dataset")
    return Status(status)


def merged(metadata: Json, patch: Json) -> Json:
    """Metadata after a change: objects are merged, null takes a member out (RFC 7396).

    Raises:
        InvalidDataset: `iam`, `execution` or `timestampColumn` are not what they must be, or there is too much.
    """
    check_document(patch, "/metadata", MAX_METADATA_BYTES)
    result = _merge_patch(metadata, patch)
    check_document(result, "/metadata", MAX_METADATA_BYTES)
    if "iam" in result:
        result["iam"] = _checked_iam(result["iam"])
    if "execution" in result:
        _check_execution(result["execution"])
    column = result.get("timestampColumn")
    if column is not None and not (isinstance(column, str) and is_name(column)):
        raise _invalid("/metadata/timestampColumn", f"timestampColumn {column!r}: give the name of a column")
    return result


def _merge_patch(target: Any, patch: Json) -> Json:
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merge_patch(result.get(name), value) if isinstance(value, dict) else value
    return result


def _checked_iam(iam: Any) -> Json:
    if not isinstance(iam, dict):
        raise _invalid("/metadata/iam", "iam: give an object with readScopes and writeScopes, or null")
    scopes = {name: _checked_scopes(iam[name], name) for name in ("readScopes", "writeScopes") if name in iam}
    return iam | scopes


def _checked_scopes(given: Any, name: str) -> list[str]:
    """Each scope once, in the order given."""
    if not isinstance(given, list) or not all(isinstance(scope, str) for scope in given):
        raise _invalid(f"/metadata/iam/{name}", f"{name}: give a list of strings")
    scopes = list(dict.fromkeys(scope.strip() for scope in given if scope.strip()))
    if len(scopes) > MAX_SCOPES or any(len(scope) > MAX_SCOPE for scope in scopes):
        raise _invalid(
            f"/metadata/iam/{name}", f"{name}: give at most {MAX_SCOPES} scopes of at most {MAX_SCOPE} characters"
        )
    return scopes


def _check_execution(execution: Any) -> None:
    fits = isinstance(execution, dict) and isinstance(execution.get("backend", ""), str)
    if not fits or not isinstance(execution.get("options", {}), dict):
        raise _invalid("/metadata/execution", "execution: give an object with backend (string) and options (object)")


def _timestamp_column(schema: Schema | None, wanted: str | None) -> str:
    """The column of the name that was given, as the schema writes it.

    Raises:
        InvalidDataset: the schema has no such timestamp, or several and none was named.
    """
    if schema is None:
        name = (wanted or DEFAULT_TIMESTAMP).strip()
        if not is_name(name):
            raise _invalid("/timestampColumn", f"timestampColumn {name!r}: give the name of a column")
        return name
    timestamps = [each.name for each in schema.fields if each.type == "timestamp"]
    found = schema.find((wanted or DEFAULT_TIMESTAMP).strip())
    if found is not None and found.name in timestamps:
        return found.name
    if wanted is None and len(timestamps) == 1:
        return timestamps[0]
    raise _invalid(
        "/timestampColumn",
        f"timestampColumn {wanted or DEFAULT_TIMESTAMP!r}: name a field of type timestamp; there are {timestamps}",
    )


def _partition_keys(wanted: Sequence[str], schema: Schema | None, timestamp: str) -> tuple[str, ...]:
    """Each key once, as the schema writes it."""
    if wanted and schema is None:
        raise _invalid("/partitionKeys", "partitionKeys: declare a schema too, for its table has files by these keys")
    if len(wanted) > MAX_PARTITION_KEYS:
        raise _invalid("/partitionKeys", f"{len(wanted)} partitionKeys: at most {MAX_PARTITION_KEYS}")
    keys = [_partition_key(key.strip(), f"/partitionKeys/{i}", schema, timestamp) for i, key in enumerate(wanted)]
    return tuple({key.lower(): key for key in keys}.values())


def _partition_key(key: str, pointer: str, schema: Schema | None, timestamp: str) -> str:
    if not is_name(key):
        raise _invalid(pointer, f"partition key {key!r}: give the name of a column")
    found = schema and schema.find(key)
    if not found:
        return key
    if found.type in NO_KEYS or found.name == timestamp:
        raise _invalid(
            pointer,
            f"partition key {key!r} of type {found.type}: use a string, integer, decimal, boolean or timestamp,"
            " and not the timestamp column, by which there are files anyway",
        )
    return found.name


def _with_keys(schema: Schema, keys: Sequence[str]) -> Schema:
    missing = tuple(Field(key, "string", is_key=True) for key in keys if schema.find(key) is None)
    return Schema((*schema.fields, *missing))


def _granularity(given: str) -> Granularity:
    if given not in list(Granularity):
        raise _invalid("/granularity", f"granularity {given!r}: use {', '.join(Granularity)}")
    return Granularity(given)


def _invalid(pointer: str, message: str) -> InvalidDataset:
    return InvalidDataset(message, pointers=[(pointer, message)])
