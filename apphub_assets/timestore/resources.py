"""The lake as a Dagster resource, opened at first use."""

import dagster as dg
from pydantic import PrivateAttr

from apphub_assets.settings import load_settings
from apphub_assets.timestore.lake import Lake


class LakeResource(dg.ConfigurableResource[None]):
    """The lake of this process's settings."""

    _lake: Lake | None = PrivateAttr(None)

    @property
    def lake(self) -> Lake:
        if self._lake is None:
            self._lake = Lake(load_settings())
        return self._lake

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 Dagster's signature
        """Close what this run opened."""
        if self._lake is not None:
            self._lake.close()
        self._lake = None
