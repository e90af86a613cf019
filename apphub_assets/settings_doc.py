"""`python -m apphub_assets.settings_doc > docs/settings.md`: every setting as a table, held by a test."""

import sys

from pydantic_core import PydanticUndefined

from apphub_assets.settings import Settings

HEAD = """# Settings

Every setting is an environment variable, read also from `.env`. Times are seconds, sizes bytes. With `_FILE` appended
the variable names a file that holds the value. `DATABASE_URL` is honoured where `APPHUB_DATABASE_URL` is not set.
Made by `python -m apphub_assets.settings_doc`.

| variable | default | what it is |
|---|---|---|
"""


def settings_page() -> str:
    """The page as Markdown."""
    return HEAD + "".join(_row(name) for name in Settings.model_fields)


def _row(name: str) -> str:
    field = Settings.model_fields[name]
    default = "" if field.default in (None, "", PydanticUndefined) else f"`{field.default}`"
    return f"| `APPHUB_{name.upper()}` | {default} | {(field.description or '').replace('|', '&#124;')} |\n"


if __name__ == "__main__":
    sys.stdout.write(settings_page())
