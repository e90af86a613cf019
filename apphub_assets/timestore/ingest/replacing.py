"""Use case: put rows in the place of those of a window, in one commit; done twice it changes nothing more."""

import time
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa

from apphub_assets.kit.db import Database
from apphub_assets.kit.ids import new_id
from apphub_assets.timestore import repository, store
from apphub_assets.timestore.commits import committing
from apphub_assets.timestore.errors import InvalidRows, LakeConflict, LakeUnavailable, WindowStraddled
from apphub_assets.timestore.ingest.binary import rows_of_arrow
from apphub_assets.timestore.ingest.evolution import evolve
from apphub_assets.timestore.ingest.intake import Delivery, prepare
from apphub_assets.timestore.ingest.writing import (
    FIRST_PAUSE,
    Incoming,
    Plan,
    Written,
    check_active,
    check_times,
    new_dataset,
    note,
    shape,
)
from apphub_assets.timestore.lake import Lake, literal
from apphub_assets.timestore.receipt import Retired
from apphub_assets.timestore.spec import DatasetInfo, TimeRange, parse_slug, quote

PATIENCE_SECONDS = 60.0
# Later than any time that a row can have.
END_OF_TIME = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)


def replace_window(
    lake: Lake, database: Database, delivery: Delivery, rows: pa.Table, window: TimeRange | None
) -> Written:
    """Write rows instead of all that the window holds; its end is no part of it, and no window is all of time.

    The dataset is made if there is none. The delivery's partition key, if any, narrows what is replaced.

    Raises:
        InvalidRows: a value does not fit, or a row is outside of the window.
        IncompatibleSchema: the columns do not go with those that are there.
        DatasetInactive: it is archived.
        WindowStraddled: a batch that was ingested lies across an end of the window.
        LakeConflict, LakeUnavailable: for longer than a minute.
    """
    delivery = replace(delivery, key=f"replace:{new_id()}")
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        with database.reading() as session:
            dataset = repository.find_dataset(session, parse_slug(delivery.slug))
        content = rows_of_arrow(delivery, dataset, rows)
        _check_inside(content.span, window)
        batch = prepare(delivery, dataset, content, str(delivery.key))
        try:
            _replace(lake, database, batch, window)
        except (LakeConflict, LakeUnavailable):
            # A commit whose end is unknown may have happened.
            if (written := _find(database, batch)) is not None:
                return written
            if time.monotonic() > until:
                raise
            time.sleep(FIRST_PAUSE)
        else:
            written = _find(database, batch)
            assert written is not None  # noqa: S101 for the type checker: it was committed
            return written


def _replace(lake: Lake, database: Database, batch: Incoming, window: TimeRange | None) -> None:
    with database.reading() as session:
        known = repository.find_dataset(session, batch.slug)
        if known is not None:
            check_active(known)
        dataset = known or new_dataset(session, batch)
        check_times(dataset, batch)
        if window is not None and repository.straddles(session, dataset.id, window):
            raise WindowStraddled(
                f"a batch of {dataset.slug} lies across an end of the window from {window.start.isoformat()} to"
                f" {window.end.isoformat()}; replace a window that holds it whole"
            )
    plan = Plan(dataset, evolve(dataset.schema, batch.fields), (batch,), known is None)
    with committing(lake, database, f"replace with {batch.source.row_count} rows") as commit:
        after = shape(commit, plan)
        if dataset.schema_version:
            store.delete_rows(commit.connection, dataset, _conditions(dataset, batch, window))
            start, end = (window.start, window.end) if window else (None, END_OF_TIME)
            commit.receipt.retired.append(Retired(dataset.id, end, start, batch.partition_key or None))
        note(commit, after, batch)
        batch.source.append_to(commit.connection, after)


def _find(database: Database, batch: Incoming) -> Written | None:
    with database.reading() as session:
        dataset = repository.find_dataset(session, batch.slug)
        found = [] if dataset is None else repository.batches_by_key(session, [(dataset.id, batch.key)])
        return None if dataset is None or not found else Written(found[0], dataset, replayed=False)


def _conditions(dataset: DatasetInfo, batch: Incoming, window: TimeRange | None) -> list[str]:
    conditions = [f"{quote(name)} = {literal(value)}" for name, value in batch.partition_key.items()]
    if window is not None:
        conditions += [
            f"{quote(dataset.timestamp_column)} >= {_moment(window.start)}",
            f"{quote(dataset.timestamp_column)} < {_moment(window.end)}",
        ]
    return conditions or ["true"]


def _moment(moment: datetime) -> str:
    return f"TIMESTAMP {literal(moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' '))}"


def _check_inside(span: TimeRange, window: TimeRange | None) -> None:
    if window is not None and not (window.start <= span.start and span.end < window.end):
        raise InvalidRows(
            f"rows from {span.start.isoformat()} to {span.end.isoformat()} are not all inside of the window from"
            f" {window.start.isoformat()} to {window.end.isoformat()}; nothing was written"
        )
