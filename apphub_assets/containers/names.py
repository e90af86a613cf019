"""How the parts of a sandbox are named.

Names tell what belongs to which launch. Labels only help to ask for it, for an image can put
any label on what runs from it.
"""

import re
from enum import StrEnum

from apphub_assets.errors import InvalidInput

# It becomes part of the engine's URLs.
LAUNCH_ID = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"


class Part(StrEnum):
    APP = "app"
    RELAY = "relay"
    NETWORK = "network"


class Names:
    """The names that one stack gives, `apphub-<stack>-<launch id>-<part>`."""

    def __init__(self, stack: str) -> None:
        self._prefix = f"apphub-{stack}-"
        self._pattern = re.compile(rf"/?{re.escape(self._prefix)}({LAUNCH_ID})-({'|'.join(Part)})")

    def of(self, launch_id: str, part: Part) -> str:
        """The name of a part.

        Raises:
            InvalidInput: the launch id has characters that a name can't have.
        """
        if not re.fullmatch(LAUNCH_ID, launch_id):
            raise InvalidInput(
                f"Launch id {launch_id!r} must be 1 to 64 letters, digits, `_`, `.` or `-`, the first a letter or digit"
            )
        return f"{self._prefix}{launch_id}-{part}"

    def parse(self, name: str) -> tuple[str, Part] | None:
        """Launch id and part that a name stands for; None when this stack did not give it."""
        match = self._pattern.fullmatch(name)
        return (match[1], Part(match[2])) if match else None
