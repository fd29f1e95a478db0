"""RecBole's atomic files: tab-separated, with typed headers such as `item_id:token`."""

from pathlib import Path

import polars as pl

from reccocktail.data.columns import as_interactions, as_items
from reccocktail.data.sources.lines import one_file
from reccocktail.data.sources.movielens import article_first
from reccocktail.data.tables import read_table
from reccocktail.schema import TITLE

_YEAR = "release_year"


def read_folder(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read the folder's `.inter` and `.item` file."""
    return read_recbole(
        one_file(folder, ("*.inter",), "interactions"), one_file(folder, ("*.item",), "items")
    )


def read_recbole(interactions: Path, items: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read a RecBole dataset.

    Args:
        interactions: the `.inter` file.
        items: the `.item` file; where it has a `release_year`, the year follows the title in
            brackets and a trailing article moves to the front, because then the items are films.

    Returns:
        Interactions (`user_id, item_id`, perhaps `timestamp, rating`) and items (`item_id, title`,
        perhaps `categories`).

    Raises:
        DataError: a file cannot be read or lacks a column.
    """
    table = read_table(items)
    films = as_items(table, items.name)
    year = next((name for name in table.columns if name.partition(":")[0] == _YEAR), None)
    if year is not None:
        years = table[year].str.strip_suffix(".0")
        titles = [_with_year(*pair) for pair in zip(films[TITLE], years, strict=True)]
        films = films.with_columns(pl.Series(TITLE, titles, dtype=pl.String))
    return as_interactions(read_table(interactions), interactions.name), films


def _with_year(title: str | None, year: str | None) -> str | None:
    """Write a film as "The Matrix (1999)"."""
    if title is None:
        return None
    return article_first(title) + (f" ({year})" if year and f"({year})" not in title else "")
