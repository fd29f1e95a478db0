"""Names, types and promises of every table, in one place.

A *raw* domain is two tables, interactions and items. A *prepared* domain is a catalogue (`items`),
one training table and four evaluation tables (`EVALUATION_TABLES`). `validate` checks a frame
against the promises of its kind and names the rows that break them.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import polars as pl

from reccocktail.errors import DataError

USER = "user_id"
ITEM = "item_id"
TIME = "timestamp"
RATING = "rating"
TITLE = "title"
CATEGORIES = "categories"
HISTORY = "history"
TARGET = "target"
CANDIDATES = "candidates"
SPLIT = "split"

Scenario = Literal["warm", "cold"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)

# The words of options stand here, because the command line must not wait for what reads them.
RankerName = Literal["dense", "title", "generate", "choice"]
"""How scores come out of the language model, see `ranking`."""
Precision = Literal["float32", "bfloat16", "auto"]
"""What scores are multiplied in, see `precision`."""
Method = Literal["delta", "factor", "svd", "linear", "ties", "dare"]
"""How weights are merged, see `mixing.arithmetic`."""
Granularity = Literal["global", "layer", "module"]
"""What has coefficients of its own, see `mixing.search`."""
Search = Literal["auto", "published"]
"""How coefficients are searched for, see `mixing.measure`."""
Objective = Literal[
    "entropy",
    "calibrated",
    "adapter-calibrated",
    "divergence",
    "distillation",
    "information",
    "validation",
]
"""What a search of coefficients may minimise, see `mixing.objectives`."""
EVALUATION_TABLES = ("valid_warm", "valid_cold", "test_warm", "test_cold")
ITEM_SPLITS = ("warm", "valid_cold", "test_cold")

Kind = Literal["interactions", "items", "catalogue", "train", "evaluation"]

_TEXT = pl.String()
_LIST = pl.List(pl.String())
COLUMNS: dict[str, dict[str, pl.DataType]] = {
    "interactions": {USER: _TEXT, ITEM: _TEXT},
    "items": {ITEM: _TEXT, TITLE: _TEXT},
    "catalogue": {ITEM: _TEXT, TITLE: _TEXT, SPLIT: _TEXT},
    "train": {USER: _TEXT, HISTORY: _LIST},
    "evaluation": {USER: _TEXT, HISTORY: _LIST, TARGET: _TEXT, CANDIDATES: _LIST},
}
"""Required columns and types of each kind of table; other columns may follow."""


def validate(
    frame: pl.DataFrame, kind: Kind, where: str, named: Mapping[str, str] | None = None
) -> pl.DataFrame:
    """Check that `frame` keeps the promises of its `kind`, and give it back unchanged.

    Args:
        frame: the table.
        kind: which promises to check; see `COLUMNS` and the checks below.
        where: the table's name in error messages, usually its file name.
        named: the user's names of columns, by ours, where a message must say the user's.

    Raises:
        DataError: a column is missing or of another type, or rows break a promise (the first five
            row numbers are named, counted from 1 without a header).
    """
    for column, dtype in COLUMNS[kind].items():
        if column not in frame.columns:
            found = ", ".join(frame.columns) or "none"
            raise DataError(f"{where} has no column '{column}' (columns found: {found}).")
        if frame.schema[column] != dtype:
            raise DataError(
                f"{where}: column '{column}' holds {frame.schema[column]} and must hold {dtype}."
            )
    if frame.height == 0:
        return frame
    names = named or {}
    checks = [
        (
            pl.col(column).is_null() | (pl.col(column).str.len_bytes() == 0),
            f"'{names.get(column, column)}' is empty",
        )
        for column, dtype in COLUMNS[kind].items()
        if dtype == _TEXT and not (kind == "items" and column == TITLE)
    ]
    if kind == "interactions":
        empty = f"'{names.get(TIME, TIME)}' is empty"
        checks += [(pl.col(TIME).is_null(), empty)] if TIME in frame.columns else []
    if kind == "catalogue":
        checks += [
            (pl.col(ITEM).is_duplicated(), f"'{ITEM}' is repeated"),
            (~pl.col(SPLIT).is_in(ITEM_SPLITS), f"'{SPLIT}' is none of {', '.join(ITEM_SPLITS)}"),
        ]
    if kind in ("train", "evaluation"):
        checks.append((pl.col(HISTORY).list.len().fill_null(0) == 0, f"'{HISTORY}' is empty"))
    if kind == "evaluation":
        checks += [
            (
                ~pl.col(CANDIDATES).list.contains(pl.col(TARGET)),
                f"'{TARGET}' is not among '{CANDIDATES}'",
            ),
            (
                pl.col(CANDIDATES).list.n_unique() != pl.col(CANDIDATES).list.len(),
                f"'{CANDIDATES}' holds an item twice",
            ),
            (pl.col(HISTORY).list.contains(pl.col(TARGET)), f"'{TARGET}' occurs in '{HISTORY}'"),
        ]
    for broken, what in checks:
        rows = frame.select(broken.fill_null(True).arg_true()).to_series()
        if rows.len():
            advice = (
                "fill the cells or remove the rows"
                if kind in ("interactions", "items")
                else "make the folder with `reccocktail data prepare` again"
            )
            raise DataError(
                f"{where}: {what} in {count(rows.len(), 'row')} ({row_numbers(rows)}); {advice}."
            )
    return frame


def count(number: int, noun: str) -> str:
    """Write a number with its noun, ``1 row`` or ``1,234 rows``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def row_numbers(rows: pl.Series) -> str:
    """Name the first five of 0-based `rows` for a message, counted from 1."""
    shown = ", ".join(str(row + 1) for row in rows.head(5))
    return f"row{'s' if rows.len() > 1 else ''} {shown}{', ...' if rows.len() > 5 else ''}"
