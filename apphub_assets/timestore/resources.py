"""The lake as a Dagster resource, loaded and opened at first use.

DuckDB brings threads, and the fork server, which has this module loaded, must have none when it forks.
"""

from typing import TYPE_CHECKING, Optional

import dagster as dg
from pydantic import PrivateAttr

from apphub_assets.settings import load_settings

if TYPE_CHECKING:
    from apphub_assets.timestore.lake import Lake


class LakeResource(dg.ConfigurableResource[None]):
    """The lake of this process's settings."""

    _lake: Optional["Lake"] = PrivateAttr(None)

    @property
    def lake(self) -> "Lake":
        from apphub_assets.timestore.lake import Lake

        if self._lake is None:
            self._lake = Lake(load_settings())
        return self._lake

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 Dagster's signature
        """Close what this run opened."""
        if self._lake is not None:
            self._lake.close()
        self._lake = None
