"""A sandbox runs one app that is reached through its relay, and that reaches nothing."""

import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import docker
import pytest

from apphub_assets.containers import (
    ContainerEvent,
    Engine,
    EngineUnavailable,
    ImageMissing,
    LaunchFailed,
    Part,
    Sandbox,
    Sandboxes,
    SandboxMissing,
    SandboxStatus,
    build,
)
from apphub_assets.errors import InvalidInput

from .conftest import BASE, MIB, PrivateEngine, Recipe, app, eventually

pytestmark = pytest.mark.engine

SERVE = "cd /tmp; echo hello > index.html; exec httpd -f -p $PORT"
WAIT = "trap exit TERM; sleep 600 & wait"


def get(sandbox: Sandbox) -> bytes:
    """The app's page, as soon as it answers."""
    answer = b""

    def answered() -> bool:
        nonlocal answer
        try:
            with urllib.request.urlopen(f"http://{sandbox.address}/", timeout=5) as response:
                answer = response.read()
        except OSError:
            return False
        return True

    eventually(answered)
    return answer


@pytest.fixture
def shell(sandboxes: Sandboxes, raw: docker.APIClient) -> Callable[[str], str]:
    """Runs commands in a sandbox, with the rights that its app has."""
    sandbox = sandboxes.start(app(WAIT))

    def run(command: str) -> str:
        execution = raw.exec_create(sandbox.container_id, ["sh", "-c", command])
        return bytes(raw.exec_start(execution)).decode()

    return run


