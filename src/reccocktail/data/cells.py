"""Cells of a user's table -> another type, or a sentence that names the rows that are none."""

from typing import Any

import polars as pl

from reccocktail.errors import DataError
from reccocktail.schema import row_numbers


def cast(column: pl.Series, dtype: pl.DataType, where: str, what: str, advice: str) -> pl.Series:
    """Cast a column; empty cells stay empty.

    Args:
        column: its name is the one in the user's table.
        dtype: the type to cast to.
        where: the table's name in error messages.
        what: what cells are that cannot be cast.
        advice: what to do about them.

    Raises:
        DataError: some cells, or all cells of the column's type, cannot be cast.
    """
    try:
        found = column.cast(dtype, strict=False)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{where}: '{column.name}' holds {what} ({column.dtype}); {advice}."
        ) from error
    if (wrong := found.is_null() & column.is_not_null()).any():
        raise refusal(column, wrong, where, what, advice)
    return found


def refusal(column: pl.Series, wrong: pl.Series, where: str, what: str, advice: str) -> DataError:
    """The error that names the rows that are `wrong`, one at least, and quotes the first."""
    rows = wrong.arg_true()
    first = str(column[int(rows[0])])[:40]
    return DataError(
        f"{where}: '{column.name}' holds {what} ({row_numbers(rows)}, such as '{first}'); {advice}."
    )


def leaves(value: Any) -> list[str]:
    """Names in a cell of nested lists (Amazon's categories are lists of paths), in order.

    Each once; what is empty has none.
    """
    if isinstance(value, list):
        return list(dict.fromkeys(leaf for part in value for leaf in leaves(part)))
    return [] if value is None else [str(value)]


def whole(record: Any, line: str) -> Any:
    """The record of a line with a question mark for each half of a character, as of a cut emoji.

    Only escapes can name a half, so lines without one are taken as they are.
    """
    return _mended(record) if "\\ud" in line or "\\uD" in line else record


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_mended(part) for part in value]
    if isinstance(value, dict):
        return {_mended(name): _mended(part) for name, part in value.items()}
    return value
