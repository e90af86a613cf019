"""Gauges that are read from Postgres when Prometheus asks; what this process counts itself is in `context.py`."""

from collections.abc import Iterable, Mapping

import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from apphub_api.fanout import Fanout
from apphub_assets.catalog import builds
from apphub_assets.catalog import service as catalog
from apphub_assets.events import service as events
from apphub_assets.kit.db import Database
from apphub_assets.launches import service as launches

log = structlog.get_logger()


class StateCollector(Collector):
    """What there is, by state. Without Postgres only `apphub_postgres_up` is told, and it is 0."""

    def __init__(self, database: Database, fanout: Fanout) -> None:
        self._database = database
        self._fanout = fanout

    def collect(self) -> Iterable[GaugeMetricFamily]:
        gauges = []
        try:
            gauges = [*self._counts(), *self._events()]
        except SQLAlchemyError as error:
            log.warning("metrics.incomplete", reason=str(error).splitlines()[0])
        up = 1 if gauges else 0
        return [GaugeMetricFamily("apphub_postgres_up", "Whether Postgres answered this scrape.", up), *gauges]

    def _counts(self) -> list[GaugeMetricFamily]:
        with self._database.transaction() as session:
            return [
                _by_status("apphub_repositories", "Apps by state of their ingestion.", catalog.count(session)),
                _by_status("apphub_builds", "Builds by state.", builds.count(session)),
                _by_status("apphub_launches", "Launches by state.", launches.count(session)),
            ]

    def _events(self) -> list[GaugeMetricFamily]:
        sent = self._fanout.last
        last = events.latest_sequence(self._database)
        return [
            GaugeMetricFamily("apphub_event_last_sequence", "Sequence of the newest event.", last),
            GaugeMetricFamily("apphub_event_lag", "Events that this process has not handed on yet.", last - sent),
        ]


def _by_status(name: str, help_text: str, counts: Mapping[str, int]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(name, help_text, labels=["status"])
    for status, count in counts.items():
        gauge.add_metric([status], count)
    return gauge
