"""Which bucket of time an instant is in, as SQL: in UTC, or by the clocks of a zone through every change of theirs.

Buckets are counted from 1970-01-01, weeks from Monday 1970-01-05, months by the calendar (contract C.3). In a zone,
those shorter than a day begin where its clock shows a multiple of their length: an hour that the clock shows twice is
two buckets, and one that a change cuts into begins at the change. Days, weeks and months begin at local midnight, or
where the clock goes on from if it skips that.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from zoneinfo import ZoneInfo

from apphub_assets.timestore.query.language import Downsample, Unit, invalid
from apphub_assets.timestore.spec import TimeRange

MAX_BUCKETS = 100_000
WIDTHS = {
    Unit.SECOND: timedelta(seconds=1),
    Unit.MINUTE: timedelta(minutes=1),
    Unit.HOUR: timedelta(hours=1),
    Unit.DAY: timedelta(days=1),
    Unit.WEEK: timedelta(weeks=1),
    Unit.MONTH: timedelta(days=28),
}
# Changes of clocks are followed in these years; no change is so soon after another that a week would miss both.
FIRST, LAST, STEP = datetime(1900, 1, 1), datetime(2100, 1, 1), timedelta(days=7)  # noqa: DTZ001 as in the lake: UTC
BEGINNING = datetime(1, 1, 1)  # noqa: DTZ001
EPOCH, MONDAY = datetime(1970, 1, 1), datetime(1970, 1, 5)  # noqa: DTZ001
NONE = timedelta(0)


@dataclass(frozen=True)
class Segment:
    """A time during which a zone's clock is `offset` ahead of UTC; before `since` it was `before` ahead."""

    since: datetime
    offset: timedelta
    before: timedelta


