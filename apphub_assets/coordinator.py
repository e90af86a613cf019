"""What a person waits for starts at once; everything else takes its turn in Dagster's queue."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Self

import dagster as dg
from dagster._core.instance.config import ConcurrencyConfig
from dagster._core.op_concurrency_limits_counter import GlobalOpConcurrencyLimitsCounter
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from dagster._core.storage.dagster_run import ACTIVE_RUN_STATUSES
from dagster._core.storage.tags import (
    AUTO_MATERIALIZE_TAG,
    AUTOMATION_CONDITION_TAG,
    BACKFILL_ID_TAG,
    RETRY_NUMBER_TAG,
    SCHEDULE_NAME_TAG,
    SENSOR_NAME_TAG,
)
from dagster._serdes import ConfigurableClassData
from dagster._utils.tags import TagConcurrencyLimitsCounter
from sqlalchemy.exc import InternalError

from apphub_assets.settings import load_settings

UNATTENDED_TAGS = {
    AUTO_MATERIALIZE_TAG,
    AUTOMATION_CONDITION_TAG,
    BACKFILL_ID_TAG,
    RETRY_NUMBER_TAG,
    SCHEDULE_NAME_TAG,
    SENSOR_NAME_TAG,
}


class EagerRunCoordinator(QueuedRunCoordinator[dg.DagsterInstance]):
    """The queue, with a way past it for runs that nobody but a person submits, while every limit allows them.

    The daemon takes a second or more to look at the queue; a launch from here takes 0.1 s. The limits are the
    queue's own, so the daemon counts these runs like any other. A run that may not start now is queued.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._deciding = threading.Lock()  # two submissions must not both take the last place

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        """Read dagster.yaml; the number of runs at once is AppHub's setting where the file is silent."""
        config = {"max_concurrent_runs": load_settings().max_concurrent_runs, **config_value}
        return super().from_config_value(inst_data, config)

    def submit_run(self, context: SubmitRunContext) -> dg.DagsterRun:
        """Launch the run if a person waits for it and there is room; else queue it."""
        run = context.dagster_run
        if run.status != dg.DagsterRunStatus.NOT_STARTED or UNATTENDED_TAGS & run.tags.keys():
            return super().submit_run(context)
        with self._deciding:
            if self._has_room(run):
                return self._instance.launch_run(run.run_id, context.workspace)
        return super().submit_run(context)

    def _has_room(self, run: dg.DagsterRun) -> bool:
        config = self._instance.get_concurrency_config()
        queue = config.run_queue_config or self.get_run_queue_config()
        active = self._instance.get_run_records(dg.RunsFilter(statuses=ACTIVE_RUN_STATUSES))
        if queue.max_concurrent_runs != -1 and len(active) >= queue.max_concurrent_runs:
            return False
        tags = TagConcurrencyLimitsCounter(queue.tag_concurrency_limits, [record.dagster_run for record in active])
        return not tags.is_blocked(run) and not self._pool_is_full(run, active, config)

    def _pool_is_full(self, run: dg.DagsterRun, active: Sequence[dg.RunRecord], config: ConcurrencyConfig) -> bool:
        if run.run_op_concurrency is None:
            return False
        storage = self._instance.event_log_storage
        try:
            pools = GlobalOpConcurrencyLimitsCounter(
                self._instance,
                [run],
                active,
                concurrency_keys=storage.get_concurrency_keys(),
                pool_limits=storage.get_pool_limits(),
                pool_granularity=config.pool_config.pool_granularity,
            )
        except InternalError:
            # The first use of a pool writes its default limit; Dagster breaks when another process does so just then.
            return True
        return bool(pools.is_blocked(run))
