"""What an app is made with, told from the names and beginnings of its files: languages, frameworks, licence."""

import re
from collections import Counter

from apphub_assets.catalog.claims import requirements
from apphub_assets.catalog.spec import Tag
from apphub_assets.catalog.tree import Tree, is_vendored

MINOR_SHARE = 0.2  # a language with less of the code than this is not worth a tag
MAX_LANGUAGES = 3
MAX_MANIFEST = 256 * 1024

LANGUAGES = {
    ending: language
    for language, endings in {
        "c": "c h",
        "clojure": "clj cljs",
        "cpp": "cc cpp cxx hpp",
        "csharp": "cs",
        "dart": "dart",
        "elixir": "ex exs",
        "elm": "elm",
        "erlang": "erl",
        "fsharp": "fs",
        "go": "go",
        "haskell": "hs",
        "java": "java",
        "javascript": "js jsx mjs cjs",
        "julia": "jl",
        "kotlin": "kt kts",
        "lua": "lua",
        "notebook": "ipynb",
        "perl": "pl pm",
        "php": "php",
        "python": "py",
        "r": "r rmd",
        "ruby": "rb",
        "rust": "rs",
        "scala": "scala",
        "shell": "sh bash cgi",
        "sql": "sql",
        "svelte": "svelte",
        "swift": "swift",
        "typescript": "ts tsx mts",
        "vue": "vue",
        "zig": "zig",
    }.items()
    for ending in endings.split()
}
# Counted only where there is no programming language at all.
MARKUP = {"html": "html", "htm": "html", "css": "css"}

FRAMEWORKS = {
    "@angular/core": "angular",
    "@nestjs/core": "nestjs",
    "@remix-run/react": "remix",
    "@sveltejs/kit": "sveltekit",
    "actix-web": "actix",
    "aiohttp": "aiohttp",
    "astro": "astro",
    "axum": "axum",
    "bokeh": "bokeh",
    "dash": "dash",
    "django": "django",
    "express": "express",
    "fastapi": "fastapi",
    "fastify": "fastify",
    "flask": "flask",
    "gatsby": "gatsby",
    "github.com/gin-gonic/gin": "gin",
    "github.com/gofiber/fiber/v2": "fiber",
    "github.com/labstack/echo/v4": "echo",
    "gradio": "gradio",
    "hono": "hono",
    "koa": "koa",
    "laravel/framework": "laravel",
    "litestar": "litestar",
    "next": "nextjs",
    "nicegui": "nicegui",
    "nuxt": "nuxt",
    "panel": "panel",
    "rails": "rails",
    "rocket": "rocket",
    "shiny": "shiny",
    "sinatra": "sinatra",
    "starlette": "starlette",
    "streamlit": "streamlit",
    "symfony/framework-bundle": "symfony",
    "tornado": "tornado",
    "vite": "vite",
}
LIBRARIES = frozenset(
    {
        "d3",
        "dagster",
        "duckdb",
        "jquery",
        "lit",
        "numpy",
        "pandas",
        "plotly",
        "preact",
        "react",
        "scikit-learn",
        "solid-js",
        "svelte",
        "tailwindcss",
        "tensorflow",
        "three",
        "torch",
        "transformers",
        "vue",
    }
)

# The last part of an image's name: the runtime it brings, and how many parts of its version matter.
RUNTIMES = {
    "bun": ("bun", 1),
    "busybox": ("busybox", 2),
    "caddy": ("caddy", 1),
    "deno": ("deno", 1),
    "dotnet": ("dotnet", 1),
    "eclipse-temurin": ("java", 1),
    "aspnet": ("dotnet", 1),
    "golang": ("go", 2),
    "httpd": ("httpd", 2),
    "nginx": ("nginx", 2),
    "node": ("node", 1),
    "openjdk": ("java", 1),
    "php": ("php", 2),
    "python": ("python", 2),
    "ruby": ("ruby", 2),
    "rust": ("rust", 2),
}

