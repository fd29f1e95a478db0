"""Amazon reviews and metadata of 2014, 2018 and 2023 (McAuley et al.), one record a line."""

import re
from array import array
from pathlib import Path

import numpy as np
import polars as pl

from reccocktail.data.categories import join
from reccocktail.data.cells import leaves
from reccocktail.data.sources.lines import field, number_field, one_file, parse, text_lines
from reccocktail.errors import DataError
from reccocktail.schema import CATEGORIES, ITEM, RATING, TIME, TITLE, USER

# 2014 and 2018 name the product `asin`; 2023 names it `parent_asin`, and `asin` there is only a
# variant.
_ITEM_FIELDS = ("parent_asin", "asin")
_ITEM_TEXT = {
    name: re.compile(rf"""["']{name}["']\s*:\s*["']([^"']+)["']""") for name in _ITEM_FIELDS
}
# Some titles of 2018 are pieces of a page's script; the publishers' own notebook drops them by this
# word.
_SCRIPT = "getTime"


def read_folder(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read the folder of one category: its file `meta_*` and the other file, the reviews."""
    metadata = one_file(folder, ("meta_*.json*",), "metadata")
    known = (metadata.name, "fetch.json")
    others = sorted(path.name for path in folder.glob("*.json*") if path.name not in known)
    if len(others) != 1:
        found = ", ".join(others) or "none"
        raise DataError(f"{folder} must hold one file of reviews beside {metadata.name} ({found}).")
    return read_amazon(folder / others[0], metadata)


def read_amazon(reviews: Path, metadata: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read one category of any of the three releases.

    Args:
        reviews: JSON lines, plain or gzipped. 2014 and 2018: `reviewerID, asin, overall,
            unixReviewTime` (seconds); 2023: `user_id, parent_asin, rating, timestamp`
            (milliseconds).
        metadata: `asin` or `parent_asin`, `title`, `categories` or `category`. 2014 writes Python
            literals, which are parsed as literals and never run.

    Returns:
        Interactions (`user_id, item_id, timestamp, rating`) and the items that occur in them
        (`item_id, title, categories`; an item without a usable title has a null title).

    Raises:
        DataError: a file cannot be read, or a line has not the fields it must have.
    """
    interactions = read_reviews(reviews)
    return interactions, read_metadata(metadata, set(interactions[ITEM].unique()))


def read_reviews(path: Path) -> pl.DataFrame:
    """Read who reviewed what, when, and with how many stars, in the file's order."""
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    user, item, time, rating = array("q"), array("q"), array("q"), array("d")
    for number, line in text_lines(path):
        record = parse(path, number, line)
        who = str(field(record, ("reviewerID", "user_id"), path, number))
        what = str(field(record, _ITEM_FIELDS, path, number))
        user.append(users.setdefault(who, len(users)))
        item.append(items.setdefault(what, len(items)))
        time.append(int(number_field(record, ("unixReviewTime", "timestamp"), path, number)))
        rating.append(number_field(record, ("overall", "rating"), path, number))
    names, products = (
        pl.Series(list(users), dtype=pl.String),
        pl.Series(list(items), dtype=pl.String),
    )
    return pl.DataFrame(
        [
            names.gather(np.frombuffer(user, dtype=np.int64)).alias(USER),
            products.gather(np.frombuffer(item, dtype=np.int64)).alias(ITEM),
            pl.Series(TIME, np.frombuffer(time, dtype=np.int64)),
            pl.Series(RATING, np.frombuffer(rating, dtype=np.float64)),
        ]
    )


def read_metadata(path: Path, wanted: set[str] | None = None) -> pl.DataFrame:
    """Read titles and categories, of the `wanted` items only if given."""
    rows: list[tuple[str, str | None, str | None]] = []
    for number, line in text_lines(path):
        if wanted is not None and (quick := _quick_item(line)) is not None and quick not in wanted:
            continue
        record = parse(path, number, line)
        item = str(field(record, _ITEM_FIELDS, path, number))
        if wanted is None or item in wanted:
            title = record.get("title")
            categories = leaves(record.get("categories") or record.get("category") or [])
            usable = isinstance(title, str) and _SCRIPT not in title
            shown = str(title) if usable else None
            rows.append((item, shown, join(categories)))
    schema = {ITEM: pl.String, TITLE: pl.String, CATEGORIES: pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _quick_item(line: str) -> str | None:
    """Item id of a line that names exactly one, found without parsing the line."""
    for name in _ITEM_FIELDS:
        found = _ITEM_TEXT[name].findall(line)
        if found:
            return found[0] if len(found) == 1 else None
    return None
