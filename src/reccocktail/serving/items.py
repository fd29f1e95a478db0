"""Items that come after a domain was prepared."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from reccocktail.data.titles import clean_title
from reccocktail.errors import DataError
from reccocktail.schema import CATEGORIES, ITEM, TITLE
from reccocktail.serving.limits import ConflictError
from reccocktail.serving.served import ADDED_SCHEMA, Served


@dataclass(frozen=True)
class NewItem:
    """An item to add; `categories` is a cell, as `data.categories.join` writes it."""

    item_id: str
    title: str
    categories: str | None = None


def fresh_items(state: Served, items: Sequence[NewItem]) -> pl.DataFrame:
    """The items that the domain does not hold, with clean titles (`ADDED_SCHEMA`).

    Raises:
        DataError: an id twice, or a title without a readable letter.
        ConflictError: an id that is there with another title.
    """
    rows: dict[str, tuple[str, str, str | None]] = {}
    for item in items:
        title = clean_title(item.title)
        if not title:
            raise DataError(f"The title of item '{item.item_id}' holds nothing readable; give one.")
        if item.item_id in rows:
            raise DataError(f"Item '{item.item_id}' is given twice; give it once.")
        number = state.index.get(item.item_id)
        if number is not None and state.titles[number] != title:
            raise ConflictError(
                f"{state.name} has an item '{item.item_id}' with another title, "
                f"'{state.titles[number]}'; give the new item another id."
            )
        rows[item.item_id] = item.item_id, title, item.categories
    fresh = [row for item_id, row in rows.items() if item_id not in state.index]
    return pl.DataFrame(fresh, schema=ADDED_SCHEMA, orient="row").select(ITEM, TITLE, CATEGORIES)
