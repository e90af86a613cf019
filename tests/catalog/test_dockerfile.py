"""Dockerfiles: which one is taken, what is read from it, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apphub_assets.catalog.dockerfile import (
    MAX_VALUE,
    DockerfileInvalid,
    DockerfileMissing,
    find_dockerfiles,
    parse_dockerfile,
    read_dockerfile,
)
from apphub_assets.catalog.tree import Tree


def write(root: Path, *paths: str, text: str = "FROM busybox:1.36\n") -> Tree:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return Tree(root)


class TestWhichOne:
    def test_the_likely_ones_come_first(self, tmp_path: Path) -> None:
        likely = ["Dockerfile", "docker/Dockerfile", "Dockerfile.dev", "api/Dockerfile", "node_modules/x/Dockerfile"]
        tree = write(tmp_path, *reversed(likely), "Dockerfiles.md", "src/dockerfile.py")
        assert find_dockerfiles(tree) == likely

    @pytest.mark.parametrize(
        "path", ["Dockerfile", "Containerfile", "docker/Dockerfile", "deep/er/Dockerfile", "web.Dockerfile"]
    )
    def test_found_without_being_declared(self, path: str, tmp_path: Path) -> None:
        assert read_dockerfile(write(tmp_path, path), None).path == path

    def test_the_declared_one_wins(self, tmp_path: Path) -> None:
        tree = write(tmp_path, "Dockerfile", "ops/Dockerfile.prod")
        assert read_dockerfile(tree, "./ops//Dockerfile.prod").path == "ops/Dockerfile.prod"

    def test_a_link_inside_the_tree_is_followed(self, tmp_path: Path) -> None:
        write(tmp_path, "ops/Dockerfile")
        (tmp_path / "Dockerfile").symlink_to("ops/Dockerfile")
        assert read_dockerfile(Tree(tmp_path), None).base_image == "busybox:1.36"


class TestRefused:
    def test_missing_names_those_that_there_are(self, tmp_path: Path) -> None:
        tree = write(tmp_path, "api/Dockerfile")
        with pytest.raises(DockerfileMissing, match="there are api/Dockerfile") as caught:
            read_dockerfile(tree, "Dockerfile")
        assert caught.value.code == "dockerfile_missing"

    def test_none_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(DockerfileMissing):
            read_dockerfile(write(tmp_path, "README.md"), None)

    @pytest.mark.parametrize("declared", ["Dockerfile", None])
    def test_a_folder(self, declared: str | None, tmp_path: Path) -> None:
        with pytest.raises(DockerfileInvalid, match="folder") as caught:
            read_dockerfile(write(tmp_path, "Dockerfile/notes.txt"), declared)
        assert caught.value.code == "dockerfile_invalid"

    def test_five_megabytes(self, tmp_path: Path) -> None:
        with pytest.raises(DockerfileInvalid, match="5242880 bytes; at most 1048576"):
            read_dockerfile(write(tmp_path, "Dockerfile", text="#" * 5 * 1024 * 1024), None)

    @pytest.mark.parametrize("declared", ["/etc/passwd", "../Dockerfile", "a/../../Dockerfile", "a\0b", "x" * 5000])
    def test_paths_out_of_the_tree(self, declared: str, tmp_path: Path) -> None:
        write(tmp_path, "Dockerfile")
        with pytest.raises((DockerfileInvalid, DockerfileMissing)):
            read_dockerfile(write(tmp_path / "app", "README.md"), declared)

    @pytest.mark.parametrize("target", ["../Dockerfile", "/etc/passwd"])
    def test_links_out_of_the_tree(self, target: str, tmp_path: Path) -> None:
        write(tmp_path, "Dockerfile", "app/README.md")
        (tmp_path / "app/Dockerfile").symlink_to(target)
        with pytest.raises(DockerfileInvalid, match="leads out of the repository"):
            read_dockerfile(Tree(tmp_path / "app"), None)

    def test_a_file_behind_a_linked_folder(self, tmp_path: Path) -> None:
        write(tmp_path, "outside/Dockerfile", "app/README.md")
        (tmp_path / "app/docker").symlink_to("../outside")
        with pytest.raises(DockerfileMissing):
            read_dockerfile(Tree(tmp_path / "app"), "docker/Dockerfile")


class TestWhatIsRead:
    def test_the_last_stage(self) -> None:
        found = parse_dockerfile(
            "Dockerfile",
            """\
