"""Git: what is cloned, what is refused, and that nothing is left behind."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from apphub_assets.catalog.address import Address, AddressPolicy, AddressRefused, RepositoryUnreachable
from apphub_assets.errors import InvalidInput
from apphub_assets.git import (
    Checkout,
    CloneTimeout,
    Limits,
    RefNotFound,
    RepositoryEmpty,
    RepositoryMoved,
    RepositoryNotFoundOrPrivate,
    RepositoryTooLarge,
    RepositoryTooManyFiles,
    RepositoryUnusable,
    clone,
    configuration,
    environment,
    remote_head,
)
from tests.fixtures.git import GitServer, SampleRepository, Submodule, Symlink, many_files, run_git
from tests.fixtures.launches import eventually

MIB = 1024 * 1024
LIMITS = Limits(timeout=60, max_bytes=64 * MIB, max_files=1000)

MakeRepository = Callable[..., SampleRepository]


@pytest.fixture
def policy(repositories: Path) -> AddressPolicy:
    """Allows what the tests serve: the loopback address and the test's own folder."""
    return AddressPolicy(private_hosts=frozenset({"127.0.0.1"}), local_roots=(repositories.resolve(),))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "checkout"


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def children() -> set[str]:
    return {child.name() for child in psutil.Process().children(recursive=True) if child.name().startswith("git")}


