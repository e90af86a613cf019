"""Inspection: what is understood of a repository, and that nothing in it can do harm."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from apphub_assets.catalog.claims import EnvTemplate
from apphub_assets.catalog.inspection import Inspection, inspect
from apphub_assets.catalog.spec import TagSource

DOCKERFILE = "FROM busybox:1.36\nEXPOSE 8080\n"


def inspected(root: Path, files: Mapping[str, str | bytes]) -> Inspection:
    for path, content in {"Dockerfile": DOCKERFILE, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return inspect(root, None)


def tags(found: Inspection, source: TagSource) -> set[str]:
    return {f"{tag.key}:{tag.value}" for tag in found.tags if tag.source == source}


def codes(found: Inspection) -> list[str]:
    return [remark.code for remark in found.warnings]


class TestTitleAndDescription:
    def test_from_the_front_matter_of_the_readme(self, tmp_path: Path) -> None:
        readme = """\
---
title: Sales board
emoji: 📊
short_description: Sales by region
app_port: 7860
tags: [charts, team:data]
---
# Something else

Ignored.
"""
        found = inspected(tmp_path, {"README.md": readme, "package.json": '{"name": "sales-board"}'})
        assert (found.title, found.description, found.emoji, found.port) == (
            "Sales board",
            "Sales by region",
            "📊",
            7860,
        )
        assert tags(found, TagSource.AUTHOR) == {"topic:charts", "team:data"}
        assert found.readme == "# Something else\n\nIgnored."

    def test_from_the_heading_and_first_paragraph(self, tmp_path: Path) -> None:
        readme = """\