@pytest.fixture
def host_service() -> Iterator[int]:
    """A server on every address of this machine; the port it listens on."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("0.0.0.0", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_an_app_answers_through_its_relay(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes.start(app(SERVE))
    assert get(sandbox) == b"hello\n"
    state = sandboxes.inspect("one")
    assert state.status is SandboxStatus.RUNNING
    assert (state.address, state.container_ip) == (sandbox.address, sandbox.container_ip)
    assert state.started_at is not None
    assert state.finished_at is state.exit_code is None


def test_an_app_is_told_its_port_and_environment(sandboxes: Sandboxes) -> None:
    sandboxes.start(replace(app("echo $PORT $GREETING"), env={"GREETING": "hi", "PORT": "1"}))
    assert list(sandboxes.logs("one", follow=True)) == ["8080 hi"]


def test_the_command_of_the_image_runs_unless_another_is_given(
    engine: Engine, sandboxes: Sandboxes, recipe: Recipe
) -> None:
    spec = recipe('CMD ["echo", "from the image"]')
    build(engine, spec, lambda _: None, lambda: False)
    sandboxes.start(replace(app("", image=spec.tag), command=None))
    assert list(sandboxes.logs("one", follow=True)) == ["from the image"]
    sandboxes.stop("one")
    engine.remove_image(spec.tag)


def test_starting_twice_keeps_what_runs(sandboxes: Sandboxes) -> None:
    assert sandboxes.start(app(SERVE)) == sandboxes.start(app(SERVE))


def test_starting_again_replaces_what_ended(sandboxes: Sandboxes) -> None:
    first = sandboxes.start(app("exit 0"))
    eventually(lambda: sandboxes.inspect("one").status is SandboxStatus.EXITED)
    second = sandboxes.start(app(SERVE))
    assert first.container_id != second.container_id
    assert get(second) == b"hello\n"


def test_starting_again_replaces_what_lost_its_relay(sandboxes: Sandboxes, raw: docker.APIClient) -> None:
    sandboxes.start(app(SERVE))
    relay = raw.containers(filters={"label": "apphub.launch=one", "status": "running", "ancestor": BASE})
    for container in relay:
        if container["Names"][0].endswith("-relay"):
            raw.remove_container(container["Id"], force=True)
    assert sandboxes.inspect("one").address is None
    assert get(sandboxes.start(app(SERVE))) == b"hello\n"


def test_stopping_leaves_nothing(sandboxes: Sandboxes, raw: docker.APIClient) -> None:
    sandboxes.start(app(WAIT, "gone"))
    sandboxes.start(app(WAIT, "kept"))
    sandboxes.stop("gone")
    assert sandboxes.list() == {"kept": SandboxStatus.RUNNING}
    assert sandboxes.inspect("gone").status is SandboxStatus.MISSING
    labelled = {"label": "apphub.launch=gone"}
    assert raw.containers(all=True, filters=labelled) == raw.networks(filters=labelled) == []
    sandboxes.stop("gone")


@pytest.mark.parametrize("part", list(Part))
def test_stopping_goes_on_when_a_part_is_gone(sandboxes: Sandboxes, raw: docker.APIClient, part: Part) -> None:
    sandboxes.start(app(WAIT))
    for container in raw.containers(all=True, filters={"label": "apphub.launch=one"}):
        name = container["Names"][0].removeprefix("/")
        network = name.rpartition("-")[0] + "-network"
        if part is Part.NETWORK:
            raw.disconnect_container_from_network(name, network, force=True)
        elif name.endswith(part):
            raw.remove_container(name, force=True)
    if part is Part.NETWORK:
        raw.remove_network(network)
    assert "one" in sandboxes.list()
    sandboxes.stop("one")
    assert sandboxes.list() == {}


def test_an_app_may_end_by_itself_within_its_grace(sandboxes: Sandboxes) -> None:
    sandboxes.start(app("trap 'echo bye; exit' TERM; echo ready; sleep 600 & wait"))
    with closing(sandboxes.logs("one", follow=True)) as lines:
        following = iter(lines)
        assert next(following) == "ready"
        sandboxes.stop("one", grace=20)
        assert list(following) == ["bye"]


def test_an_app_that_exits_at_once_tells_its_code(sandboxes: Sandboxes) -> None:
    sandboxes.start(app("exit 7"))
    eventually(lambda: sandboxes.inspect("one").status is SandboxStatus.EXITED)
    state = sandboxes.inspect("one")
    assert (state.exit_code, state.oom_killed, state.address) == (7, False, None)
    assert state.finished_at is not None


def test_an_app_that_leaks_memory_is_seen_to_be_killed_for_it(sandboxes: Sandboxes) -> None:
    sandboxes.start(app("tail /dev/zero"))
    eventually(lambda: sandboxes.inspect("one").status is SandboxStatus.EXITED)
    assert sandboxes.inspect("one").oom_killed


def test_an_app_that_does_not_listen_gives_no_answer(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes.start(app(WAIT))
    with pytest.raises(OSError, match=r"."):
        urllib.request.urlopen(f"http://{sandbox.address}/", timeout=5)
    assert sandboxes.inspect("one").status is SandboxStatus.RUNNING


def test_a_command_that_does_not_exist_fails_and_leaves_nothing(sandboxes: Sandboxes) -> None:
    with pytest.raises(LaunchFailed, match=r"no-such-program.*not found") as failure:
        sandboxes.start(replace(app(""), command=("no-such-program",)))
    assert failure.value.code == "launch_failed"
    assert sandboxes.list() == {}


def test_a_missing_image_fails_and_leaves_nothing(sandboxes: Sandboxes) -> None:
    with pytest.raises(ImageMissing, match="apphub-test/none"):
        sandboxes.start(app("", image="apphub-test/none"))
    assert sandboxes.list() == {}


@pytest.mark.parametrize("launch_id", ["", "../../info", "a/b", "-a", "a" * 65])
def test_a_launch_id_is_a_plain_name(sandboxes: Sandboxes, launch_id: str) -> None:
    with pytest.raises(InvalidInput, match="Launch id"):
        sandboxes.inspect(launch_id)


def test_an_app_has_no_capabilities_and_gains_none(shell: Callable[[str], str]) -> None:
    status = dict(line.split(":\t") for line in shell("cat /proc/self/status").splitlines() if ":\t" in line)
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_the_root_of_an_app_is_read_only_and_its_scratch_bounded(shell: Callable[[str], str]) -> None:
    assert "Read-only file system" in shell("touch /bin/x; touch /etc/x; touch /x")
    assert "No space left on device" in shell("dd if=/dev/zero of=/tmp/big bs=1M count=5")
    assert shell("du -m /tmp/big").startswith("2\t")


def test_a_volume_of_the_image_is_bounded_scratch_too(engine: Engine, sandboxes: Sandboxes, recipe: Recipe) -> None:
    spec = recipe("VOLUME /data")
    build(engine, spec, lambda _: None, lambda: False)
    sandboxes.start(app("dd if=/dev/zero of=/data/big bs=1M count=5 2>&1", image=spec.tag))
    assert any("No space left on device" in line for line in sandboxes.logs("one", follow=True))
    sandboxes.stop("one")
    engine.remove_image(spec.tag)


def test_the_processes_of_an_app_are_counted(shell: Callable[[str], str]) -> None:
    assert "can't fork" in shell("for i in $(seq 100); do sleep 60 & done; wait")


def test_an_app_reaches_neither_host_nor_internet_nor_metadata(shell: Callable[[str], str], host_service: int) -> None:
    own, gateway = shell("ip -4 -o addr show eth0"), shell("ip route")
    assert "inet 198.1" in own
    addresses = {word for word in gateway.split() if word.count(".") == 3 and "/" not in word}
    for address in {*addresses, "172.17.0.1", "127.0.0.1", "169.254.169.254", "1.1.1.1"}:
        port = host_service if address not in ("169.254.169.254", "1.1.1.1") else 80
        assert "closed" in shell(f"timeout 1 nc {address} {port} < /dev/null && echo open || echo closed"), address


def test_an_app_has_no_ipv6(shell: Callable[[str], str]) -> None:
    assert shell("cat /proc/net/if_inet6") == ""


def test_an_app_asks_nobody_for_names(shell: Callable[[str], str]) -> None:
    assert "Address" not in shell("nslookup one.example 2>&1 | tail -n +3")


def test_apps_do_not_reach_each_other(sandboxes: Sandboxes, shell: Callable[[str], str], raw: docker.APIClient) -> None:
    other = sandboxes.start(app(SERVE, "other"))
    get(other)
    relay = next(c for c in raw.containers() if c["Names"] == [f"/apphub-{sandboxes.stack}-other-relay"])
    relays = [network["IPAddress"] for network in relay["NetworkSettings"]["Networks"].values()]
    for address, port in [(other.container_ip, 8080), *((address, 9000) for address in relays)]:
        assert "closed" in shell(f"timeout 1 nc {address} {port} < /dev/null && echo open || echo closed"), address


def test_parts_carry_the_labels_that_find_them(sandboxes: Sandboxes, raw: docker.APIClient) -> None:
    sandboxes.start(app(WAIT))
    labelled = {"label": [f"apphub.stack={sandboxes.stack}", "apphub.launch=one", "apphub.correlation-id=c-1"]}
    assert len(raw.containers(filters=labelled)) == 2
    assert len(raw.networks(filters=labelled)) == 1


def test_labels_of_an_image_fool_nobody(engine: Engine, sandboxes: Sandboxes, recipe: Recipe) -> None:
    stack = sandboxes.stack
    log: list[str] = []
    spec = recipe(f"LABEL apphub.stack={stack} apphub.launch=forged", "RUN echo begun; sleep 600")
    found: list[object] = []

    def look() -> bool:
        if "begun" in "\n".join(log):
            found.append(sandboxes.list())
        return bool(found)

    with closing(sandboxes.watch()) as events, pytest.raises(Exception, match="cancelled"):
        build(engine, spec, log.append, look)
    assert found == [{}]
    assert list(events) == []


def test_logs_come_as_lines_while_the_app_runs(sandboxes: Sandboxes) -> None:
    sandboxes.start(app(f"printf 'one\\ntwo\\nthr'; echo ee; {WAIT}"))
    with closing(sandboxes.logs("one", follow=True)) as lines:
        following = iter(lines)
        assert [next(following) for _ in range(3)] == ["one", "two", "three"]
    assert list(sandboxes.logs("one", tail=1)) == ["three"]


def test_a_followed_log_is_closed_from_another_thread(sandboxes: Sandboxes) -> None:
    sandboxes.start(app(f"echo ready; {WAIT}"))
    lines = sandboxes.logs("one", follow=True)
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.extend(lines))
    reader.start()
    eventually(lambda: sandboxes.stats("one").pids > 0)
    lines.close()
    reader.join(timeout=30)
    assert not reader.is_alive()


def test_use_is_measured(sandboxes: Sandboxes) -> None:
    sandboxes.start(app("while :; do :; done"))
    eventually(lambda: sandboxes.stats("one").cpu_seconds > 0.1)
    stats = sandboxes.stats("one")
    assert 0 < stats.memory_bytes < stats.memory_limit_bytes == 32 * MIB
    assert stats.pids == 1


def test_a_paused_app_answers_again_when_it_goes_on(sandboxes: Sandboxes) -> None:
    sandbox = sandboxes.start(app(SERVE))
    get(sandbox)
    sandboxes.pause("one")
    assert sandboxes.inspect("one").status is SandboxStatus.PAUSED
    sandboxes.unpause("one")
    assert get(sandbox) == b"hello\n"
    sandboxes.pause("one")
    sandboxes.stop("one", grace=1)
    assert sandboxes.list() == {}


def test_what_is_asked_of_a_missing_app_names_the_launch(sandboxes: Sandboxes) -> None:
    for ask in (sandboxes.stats, sandboxes.pause, sandboxes.unpause, sandboxes.logs):
        with pytest.raises(SandboxMissing, match="Launch one"):
            ask("one")


def test_the_end_of_a_container_is_told(sandboxes: Sandboxes, raw: docker.APIClient) -> None:
    with closing(sandboxes.watch()) as feed:
        events = iter(feed)
        sandbox = sandboxes.start(app(WAIT))
        raw.kill(sandbox.container_id)
        died = next(events)
        assert (died.launch_id, died.part, died.kind, died.exit_code) == ("one", Part.APP, "die", 137)
        sandboxes.stop("one")
        assert next(events).kind == "destroy"


def test_running_out_of_memory_is_known_when_the_end_is_told(sandboxes: Sandboxes) -> None:
    with closing(sandboxes.watch()) as feed:
        sandboxes.start(app("tail /dev/zero"))
        assert any(event.kind == "die" for event in feed)
    assert sandboxes.inspect("one").oom_killed


def test_no_engine_says_what_to_do() -> None:
    with pytest.raises(EngineUnavailable, match="apt install"):
        Sandboxes(Engine("unix:///nowhere.sock"), "test", BASE).start(app(SERVE))


def test_an_engine_that_restarts_is_seen(private_engine: PrivateEngine) -> None:
    with closing(Engine(private_engine.url)) as engine:
        sandboxes = Sandboxes(engine, "test", BASE)
        sandboxes.start(app(WAIT))
        events: list[ContainerEvent] = []
        feed = sandboxes.watch()
        private_engine.stop()
        with pytest.raises(EngineUnavailable, match="stopped or restarted"):
            events.extend(feed)
        with pytest.raises(EngineUnavailable):
            sandboxes.inspect("one")
        private_engine.start()
        assert sandboxes.inspect("one").status is SandboxStatus.EXITED
        assert sandboxes.list() == {"one": SandboxStatus.EXITED}
        assert sandboxes.start(app(WAIT)).address
        assert sandboxes.inspect("one").status is SandboxStatus.RUNNING
        sandboxes.stop("one")
        assert sandboxes.list() == {}


def test_an_engine_that_is_killed_leaves_nothing_that_can_not_be_replaced(private_engine: PrivateEngine) -> None:
    with closing(Engine(private_engine.url)) as engine:
        sandboxes = Sandboxes(engine, "test", BASE)
        sandboxes.start(app(WAIT))
        private_engine.kill()
        private_engine.start()
        assert sandboxes.start(app(WAIT)).address
        sandboxes.stop("one")
        assert sandboxes.list() == {}


def test_a_relay_on_a_shared_network_is_reached_there(
    engine: Engine, base_image: str, raw: docker.APIClient, sandboxes: Sandboxes
) -> None:
    network = f"{sandboxes.stack}-shared"
    raw.create_network(network)
    shared = Sandboxes(engine, sandboxes.stack, base_image, relay_network=network)
    sandbox = shared.start(app(SERVE))
    host, _, port = sandbox.address.partition(":")
    assert port == "9000"
    assert host in str(raw.inspect_network(network)["Containers"])
    assert get(sandbox) == b"hello\n"
    shared.stop("one")
    raw.remove_network(network)
