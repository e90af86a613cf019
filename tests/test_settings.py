"""Settings from the environment and from files."""

import pytest

from apphub_assets.settings import SettingInvalid, SettingMissing, load_settings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder without `.env`."""
    monkeypatch.chdir(tmp_path)


def test_a_secret_comes_from_the_file_that_a_variable_names(tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("s3cret\n")
    monkeypatch.setenv("APPHUB_WEBHOOK_SECRET_GITLAB_FILE", str(tmp_path / "secret"))

    secret = load_settings().webhook_secret_gitlab

    assert secret is not None
    assert secret.get_secret_value() == "s3cret"


@pytest.mark.parametrize("name", ["WEBHOOK_SECRET_GITLAB", "OPERATOR_TOKENS"])
def test_an_empty_file_is_no_secret_and_stops_the_start(tmp_path, monkeypatch, name):
    (tmp_path / "secret").write_text("\n")
    monkeypatch.setenv(f"APPHUB_{name}_FILE", str(tmp_path / "secret"))

    with pytest.raises(SettingMissing, match=f"APPHUB_{name}_FILE"):
        load_settings()


def test_a_value_that_a_setting_cannot_have_is_told_by_its_variable(monkeypatch):
    monkeypatch.setenv("APPHUB_PORT", "x")
    monkeypatch.setenv("APPHUB_SNAPSHOTS_MAX", "0")

    with pytest.raises(SettingInvalid, match=r"APPHUB_PORT: .*integer.*; APPHUB_SNAPSHOTS_MAX: .*greater than"):
        load_settings()


def test_a_run_worker_has_memory_for_what_upkeep_may_use_and_half_a_gibibyte_beside_it(monkeypatch):
    monkeypatch.setenv("APPHUB_UPKEEP_MEMORY_BYTES", str(256 * 2**20))
    monkeypatch.setenv("APPHUB_RUN_MEMORY_BYTES", str(768 * 2**20))
    assert load_settings().run_memory_bytes == 768 * 2**20

    monkeypatch.setenv("APPHUB_RUN_MEMORY_BYTES", str(768 * 2**20 - 1))
    with pytest.raises(SettingInvalid, match=r"APPHUB_RUN_MEMORY_BYTES .* at least 805306368"):
        load_settings()
