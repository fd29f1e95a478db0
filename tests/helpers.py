"""What several tests need: changed copies of domains, and the form of errors."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from reccocktail.data.domain import Domain
from reccocktail.errors import RecCocktailError
from reccocktail.schema import CANDIDATES, TARGET
from reccocktail.storage import read_json, sha256_file, write_json

Change = Callable[[pl.DataFrame], pl.DataFrame]


class TickingTime:
    """Stands in for the time module: every reading is `tick` seconds after the last."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now


def changed(domain: Domain, folder: Path, **tables: Change) -> Domain:
    """A copy of the domain whose tables went through the given functions."""
    shutil.copytree(domain.path, folder)
    manifest = read_json(folder / "manifest.json")
    for table, change in tables.items():
        file = folder / f"{table}.parquet"
        change(pl.read_parquet(file)).write_parquet(file)
        manifest["outputs"][file.name] = sha256_file(file)
    write_json(folder / "manifest.json", manifest)
    return Domain.load(folder)


def other_targets(rows: pl.DataFrame) -> pl.DataFrame:
    """Each target becomes the candidate after it, so that all labels are wrong."""
    pairs = zip(rows[TARGET].to_list(), rows[CANDIDATES].to_list(), strict=True)
    wrong = [c[(c.index(target) + 1) % len(c)] for target, c in pairs]
    assert wrong != rows[TARGET].to_list()
    return rows.with_columns(pl.Series(TARGET, wrong))


def popular_targets(domain: Domain) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Makes the most popular candidate each row's target."""
    counts = dict(zip(domain.item_ids, domain.train_counts().tolist(), strict=True))

    def change(rows: pl.DataFrame) -> pl.DataFrame:
        chosen = [max(c, key=lambda item: counts[item]) for c in rows[CANDIDATES].to_list()]
        return rows.with_columns(pl.Series(TARGET, chosen))

    return change


def one_sentence(text: BaseException | str) -> str:
    """Check that an error is what a user should read, and give its text."""
    assert isinstance(text, RecCocktailError | str), repr(text)
    text = str(text).strip()
    assert text.endswith((".", "?")) and "\n" not in text and "Traceback" not in text, text
    assert 15 < len(text) < 500, text
    return text


def nearly(one: Any, other: Any, tolerance: float = 1e-5) -> bool:
    """Whether two JSON values are the same but for the last digits of their numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(nearly(one[k], other[k], tolerance) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(nearly, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= tolerance
    return bool(one == other)
