"""Settings from the environment and from files."""

import pytest

from apphub_assets.settings import SettingMissing, load_settings


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