# All of the phrases of a line must be in the text; the first line that fits wins.
LICENSES = (
    ("AGPL-3.0", ("gnu affero general public license", "version 3")),
    ("LGPL-3.0", ("gnu lesser general public license", "version 3")),
    ("LGPL-2.1", ("gnu lesser general public license", "version 2.1")),
    ("GPL-3.0", ("gnu general public license", "version 3")),
    ("GPL-2.0", ("gnu general public license", "version 2")),
    ("Apache-2.0", ("apache license", "version 2.0")),
    ("MPL-2.0", ("mozilla public license", "2.0")),
    ("EPL-2.0", ("eclipse public license", "2.0")),
    ("BSL-1.0", ("boost software license",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("Unlicense", ("this is free and unencumbered software",)),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "neither the name")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms",)),
    ("ISC", ("permission to use, copy, modify, and/or distribute this software",)),
    ("MIT", ("permission is hereby granted, free of charge",)),
)


def languages(tree: Tree) -> dict[str, float]:
    """Each language's share of the bytes of the app's own code, largest first."""
    code: Counter[str] = Counter()
    markup: Counter[str] = Counter()
    for path in tree.files:
        ending = path.rpartition(".")[2].lower()
        if is_vendored(path) or path.endswith(".min.js"):
            continue
        if language := LANGUAGES.get(ending):
            code[language] += tree.size(path)
        elif language := MARKUP.get(ending):
            markup[language] += tree.size(path)
    counted = code if code.total() else markup
    return {name: round(size / counted.total(), 3) for name, size in counted.most_common(10) if size}


def dependencies(tree: Tree) -> frozenset[str]:
    """Names that requirement files outside npm's and Python's project files ask for."""
    return (
        requirements(tree.text("requirements.txt", MAX_MANIFEST).splitlines())
        | _all(r"^[ \t]*(?:require[ \t]+)?([\w.-]+\.\w+/\S+)[ \t]+v\d", tree.text("go.mod", MAX_MANIFEST))
        | _all(r"^[ \t]*gem[ \t]+[\"']([\w-]+)", tree.text("Gemfile", MAX_MANIFEST))
        | _all(r"^([\w-]+)[ \t]*=", tree.text("Cargo.toml", MAX_MANIFEST))
        | _all(r"\"([\w.-]+/[\w.-]+)\"[ \t]*:", tree.text("composer.json", MAX_MANIFEST))
    )


def spdx(name: str) -> str:
    """The SPDX spelling of a common licence, as in `mit`; any other name as it is."""
    spelled = {common.lower(): common for common, _ in LICENSES}
    return spelled.get(name.lower(), name)


def license_of(tree: Tree) -> str:
    """The SPDX name of the licence whose text is at the top of the tree; empty when it is none of the common."""
    path = tree.top(
        "license", "license.md", "license.txt", "licence", "licence.md", "licence.txt", "copying", "unlicense"
    )
    text = " ".join(tree.text(path, 8 * 1024).lower().split()) if path else ""
    return next((name for name, phrases in LICENSES if all(phrase in text for phrase in phrases)), "")


def technology_tags(shares: dict[str, float], needed: frozenset[str], base_image: str | None) -> list[Tag]:
    """The tags `language:`, `framework:`, `library:` and `runtime:`."""
    main = [language for language, share in shares.items() if share >= MINOR_SHARE][:MAX_LANGUAGES]
    return [
        *(Tag("language", language) for language in main),
        *(Tag("framework", FRAMEWORKS[name]) for name in sorted(needed & FRAMEWORKS.keys())),
        *(Tag("library", name) for name in sorted(needed & LIBRARIES)),
        *_runtime(base_image or ""),
    ]


def _runtime(image: str) -> list[Tag]:
    """`runtime:node-20` from `docker.io/library/node:20.11-alpine`."""
    name, _, version = image.partition("@")[0].rpartition("/")[2].partition(":")
    if name not in RUNTIMES:
        return []
    runtime, parts = RUNTIMES[name]
    digits = re.match(r"\d{1,5}(?:\.\d{1,5})*", version)
    number = ".".join(digits[0].split(".")[:parts]) if digits else ""
    return [Tag("runtime", f"{runtime}-{number}" if number else runtime)]


def _all(pattern: str, text: str) -> frozenset[str]:
    return frozenset(re.findall(pattern, text, re.MULTILINE))
