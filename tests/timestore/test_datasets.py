"""What a dataset may be declared as, and what happens to it when several people and rows come at once."""

from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import text

from apphub_assets.resources import Platform
from apphub_assets.retention import expire_accesses
from apphub_assets.settings import Settings
from apphub_assets.timestore import store
from apphub_assets.timestore.admin import datasets, history
from apphub_assets.timestore.admin.datasets import Parts
from apphub_assets.timestore.admin.declaration import Declaration, merged
from apphub_assets.timestore.errors import DatasetExists, DatasetHasRows, InvalidDataset, LakeConflict
from apphub_assets.timestore.ingest.writing import Caller
from apphub_assets.timestore.lake import Lake
from apphub_assets.timestore.paging import AccessQuery
from apphub_assets.timestore.spec import Granularity, Status
from apphub_assets.timestore.upkeep.retention import (
    Mode,
    Retention,
    default_retention,
    effective_retention,
    parse_policy,
)
from tests.fixtures.timestore import FIELDS, Timestore

NAMED = {"slug": "observations", "name": "Observations"}
ADA = Caller("ada")


def pointers(error: pytest.ExceptionInfo[InvalidDataset]) -> list[str]:
    return [pointer for pointer, _ in error.value.pointers]


class TestDeclaration:
    def test_what_is_not_said_has_a_default(self):
        declared = Declaration.parse({"slug": " x.Y_z-1".strip(), "name": "  Sky "})

        assert (declared.slug, declared.name, declared.description) == ("x.y_z-1", "Sky", None)
        assert (declared.status, declared.granularity) == (Status.ACTIVE, Granularity.DAY)
        assert (declared.storage_target_id, declared.timestamp_column) == ("default", "timestamp")
        assert (declared.schema, declared.partition_keys, declared.retention, declared.metadata) == (None, (), None, {})

    def test_the_timestamp_column_is_the_only_timestamp_or_the_one_that_is_named(self):
        one = [{"name": "At", "type": "timestamp"}, FIELDS[1]]
        two = [*one, {"name": "seen", "type": "timestamp"}]

        assert Declaration.parse({**NAMED, "schema": {"fields": one}}).timestamp_column == "At"
        assert (
            Declaration.parse({**NAMED, "schema": {"fields": two}, "timestamp_column": "SEEN"}).timestamp_column
            == "seen"
        )
        named = Declaration.parse({**NAMED, "metadata": {"timestampColumn": "seen"}, "schema": {"fields": two}})
        assert named.timestamp_column == "seen"
        with pytest.raises(InvalidDataset, match=r"\['At', 'seen'\]"):
            Declaration.parse({**NAMED, "schema": {"fields": two}})

    def test_partition_keys_are_written_as_the_schema_does_and_those_it_lacks_are_strings(self):
        fields = [*FIELDS, {"name": "Site", "type": "integer"}]

        declared = Declaration.parse(
            {**NAMED, "schema": {"fields": fields}, "partition_keys": ["site", "SITE", "region"]}
        )

        assert declared.partition_keys == ("Site", "region")
        assert declared.schema is not None
        assert [(field.name, field.type, field.is_key) for field in declared.schema.fields][2:] == [
            ("Site", "integer", False),
            ("region", "string", True),
        ]

    @pytest.mark.parametrize(
        ("said", "pointer"),
        [
            ({"slug": "a b"}, "/slug"),
            ({"slug": "ab"}, "/slug"),
            ({"slug": 'x";DROP TABLE'}, "/slug"),
            ({"name": " "}, "/name"),
            ({"name": "x" * 161}, "/name"),
            ({"name": "a\0b"}, "/name"),
            ({"description": "x" * 1001}, "/description"),
            ({"description": "a\0b"}, "/description"),
            ({"status": "deleted"}, "/status"),
            ({"granularity": "week"}, "/granularity"),
            ({"metadata": {"iam": {"readScopes": [str(n) for n in range(17)]}}}, "/metadata/iam/readScopes"),
            ({"metadata": {"iam": {"writeScopes": ["x" * 129]}}}, "/metadata/iam/writeScopes"),
            ({"metadata": {"iam": {"writeScopes": "all"}}}, "/metadata/iam/writeScopes"),
            ({"metadata": {"iam": []}}, "/metadata/iam"),
            ({"metadata": {"execution": "duckdb"}}, "/metadata/execution"),
            ({"metadata": {"execution": {"options": []}}}, "/metadata/execution"),
            ({"metadata": {"timestampColumn": ""}}, "/metadata/timestampColumn"),
            ({"metadata": {"x": "y" * 70_000}}, "/metadata"),
            ({"timestamp_column": "row_id"}, "/timestampColumn"),
            ({"partition_keys": ["site"]}, "/partitionKeys"),
            ({"schema": {"fields": FIELDS}, "partition_keys": [f"k{n}" for n in range(17)]}, "/partitionKeys"),
            ({"schema": {"fields": FIELDS}, "partition_keys": ["site", "timestamp"]}, "/partitionKeys/1"),
            ({"schema": {"fields": FIELDS}, "partition_keys": ["value"]}, "/partitionKeys/0"),
            ({"schema": {"fields": FIELDS}, "partition_keys": [" "]}, "/partitionKeys/0"),
            ({"schema": {"fields": [FIELDS[1]]}}, "/timestampColumn"),
            ({"schema": {"fields": FIELDS}, "timestamp_column": "value"}, "/timestampColumn"),
            ({"schema": {"fields": [{"name": "x", "type": "blob"}]}}, "/schema/fields/0/type"),
            ({"schema": {"fields": [{"name": "x", "type": ["string"]}]}}, "/schema/fields/0/type"),
            ({"retention": {"rules": {"maxAgeHours": -1}}}, "/retention/rules/maxAgeHours"),
        ],
    )
    def test_what_can_not_be_is_pointed_at(self, said, pointer):
        with pytest.raises(InvalidDataset) as refused:
            Declaration.parse(NAMED | said)

        assert pointers(refused) == [pointer]

    def test_metadata_is_merged_member_by_member(self):
        before = {"iam": {"readScopes": ["a"], "writeScopes": ["w"]}, "execution": {"backend": "x"}, "tags": [1, None]}

        after = merged(
            before, {"iam": {"readScopes": [" b", "b", ""]}, "execution": None, "tags": [2], "new": {"x": None}}
        )

        assert after == {"iam": {"readScopes": ["b"], "writeScopes": ["w"]}, "tags": [2], "new": {}}
        assert before["tags"] == [1, None]

    def test_metadata_is_as_deep_as_can_be_shown_again(self):
        def nested(levels: int) -> dict:
            return {"x": nested(levels - 1)} if levels else {}

        assert merged({}, nested(32)) == nested(32)
        with pytest.raises(InvalidDataset, match="levels"):
            merged({}, nested(33))


