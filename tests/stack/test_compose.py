"""The stack as containers: what can be known of the files without a registry, and more where there is one."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import IO, Any

import docker
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef
from docker.errors import APIError
from docker.utils.build import tar as build_context

from apphub_assets.settings import Settings

PROJECT = Path(__file__).parents[2]
COMPOSE = PROJECT / "docker-compose.yml"
SOCKET = "/var/run/docker.sock"
BASE = "python:3.11-slim-bookworm"
# It must open the socket, which is root's; that it is the only one is another test.
ROOT_BY_NATURE = {"engine"}
# It ends when its work is done.
ONE_SHOT = {"migrate"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document = yaml.safe_load(COMPOSE.read_text())
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    services = compose["services"]
    assert set(services) == {"postgres", "engine", "migrate", "code", "dagster", "daemon", "api"}
    return services


def dockerfile() -> list[str]:
    """Its instructions, one per line, without comments."""
    text = re.sub(r"^#.*\n", "", (PROJECT / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


class TestCompose:
    def test_no_container_runs_as_root_but_the_door_to_the_engine(self, services: dict[str, dict[str, Any]]) -> None:
        assert {name for name, service in services.items() if "user" not in service} == ROOT_BY_NATURE
        assert not [name for name, service in services.items() if service.get("user") in {"root", "0", 0}]

    def test_every_container_is_hardened(self, services: dict[str, dict[str, Any]]) -> None:
        for name, service in services.items():
            assert service["cap_drop"] == ["ALL"], name
            assert service["read_only"] is True, name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert not {"privileged", "pid", "ipc", "network_mode", "cap_add"} & set(service), name

    def test_only_the_door_has_the_engines_socket(self, services: dict[str, dict[str, Any]]) -> None:
        holders = {name for name, service in services.items() if SOCKET in str(service.get("volumes", ""))}

        assert holders == {"engine"}

    def test_the_door_opens_to_nobody_outside_and_to_nothing_beyond_need(self, compose: dict[str, Any]) -> None:
        door = compose["services"]["engine"]

        assert compose["networks"]["engine"]["internal"] is True
        assert door["networks"] == ["engine"]
        assert "ports" not in door
        assert not {"EXEC", "SECRETS", "SWARM", "PLUGINS", "VOLUMES", "AUTH"} & set(door["environment"])

    def test_the_door_starts_on_a_read_only_root_and_ends_at_once(self, services: dict[str, dict[str, Any]]) -> None:
        version = tuple(map(int, services["engine"]["image"].partition(":")[2].split(".")))

        assert version >= (0, 4), "older ones write their configuration beside its template"
        assert services["engine"]["stop_signal"] == "SIGTERM"

    def test_database_and_dagster_are_published_nowhere(self, compose: dict[str, Any]) -> None:
        published = {name for name, service in compose["services"].items() if "ports" in service}

        assert published == {"api"}
        assert compose["networks"]["back"]["internal"] is True

    def test_the_dagster_webserver_answers_the_api_alone(self, services: dict[str, dict[str, Any]]) -> None:
        holders = {name for name, service in services.items() if "APPHUB_DAGSTER_SECRET" in service["environment"]}

        assert "apphub_assets.dagster_web" in services["dagster"]["command"]
        assert holders == {"dagster", "api"}

    def test_everything_that_stays_is_probed(self, services: dict[str, dict[str, Any]]) -> None:
        for name in set(services) - ONE_SHOT:
            assert services[name]["healthcheck"]["test"][0] == "CMD", name

    def test_the_database_is_probed_where_it_is_reached(self, services: dict[str, dict[str, Any]]) -> None:
        assert "--host=127.0.0.1" in services["postgres"]["healthcheck"]["test"], "the first start answers on a socket"

    def test_dependencies_exist_and_are_waited_for(self, services: dict[str, dict[str, Any]]) -> None:
        for service in services.values():
            for needed, how in service.get("depends_on", {}).items():
                ended = "service_completed_successfully"
                assert how["condition"] == (ended if needed in ONE_SHOT else "service_healthy"), needed
                assert needed in services

    def test_networks_and_volumes_are_declared(self, compose: dict[str, Any]) -> None:
        for service in compose["services"].values():
            assert set(service["networks"]) <= set(compose["networks"])
            named = {volume.split(":")[0] for volume in service.get("volumes", []) if not volume.startswith("$")}
            assert named <= set(compose["volumes"])

    def test_every_variable_is_in_the_example(self) -> None:
        text = COMPOSE.read_text()
        used = set(re.findall(r"\$\{(\w+)", text)) | set(re.findall(r"^ +([A-Z_]+):$", text, re.MULTILINE))
        shown = set(re.findall(r"^#?([A-Z_]+)=", (PROJECT / ".env.example").read_text(), re.MULTILINE))

        assert used == shown

    def test_every_setting_is_one(self, services: dict[str, dict[str, Any]]) -> None:
        known = {f"APPHUB_{name.upper()}" for name in Settings.model_fields}
        beyond_settings = {"APPHUB_IMAGE", "APPHUB_DAGSTER_DATABASE_URL", "APPHUB_DAGSTER_STATE"}
        given = {name for name in services["api"]["environment"] if name.startswith("APPHUB_")}

        assert given <= known | beyond_settings

    @pytest.mark.skipif(not shutil.which("docker"), reason="needs the docker command with its compose plugin")
    def test_docker_compose_accepts_it_where_it_is_installed(self) -> None:
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        environment = {"POSTGRES_PASSWORD": "x", "APPHUB_OPERATOR_TOKENS": "[]", "APPHUB_DAGSTER_SECRET": "x"}
        environment |= {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        done = subprocess.run(
            ["docker", "compose", "--file", COMPOSE, "config", "--quiet"],
            env=environment,
            capture_output=True,
            text=True,
        )

        assert (done.returncode == 0) == (plugin.returncode == 0), done.stderr


class TestDagsterInContainers:
    def test_its_instance_loads_with_the_docker_launcher(self, monkeypatch: pytest.MonkeyPatch, services: Any) -> None:
        for name, value in services["dagster"]["environment"].items():
            monkeypatch.setenv(name, str(value or ""))

        launcher = InstanceRef.from_dir(str(PROJECT / "dagster_home" / "compose")).run_launcher

        assert type(launcher).__name__ == "DockerRunLauncher"

    def test_run_containers_get_every_variable_and_network_that_they_name(self, compose: dict[str, Any]) -> None:
        launcher = yaml.safe_load((PROJECT / "dagster_home/compose/dagster.yaml").read_text())["run_launcher"]["config"]
        volume = launcher["container_kwargs"]["volumes"][0].split(":")[0]

        for launching in ("dagster", "daemon"):
            assert set(launcher["env_vars"]) <= set(compose["services"][launching]["environment"])
        assert set(launcher["networks"]) <= {network["name"] for network in compose["networks"].values()}
        assert volume in {declared["name"] for declared in compose["volumes"].values()}

    def test_run_containers_are_as_hardened_and_reach_what_they_start(self, services: dict[str, Any]) -> None:
        launcher = yaml.safe_load((PROJECT / "dagster_home/compose/dagster.yaml").read_text())["run_launcher"]["config"]
        kwargs = launcher["container_kwargs"]

        for name in ("init", "read_only", "cap_drop"):
            assert kwargs[name] == services["daemon"][name], name
        assert services["daemon"]["environment"]["APPHUB_RELAY_NETWORK"] in launcher["networks"]
        assert kwargs["healthcheck"] == {"test": ["NONE"]}, "the image's asks for an API"

    def test_it_differs_from_the_local_instance_in_its_launcher_alone(self) -> None:
        local = yaml.safe_load((PROJECT / "dagster_home/dagster.yaml").read_text())
        containers = yaml.safe_load((PROJECT / "dagster_home/compose/dagster.yaml").read_text())

        assert local.pop("run_launcher") != containers.pop("run_launcher")
        assert local == containers

    def test_webserver_and_daemon_ask_the_code_container(self, services: dict[str, dict[str, Any]]) -> None:
        (origin,) = yaml.safe_load((PROJECT / "dagster_home/workspace.compose.yaml").read_text())["load_from"]

        assert origin["grpc_server"]["host"] in services
        assert f"--port={origin['grpc_server']['port']}" in services[origin["grpc_server"]["host"]]["command"]


class TestImage:
    def test_it_does_not_run_as_root(self) -> None:
        users = [line.split()[1] for line in dockerfile() if line.startswith("USER")]

        assert users
        assert users[-1] not in {"root", "0"}

    def test_its_bases_have_a_tag_that_is_not_latest(self) -> None:
        assert f"ARG BASE={BASE}" in dockerfile()
        assert {line.split()[1] for line in dockerfile() if line.startswith("FROM")} == {"${BASE}"}

    def test_it_gets_the_uv_that_locks_the_project(self) -> None:
        versions = re.findall(r"uv==(\S+)", (PROJECT / "Dockerfile").read_text())
        pinned = re.findall(r"UV_VERSION := (\S+)", (PROJECT / "Makefile").read_text())

        assert versions == pinned

    def test_its_lock_file_fits_the_project(self) -> None:
        command = ["uv", "lock", "--check", "--offline"]
        done = subprocess.run([PROJECT / ".venv" / "bin" / command[0], *command[1:]], cwd=PROJECT, capture_output=True)

        assert done.returncode == 0, done.stderr.decode()

    @pytest.mark.engine
    def test_it_builds_where_its_base_can_be_had_and_else_all_but_what_needs_python(self, base_image: str) -> None:
        engine = docker.from_env()
        try:
            engine.images.pull(BASE)
            base, text = BASE, (PROJECT / "Dockerfile").read_text()
        except APIError:
            # No registry: the same context and instructions on a busybox, without what only a Debian can run.
            base, text = base_image, "\n".join(line for line in dockerfile() if not line.startswith(("RUN", "USER")))
        image, _ = engine.images.build(fileobj=context(text), custom_context=True, buildargs={"BASE": base}, rm=True)
        files = engine.containers.run(image, ["ls", "-a", "/opt/apphub"], remove=True, entrypoint="").decode().split()
        engine.images.remove(image.id, force=True)

        assert {"apphub_api", "apphub_assets", "dagster_home", "uv.lock", "alembic.ini"} <= set(files)
        assert not {".git", ".env", ".apphub", "tests"} & set(files)
        assert image.attrs["Config"]["Healthcheck"]["Test"][0] == "CMD"


def context(text: str) -> IO[bytes]:
    """The build context as the engine's own client would send it, with `text` as its Dockerfile."""
    patterns = [line for line in (PROJECT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    return build_context(str(PROJECT), exclude=patterns, dockerfile=("Dockerfile", text))
