"""Requests that validate themselves, and what of them may be shown."""

from typing import Any

import pytest

from apphub_assets.errors import InvalidInput
from apphub_assets.launches.spec import MASK, EnvVar, LaunchRequest, Profile, split_command


@pytest.mark.parametrize("launch_id", ["a", "a1", "my-launch", "0" * 64])
def test_ids_that_may_be_chosen(launch_id: str) -> None:
    assert LaunchRequest("app", launch_id=launch_id).launch_id == launch_id


@pytest.mark.parametrize("launch_id", ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "é", "0" * 65])
def test_ids_that_may_not(launch_id: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        LaunchRequest("app", launch_id=launch_id)
    assert refused.value.pointers[0][0] == "/launchId"


def test_the_limits_of_an_environment_are_allowed_themselves() -> None:
    env = [EnvVar("A" * 126 + f"{n:02}", "x" * 4096) for n in range(32)]
    assert len(LaunchRequest("app", env=env).env) == 32


def test_a_command_is_split_as_a_shell_would_and_runs_none() -> None:
    assert split_command("""run --name "a b" 'c $D' ; rm""") == ["run", "--name", "a b", "c $D", ";", "rm"]


@pytest.mark.parametrize("command", ["", "  ", "'", "a\0b", "x" * 4001])
def test_commands_that_can_not_be(command: str) -> None:
    with pytest.raises(InvalidInput):
        split_command(command)


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("GREETING", "hello", "hello"),
        ("API_TOKEN", "x", MASK),
        ("db_password", "x", MASK),
        ("AWS_SECRET_ACCESS_KEY", "x", MASK),
        ("API_TOKEN", "", ""),
        ("DATABASE_URL", "postgres://db/x", "postgres://db/x"),
        ("DATABASE_URL", "postgres://me:pw@db/x", MASK),
    ],
)
def test_what_looks_like_a_secret_is_not_shown(key: str, value: str, shown: str) -> None:
    assert EnvVar(key, value).shown == shown


@pytest.mark.parametrize(
    ("values", "plain"),
    [
        ({}, True),
        ({"wake": True, "launch_id": "mine"}, True),
        ({"env": [EnvVar("A", "1")]}, False),
        ({"command": "run"}, False),
        ({"profile": Profile.SMALL}, False),
    ],
)
def test_only_a_plain_request_is_served_from_the_pool(values: dict[str, Any], plain: bool) -> None:
    assert LaunchRequest("app", **values).is_plain is plain