class TestRetention:
    SETTINGS = Settings(retention_max_age_hours=10, retention_max_total_bytes=100, delete_grace_minutes=7)

    def test_without_a_policy_the_settings_hold(self):
        assert effective_retention(None, self.SETTINGS) == default_retention(self.SETTINGS)
        assert default_retention(self.SETTINGS) == Retention(Mode.HYBRID, 10, 100, 7)
        assert default_retention(Settings()) == Retention(Mode.HYBRID, None, None, 5)

    @pytest.mark.parametrize(
        ("policy", "held"),
        [
            ({"rules": {}}, Retention(Mode.HYBRID, None, None, 7)),
            ({"rules": {"maxAgeHours": 1, "maxTotalBytes": None}}, Retention(Mode.HYBRID, 1, None, 7)),
            ({"mode": "time", "rules": {"maxAgeHours": 1, "maxTotalBytes": 2}}, Retention(Mode.TIME, 1, None, 7)),
            ({"mode": "size", "rules": {"maxAgeHours": 1, "maxTotalBytes": 2}}, Retention(Mode.SIZE, None, 2, 7)),
            ({"rules": {}, "deleteGraceMinutes": 0, "mode": None}, Retention(Mode.HYBRID, None, None, 0)),
        ],
    )
    def test_of_a_policy_holds_what_it_has_and_its_mode_allows(self, policy, held):
        assert effective_retention(parse_policy(policy), self.SETTINGS) == held

    def test_members_that_nobody_acts_on_are_kept(self):
        policy = {"rules": {"other": 1}, "coldStorageAfterHours": 48, "metadata": {"a": 1}}
        assert parse_policy(policy) == policy

    @pytest.mark.parametrize(
        ("policy", "pointer"),
        [
            ({}, "/rules"),
            ({"rules": []}, "/rules"),
            ({"rules": {}, "mode": "x"}, "/mode"),
            ({"rules": {}, "mode": []}, "/mode"),
            ({"rules": {}, "mode": "time"}, "/rules/maxAgeHours"),
            ({"rules": {"maxAgeHours": 1}, "mode": "size"}, "/rules/maxTotalBytes"),
            ({"rules": {"maxAgeHours": 0}}, "/rules/maxAgeHours"),
            ({"rules": {"maxAgeHours": "24"}}, "/rules/maxAgeHours"),
            ({"rules": {"maxAgeHours": True}}, "/rules/maxAgeHours"),
            ({"rules": {"maxAgeHours": float("nan")}}, "/rules/maxAgeHours"),
            ({"rules": {"maxAgeHours": 1e300}}, "/rules/maxAgeHours"),
            ({"rules": {"maxTotalBytes": 1.5}}, "/rules/maxTotalBytes"),
            ({"rules": {"maxTotalBytes": 2**63}}, "/rules/maxTotalBytes"),
            ({"rules": {}, "deleteGraceMinutes": -1}, "/deleteGraceMinutes"),
            ({"rules": {}, "coldStorageAfterHours": 0}, "/coldStorageAfterHours"),
            ({"rules": {}, "x": "y" * 20_000}, ""),
        ],
    )
    def test_a_policy_that_can_not_be_is_pointed_at(self, policy, pointer):
        with pytest.raises(InvalidDataset) as refused:
            parse_policy(policy)

        assert pointers(refused) == [pointer]


