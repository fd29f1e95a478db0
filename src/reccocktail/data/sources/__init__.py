"""Readers of raw formats, one module a family; all give the same two tables."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import polars as pl

from reccocktail.data.columns import in_time_order
from reccocktail.data.registry import Format
from reccocktail.data.sources import amazon, complete_journey, movielens, recbole, steam
from reccocktail.errors import DataError
from reccocktail.storage import atomic_file

KINDS: tuple[str, ...] = get_args(Format)

_SINGLE: dict[str, Callable[[Path], tuple[pl.DataFrame, pl.DataFrame]]] = {
    "movielens": movielens.read_folder,
    "amazon": amazon.read_folder,
    "steam": steam.read_folder,
    "recbole": recbole.read_folder,
}


def read_source(path: Path, kind: str) -> dict[str, tuple[pl.DataFrame, pl.DataFrame]]:
    """Read a folder of raw files.

    Args:
        path: the folder.
        kind: one of `KINDS`.

    Returns:
        Interactions and items of each domain in the folder; the key of a single domain is ``""``.

    Raises:
        DataError: the kind is unknown, or the files are missing or not of that kind.
    """
    path = Path(path)
    if kind not in KINDS:
        raise DataError(f"There is no reader '{kind}'; choose one of {', '.join(KINDS)}.")
    if not path.is_dir():
        raise DataError(f"{path} is not a folder; give the folder that holds the raw files.")
    if kind == "complete_journey":
        return complete_journey.read_folder(path)
    return {"": _SINGLE[kind](path)}


def convert(path: Path, kind: str, out: Path) -> list[Path]:
    """Write raw files as `interactions.parquet` and `items.parquet`, ready for `prepare`.

    Args:
        path: the folder of raw files.
        kind: one of `KINDS`.
        out: where to write; a source of several domains gets a sub-folder for each.

    Returns:
        The folders that now hold the two files.

    Raises:
        DataError: as for `read_source`.
    """
    folders = []
    for name, (interactions, items) in read_source(path, kind).items():
        folder = Path(out) / name if name else Path(out)
        tables = ((in_time_order(interactions), "interactions.parquet"), (items, "items.parquet"))
        for frame, file in tables:
            with atomic_file(folder / file) as temporary:
                frame.write_parquet(temporary, compression="zstd", statistics=False)
        folders.append(folder)
    return folders
