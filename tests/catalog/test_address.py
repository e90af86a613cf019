"""Addresses: which are allowed, in which normal form, and what a refusal says."""

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apphub_assets.catalog.address import (
    AddressPolicy,
    AddressRefused,
    check_address,
    is_public,
    parse_address,
    resolve,
)
from apphub_assets.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    roots = tmp_path / "allowed"
    roots.mkdir()
    return Settings(git_private_hosts="git.corp, 10.1.0.0/16,localhost", git_local_roots=str(roots))


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://GitHub.com/Ada/App.git", "https://github.com/Ada/App.git"),
        ("HTTPS://github.com:443/ada/app/", "https://github.com/ada/app"),
        ("http://example.org:8080/x", "http://example.org:8080/x"),
        ("git://example.org/x.git", "git://example.org/x.git"),
        ("https://bücher.example/x", "https://xn--bcher-kva.example/x"),
        ("https://[2606:4700::1111]/x", "https://[2606:4700::1111]/x"),
        ("https://git.corp/x", "https://git.corp/x"),
        ("http://10.1.2.3/x", "http://10.1.2.3/x"),
        ("http://localhost:3000/x", "http://localhost:3000/x"),
    ],
)
def test_allowed_addresses_get_one_normal_form(url: str, normal: str, settings: Settings) -> None:
    assert check_address(url, settings) == normal
    assert check_address(normal, settings) == normal


@pytest.mark.parametrize(
    "url",
    [
        "",
        "app",
        "-oProxyCommand=touch /tmp/owned",
        "--upload-pack=touch /tmp/owned",
        "ext::sh -c 'touch /tmp/owned'",
        "fd::17",
        "https::https://github.com/x",
        "git@github.com:ada/app.git",
        "ssh://-oProxyCommand=evil/x",
        "ssh://github.com/ada/app",
        "ftp://example.org/x",
        "javascript://example.org/x",
        "https://",
        "https:///x",
        "https://example.org",
        "https://example.org/",
        "https://-evil/x",
        "https://exa mple.org/x",
        "https://example.org:99999/x",
        "https://example.org/x?token=1",
        "https://example.org/x#main",
        "https://example.org/x\nhost: evil",
        "https://example.org\\@evil/x",
        " https://example.org/x",
        "https://example.org/" + "x" * 3000,
        "file://server/share",
        "file:///etc",
        "/etc/passwd",
        "/proc/self/root",
    ],
)
def test_everything_else_is_refused(url: str, settings: Settings) -> None:
    with pytest.raises(AddressRefused) as caught:
        check_address(url, settings)
    assert caught.value.code == "address_refused"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "0.0.0.0",
        "10.2.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[fc00::1]",
        "[fe80::1]",
        "[fec0::1]",
        "[ff02::1]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[2002:7f00:1::]",
        "[64:ff9b::a9fe:a9fe]",
        "１２７.0.0.1",
        "app.localhost",
    ],
)
def test_private_addresses_are_refused_by_their_text(host: str, settings: Settings) -> None:
    with pytest.raises(AddressRefused, match="APPHUB_GIT_PRIVATE_HOSTS"):
        check_address(f"http://{host}/x", settings)


@pytest.mark.parametrize("host", ["0x7f.1", "2130706433", "127.1", "017700000001"])
def test_other_spellings_of_loopback_are_refused_when_they_are_resolved(host: str) -> None:
    policy = AddressPolicy()
    with pytest.raises(AddressRefused, match="not a public address"):
        resolve(parse_address(f"http://{host}/x", policy), policy)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_an_allowed_name_may_resolve_to_a_private_address() -> None:
    policy = AddressPolicy(private_hosts=frozenset({"localhost"}))
    assert "127.0.0.1" in resolve(parse_address("http://localhost/x", policy), policy)


@pytest.mark.parametrize(
    "url", ["https://ada:s3cret@example.org/x", "https://s3cret@example.org/x", "x://a:s3cret@b/c"]
)
def test_credentials_are_refused_and_never_repeated(url: str, settings: Settings) -> None:
    with pytest.raises(AddressRefused) as caught:
        check_address(url, settings)
    assert "s3cret" not in caught.value.message


class TestLocalFolders:
    def test_below_an_allowed_root(self, settings: Settings) -> None:
        root = Path(settings.git_local_roots)
        assert check_address(f"{root}/app", settings) == f"file://{root}/app"
        assert check_address(f"file://localhost{root}/a%20b", settings) == f"file://{root}/a b"

    @pytest.mark.parametrize("detour", ["../secret", "app/../../secret", "link", "link/deeper", "%2e%2e/secret"])
    def test_not_by_detours(self, detour: str, settings: Settings, tmp_path: Path) -> None:
        (tmp_path / "allowed" / "link").symlink_to(tmp_path / "secret")
        with pytest.raises(AddressRefused, match="APPHUB_GIT_LOCAL_ROOTS"):
            check_address(f"file://{tmp_path}/allowed/{detour}", settings)

    def test_not_by_a_git_folder_that_is_elsewhere(self, settings: Settings, tmp_path: Path) -> None:
        app = tmp_path / "allowed" / "app"
        app.mkdir()
        (app / ".git").symlink_to(tmp_path / "secret")
        with pytest.raises(AddressRefused):
            check_address(str(app), settings)
        (app / ".git").unlink()
        (app / ".git").write_text(f"gitdir: {tmp_path}/secret")
        with pytest.raises(AddressRefused, match="worktree"):
            check_address(str(app), settings)

    def test_nothing_is_allowed_by_default(self, tmp_path: Path) -> None:
        with pytest.raises(AddressRefused):
            check_address(str(tmp_path), Settings())


@given(
    st.text(max_size=80)
    | st.builds("{}://{}/{}".format, st.sampled_from(["http", "git", "file"]), st.text(), st.text())
)
def test_any_text_is_an_address_or_refused(url: str) -> None:
    try:
        normal = parse_address(url, AddressPolicy()).url
    except AddressRefused:
        return
    assert parse_address(normal, AddressPolicy()).url == normal
