"""Pictures of an app as tiles (contract F.4): those that a browser can load."""

from typing import Any
from urllib.parse import quote, urlsplit

# Hosts that show single files of a public repository, and where.
RAW = {
    "github.com": "https://raw.githubusercontent.com{repository}/{commit}/{path}",
    "gitlab.com": "https://gitlab.com{repository}/-/raw/{commit}/{path}",
    "codeberg.org": "https://codeberg.org{repository}/raw/commit/{commit}/{path}",
}


def preview_tiles(preview: str | None, repo_url: str, commit_sha: str) -> list[dict[str, Any]]:
    """The tile of a picture that is an https address, or a path in the tree of this commit; none if nobody shows it."""
    source = preview if preview and preview.startswith("https://") else _raw(preview, repo_url, commit_sha)
    if source is None:
        return []
    unknown = dict.fromkeys(("title", "description", "embedUrl", "posterUrl", "width", "height"))
    return [{"id": 1, "kind": "image", "src": source, "sortOrder": 0, "source": "repository", **unknown}]


def _raw(path: str | None, repo_url: str, commit_sha: str) -> str | None:
    address = urlsplit(repo_url)
    pattern = RAW.get(address.hostname or "")
    if path is None or pattern is None:
        return None
    return pattern.format(repository=address.path.removesuffix(".git"), commit=commit_sha, path=quote(path))
