"""How long a dataset's rows stay (contract C.1, retention): the policy; what acts on it is `trimming.py`.

A policy is stored as it was given, members that AppHub does not act on included. A rule that it does not have limits
nothing: `{"rules": {}}` keeps rows for ever.
"""

import math
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from apphub_assets.settings import Settings
from apphub_assets.timestore.errors import InvalidDataset
from apphub_assets.timestore.spec import check_document

Json = dict[str, Any]

MAX_HOURS = 100 * 366 * 24
MAX_MINUTES = 60 * MAX_HOURS
MAX_BYTES = 2**63 - 1
MAX_POLICY_BYTES = 16 * 1024


class Mode(StrEnum):
    """Which of the rules hold."""

    TIME = "time"
    SIZE = "size"
    HYBRID = "hybrid"


@dataclass(frozen=True)
class Retention:
    """What holds for a dataset. Rows older than `max_age_hours` go, and the oldest of more than `max_total_bytes`.

    `delete_grace_minutes` is how long what was taken out can be had back. A limit that is None does not hold.
    """

    mode: Mode
    max_age_hours: float | None
    max_total_bytes: int | None
    delete_grace_minutes: float

    @property
    def max_age(self) -> timedelta | None:
        return None if self.max_age_hours is None else timedelta(hours=self.max_age_hours)

    @property
    def grace(self) -> timedelta:
        return timedelta(minutes=self.delete_grace_minutes)

    def to_json(self) -> Json:
        """As the contract writes a policy; a rule that does not hold is left out."""
        rules = {"maxAgeHours": self.max_age_hours, "maxTotalBytes": self.max_total_bytes}
        return {
            "mode": self.mode,
            "rules": {name: limit for name, limit in rules.items() if limit is not None},
            "deleteGraceMinutes": self.delete_grace_minutes,
        }


def default_retention(settings: Settings) -> Retention:
    """What holds for a dataset without a policy of its own."""
    return Retention(
        Mode.HYBRID,
        settings.retention_max_age_hours,
        settings.retention_max_total_bytes,
        settings.delete_grace_minutes,
    )


def effective_retention(policy: Json | None, settings: Settings) -> Retention:
    """What holds for a dataset with this stored policy."""
    default = default_retention(settings)
    if policy is None:
        return default
    mode, rules = Mode(policy.get("mode", Mode.HYBRID)), policy["rules"]
    return Retention(
        mode,
        rules.get("maxAgeHours") if mode is not Mode.SIZE else None,
        rules.get("maxTotalBytes") if mode is not Mode.TIME else None,
        policy.get("deleteGraceMinutes", default.delete_grace_minutes),
    )


def parse_policy(given: Json, pointer: str = "") -> Json:
    """A policy as it is to be stored: `{mode?, rules: {maxAgeHours?, maxTotalBytes?}, deleteGraceMinutes?, …}`.

    Members that are null are left out.

    Raises:
        InvalidDataset: a member that AppHub acts on can't be right, or the mode's own rule is missing.
    """
    check_document(given, pointer, MAX_POLICY_BYTES)
    policy = {name: value for name, value in given.items() if value is not None}
    rules = policy.get("rules")
    if not isinstance(rules, dict):
        raise _invalid(f"{pointer}/rules", f"rules {rules!r}: give an object, {{}} to keep rows for ever")
    policy["rules"] = rules = {name: value for name, value in rules.items() if value is not None}
    _check_number(rules, "maxAgeHours", f"{pointer}/rules", least=1, most=MAX_HOURS)
    _check_number(rules, "maxTotalBytes", f"{pointer}/rules", least=1, most=MAX_BYTES, whole=True)
    _check_number(policy, "deleteGraceMinutes", pointer, least=0, most=MAX_MINUTES)
    _check_number(policy, "coldStorageAfterHours", pointer, least=1, most=MAX_HOURS)
    _check_mode(policy, pointer)
    return policy


def _check_mode(policy: Json, pointer: str) -> None:
    mode = policy.get("mode", Mode.HYBRID)
    if mode not in list(Mode):
        raise _invalid(f"{pointer}/mode", f"mode {mode!r}: use {', '.join(Mode)}")
    needed = {Mode.TIME: "maxAgeHours", Mode.SIZE: "maxTotalBytes"}.get(Mode(mode))
    if needed and needed not in policy["rules"]:
        raise _invalid(f"{pointer}/rules/{needed}", f"mode {mode} needs rules.{needed}")


def _check_number(members: Json, name: str, pointer: str, *, least: float, most: float, whole: bool = False) -> None:
    value = members.get(name)
    if value is None:
        return
    kinds: tuple[type, ...] = (int,) if whole else (int, float)
    if type(value) not in kinds or not math.isfinite(value) or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise _invalid(f"{pointer}/{name}", f"{name} {value!r}: use {kind} from {least} to {most}")


def _invalid(pointer: str, message: str) -> InvalidDataset:
    return InvalidDataset(message, pointers=[(pointer, message)])