@dataclass(frozen=True)
class Buckets:
    """The buckets of a query. Expressions take and give TIMESTAMPs in UTC."""

    downsample: Downsample
    range: TimeRange

    def label(self, instant: str) -> str:
        """What rows are grouped by: the bucket's start or, where `start` has to make that of it, its local time."""
        if self._only is not None:
            return _literal(self._only)
        if self._is_local:
            return self._pick(self._segments, instant, lambda segment: self._floor(_shift(instant, segment.offset)))
        return self._pick(self._segments, instant, lambda segment: self._start_in(segment, instant))

    @property
    def is_one(self) -> bool:
        """Whether the label of all rows is the same constant."""
        return self._only is not None

    def start(self, label: str) -> str:
        """When the bucket of a label begins."""
        if not self._is_local:
            return label
        return self._pick(self._segments, label, lambda segment: _to_utc(segment, label), local=True)

    def grid(self) -> str:
        """A query for moments in `t`, at least one in each bucket of the range.

        Raises:
            InvalidQuery: there are too many buckets.
        """
        start, end = self.range.start, self.range.end
        if (end - start) / self._width > MAX_BUCKETS:
            raise invalid("/downsample/gapFill", f"that is more than {MAX_BUCKETS} buckets; ask for longer ones")
        since = [max(start, segment.since) for segment in self._segments]
        until = [*(moment - timedelta(microseconds=1) for moment in since[1:]), end]
        # Between two changes every bucket but the last is hit by steps of its length; the last by the end itself.
        pieces = [
            f"SELECT unnest(generate_series({_literal(a)}, {_literal(b)}, {self._interval})) AS t"
            f" UNION ALL SELECT {_literal(b)}"
            for a, b in zip(since, until, strict=True)
            if a <= b
        ]
        return " UNION ALL ".join(pieces)

    @property
    def _width(self) -> timedelta:
        return self.downsample.size * WIDTHS[self.downsample.unit]

    @property
    def _interval(self) -> str:
        return f"INTERVAL '{self.downsample.size} {self.downsample.unit}'"

    @property
    def _is_local(self) -> bool:
        return self.downsample.zone is not None and self._width >= WIDTHS[Unit.DAY]

    @cached_property
    def _segments(self) -> list[Segment]:
        """Those from before the first bucket until the end of the range."""
        if self.downsample.zone is None:
            return [Segment(self.range.start, NONE, NONE)]
        known = _changes(self.downsample.zone)
        # A month is at most 31 days, a clock never a day ahead.
        back = self._width * (31 / 28) + timedelta(days=2)
        earliest = self.range.start - back if self.range.start - FIRST > back else FIRST
        first = max(bisect_right(known, earliest, key=lambda segment: segment.since) - 1, 0)
        return [*known[first : first + 1], *(s for s in known[first + 1 :] if s.since <= self.range.end)]

    def _floor(self, local: str) -> str:
        if self.downsample.size == 1:
            # The same, a little faster.
            return f"date_trunc('{self.downsample.unit}', {local})"
        return f"time_bucket({self._interval}, {local}, {_literal(self._origin)})"

    @cached_property
    def _only(self) -> datetime | None:
        """The start of the one bucket that the range is in: then rows need not be asked for their times."""
        if self.downsample.zone is not None:
            return None
        try:
            start, last = (self._start_of(moment) for moment in (self.range.start, self.range.end))
        except (OverflowError, ValueError):  # it is before the year 1
            return None
        return start if start == last else None

    def _start_of(self, moment: datetime) -> datetime:
        """The same as `_floor`, of one moment in UTC."""
        size = self.downsample.size
        if self.downsample.unit != Unit.MONTH:
            return self._origin + (moment - self._origin) // self._width * self._width
        months = (12 * (moment.year - self._origin.year) + moment.month - 1) // size * size
        years, month = divmod(months, 12)
        return datetime(self._origin.year + years, month + 1, 1)  # noqa: DTZ001

    @property
    def _origin(self) -> datetime:
        return MONDAY if self.downsample.unit == Unit.WEEK else EPOCH

    def _start_in(self, segment: Segment, instant: str) -> str:
        floor = self._floor(_shift(instant, segment.offset))
        start = _shift(floor, -segment.offset)
        if segment.offset == segment.before:
            return start
        # What the clock shows right after the change goes on with the bucket of right before it, or begins one there.
        change, last = segment.since, self._last_before(segment)
        return (
            f"CASE WHEN {start} >= {_literal(change)} THEN {start}"
            f" WHEN {floor} = {_literal(last)} THEN {_literal(last - segment.before)} ELSE {_literal(change)} END"
        )

    def _last_before(self, segment: Segment) -> datetime:
        """The local time at which the last bucket before a change begins."""
        local = segment.since + segment.before - timedelta(microseconds=1)
        return EPOCH + (local - EPOCH) // self._width * self._width

    def _pick(
        self, segments: list[Segment], instant: str, render: Callable[[Segment], str], *, local: bool = False
    ) -> str:
        """The expression of the segment that the instant is in, found by halves."""
        if len(segments) == 1:
            return render(segments[0])
        middle = len(segments) // 2
        after = segments[middle]
        # By the local clock, what a change skips belongs to the time after it, and what it repeats to the first.
        change = after.since + after.before if local else after.since
        return (
            f"CASE WHEN {instant} < {_literal(change)}"
            f" THEN {self._pick(segments[:middle], instant, render, local=local)}"
            f" ELSE {self._pick(segments[middle:], instant, render, local=local)} END"
        )


def _to_utc(segment: Segment, label: str) -> str:
    # A label before the change's own clock was skipped.
    return f"greatest({_shift(label, -segment.offset)}, {_literal(segment.since)})"


def _shift(instant: str, by: timedelta) -> str:
    """Later by that much; the lake's sessions are in UTC, where seconds are all there is to a duration."""
    return f"({instant} + INTERVAL '{round(by.total_seconds())} seconds')" if by else instant


def _literal(moment: datetime) -> str:
    return f"TIMESTAMP '{moment.isoformat(sep=' ')}'"


@lru_cache(64)
def _changes(zone: ZoneInfo) -> list[Segment]:
    segments = [Segment(BEGINNING, _offset(zone, FIRST), _offset(zone, FIRST))]
    moment = FIRST
    while moment < LAST:
        later = moment + STEP
        if _offset(zone, later) != segments[-1].offset:
            change = _change_between(zone, moment, later)
            segments.append(Segment(change, _offset(zone, change), segments[-1].offset))
        moment = later
    return segments


def _change_between(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """The first second of the new offset."""
    old = _offset(zone, before)
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=(after - before) // timedelta(seconds=2))
        before, after = (middle, after) if _offset(zone, middle) == old else (before, middle)
    return after


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    return moment.replace(tzinfo=UTC).astimezone(zone).utcoffset() or NONE