[![build](https://x/badge.svg)](https://x)

Sales **board**
===============

![shot](shot.png)

Shows [sales](https://x) by `region`,
every day.

More.
"""
        found = inspected(tmp_path, {"readme.md": readme})
        assert (found.title, found.description) == ("Sales board", "Shows sales by region, every day.")

    def test_a_readme_that_begins_with_a_rule_has_no_front_matter(self, tmp_path: Path) -> None:
        found = inspected(tmp_path, {"README.md": "# Title\n\n---\n\ntitle: no\n\n---\n"})
        assert found.title == "Title"

    def test_a_readme_of_nothing_but_code_says_nothing(self, tmp_path: Path) -> None:
        found = inspected(tmp_path, {"README.md": "```\n# Not a heading\nNot prose.\n"})
        assert (found.title, found.description) == ("", "")

    def test_from_package_json_then_pyproject(self, tmp_path: Path) -> None:
        found = inspected(
            tmp_path,
            {
                "package.json": '{"name": "web", "keywords": ["charts"]}',
                "pyproject.toml": '[project]\nname = "api"\ndescription = "An API"\n',
            },
        )
        assert (found.title, found.description) == ("web", "An API")

    def test_from_labels_of_the_image(self, tmp_path: Path) -> None:
        labels = 'LABEL org.opencontainers.image.title="Board" org.opencontainers.image.licenses=MIT apphub.team=data\n'
        found = inspected(tmp_path, {"Dockerfile": DOCKERFILE + labels})
        assert (found.title, found.license) == ("Board", "MIT")
        assert tags(found, TagSource.AUTHOR) == {"team:data"}

    def test_nothing_is_said(self, tmp_path: Path) -> None:
        found = inspected(tmp_path, {})
        assert (found.title, found.description, found.readme, found.owner) == ("", "", None, None)


class TestTags:
    @pytest.mark.parametrize(
        "text",
        [
            "- team:data\n- charts\n- key: level\n  value: '3'\n",
            "team: data\ntopic: charts\nlevel: 3\n",
            "tags:\n  team: [data]\n  topic: charts\n  level: 3\n",
            "tags:\n  - team: data\n  - topic: charts\n  - level: 3\n",
        ],
    )
    def test_every_form_of_tags_yaml(self, text: str, tmp_path: Path) -> None:
        found = inspected(tmp_path, {"tags.yaml": text})
        assert tags(found, TagSource.AUTHOR) == {"team:data", "topic:charts", "level:3"}

    def test_values_stay_as_they_were_written(self, tmp_path: Path) -> None:
        found = inspected(tmp_path, {"tags.yaml": "version: 1.10\nlegacy: no\nsince: 2024-01-01\n"})
        assert tags(found, TagSource.AUTHOR) == {"version:1.10", "legacy:no", "since:2024-01-01"}

    def test_what_the_author_wrote_is_not_repeated_as_detected(self, tmp_path: Path) -> None:
        found = inspected(tmp_path, {"tags.yaml": "language: python\n", "app.py": "print()"})
        assert (
            "language:python" in tags(found, TagSource.AUTHOR),
            "language:python" in tags(found, TagSource.AUTO),
        ) == (
            True,
            False,
        )

    def test_bad_ones_are_left_out_with_a_remark(self, tmp_path: Path) -> None:
        text = f"- 'bad key:x'\n- good:x\n- long:{'v' * 150}\n- 'empty:'\n"
        found = inspected(tmp_path, {"tags.yaml": text})
        assert tags(found, TagSource.AUTHOR) == {"good:x"}
        assert codes(found) == ["tag_left_out"] * 3

    def test_at_most_64_and_the_author_s_first(self, tmp_path: Path) -> None:
        found = inspected(tmp_path, {"tags.yaml": "".join(f"- k{n}:v\n" for n in range(80)), "app.py": "1"})
        assert (len(found.tags), tags(found, TagSource.AUTO)) == (64, set())
        assert "tags_left_out" in codes(found)

    def test_the_owner_is_a_tag_too(self, tmp_path: Path) -> None:
        found = inspected(tmp_path, {"catalog-info.yaml": "spec:\n  owner: team-data\n"})
        assert (found.owner, tags(found, TagSource.AUTHOR)) == ("team-data", {"owner:team-data"})


class TestTechnology:
    def test_a_web_app(self, tmp_path: Path) -> None:
        package = {"name": "web", "dependencies": {"next": "15", "react": "19"}, "devDependencies": {"vite": "6"}}
        files: dict[str, str | bytes] = {
            "Dockerfile": "FROM docker.io/library/node:20.11-alpine\nEXPOSE 3000\n",
            "package.json": json.dumps(package),
            "src/app.tsx": "x" * 900,
            "src/old.js": "x" * 90,
            "node_modules/lib/index.js": "x" * 9000,
        }
        assert tags(inspected(tmp_path, files), TagSource.AUTO) == {
            "language:typescript",
            "framework:nextjs",
            "framework:vite",
            "library:react",
            "runtime:node-20",
            "port:3000",
        }

    @pytest.mark.parametrize(
        ("path", "text", "framework"),
        [
            ("pyproject.toml", '[project]\ndependencies = ["FastAPI[standard]>=0.1"]\n', "fastapi"),
            ("pyproject.toml", '[tool.poetry.dependencies]\nflask = "^3"\n', "flask"),
            ("requirements.txt", "# web\nStreamlit==1.40 ; python_version > '3.8'\n", "streamlit"),
            ("go.mod", "module x\n\nrequire (\n\tgithub.com/gin-gonic/gin v1.10.0\n)\n", "gin"),
            ("Gemfile", "source 'x'\ngem 'rails', '~> 8'\n", "rails"),
            ("Cargo.toml", '[dependencies]\naxum = "0.8"\n', "axum"),
            ("composer.json", '{"require": {"laravel/framework": "^11"}}', "laravel"),
        ],
    )
    def test_frameworks_of_many_languages(self, path: str, text: str, framework: str, tmp_path: Path) -> None:
        assert f"framework:{framework}" in tags(inspected(tmp_path, {path: text}), TagSource.AUTO)

    def test_markup_counts_where_there_is_no_code(self, tmp_path: Path) -> None:
        assert inspected(tmp_path, {"index.html": "<p>", "x.css": "a"}).languages == {"html": 0.75, "css": 0.25}

    @pytest.mark.parametrize(
        ("text", "spdx"),
        [
            ("MIT License\n\nPermission is hereby granted, free\nof charge, to any person", "MIT"),
            ("Apache License\nVersion 2.0, January 2004", "Apache-2.0"),
            ("GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007", "GPL-3.0"),
            ("GNU AFFERO GENERAL PUBLIC LICENSE\nVersion 3", "AGPL-3.0"),
            ("All rights reserved.", ""),
        ],
    )
    def test_licences_by_their_text(self, text: str, spdx: str, tmp_path: Path) -> None:
        assert inspected(tmp_path, {"LICENSE": text}).license == spdx

    def test_licences_have_one_spelling(self, tmp_path: Path) -> None:
        found = inspected(tmp_path, {"README.md": "---\nlicense: apache-2.0\n---\n"})
        assert (found.license, "license:Apache-2.0" in tags(found, TagSource.AUTO)) == ("Apache-2.0", True)


class TestLaunchHints:
    def test_variables_of_app_json(self, tmp_path: Path) -> None:
        env = {
            "MODE": "demo",
            "KEY": {"description": "Signs cookies", "generator": "secret"},
            "URL": {"required": True},
            "LEVEL": {"value": 3, "required": False},
            "bad key": "x",
        }
        text = json.dumps({"env": env})
        assert inspected(tmp_path, {"app.json": text}).env_templates == (
            EnvTemplate("MODE", "demo"),
            EnvTemplate("KEY", "", "Signs cookies", required=True, generate=True),
            EnvTemplate("URL", "", required=True),
            EnvTemplate("LEVEL", "3"),
        )

    def test_processes_of_a_procfile(self, tmp_path: Path) -> None:
        found = inspected(tmp_path, {"Procfile": "web: run --port $PORT\nworker: work\nnonsense\n"})
        assert found.processes == {"web": "run --port $PORT", "worker": "work"}

    def test_an_image_without_expose_gets_a_remark(self, tmp_path: Path) -> None:
        found = inspected(tmp_path, {"Dockerfile": "FROM busybox:1.36\n"})
        assert (found.port, codes(found)) == (None, ["port_unknown"])

    @pytest.mark.parametrize(
        ("readme", "preview"),
        [
            ("---\nthumbnail: docs/a.png\n---\n", "docs/a.png"),
            ("---\nthumbnail: https://example.org/a.png\n---\n", "https://example.org/a.png"),
            ("---\nthumbnail: ../../etc/passwd.png\n---\n", "screenshot.png"),
            ("---\nthumbnail: javascript:alert(1)//.png\n---\n", "screenshot.png"),
            ("![badge](https://x/y.svg)\n![a](./docs/a.png)\n", "docs/a.png"),
            ("plain", "screenshot.png"),
        ],
    )
    def test_the_preview_is_a_picture_of_the_tree_or_https(self, readme: str, preview: str, tmp_path: Path) -> None:
        files: dict[str, str | bytes] = {"README.md": readme, "docs/a.png": b"png", "screenshot.png": b"png"}
        assert inspected(tmp_path, files).preview == preview


class TestHostileFiles:
    def test_links_out_of_the_tree_are_not_read(self, tmp_path: Path) -> None:
        (tmp_path / "secret.md").write_text("# Secret\n")
        app = tmp_path / "app"
        app.mkdir()
        (app / "README.md").symlink_to("../secret.md")
        (app / "docs").symlink_to("/etc")
        found = inspected(app, {})
        assert (found.title, found.readme) == ("", None)
        assert found.warnings[-1].code == "symlink_outside"
        assert found.warnings[-1].message.endswith("README.md, docs")

    def test_links_in_a_circle(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        (tmp_path / "README.md").symlink_to("x" * 300)
        assert inspected(tmp_path, {}).title == ""

    def test_submodules_and_lfs_get_a_remark(self, tmp_path: Path) -> None:
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12\n"
        files = {
            ".gitmodules": '[submodule "lib"]\n\tpath = lib\n\turl = https://example.org/lib\n',
            ".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n",
            "data/big.bin": pointer,
            "data/small.bin": "x" * 120,
        }
        remarks = {remark.code: remark.message for remark in inspected(tmp_path, files).warnings}
        assert remarks["submodules_skipped"].endswith(": lib")
        assert remarks["lfs_not_fetched"].endswith(": data/big.bin")

    @pytest.mark.parametrize(
        ("path", "content"),
        [
            ("tags.yaml", "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n"),
            ("tags.yaml", "[" * 5000),
            ("tags.yaml", "- a:b\n" * 20_000),
            ("tags.yaml", "a: b: c"),
            ("tags.yaml", "just text"),
            ("app.json", "[" * 200_000),
            ("app.json", '{"env": {"A": ' + "9" * 5000 + "}}"),
            ("app.json", "[]"),
            ("package.json", "{"),
            ("package.json", " " * 2 * 1024 * 1024),
            ("pyproject.toml", "a = " + "[" * 5000),
            ("pyproject.toml", "a." * 100_000 + "a = 1"),
            ("catalog-info.yaml", "spec: !!python/object/apply:os.system [touch /tmp/owned]\n- x"),
            ("README.md", "---\n{[\n---\n# T\n"),
        ],
    )
    def test_documents_that_can_t_be_read_are_left_out_with_a_remark(
        self, path: str, content: str, tmp_path: Path
    ) -> None:
        found = inspected(tmp_path, {path: content})
        assert codes(found) == ["file_unreadable"]

    def test_a_number_too_long_to_print_is_left_out(self, tmp_path: Path) -> None:
        keywords = f'[project]\nkeywords = ["good", 0x{"f" * 20_000}]\n'
        assert tags(inspected(tmp_path, {"pyproject.toml": keywords}), TagSource.AUTHOR) == {"topic:good"}

    def test_texts_are_fit_to_be_stored_and_shown(self, tmp_path: Path) -> None:
        package = '{"name": "a\\u0000b\\ud800c\\u202ed", "description": "' + "x" * 5000 + '"}'
        found = inspected(tmp_path, {"package.json": package, "README.md": b"a\0b\xff\xfe\n\x1b[31mred"})
        stored = json.dumps(found.facts(), ensure_ascii=False).encode()
        assert (found.title, len(found.description), b"\x00" in stored) == ("abcd", 1000, False)
        assert found.readme is not None
        assert {"\0", "\x1b"}.isdisjoint(found.readme)

    def test_a_long_readme_is_cut(self, tmp_path: Path) -> None:
        readme = inspected(tmp_path, {"README.md": "word " * 100_000}).readme
        assert readme is not None
        assert len(readme) <= 64 * 1024

    def test_file_names_that_are_no_text_are_passed_over(self, tmp_path: Path) -> None:
        with open(os.fsencode(tmp_path) + b"/bad\xff\n.py", "wb") as file:  # noqa: PTH123 - a name of bytes
            file.write(b"x")
        assert inspected(tmp_path, {"good.py": "x"}).languages == {"python": 1.0}


READ_FILES = (
    "Dockerfile",
    "README.md",
    "tags.yaml",
    "app.json",
    "catalog-info.yaml",
    "package.json",
    "pyproject.toml",
    "Procfile",
    "LICENSE",
    "requirements.txt",
    "go.mod",
    "Gemfile",
    "Cargo.toml",
    "composer.json",
    ".gitmodules",
    ".gitattributes",
)
FRAGMENTS = st.sampled_from(
    (
        b"---\n",
        b"title: ",
        b"tags:\n",
        b"- ",
        b": ",
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"'",
        b"&a ",
        b"*a ",
        b"!!int ",
        b"<<: ",
        b"FROM a\n",
        b"ENV ",
        b"EXPOSE ",
        b"=",
        b"$A",
        b"\n",
        b"# ",
        b"![](",
        b"<h1>",
        b"<img ",
        b"```",
        b"\\ud800",
        b"1e999",
        b'{"env":{"A":',
        b'{"name":',
        b"[project]\n",
        b"name=",
        b"filter=lfs",
        b"path = x",
        b"\xff\xfe",
        b"\x00",
        b"\xef\xbb\xbf",
    )
)
CONTENTS = st.binary(max_size=60) | st.lists(FRAGMENTS | st.binary(max_size=4), max_size=20).map(b"".join)


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(st.sampled_from(READ_FILES), CONTENTS, min_size=1, max_size=8))
def test_any_bytes_in_any_file_are_survived(files: dict[str, bytes], tmp_path: Path) -> None:
    for old in tmp_path.iterdir():
        old.unlink()
    found = inspected(tmp_path, files)
    stored = json.dumps([found.facts(), found.readme, [tag.value for tag in found.tags]], ensure_ascii=False).encode()
    assert b"\\u0000" not in stored


KEYS = st.sampled_from(
    (
        "name",
        "title",
        "description",
        "keywords",
        "tags",
        "key",
        "value",
        "dependencies",
        "env",
        "A",
        "generator",
        "required",
        "license",
        "text",
        "author",
        "project",
        "tool",
        "poetry",
        "metadata",
        "spec",
        "owner",
        "app_port",
        "thumbnail",
    )
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("a:b"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=6),
    max_leaves=20,
)


@pytest.mark.parametrize("path", ["app.json", "package.json", "tags.yaml", "catalog-info.yaml"])
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=VALUES)
def test_any_document_in_any_file_is_survived(path: str, document: object, tmp_path: Path) -> None:
    # JSON is YAML, but for what only JSON escapes.
    found = inspected(tmp_path, {path: json.dumps(document)})
    assert all(tag.value.isprintable() and len(tag.value) <= 100 for tag in found.tags)


@pytest.mark.parametrize(
    ("sample", "title", "tag"),
    [
        ("life", "Game of Life", "language:javascript"),
        ("pulse", "Pulse", "owner:platform-team"),
        ("tide-table", "Tide table", "team:harbour-office"),
    ],
)
def test_the_samples_are_understood_without_a_remark(sample: str, title: str, tag: str) -> None:
    found = inspect(Path(__file__).parents[2] / "samples" / sample, None)
    assert (found.title, found.port, found.warnings) == (title, 8080, ())
    assert tag in tags(found, TagSource.AUTHOR) | tags(found, TagSource.AUTO)
