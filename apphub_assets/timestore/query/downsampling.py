"""Rows by buckets of time: the statement that groups, totals, and fills the gaps between."""

from apphub_assets.timestore.query.buckets import Buckets
from apphub_assets.timestore.query.language import Aggregation, Downsample, Fill, Fn, GapFill, Kind, invalid
from apphub_assets.timestore.query.selection import Selection, kind_of
from apphub_assets.timestore.spec import Field, TimeRange, quote

# What the contract calls the column of buckets, whatever the dataset's own column of times is called.
TIME = "timestamp"
SCALARS = {Fn.MIN: "min({column})", Fn.MAX: "max({column})"} | {
    Fn.FIRST: "arg_min({column}, {time})",
    Fn.LAST: "arg_max({column}, {time})",
}
NUMBERS = {Fn.AVG: "avg({column})", Fn.MEDIAN: "median({column}::DOUBLE)"}


def downsampled(
    downsample: Downsample, span: TimeRange, dimensions: tuple[Field, ...], selection: Selection
) -> tuple[str, tuple[Field, ...]]:
    """A query for buckets, dimensions and totals, in no order, and its columns.

    Raises:
        InvalidQuery: an aggregation does not fit its column, two columns have one name, or there are too many buckets.
    """
    buckets = Buckets(downsample, span)
    totals = [_total(aggregation, selection) for aggregation in downsample.aggregations]
    fields = [field for field, _ in totals]
    _check_names(downsample, dimensions, fields)
    keys = [quote(field.name) for field in dimensions]
    bucket = f"{buckets.label(quote(selection.time.name))} AS {quote(TIME)}"
    shown = ", ".join([bucket, *keys, *(f"{sql} AS {quote(field.name)}" for field, sql in totals)])
    grouped = f"SELECT {shown} FROM {selection.relation} WHERE {selection.where} {_groups(buckets, len(keys))}"
    if downsample.gap_fill:
        filled = [
            _filling(downsample.gap_fill, aggregation, field)
            for aggregation, field in zip(downsample.aggregations, fields, strict=True)
        ]
        fields = [field for field, _ in filled]
        grouped = _without_gaps(buckets, grouped, keys, filled)
    names = ", ".join([*keys, *(quote(field.name) for field in fields)])
    sql = f"SELECT {buckets.start(quote(TIME))} AS {quote(TIME)}, {names} FROM ({grouped})"
    return sql, (Field(TIME, "timestamp"), *dimensions, *fields)


def _groups(buckets: Buckets, keys: int) -> str:
    """By the first columns; a constant is not grouped by, which takes as long as all the rest."""
    groups = [str(1 + index) for index in range(int(buckets.is_one), 1 + keys)]
    return f"GROUP BY {', '.join(groups)}" if groups else "HAVING count(*) > 0"


def _check_names(downsample: Downsample, dimensions: tuple[Field, ...], fields: list[Field]) -> None:
    taken = {TIME}
    pointers = ["/columns"] * len(dimensions) + [f"{each.pointer}/alias" for each in downsample.aggregations]
    for pointer, field in zip(pointers, (*dimensions, *fields), strict=True):
        if field.name.lower() in taken:
            raise invalid(pointer, f"the answer has a column {field.name!r} already; give an alias")
        taken.add(field.name.lower())


def _total(aggregation: Aggregation, selection: Selection) -> tuple[Field, str]:
    """An aggregation's column, and the SQL that makes it."""
    fn, alias = aggregation.fn, aggregation.alias
    if aggregation.column is None:
        return Field(alias, "integer"), "count(*)"
    field = selection.field(aggregation.column, f"{aggregation.pointer}/column")
    column, kind = quote(field.name), kind_of(field)
    if fn in (Fn.COUNT, Fn.COUNT_DISTINCT):
        return Field(alias, "integer"), f"count({'DISTINCT ' if fn == Fn.COUNT_DISTINCT else ''}{column})"
    if fn in SCALARS and kind is not None:
        return Field(alias, field.type), SCALARS[fn].format(column=column, time=quote(selection.time.name))
    if kind != Kind.NUMBER:
        raise invalid(f"{aggregation.pointer}/column", f"column {field.name!r} is a {field.type}: it has no {fn}")
    if fn == Fn.SUM:
        return Field(alias, _type_of_sum(field)), f"sum({column})"
    if fn == Fn.PERCENTILE:
        return Field(alias, "double"), f"quantile_cont({column}::DOUBLE, {aggregation.fraction})"
    return Field(alias, "double"), NUMBERS[fn].format(column=column)


def _type_of_sum(field: Field) -> str:
    """A sum of integers has 128 bits, one of decimals all the digits there are."""
    if field.type.startswith("decimal"):
        return f"decimal(38,{field.type[:-1].split(',')[1]})"
    return field.type


def _without_gaps(buckets: Buckets, grouped: str, keys: list[str], filled: list[tuple[Field, str]]) -> str:
    """The groups, and the buckets between them for each combination of dimensions that there is."""
    time = quote(TIME)
    series = f", series AS (SELECT DISTINCT {', '.join(keys)} FROM found)" if keys else ""
    shown = ", ".join([*(f"series.{key}" for key in keys), *(f"{sql} AS {quote(field.name)}" for field, sql in filled)])
    same = "".join(f" AND found.{key} IS NOT DISTINCT FROM series.{key}" for key in keys)
    each = f"PARTITION BY {', '.join(f'series.{key}' for key in keys)} " if keys else ""
    return (
        f"WITH found AS ({grouped}){series},"
        f" grid AS (SELECT DISTINCT {buckets.label('t')} AS {time} FROM ({buckets.grid()}))"
        f" SELECT grid.{time}, {shown} FROM grid{' CROSS JOIN series' if keys else ''}"
        f" LEFT JOIN found ON found.{time} = grid.{time}{same}"
        # A line is one by the time that passes, whatever the clocks show.
        f" WINDOW line AS ({each}ORDER BY epoch_us({buckets.start(f'grid.{time}')})),"
        f" before AS ({each}ORDER BY grid.{time} ROWS UNBOUNDED PRECEDING),"
        f" after AS ({each}ORDER BY grid.{time} ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)"
    )


def _filling(gap_fill: GapFill, aggregation: Aggregation, field: Field) -> tuple[Field, str]:
    """A column without gaps. How many rows there are in a bucket without any is no gap: none."""
    value = f"found.{quote(field.name)}"
    if aggregation.fn in (Fn.COUNT, Fn.COUNT_DISTINCT):
        return field, f"coalesce({value}, 0)"
    if gap_fill.fill == Fill.PREVIOUS:
        return field, f"last_value({value} IGNORE NULLS) OVER before"
    if gap_fill.fill == Fill.NULL or kind_of(field) != Kind.NUMBER:
        return field, value
    if gap_fill.value is not None:
        return Field(field.name, "double"), f"coalesce({value}::DOUBLE, {float(gap_fill.value)!r}::DOUBLE)"
    # Without a value on each side there is no line.
    between = f"count({value}) OVER before > 0 AND count({value}) OVER after > 0"
    return Field(field.name, "double"), f"CASE WHEN {between} THEN fill({value}::DOUBLE) OVER line END"
