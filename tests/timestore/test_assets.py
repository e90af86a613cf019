"""Every dataset is an asset with partitions of time; to run one seals it anew."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from apphub_assets.timestore.assets import key_of
from tests.timestore.making import NOON, days

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

READINGS = key_of("readings")


def asset(definitions: dg.Definitions, key: dg.AssetKey = READINGS) -> dg.AssetsDefinition:
    return definitions.resolve_assets_def(key)


def slugs(definitions: dg.Definitions) -> list[str]:
    keys = definitions.resolve_asset_graph().materializable_asset_keys
    return sorted(key.path[-1] for key in keys if key.path[0] == "timestore")


def materialise(definitions: dg.Definitions, instance: dg.DagsterInstance, partition: str) -> dg.ExecuteInProcessResult:
    job = definitions.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(instance=instance, asset_selection=[READINGS], partition_key=partition)


def test_a_dataset_is_an_asset_that_says_what_it_is(maker, load):
    maker.ingest("readings")
    spec = asset(load()).specs_by_key[READINGS]
    info = maker.info("readings")
    assert (spec.group_name, spec.metadata["id"], spec.metadata["table"]) == ("timestore", info.id, info.relation)
    assert [(c.name, c.type) for c in spec.metadata["dagster/column_schema"].columns] == [
        ("timestamp", "TIMESTAMP"),
        ("value", "DOUBLE"),
    ]


@pytest.mark.parametrize(
    ("granularity", "first"), [("hour", "2026-03-02-00:00"), ("day", "2026-03-02"), ("month", "2026-03-01")]
)
def test_its_partitions_go_from_the_oldest_data_to_now(maker, load, granularity, first):
    maker.ingest("readings", NOON, NOON + timedelta(days=3))
    maker.change("readings", granularity=granularity)
    partitions = asset(load()).partitions_def
    assert partitions.get_first_partition_key() == first
    last = partitions.get_last_partition_window()
    assert last.start <= datetime.now(UTC) < last.end


def test_data_from_the_future_has_a_partition_too(maker, load):
    ahead = datetime.now(UTC) + timedelta(days=3)
    maker.ingest("readings", ahead)
    assert asset(load()).partitions_def.has_partition_key(f"{ahead:%Y-%m-%d}")


@pytest.mark.parametrize("wrong", [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, tzinfo=UTC)])
@pytest.mark.parametrize("granularity", ["hour", "day", "month"])
def test_data_from_an_impossible_time_does_not_make_partitions_without_end(maker, load, wrong, granularity):
    maker.ingest("readings", wrong)
    maker.change("readings", granularity=granularity)
    assert len(asset(load()).partitions_def.get_partition_keys()) < 110_000


@pytest.mark.parametrize(
    ("metadata", "fail", "warn"),
    [
        ({"freshness": {"failMinutes": 60, "warnMinutes": 30}}, timedelta(hours=1), timedelta(minutes=30)),
        ({"freshness": {"failMinutes": 60}}, timedelta(hours=1), None),
        ({"freshness": {"failMinutes": 60, "warnMinutes": 90}}, timedelta(hours=1), None),
    ],
)
def test_its_freshness_policy_is_in_its_metadata(maker, load, metadata, fail, warn):
    maker.ingest("readings")
    maker.change("readings", labels=metadata)
    policy = asset(load()).specs_by_key[READINGS].freshness_policy
    assert policy == dg.FreshnessPolicy.time_window(fail_window=fail, warn_window=warn)


@pytest.mark.parametrize("metadata", [{}, {"freshness": "often"}, {"freshness": {"failMinutes": "60"}}])
def test_without_a_readable_one_it_has_none(maker, load, metadata):
    maker.ingest("readings")
    maker.change("readings", labels=metadata)
    assert asset(load()).specs_by_key[READINGS].freshness_policy is None


def test_slugs_that_look_alike_are_assets_of_their_own(maker, load):
    for slug in ("a-b.c", "a_b.c", "a.b.c"):
        maker.ingest(slug)
    assert slugs(load()) == ["a-b.c", "a.b.c", "a_b.c"]


def test_archived_datasets_are_assets_and_deleted_ones_are_not(maker, load):
    for slug in ("kept", "archived", "deleted"):
        maker.ingest(slug)
    maker.change("archived", status="inactive")
    maker.change("deleted", status="deleted")
    assert slugs(load()) == ["archived", "kept"]


def test_a_run_seals_a_partition_and_tells_what_it_holds(maker, load, lake, instance):
    snapshots = [maker.ingest("readings", moment) for moment in [NOON, NOON + timedelta(hours=1), *days(NOON, 2)[1:]]]
    result = materialise(load(), instance, "2026-03-02")
    assert result.success
    event = instance.get_latest_materialization_event(READINGS).asset_materialization
    found = {name: value.value for name, value in event.metadata.items()}
    assert (event.partition, event.tags["dagster/data_version"]) == ("2026-03-02", str(snapshots[1]))
    assert (found["rows"], found["files"], found["dataset_rows"]) == (2, 1, 3)
    assert found["bytes"] > 0
    assert found["snapshot"] > snapshots[2]
    with lake.query("SELECT count(*) FROM ducklake_list_files('lake', 'readings')") as files:
        assert files.read_all().column(0).to_pylist() == [2]


def test_a_run_merges_the_files_of_its_partition(maker, load, instance):
    for _ in range(2):
        maker.ingest("readings")
        materialise(load(), instance, "2026-03-02")
    (newest, *_) = instance.fetch_materializations(READINGS, limit=2).records
    found = {name: value.value for name, value in newest.asset_materialization.metadata.items()}
    assert (found["rows"], found["files"], found["merged_files"]) == (2, 1, 2)


def test_a_run_of_a_dataset_that_was_deleted_meanwhile_fails_and_says_so(maker, load, instance):
    maker.ingest("readings")
    definitions = load()
    maker.change("readings", status="deleted")
    with pytest.raises(dg.Failure, match="not found"):
        materialise(definitions, instance, "2026-03-02")


def test_definitions_are_outdated_when_a_dataset_comes_changes_or_goes(maker, load, outdated):
    load()
    for change in (
        lambda: maker.ingest("readings"),
        lambda: maker.ingest("readings", note="with a further column"),
        lambda: maker.ingest("readings", NOON - timedelta(days=9)),
        lambda: maker.change("readings", status="inactive"),
        lambda: maker.change("readings", status="deleted"),
    ):
        change()
        assert outdated()
        load()
        assert not outdated()


def test_definitions_are_not_outdated_by_further_batches(maker, load, outdated):
    maker.ingest("readings")
    load()
    maker.ingest("readings", NOON + timedelta(days=1))
    assert not outdated()


def test_while_postgres_is_away_definitions_load_with_the_datasets_that_are_known(maker, load, outdated, monkeypatch):
    maker.ingest("readings")
    load()
    with monkeypatch.context() as patch:
        patch.setenv("APPHUB_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nowhere")
        assert slugs(load()) == ["readings"]
    assert outdated()


@pytest.mark.parametrize("url", ["", "postgresql://nobody@127.0.0.1:1/nowhere"])
def test_definitions_load_without_a_database(url):
    source = "from apphub_assets.definitions import defs; print(len(defs.resolve_all_asset_specs()))"
    environment = {"APPHUB_DATABASE_URL": url, "PATH": ""}
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "3"), done.stderr
