"""Strong ETags from versions, and what `If-Match` means."""

import re

from apphub_assets.errors import InvalidInput

ETAG = re.compile(r'"v(\d{1,18})"')


def etag_of(version: int) -> str:
    """`"v7"`: changes with every change of the resource, and with nothing else."""
    return f'"v{version}"'


def expected_version(if_match: str | None) -> int | None:
    """The version that the caller wants to change; `None` when any will do.

    Raises:
        InvalidInput: it is not an ETag of ours.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    match = ETAG.fullmatch(if_match.strip())
    if match is None:
        raise InvalidInput(f'If-Match {if_match[:80]!r}: use the ETag of the resource, like "v7", or *')
    return int(match[1])