class TestAtOnce:
    """Each of these happens right between the first look of one and its commit."""

    @pytest.fixture
    def two_targets(self, timestore: Timestore, tmp_path: Path) -> Timestore:
        """A timestore with another storage target, `cold`."""
        (tmp_path / "cold").mkdir()
        settings = timestore.settings.model_copy(update={"storage_targets": {"cold": str(tmp_path / "cold")}})
        lake = Lake(settings)
        lake.prepare()
        yield Timestore(timestore.database, lake, settings)
        lake.close()

    @pytest.fixture
    def before(self, monkeypatch):
        """`before("append", act)`: act once, right before a statement of the store."""

        def hook(name: str, act) -> None:
            real, acts = getattr(store, name), iter([act])

            def statement(*arguments):
                for each in acts:
                    each()
                return real(*arguments)

            monkeypatch.setattr(store, name, statement)

        return hook

    def move(self, timestore: Timestore) -> None:
        with timestore.database.transaction() as session:
            parts = Parts(session, timestore.database, timestore.lake)
            datasets.move(parts, "observations", "cold", ADA)

    def test_rows_that_come_while_a_dataset_moves_keep_it_where_it_is(self, two_targets, before):
        two_targets.declare("observations", FIELDS)
        before("drop_table", lambda: two_targets.ingest("observations", "2025-01-01"))

        with pytest.raises(LakeConflict):
            self.move(two_targets)

        assert two_targets.row("observations").storage_target_id == "default"
        assert two_targets.ask("SELECT count(*) FROM lake.main.observations") == [(1,)]
        with pytest.raises(DatasetHasRows):
            self.move(two_targets)

    @pytest.mark.parametrize(("fields", "statement"), [(FIELDS, "append"), ((), "create_table")])
    def test_rows_on_their_way_follow_a_dataset_that_moves(self, two_targets, before, fields, statement):
        two_targets.declare("observations", fields)
        before(statement, lambda: self.move(two_targets))

        two_targets.ingest("observations", "2025-01-01")

        assert two_targets.row("observations").storage_target_id == "cold"
        assert two_targets.ask("SELECT count(*) FROM lake.target_cold.observations") == [(1,)]
        areas = "SELECT table_schema FROM information_schema.tables WHERE table_name = 'observations'"
        assert two_targets.ask(areas) == [("target_cold",)]

    def test_a_first_ingest_and_a_declaration_make_one_dataset(self, timestore, before):
        before("create_table", lambda: timestore.ingest("observations", "2025-01-01"))

        with pytest.raises(DatasetExists):
            timestore.declare("observations", [*FIELDS, {"name": "note", "type": "string"}])

        assert timestore.ask("SELECT count(*) FROM lake.main.observations") == [(1,)]

    def test_a_declaration_during_a_first_ingest_is_what_the_rows_go_to(self, timestore, before):
        before("create_table", lambda: timestore.declare("observations", FIELDS, name="Declared"))

        timestore.ingest("observations", "2025-01-01")

        assert timestore.row("observations").name == "Declared"
        assert timestore.ask("SELECT count(*) FROM lake.main.observations") == [(1,)]

    def test_of_two_that_are_renamed_alike_one_keeps_its_name(self, timestore):
        timestore.declare("one")
        timestore.declare("two")

        def rename(slug: str, to: str) -> None:
            with timestore.database.transaction() as session:
                datasets.change(session, slug, {"slug": to}, ADA)

        rename("one", "same")
        with pytest.raises(DatasetExists, match="same already exists"):
            rename("two", "same")
        assert timestore.row("two").status == "active"

    def test_a_table_name_is_not_used_twice(self, timestore):
        first = timestore.ingest("observations", "2025-01-01")
        with timestore.database.transaction() as session:
            datasets.change(session, "observations", {"slug": "older"}, ADA)

        second = timestore.ingest("observations", "2025-01-02")

        assert first.dataset.table == "observations"
        assert second.dataset.table == f"observations_{second.dataset.id}"
        assert timestore.ask(f"SELECT count(*) FROM {second.dataset.relation}") == [(1,)]


def test_the_hourly_job_forgets_what_is_old_in_audit_logs(timestore, monkeypatch):
    assert timestore.settings.database_url is not None
    monkeypatch.setenv("APPHUB_DATABASE_URL", timestore.settings.database_url.get_secret_value())
    timestore.declare("kept")
    timestore.declare("old")
    with timestore.database.transaction() as session:
        old = "UPDATE timestore.access_audit SET created_at = now() - interval '91 days' WHERE dataset_slug = 'old'"
        session.execute(text(old))

    with dg.build_op_context(resources={"platform": Platform()}) as context:
        expire_accesses(context)

    with timestore.database.transaction() as session:
        entries = {slug: len(history.accesses(session, slug, AccessQuery())[0]) for slug in ("kept", "old")}
    assert entries == {"kept": 1, "old": 0}
