"""A build makes an image within its limits, and leaves nothing else whatever happens."""

import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from apphub_assets.containers import (
    BuildCancelled,
    BuildFailed,
    BuildOutOfMemory,
    BuildSpec,
    BuildTimeout,
    BuildTooLarge,
    BuildTooManyProcesses,
    BuiltImage,
    Engine,
    EngineLost,
    EngineUnavailable,
    ImageMissing,
    build,
    clear_build,
)

from .conftest import MIB, PrivateEngine, Recipe, eventually

pytestmark = pytest.mark.engine


class Log:
    """What a build printed, and a moment to wait for."""

    def __init__(self) -> None:
        self.blocks: list[str] = []

    def __call__(self, block: str) -> None:
        self.blocks.append(block)

    @property
    def lines(self) -> list[str]:
        return [line for block in self.blocks for line in block.split("\n")]


def run(engine: Engine, spec: BuildSpec, log: Log | None = None) -> BuiltImage:
    return build(engine, spec, log or Log(), lambda: False)


def leftovers(raw: docker.APIClient, owner: str) -> list[object]:
    """Everything on the engine that a build of this owner can leave, its tagged image apart."""
    network = f"apphub-build-{owner}"
    return [
        *raw.containers(all=True, filters={"network": network}),
        *raw.networks(names=[network]),
        *raw.images(filters={"dangling": True, "label": f"apphub.build-owner={owner}"}),
    ]


def test_a_build_tags_an_image_that_carries_its_labels(engine: Engine, recipe: Recipe, owner: str) -> None:
    spec = recipe("EXPOSE 8080 53/udp", "VOLUME /data", "RUN echo hello > /greeting")
    built = run(engine, spec)
    info = engine.image_info(spec.tag)
    assert info.id == built.id
    assert info.size_bytes == built.size_bytes > 0
    assert info.ports == (8080,)
    assert info.volumes == ("/data",)
    assert info.labels["apphub.test"] == owner
    assert [image.id for image in engine.list_images(f"apphub.test={owner}")] == [built.id]
    assert engine.remove_image(spec.tag)
    assert not engine.image_exists(spec.tag)
    assert not engine.remove_image(spec.tag)


def test_an_image_without_expose_has_no_ports(engine: Engine, recipe: Recipe) -> None:
    spec = recipe("RUN true")
    run(engine, spec)
    assert engine.image_info(spec.tag).ports == ()
    engine.remove_image(spec.tag)


def test_a_missing_image_is_named(engine: Engine) -> None:
    with pytest.raises(ImageMissing, match="apphub-test/none:1"):
        engine.image_info("apphub-test/none:1")


def test_output_arrives_while_the_build_runs(engine: Engine, recipe: Recipe) -> None:
    log = Log()
    seen_early = threading.Event()

    def cancelled() -> bool:
        if "first" in log.lines:
            seen_early.set()
        return seen_early.is_set()

    with pytest.raises(BuildCancelled):
        build(engine, recipe("RUN echo first; sleep 60"), log, cancelled)
    assert seen_early.is_set()


def test_output_is_plain_text_without_what_steers_a_terminal(engine: Engine, recipe: Recipe) -> None:
    log = Log()
    spec = recipe(r"RUN printf '\033[31mred\033[0m\000 \377\r\nnext\n'; echo to-stderr >&2")
    run(engine, spec, log)
    assert {"red �", "next", "to-stderr"} <= set(log.lines)
    engine.remove_image(spec.tag)


def test_files_named_by_dockerignore_stay_behind(engine: Engine, recipe: Recipe) -> None:
    log = Log()
    files = {"kept": "", "secret": "", ".dockerignore": "# comment\nsecret\n"}
    spec = recipe("COPY . /context", "RUN ls -a /context", **files)
    run(engine, spec, log)
    assert "kept" in log.lines
    assert "Dockerfile" in log.lines
    assert "secret" not in log.lines
    engine.remove_image(spec.tag)


def test_stages_before_the_last_leave_nothing(
    engine: Engine, recipe: Recipe, base_image: str, owner: str, raw: docker.APIClient
) -> None:
    steps = ["RUN echo made > /it", "# comment \\", "from \\", "  # inside", f"  {base_image} as last"]
    spec = recipe(*steps, "COPY --from=0 /it /it", "RUN grep made /it")
    run(engine, spec)
    assert leftovers(raw, owner) == []
    engine.remove_image(spec.tag)


