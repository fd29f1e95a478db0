"""Any two tables with common column names: `interactions.*` and `items.*`."""

from pathlib import Path

import polars as pl

from reccocktail.data.columns import as_interactions, as_items
from reccocktail.data.sources.lines import one_file
from reccocktail.data.tables import read_table


def read_folder(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read the folder's `interactions.*` and `items.*`."""
    return read_tables(
        one_file(folder, ("interactions.*",), "interactions"),
        one_file(folder, ("items.*",), "items"),
    )


def read_tables(interactions: Path, items: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read two tables in any of the formats of `reccocktail.data.tables.read_table`.

    Raises:
        DataError: a file cannot be read or lacks a column.
    """
    return (
        as_interactions(read_table(interactions), interactions.name),
        as_items(read_table(items), items.name),
    )
