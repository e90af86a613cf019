"""The main job, whole: the command of the README takes three real repositories to their previews."""

from collections.abc import Callable
from pathlib import Path

import pytest

from apphub_api.demo import SAMPLES, make_repository
from apphub_assets.containers import Engine, Sandboxes
from apphub_assets.settings import Settings
from tests.fixtures.git import run_git
from tests.fixtures.stack import Stack


@pytest.mark.engine
def test_it_shows_three_running_previews_and_leaves_nothing(make_stack: Callable[[], Stack]) -> None:
    stack = make_stack()

    shown = stack.apphub("demo", "--once")

    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert shown.stdout.count(f"running  {stack.url}/preview/") == 3
    assert stack.processes() + stack.database_processes() == []
    settings = Settings(home=stack.home)
    assert Sandboxes(Engine(), settings.stack_id, settings.relay_image).list() == {}


def test_without_an_engine_it_says_what_to_install_and_fails(make_stack: Callable[[], Stack]) -> None:
    stack = make_stack()

    shown = stack.apphub("demo", "--once", APPHUB_ENGINE_URL="unix:///nonexistent.sock")

    assert shown.returncode == 1
    assert "apt install docker.io" in shown.stdout
    assert "tide-table" in shown.stdout
    assert "/preview/" not in shown.stdout


class TestSampleRepositories:
    def test_the_same_files_give_the_same_commit(self, tmp_path: Path) -> None:
        first = make_repository(SAMPLES / "life", tmp_path / "one")

        assert make_repository(SAMPLES / "life", tmp_path / "two") == first

    def test_made_again_nothing_changes(self, tmp_path: Path) -> None:
        first = make_repository(SAMPLES / "life", tmp_path / "repository")

        assert make_repository(SAMPLES / "life", tmp_path / "repository") == first
        assert run_git("rev-list", "--count", "main", cwd=tmp_path / "repository") == "1"

    def test_changed_files_are_a_new_commit_on_the_old_one(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.mkdir()
        (source / "index.html").write_text("one")
        first = make_repository(source, tmp_path / "repository")
        (source / "index.html").rename(source / "page.html")

        second = make_repository(source, tmp_path / "repository")

        assert run_git("rev-parse", "main~1", cwd=tmp_path / "repository") == first
        assert run_git("ls-tree", "--name-only", second, cwd=tmp_path / "repository") == "page.html"