def test_a_second_build_of_one_owner_uses_the_steps_of_the_first(engine: Engine, recipe: Recipe) -> None:
    spec = recipe("RUN echo slow")
    again = replace(spec, tag=spec.tag + "-again")
    run(engine, spec)
    log = Log()
    run(engine, again, log)
    assert " ---> Using cache" in log.lines
    engine.remove_image(spec.tag)
    engine.remove_image(again.tag)


def test_a_failing_step_is_named_with_its_exit_code(
    engine: Engine, recipe: Recipe, owner: str, raw: docker.APIClient
) -> None:
    log = Log()
    with pytest.raises(BuildFailed, match="`echo why; exit 3` ended with exit code 3") as failure:
        run(engine, recipe("RUN true", "RUN echo why; exit 3"), log)
    assert failure.value.code == "build_failed"
    assert failure.value.extra == {"exitCode": 3}
    assert "why" in log.lines
    assert leftovers(raw, owner) == []


def test_a_bad_dockerfile_is_told_with_its_own_line_number(engine: Engine, recipe: Recipe) -> None:
    with pytest.raises(BuildFailed, match="line 3: unknown instruction: FETCH"):
        run(engine, recipe("RUN true", "FETCH milk"))


@pytest.mark.parametrize("name", ["absent", ".", "../outside", "link"])
def test_only_a_file_of_the_context_is_a_dockerfile(engine: Engine, recipe: Recipe, name: str, tmp_path: Path) -> None:
    spec = recipe()
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(BuildFailed, match="not a file of the repository"):
        run(engine, replace(spec, dockerfile=name))


def test_an_ignore_file_outside_of_the_context_is_not_read(engine: Engine, recipe: Recipe, tmp_path: Path) -> None:
    spec = recipe("RUN true")
    (tmp_path / ".dockerignore").symlink_to("/dev/zero")
    run(engine, spec)
    engine.remove_image(spec.tag)


def test_a_build_that_hangs_ends_at_its_deadline(
    engine: Engine, recipe: Recipe, owner: str, raw: docker.APIClient
) -> None:
    with pytest.raises(BuildTimeout, match="within 1 s"):
        run(engine, recipe("RUN sleep 600", timeout=1))
    assert leftovers(raw, owner) == []


def test_a_cancelled_build_stops_its_step(engine: Engine, recipe: Recipe, owner: str, raw: docker.APIClient) -> None:
    log = Log()
    with pytest.raises(BuildCancelled):
        build(engine, recipe("RUN echo begun; sleep 600"), log, lambda: "begun" in log.lines)
    assert leftovers(raw, owner) == []


def test_what_the_caller_raises_ends_the_build(
    engine: Engine, recipe: Recipe, owner: str, raw: docker.APIClient
) -> None:
    def cancelled() -> bool:
        raise ConnectionError("the database is away")

    with pytest.raises(ConnectionError, match="the database is away"):
        build(engine, recipe("RUN sleep 600"), Log(), cancelled)
    assert leftovers(raw, owner) == []


def test_a_step_that_needs_too_much_memory_is_told_so(engine: Engine, recipe: Recipe) -> None:
    with pytest.raises(BuildOutOfMemory, match="128 MiB"):
        run(engine, recipe("RUN tail /dev/zero"))


def test_a_fork_bomb_is_stopped_and_the_engine_goes_on(
    engine: Engine, recipe: Recipe, owner: str, raw: docker.APIClient
) -> None:
    with pytest.raises((BuildTooManyProcesses, BuildOutOfMemory)):
        run(engine, recipe("RUN bomb() { bomb | bomb & }; bomb; sleep 600"))
    assert leftovers(raw, owner) == []
    assert engine.ping().version


@pytest.mark.parametrize(
    "steps",
    [
        ["RUN dd if=/dev/zero of=/big bs=1M count=1000 && sleep 600"],
        ["VOLUME /data", "RUN dd if=/dev/zero of=/data/big bs=1M count=1000 && sleep 600"],
        ["RUN dd if=/dev/zero of=/1 bs=1M count=40 && sleep 2", "RUN dd if=/dev/zero of=/2 bs=1M count=40; sleep 600"],
        [*(f"COPY big /{number}" for number in range(8)), "RUN sleep 600"],
        [f"COPY big /{number}" for number in range(4)],
        ["RUN dd if=/dev/zero of=/big bs=1M count=80"],
    ],
    ids=["in a layer", "in a volume", "in several steps", "by copies", "by its last copies", "by its last step"],
)
def test_a_build_that_fills_the_disk_is_stopped(
    engine: Engine, recipe: Recipe, owner: str, raw: docker.APIClient, steps: list[str]
) -> None:
    spec = recipe(*steps, big="x" * 20 * MIB)
    with pytest.raises(BuildTooLarge, match="64 MiB"):
        run(engine, spec)
    assert leftovers(raw, owner) == []
    assert not engine.image_exists(spec.tag)