class TestWhatIsCloned:
    def test_the_default_branch_without_history(
        self, make_repository: MakeRepository, git_server: GitServer, policy: AddressPolicy, target: Path
    ) -> None:
        repository = make_repository("app", {"a.txt": "one"})
        sha = repository.commit({"a.txt": "two", "b/c.txt": "three"})

        checkout = clone(f"{git_server.url}/app.git", None, target, LIMITS, policy)

        assert checkout == Checkout(target, sha, "main", files=2, size_bytes=checkout.size_bytes)
        assert (target / "a.txt").read_text() + (target / "b/c.txt").read_text() == "twothree"
        assert run_git("rev-list", "--count", "HEAD", cwd=target) == "1"

    def test_a_branch(
        self, make_repository: MakeRepository, git_server: GitServer, policy: AddressPolicy, target: Path
    ) -> None:
        repository = make_repository("app", {"a.txt": "main"})
        sha = repository.commit({"a.txt": "feature"}, branch="feature/x")
        checkout = clone(f"{git_server.url}/app.git", "feature/x", target, LIMITS, policy)
        assert (checkout.commit_sha, checkout.branch) == (sha, "feature/x")

    def test_an_annotated_tag_gives_the_commit_behind_it(
        self, make_repository: MakeRepository, git_server: GitServer, policy: AddressPolicy, target: Path
    ) -> None:
        repository = make_repository("app", {"a.txt": "v1"})
        repository.tag("v1.0")
        sha = run_git("rev-parse", "main", cwd=repository.path)
        repository.commit({"a.txt": "v2"})
        checkout = clone(f"{git_server.url}/app.git", "v1.0", target, LIMITS, policy)
        assert (checkout.commit_sha, checkout.branch, (target / "a.txt").read_text()) == (sha, None, "v1")

    def test_a_commit_by_its_full_sha(
        self, make_repository: MakeRepository, git_server: GitServer, policy: AddressPolicy, target: Path
    ) -> None:
        repository = make_repository("app", {"a.txt": "old"})
        old = run_git("rev-parse", "main", cwd=repository.path)
        repository.commit({"a.txt": "new"})
        checkout = clone(f"{git_server.url}/app.git", old, target, LIMITS, policy)
        assert (checkout.commit_sha, (target / "a.txt").read_text()) == (old, "old")

    def test_a_local_folder_below_an_allowed_root(
        self, make_repository: MakeRepository, policy: AddressPolicy, target: Path
    ) -> None:
        repository = make_repository("app", {"a.txt": "local"})
        for url in (repository.url, str(repository.path)):
            clone(url, None, target / url.replace("/", "_"), LIMITS, policy)
        assert {path.read_text() for path in target.glob("*/a.txt")} == {"local"}

    def test_a_working_copy(self, repositories: Path, policy: AddressPolicy, target: Path) -> None:
        work = repositories / "work"
        work.mkdir()
        (work / "a.txt").write_text("committed")
        run_git("init", "--quiet", "--initial-branch=main", cwd=work)
        run_git("add", "--all", cwd=work)
        run_git("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "commit", "--quiet", "-m", "x", cwd=work)
        (work / "a.txt").write_text("changed since")
        clone(str(work), None, target, LIMITS, policy)
        assert (target / "a.txt").read_text() == "committed"

    def test_a_local_folder_of_another_user(
        self, make_repository: MakeRepository, policy: AddressPolicy, target: Path
    ) -> None:
        repository = make_repository("app", {"a.txt": "x"})
        if os.geteuid() == 0:
            for path in (repository.path, *repository.path.rglob("*")):
                os.chown(path, 65534, 65534)
        assert clone(repository.url, None, target, LIMITS, policy).files == 1

    def test_over_the_git_protocol(
        self, make_repository: MakeRepository, git_daemon: str, policy: AddressPolicy, target: Path
    ) -> None:
        make_repository("app", {"a.txt": "x"})
        assert clone(f"{git_daemon}/app.git", None, target, LIMITS, policy).files == 1

    def test_progress_is_told_line_by_line(
        self, make_repository: MakeRepository, git_server: GitServer, policy: AddressPolicy, target: Path
    ) -> None:
        make_repository("app", {"a.txt": "x"})
        lines: list[str] = []
        clone(f"{git_server.url}/app.git", None, target, LIMITS, policy, lines.append)
        assert any("objects: 100%" in line for line in lines)
        assert all(line.isprintable() for line in lines)

    def test_bytes_are_those_of_the_commit_whatever_its_attributes_say(
        self, make_repository: MakeRepository, policy: AddressPolicy, target: Path
    ) -> None:
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12\n"
        attributes = "*.bin filter=lfs\n*.txt working-tree-encoding=UTF-32 eol=crlf\n"
        repository = make_repository("app", {".gitattributes": attributes, "big.bin": pointer, "a.txt": "a\nb\n"})
        clone(repository.url, None, target, LIMITS, policy)
        assert (target / "big.bin").read_text() == pointer
        assert (target / "a.txt").read_bytes() == b"a\nb\n"

    def test_submodules_stay_empty(self, make_repository: MakeRepository, policy: AddressPolicy, target: Path) -> None:
        modules = '[submodule "evil"]\n\tpath = evil\n\turl = ext::touch /tmp/owned\n'
        repository = make_repository("app", {".gitmodules": modules, "evil": Submodule("1" * 40), "a.txt": "x"})
        assert clone(repository.url, None, target, LIMITS, policy).files == 3
        assert list((target / "evil").iterdir()) == []

    def test_symlinks_stay_links(self, make_repository: MakeRepository, policy: AddressPolicy, target: Path) -> None:
        repository = make_repository("app", {"out": Symlink("/etc/passwd"), "a.txt": "x"})
        clone(repository.url, None, target, LIMITS, policy)
        assert (target / "out").readlink() == Path("/etc/passwd")

    def test_variables_of_the_host_do_not_reach_git(
        self, make_repository: MakeRepository, policy: AddressPolicy, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        repository = make_repository("app", {"a.txt": "x"})
        monkeypatch.setenv("GIT_DIR", "/nonexistent")
        monkeypatch.setenv("GIT_CONFIG_COUNT", "not a number")
        assert clone(repository.url, None, target, LIMITS, policy).files == 1


class TestRemoteHead:
    def test_follows_the_branch(
        self, make_repository: MakeRepository, git_server: GitServer, policy: AddressPolicy
    ) -> None:
        repository = make_repository("app", {"a.txt": "one"})
        url = f"{git_server.url}/app.git"
        before = remote_head(url, None, policy, timeout=30)
        after = repository.commit({"a.txt": "two"})
        assert (remote_head(url, None, policy, timeout=30), remote_head(url, "main", policy, timeout=30)) == (
            after,
            after,
        )
        assert before != after

    def test_of_a_tag_is_the_commit_that_a_clone_checks_out(
        self, make_repository: MakeRepository, policy: AddressPolicy, target: Path
    ) -> None:
        repository = make_repository("app", {"a.txt": "one"})
        repository.tag("v1")
        assert (
            remote_head(repository.url, "v1", policy, 30)
            == clone(repository.url, "v1", target, LIMITS, policy).commit_sha
        )


class TestWhatIsNotThere:
    def test_host_that_does_not_answer(self, policy: AddressPolicy, target: Path) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            with pytest.raises(RepositoryUnreachable) as caught:
                clone(f"http://127.0.0.1:{port}/app.git", None, target, LIMITS, policy)
        assert (caught.value.code, caught.value.retryable) == ("repository_unreachable", True)

    def test_host_that_is_in_trouble(self, git_server: GitServer, policy: AddressPolicy, target: Path) -> None:
        with pytest.raises(RepositoryUnreachable, match="503"):
            clone(f"{git_server.url}/down/app.git", None, target, LIMITS, policy)

    def test_host_name_without_address(self, policy: AddressPolicy, target: Path) -> None:
        with pytest.raises(RepositoryUnreachable, match="can't be resolved"):
            clone("https://apphub-test.invalid/app.git", None, target, LIMITS, policy)

    @pytest.mark.parametrize("path", ["private/app.git", "missing.git"])
    def test_private_and_missing_look_the_same(
        self, path: str, git_server: GitServer, policy: AddressPolicy, target: Path
    ) -> None:
        with pytest.raises(RepositoryNotFoundOrPrivate) as caught:
            clone(f"{git_server.url}/{path}", None, target, LIMITS, policy)
        assert (caught.value.code, caught.value.retryable) == ("repository_not_found_or_private", False)

    def test_local_folder_that_is_no_repository(self, repositories: Path, policy: AddressPolicy, target: Path) -> None:
        (repositories / "plain").mkdir()
        with pytest.raises(RepositoryNotFoundOrPrivate):
            clone(str(repositories / "plain"), None, target, LIMITS, policy)

    @pytest.mark.parametrize("ref", [None, "main"])
    def test_empty_repository(
        self,
        ref: str | None,
        make_repository: MakeRepository,
        git_server: GitServer,
        policy: AddressPolicy,
        target: Path,
    ) -> None:
        make_repository("app")
        with pytest.raises(RepositoryEmpty):
            clone(f"{git_server.url}/app.git", ref, target, LIMITS, policy)

    @pytest.mark.parametrize("ref", ["nope", "0" * 40])
    def test_unknown_ref(
        self, ref: str, make_repository: MakeRepository, git_server: GitServer, policy: AddressPolicy, target: Path
    ) -> None:
        make_repository("app", {"a.txt": "x"})
        with pytest.raises(RefNotFound):
            clone(f"{git_server.url}/app.git", ref, target, LIMITS, policy)
        assert not target.exists()

    def test_default_branch_that_does_not_exist_names_those_that_do(
        self, make_repository: MakeRepository, policy: AddressPolicy, target: Path
    ) -> None:
        repository = make_repository("app")
        repository.commit({"a.txt": "x"}, branch="develop")
        with pytest.raises(RefNotFound, match="develop"):
            clone(repository.url, None, target, LIMITS, policy)


class TestLimits:
    def test_a_pack_that_grows_too_large_is_cut_off_while_it_arrives(
        self, make_repository: MakeRepository, git_server: GitServer, policy: AddressPolicy, target: Path
    ) -> None:
        size = 16 * MIB
        make_repository("app", {"noise.bin": os.urandom(size)})
        with pytest.raises(RepositoryTooLarge) as caught:
            clone(f"{git_server.url}/slow/app.git", None, target, Limits(60, MIB, 1000), policy)
        assert caught.value.code == "repository_too_large"
        assert git_server.sent < size
        assert (target.exists(), children() - {"git-http-backend"}) == (False, set())

    def test_a_file_that_unpacks_too_large_is_never_written(
        self, make_repository: MakeRepository, policy: AddressPolicy, target: Path
    ) -> None:
        repository = make_repository("app", {"zeros.bin": bytes(8 * MIB)})
        with pytest.raises(RepositoryTooLarge):
            clone(repository.url, None, target, Limits(60, MIB, 1000), policy)

    def test_200_000_files_are_counted_not_written(
        self, make_repository: MakeRepository, policy: AddressPolicy, target: Path
    ) -> None:
        repository = make_repository("app")
        repository.import_stream(many_files(200_000))
        with pytest.raises(RepositoryTooManyFiles, match="more than 50000"):
            clone(repository.url, None, target, Limits(60, 512 * MIB, 50_000), policy)
        assert not target.exists()

    def test_a_tree_that_contains_itself_many_times_stops_at_the_limit(
        self, make_repository: MakeRepository, policy: AddressPolicy, target: Path
    ) -> None:
        repository = make_repository("app")
        tree = run_git("hash-object", "-w", "-t", "tree", "/dev/null", cwd=repository.path)
        blob = run_git("hash-object", "-w", "--stdin", cwd=repository.path, stdin=b"boom")
        entries = "".join(f"100644 blob {blob}\tf{number}\n" for number in range(10))
        for _ in range(10):
            tree = run_git("mktree", cwd=repository.path, stdin=entries.encode())
            entries = "".join(f"040000 tree {tree}\td{number}\n" for number in range(10))
        repository.import_stream(
            f"commit refs/heads/main\ncommitter A <a@b> 0 +0000\ndata 1\nx\nM 040000 {tree} \n".encode()
        )
        with pytest.raises(RepositoryTooManyFiles):
            clone(repository.url, None, target, LIMITS, policy)

    def test_a_silent_host_ends_at_the_deadline_and_leaves_no_process(
        self, git_server: GitServer, policy: AddressPolicy, target: Path
    ) -> None:
        with pytest.raises(CloneTimeout) as caught:
            clone(f"{git_server.url}/silent/app.git", None, target, Limits(0.5, MIB, 10), policy)
        assert (caught.value.code, children()) == ("clone_timeout", set())

    def test_a_killed_process_leaves_no_process_though_the_remote_is_silent(self, git_server: GitServer) -> None:
        code = (
            "import sys\nfrom apphub_assets.catalog.address import AddressPolicy\n"
            "from apphub_assets.git import remote_head\n"
            "policy = AddressPolicy(private_hosts=frozenset({'127.0.0.1'}))\n"
            "remote_head(sys.argv[1], None, policy, timeout=600)"
        )
        command = [sys.executable, "-c", code, f"{git_server.url}/silent/app.git"]
        with subprocess.Popen(command, env=os.environ | {"APPHUB_STACK": "ours"}) as process:
            eventually(lambda: git_server.requests, "git's request")
            left = psutil.Process(process.pid).children(recursive=True)
            names, marks = {child.name() for child in left}, {child.environ().get("APPHUB_STACK") for child in left}
            process.kill()

        assert names >= {"git", "git-remote-http"}
        assert marks == {"ours"}
        assert psutil.wait_procs(left, timeout=10)[1] == []

    def test_an_interrupt_leaves_no_process_and_no_folder(
        self, make_repository: MakeRepository, git_server: GitServer, policy: AddressPolicy, target: Path
    ) -> None:
        make_repository("app", {"noise.bin": os.urandom(MIB)})

        def interrupt(line: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            clone(f"{git_server.url}/slow/app.git", None, target, LIMITS, policy, interrupt)
        assert (target.exists(), children() - {"git-http-backend"}) == (False, set())


class TestMalice:
    @pytest.mark.parametrize(
        "ref", ["--upload-pack=touch /tmp/owned", "-x", "a..b", "a b", "HEAD:evil", "+main", "", "a^{}"]
    )
    def test_refs_that_are_options_or_expressions_are_refused(
        self, ref: str, make_repository: MakeRepository, policy: AddressPolicy, target: Path
    ) -> None:
        repository = make_repository("app", {"a.txt": "x"})
        with pytest.raises(InvalidInput):
            clone(repository.url, ref, target, LIMITS, policy)

    def test_private_address_is_refused_without_a_request(self, git_server: GitServer, target: Path) -> None:
        with pytest.raises(AddressRefused, match="APPHUB_GIT_PRIVATE_HOSTS"):
            clone(f"{git_server.url}/app.git", None, target, LIMITS, AddressPolicy())
        assert git_server.requests == []

    def test_redirect_on_the_same_host_is_followed(
        self, make_repository: MakeRepository, git_server: GitServer, policy: AddressPolicy, target: Path
    ) -> None:
        make_repository("app", {"a.txt": "x"})
        assert clone(f"{git_server.url}/moved/app.git", None, target, LIMITS, policy).files == 1

    def test_redirect_to_a_private_host_is_refused(
        self, make_repository: MakeRepository, git_server: GitServer, policy: AddressPolicy, target: Path
    ) -> None:
        make_repository("app", {"a.txt": "x"})
        with pytest.raises(AddressRefused, match="localhost"):
            clone(f"{git_server.url}/away/app.git", None, target, LIMITS, policy)
        assert len(git_server.requests) == 1

    def test_redirect_to_another_allowed_host_names_the_address_to_register(
        self, make_repository: MakeRepository, git_server: GitServer, target: Path
    ) -> None:
        policy = AddressPolicy(private_hosts=frozenset({"127.0.0.1", "localhost"}))
        with pytest.raises(RepositoryMoved, match=rf"http://localhost:{git_server.port}/app\.git"):
            clone(f"{git_server.url}/away/app.git", None, target, LIMITS, policy)

    def test_redirects_in_a_circle_end(self, git_server: GitServer, policy: AddressPolicy, target: Path) -> None:
        with pytest.raises(RepositoryMoved, match="more than 3 times"):
            clone(f"{git_server.url}/moved/moved/moved/moved/moved/app.git", None, target, LIMITS, policy)

    def test_paths_into_git_s_own_folder_are_not_checked_out(
        self, make_repository: MakeRepository, policy: AddressPolicy, target: Path
    ) -> None:
        repository = make_repository("app")
        blob = run_git("hash-object", "-w", "--stdin", cwd=repository.path, stdin=b"#!/bin/sh\ntouch /tmp/owned\n")
        hook = run_git("mktree", cwd=repository.path, stdin=f"100755 blob {blob}\tpost-checkout\n".encode())
        tree = run_git("mktree", cwd=repository.path, stdin=f"040000 tree {hook}\t.git\n".encode())
        sha = run_git("-c", "user.name=a", "-c", "user.email=a@b", "commit-tree", "-m", "x", tree, cwd=repository.path)
        run_git("update-ref", "refs/heads/main", sha, cwd=repository.path)
        with pytest.raises(RepositoryUnusable):
            clone(repository.url, None, target, LIMITS, policy)
        assert not target.exists()

    def test_git_connects_to_the_address_that_was_checked_whatever_the_name_says(
        self, make_repository: MakeRepository, git_server: GitServer, tmp_path: Path
    ) -> None:
        make_repository("app", {"a.txt": "x"})
        address = Address("http", "rebound.invalid", git_server.port, "/app.git")
        (tmp_path / ".gitconfig").write_text(configuration(address, ["127.0.0.1"]))
        listing = subprocess.run(
            ["git", "ls-remote", address.url], env=environment(tmp_path, "http"), capture_output=True, check=True
        )
        assert b"refs/heads/main" in listing.stdout

    def test_transports_other_than_the_address_s_own_are_closed(self, tmp_path: Path) -> None:
        (tmp_path / ".gitconfig").write_text(configuration(Address("https", "example.org", 443, "/x"), ["192.0.2.1"]))
        for url in ("ext::sh -c true", "file:///tmp", "ssh://example.org/x"):
            done = subprocess.run(
                ["git", "ls-remote", url], env=environment(tmp_path, "https"), capture_output=True, check=False
            )
            assert b"not allowed" in done.stderr


@pytest.fixture
def git_daemon(repositories: Path) -> Iterator[str]:
    """A `git daemon` over the repositories of the test; yields its `git://` URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ("--export-all", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}", f"--base-path={repositories}")
    # Without this wrapper `git` would exec a child that outlives it when it is terminated.
    daemon = subprocess.Popen(
        [f"{run_git('--exec-path', cwd=repositories)}/git-daemon", *options], stderr=subprocess.DEVNULL
    )
    try:
        while daemon.poll() is None and not listens(port):
            pass
        yield f"git://127.0.0.1:{port}"
    finally:
        daemon.terminate()
        daemon.wait()
