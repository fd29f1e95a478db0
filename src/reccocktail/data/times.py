"""Times in any common form -> numbers that grow with time."""

import polars as pl

from reccocktail.data.cells import cast, refusal
from reccocktail.errors import DataError

_WHAT = "times that are neither numbers nor dates"
_ADVICE = (
    "write numbers or YYYY-MM-DD HH:MM:SS, with or without an offset such as +02:00, or name "
    "another column with --time-column"
)
# No text is read in two ways by two of them, so that cells of one column may be of several forms.
_FORMS = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d %H:%M%#z",
    "%m %d, %Y",
    "%d/%m/%Y",
    "%Y/%m/%d",
)
# %Y takes one digit, too: 05-03-24 would be a day of the year 5, and 05/03/24 one of the year 24.
_FOUR_DIGITS = r"^\+?\d{4}[-/]|[/,\s]\+?\d{4}$"
# What times of the years 1980 to 2100 are as numbers since 1970. No two units share a number, and
# counters, days as 20091124 and minutes as 200911240930 are in none.
_YEARS = (315_532_800, 4_102_444_800)
_UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}

DAY = 86_400 * 10**6
"""Microseconds."""
_CLOCKS = ("%H:%M:%S%.f", "%H:%M", "%I:%M %p", "%I:%M:%S %p")


def as_time(column: pl.Series, where: str) -> pl.Series:
    """Read a column of times; empty cells stay empty.

    Args:
        column: numbers, dates, or text of either; its name is the one in the user's table.
        where: the table's name in error messages.

    Returns:
        Int64 or Float64: numbers as they are, dates as microseconds since 1970 (UTC, which is also
        what dates without an offset are taken for).

    Raises:
        DataError: cells are neither, not all of one kind, or of several units (rows are named).
    """
    if column.dtype in (pl.Date, pl.Datetime):
        return column.cast(pl.Datetime("us")).cast(pl.Int64)
    if column.dtype.is_temporal():  # times of day, durations
        raise DataError(f"{where}: '{column.name}' holds {_WHAT} ({column.dtype}); {_ADVICE}.")
    if column.dtype.is_integer():
        return _in_one_unit(cast(column, pl.Int64(), where, "times beyond 64 bits", _ADVICE), where)
    if column.dtype.is_float():
        return _in_one_unit(column.fill_nan(None), where)
    text = cast(column, pl.String(), where, _WHAT, _ADVICE).str.strip_chars().replace("", None)
    whole = text.cast(pl.Int64, strict=False)
    if whole.null_count() == text.null_count():
        return _in_one_unit(whole, where)
    number = text.cast(pl.Float64, strict=False).fill_nan(None)
    if number.null_count() == text.null_count():
        return _in_one_unit(number, where)
    moment = _moments(text)
    if moment.null_count() == text.null_count():
        return moment.cast(pl.Int64)
    numbers, dates = number.is_not_null(), moment.is_not_null()
    if (neither := text.is_not_null() & ~numbers & ~dates).any():
        raise refusal(text, neither, where, _WHAT, _ADVICE)
    fewer, what = (
        (numbers, "numbers among dates")
        if numbers.sum() <= dates.sum()
        else (dates, "dates among numbers")
    )
    raise refusal(text, fewer, where, what, "write all times in one way")


def as_clock(column: pl.Series) -> pl.Series | None:
    """Read times of day; empty cells stay empty.

    Whole numbers below 240,000 may be some, too: 1430, 143000 or the seconds since midnight. In
    whichever way they are meant, they are in order within a day.

    Args:
        column: times of day, text such as 14:30 or 2:30 PM, or numbers.

    Returns:
        Int64, at least 0 and below `DAY`: microseconds since midnight, or numbers as they are. None
        if some cells are no times of day, or none holds one.
    """
    if column.dtype == pl.Time:
        return column.cast(pl.Int64) // 1000 if column.count() else None
    if not (column.dtype.is_numeric() or column.dtype == pl.String):
        return None
    if column.dtype == pl.String:
        column = column.str.strip_chars().replace("", None)
    number = column.cast(pl.Float64, strict=False).fill_nan(None)
    if not (filled := column.count()):
        return None
    if number.count() == filled:
        fits = number.is_between(0, 240_000, closed="left") & (number == number.floor())
        return number.cast(pl.Int64) if fits.all() else None
    if column.dtype != pl.String:
        return None
    clock = pl.Series(column.name, [None], dtype=pl.Time).new_from_index(0, len(column))
    for form in _CLOCKS:
        clock = clock.zip_with(clock.is_not_null(), column.str.to_time(form, strict=False))
    return clock.cast(pl.Int64) // 1000 if clock.count() == filled else None


def _in_one_unit(column: pl.Series, where: str) -> pl.Series:
    """Give numbers back unless some are times in one unit and some in another.

    Raises:
        DataError: so it is; sorted, such times would be in a wrong order.
    """
    within = {
        unit: column.is_between(_YEARS[0] * size, _YEARS[1] * size) for unit, size in _UNITS.items()
    }
    counts = {unit: int(rows.sum()) for unit, rows in within.items()}
    most = max(counts, key=lambda unit: counts[unit])
    for unit, rows in within.items():
        if unit != most and counts[unit]:
            what = f"times in {unit} among times in {most}"
            raise refusal(column, rows, where, what, "write all times in one unit")
    return column


def _moments(text: pl.Series) -> pl.Series:
    """Datetimes (UTC) of the cells that are dates in one of `_FORMS`, null elsewhere.

    A year has four digits.
    """
    plain = text.str.replace(r"\s*(?:Z|UTC)$", "").str.replace("T", " ", literal=True)
    plain = plain.str.replace(r"\s+([+-][0-9:]+)$", "$1")  # an offset after a space
    plain = plain.set(~plain.str.contains(_FOUR_DIGITS), None)
    found = pl.Series(text.name, [None], dtype=pl.Datetime("us", "UTC")).new_from_index(
        0, len(text)
    )
    for form in _FORMS:
        parsed = plain.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False)
        found = found.zip_with(found.is_not_null(), parsed)
        if found.null_count() == text.null_count():
            break
    return found