def test_what_earlier_builds_left_and_a_step_removed_again_is_not_counted(engine: Engine, recipe: Recipe) -> None:
    built = []
    for text in "ab":
        steps = ["COPY big /big", "RUN dd if=/dev/zero of=/tmp/x bs=1M count=40 && rm /tmp/x"]
        spec = recipe(*steps, big=text * 40 * MIB)
        built.append(replace(spec, tag=f"{spec.tag}-{text}"))
        run(engine, built[-1])
    for spec in built:
        engine.remove_image(spec.tag)


def test_much_output_without_a_line_end_comes_in_bounded_blocks(engine: Engine, recipe: Recipe) -> None:
    sizes: list[int] = []
    spec = recipe(r"RUN dd if=/dev/zero bs=1M count=200 2>/dev/null | tr '\0' x")
    build(engine, spec, lambda block: sizes.append(len(block)), lambda: False)
    assert sum(sizes) >= 200 * MIB
    assert max(sizes) <= 64 * 1024
    engine.remove_image(spec.tag)


def test_a_build_can_not_make_us_touch_what_is_not_its_own(
    engine: Engine, recipe: Recipe, base_image: str, raw: docker.APIClient
) -> None:
    victim = raw.create_container(base_image, ["sleep", "600"])["Id"]
    raw.start(victim)
    with pytest.raises(BuildTimeout):
        run(engine, recipe(f"RUN echo ' ---> Running in {victim[:12]}'; sleep 600", timeout=2))
    assert raw.inspect_container(victim)["State"]["Running"]
    raw.remove_container(victim, force=True)


def test_steps_have_no_privileges_and_do_not_see_other_builds(engine: Engine, recipe: Recipe, owner: str) -> None:
    log = Log()
    spec = recipe("RUN mount -t tmpfs none /mnt || echo may not mount; ip -4 -o addr show eth0")
    run(engine, spec, log)
    assert "may not mount" in log.lines
    assert any("inet 198.1" in line and "/29" in line for line in log.lines)
    engine.remove_image(spec.tag)


def test_what_a_dead_worker_left_is_cleared(engine: Engine, recipe: Recipe, owner: str, raw: docker.APIClient) -> None:
    raw.create_network(f"apphub-build-{owner}")
    container = raw.create_container(
        "busybox:1.36", ["sleep", "600"], networking_config={"EndpointsConfig": {f"apphub-build-{owner}": {}}}
    )["Id"]
    raw.start(container)
    raw.commit(container, conf={"Labels": {"apphub.build-owner": owner}})
    assert len(leftovers(raw, owner)) == 3
    clear_build(engine, owner)
    assert leftovers(raw, owner) == []
    clear_build(engine, owner)


def test_no_engine_says_what_to_do(recipe: Recipe) -> None:
    nowhere = Engine("unix:///nowhere.sock")
    with pytest.raises(EngineUnavailable, match="apt install") as unavailable:
        run(nowhere, recipe("RUN true"))
    assert (unavailable.value.status, unavailable.value.code) == (503, "engine_unavailable")
    assert unavailable.value.retryable


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_build_that_loses_its_engine_can_be_done_again(
    private_engine: PrivateEngine, recipe: Recipe, owner: str, end: str
) -> None:
    log = Log()

    def interrupt() -> None:
        eventually(lambda: "begun" in log.lines)
        getattr(private_engine, end)()

    interruption = threading.Thread(target=interrupt)
    interruption.start()
    with closing(Engine(private_engine.url)) as engine:
        with pytest.raises(EngineLost) as lost:
            build(engine, recipe("RUN trap exit TERM; echo begun; sleep 600 & wait"), log, lambda: False)
        assert lost.value.retryable
        interruption.join()
        private_engine.start()
        spec = recipe("RUN echo begun; sleep 1")
        assert build(engine, spec, log, lambda: False).id == engine.image_info(spec.tag).id
    with closing(docker.APIClient(private_engine.url, version="auto")) as raw:
        assert leftovers(raw, owner) == []
