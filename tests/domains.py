"""A small prepared domain with a known answer: users keep to their taste, and titles tell it.

A user likes one taste and meets only its items, so a model that reads titles can learn to rank the
items of that taste above all others, and a model that has learned nothing cannot.
"""

from pathlib import Path

import numpy as np
import polars as pl

from reccocktail.data.domain import Domain
from reccocktail.data.prepare import prepare
from reccocktail.schema import ITEM, TIME, TITLE, USER

# Words of the pico tokenizer, so that every title is read word by word and none is unknown.
COLOURS = ("red", "green", "blue", "black", "white", "small", "large", "old")
TASTES = (
    ("apple", "bread", "milk", "cheese", "tea", "coffee"),
    ("film", "night", "city", "king", "queen", "war"),
    ("lamp", "shoe", "shirt", "cream", "soap", "brush"),
    ("star", "moon", "sun", "house", "garden", "song"),
)


def taste_of(title: str) -> int:
    """Number of the taste that a title belongs to."""
    noun = title.split()[1]
    return next(number for number, nouns in enumerate(TASTES) if noun in nouns)


def write_raw(
    folder: Path, *, tastes: int = 4, users: int = 120, length: int = 9, seed: int = 0
) -> tuple[Path, Path]:
    """Raw tables: `users` users, each with `length` items of one taste in random order.

    Returns:
        The files of the interactions and of the items.
    """
    rng = np.random.default_rng(seed)
    titles = [f"{c} {noun}" for nouns in TASTES[:tastes] for noun in nouns for c in COLOURS]
    per_taste = len(titles) // tastes
    rows: list[tuple[str, str, int]] = []
    for user in range(users):
        first = user % tastes * per_taste
        liked = first + rng.choice(per_taste, size=length, replace=False)
        rows += [(f"u{user}", f"i{item}", time) for time, item in enumerate(liked.tolist())]
    folder.mkdir(parents=True, exist_ok=True)
    interactions, items = folder / "interactions.parquet", folder / "items.parquet"
    pl.DataFrame(rows, schema=[USER, ITEM, TIME], orient="row").write_parquet(interactions)
    pl.DataFrame({ITEM: [f"i{item}" for item in range(len(titles))], TITLE: titles}).write_parquet(
        items
    )
    return interactions, items


def taste_domain(
    folder: Path,
    *,
    name: str = "tastes",
    tastes: int = 4,
    users: int = 120,
    length: int = 9,
    seed: int = 0,
    cold_fraction: float = 0.1,
) -> Domain:
    """Prepare the domain in `folder` / `name`; the same arguments give the same bytes."""
    interactions, items = write_raw(
        folder / f"{name}-raw", tastes=tastes, users=users, length=length, seed=seed
    )
    return prepare(
        interactions, items, name, folder / name, min_count=2, cold_fraction=cold_fraction
    )