ARG NODE=20
FROM node:${NODE}-alpine AS build
EXPOSE 1111
RUN npm ci && \\
    # a comment inside
    npm run build
FROM --platform=linux/amd64 nginx:${NGINX:-1.27}
LABEL org.opencontainers.image.title="My App" apphub.team=data
ENV PORT=8080 GREETING="hello world"
ENV OLD style
EXPOSE $PORT 9000/tcp 53/udp
USER nobody
CMD ["nginx", "-g", "daemon off;"]
""",
        )
        assert (found.base_image, found.stages, found.ports, found.user) == ("nginx:1.27", 2, (8080, 9000), "nobody")
        assert found.labels == {"org.opencontainers.image.title": "My App", "apphub.team": "data"}
        assert found.env == {"PORT": "8080", "GREETING": "hello world", "OLD": "style"}
        assert found.command == '["nginx", "-g", "daemon off;"]'

    def test_a_stage_made_from_another_has_what_that_set(self) -> None:
        text = "FROM python:3.11 AS Base\nENV A=1\nEXPOSE 80\nFROM base AS mid\nENV B=2\nFROM mid\nCMD run\n"
        found = parse_dockerfile("Dockerfile", text)
        assert (found.base_image, found.env, found.ports) == ("python:3.11", {"A": "1", "B": "2"}, (80,))

    def test_heredocs_are_not_instructions(self) -> None:
        text = 'FROM alpine\nRUN <<EOF cat <<-"END"\nFROM evil\nEXPOSE 1\nEOF\nEXPOSE 2\n\tEND\nEXPOSE 3\n'
        assert (parse_dockerfile("D", text).base_image, parse_dockerfile("D", text).ports) == ("alpine", (3,))

    def test_a_shift_is_not_a_heredoc(self) -> None:
        assert parse_dockerfile("D", "FROM a\nRUN echo $((1<<BITS))\nEXPOSE 3\n").ports == (3,)

    def test_windows_line_ends_and_another_escape(self) -> None:
        found = parse_dockerfile("D", "# escape=`\r\nFROM `\r\n  servercore\r\nENV A=`\r\n  b\r\nEXPOSE 80\r\n")
        assert (found.base_image, found.ports) == ("servercore", (80,))

    def test_variables_that_multiply_stay_small(self) -> None:
        chain = "".join(f"ENV V{n}={f'$V{n - 1}' * 10}\n" for n in range(1, 60))
        found = parse_dockerfile("D", f"FROM a\nENV V0=xxxxxxxxxx\n{chain}")
        assert max(len(value) for value in found.env.values()) == MAX_VALUE

    @pytest.mark.parametrize(
        "text", ["", "\0\0", "not a dockerfile", "FROM", "ENV", "EXPOSE 80", "LABEL x y=z =\n", "FROM a\nENV =\n"]
    )
    def test_garbage_leaves_out_what_it_spoils(self, text: str) -> None:
        assert parse_dockerfile("Dockerfile", text).ports == ()


WORDS = [
    "FROM ",
    "from a AS b",
    "ENV ",
    "ARG ",
    "LABEL ",
    "EXPOSE ",
    "RUN ",
    "CMD ",
    "<<EOF",
    "EOF",
    "\n",
    "\\\n",
    "`",
    '"',
    "'",
]


@given(
    st.lists(
        st.sampled_from([*WORDS, "$A", "${A:-", "}", "A=", "=", " ", "80", "# escape=`\n", "é", "\x00"])
        | st.text(max_size=5)
    )
)
def test_any_text_is_read(parts: list[str]) -> None:
    found = parse_dockerfile("Dockerfile", "".join(parts))
    assert all(0 < port < 65536 for port in found.ports)
