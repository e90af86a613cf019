"""The documentation says what the code does."""

import re
from pathlib import Path

from apphub_assets.settings_doc import settings_page

DOCS = Path(__file__).parent.parent / "docs"
README = DOCS.parent / "README.md"


def test_the_table_of_settings_is_current():
    assert (DOCS / "settings.md").read_text() == settings_page()


def test_links_between_pages_lead_somewhere():
    for page in [README, *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_code_map_names_every_slice_and_only_what_exists():
    text = (DOCS / "map.md").read_text()
    root = DOCS.parent
    slices = [path.parent.name for path in (root / "apphub_assets").glob("*/__init__.py")]
    assert [name for name in slices if f"`{name}/`" not in text] == []
    for path in re.findall(r"`((?:apphub_assets|apphub_api|tests|benchmarks|dagster_home|samples)/[\w./-]+)`", text):
        assert (root / path).exists(), path
