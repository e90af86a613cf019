"""How the schema of a dataset may change by what is ingested, and what a managed migration is needed for.

Accepted as it comes: columns that are new, columns that are left out, and types that hold all that the old one held.
Old rows show a new column's default, or null; nothing is rewritten.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from apphub_assets.timestore.errors import IncompatibleSchema
from apphub_assets.timestore.spec import DECIMAL, Field, Schema


@dataclass(frozen=True)
class Change:
    """From one schema to the next; `widened` has the fields as they become."""

    result: Schema
    added: tuple[Field, ...] = ()
    widened: tuple[Field, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.widened)

    def to_json(self) -> dict[str, Any]:
        """What the schema's version and the event say of it."""
        return {
            "status": "additive",
            "addedColumns": [field.name for field in self.added],
            "widenedColumns": [{"name": field.name, "type": field.type} for field in self.widened],
        }


def evolve(current: Schema, incoming: Sequence[Field]) -> Change:
    """The change that rows with these fields ask for.

    Raises:
        IncompatibleSchema: a type changes to one that does not hold the old values.
    """
    pairs = [(current.find(field.name), field) for field in incoming]
    broken = [(old, new) for old, new in pairs if old and not holds(old, new) and not holds(new, old)]
    if broken:
        raise _incompatible(broken)
    added = tuple(new for old, new in pairs if old is None)
    wider = {
        old.name: replace(new, name=old.name, is_key=old.is_key) for old, new in pairs if old and not holds(old, new)
    }
    kept = tuple(wider.get(field.name, field) for field in current.fields)
    return Change(Schema((*kept, *added)), added, tuple(wider.values()))


def holds(wide: Field, narrow: Field) -> bool:
    """Whether a column of the first's type takes every value of the second's, as DuckLake promotes types."""
    if wide.sql_type == narrow.sql_type or (wide.type, narrow.type) == ("double", "integer"):
        return True
    digits, fewer = DECIMAL.fullmatch(wide.type), DECIMAL.fullmatch(narrow.type)
    if digits is None or fewer is None:
        return False
    scale, less = int(digits[2]), int(fewer[2])
    return scale >= less and int(digits[1]) - scale >= int(fewer[1]) - less


def _incompatible(broken: list[tuple[Field, Field]]) -> IncompatibleSchema:
    messages = [f"column {old.name!r} changed type from {old.type!r} to {new.type!r}" for old, new in broken]
    return IncompatibleSchema(
        f"{'; '.join(messages)}. Send the declared type, or change the dataset first with `apphub dataset migrate`.",
        pointers=[("/schema/fields", message) for message in messages],
        plan=[{"action": "transform", "column": old.name, "from": old.type, "to": new.type} for old, new in broken],
    )
