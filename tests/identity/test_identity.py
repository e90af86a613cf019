"""Operator tokens: who holds one, and what its scopes imply."""

import json

import pytest

from apphub_assets.errors import Unauthorized
from apphub_assets.identity.service import InvalidTokens, Tokens
from apphub_assets.identity.spec import ALL_SCOPES, Scope
from apphub_assets.settings import Settings


def tokens(*entries: dict, **settings) -> Tokens:
    return Tokens(Settings(operator_tokens=json.dumps(entries), **settings))


def test_a_token_names_its_holder_and_implied_scopes():
    identity = tokens({"token": "s3cret", "subject": "ada", "scopes": ["apps:run"]}).identify("s3cret")

    assert identity.subject == "ada"
    assert identity.scopes == {Scope.APPS_RUN, Scope.APPS_READ}


def test_no_scopes_means_no_scopes_and_a_star_means_all():
    known = tokens({"token": "none"}, {"token": "all", "scopes": "*"})

    assert known.identify("none").scopes == frozenset()
    assert known.identify("all").scopes == ALL_SCOPES


def test_an_unknown_token_is_nobody():
    with pytest.raises(Unauthorized):
        tokens({"token": "one"}).identify("two")


def test_tokens_come_from_a_file_too(tmp_path):
    path = tmp_path / "tokens.json"
    path.write_text('[{"token": "filed", "subject": "bob"}]')

    assert tokens({"token": "one"}, operator_tokens_path=path).identify("filed").subject == "bob"


@pytest.mark.parametrize(
    "raw", ["{", '{"token": "x"}', '[{"subject": "x"}]', '["x"]', '[{"token": "x", "scopes": ["apps:fly"]}]']
)
def test_tokens_that_cannot_be_understood_stop_the_start(raw):
    with pytest.raises(InvalidTokens):
        Tokens(Settings(operator_tokens=raw))


def test_no_token_is_kept_in_clear():
    assert "s3cret" not in repr(vars(tokens({"token": "s3cret"})))
