"""Cells of resumable studies: every user's ranks with a sheet, in folders or published.

The published file of a target holds all its cells without user ids: whoever prepares the same data
has the same users in the same order.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from reccocktail.backbone import Backbone
from reccocktail.errors import RunError
from reccocktail.progress import say
from reccocktail.schema import USER
from reccocktail.storage import atomic_file, read_json, write_json

SHEET_FILE, RANKS_FILE = "cell.json", "ranks.parquet"
_COMPRESSION_LEVEL = 19  # the files are read for years and written once


def finished(file: Path, identity: str | dict[str, Any]) -> dict[str, Any] | None:
    """What a finished cell wrote, or None if the cell is still to be done.

    Args:
        file: the cell's sheet.
        identity: all that decides a cell, as a hash, or by name so that a refusal can say what is
            another.

    Raises:
        RunError: the cell was made with other settings or data.
    """
    if not file.exists():
        return None
    found: dict[str, Any] = read_json(file)
    former = found["identity"]
    if former != identity:
        names: list[str] = []
        if isinstance(identity, dict) and isinstance(former, dict):
            names = [name for name in (former | identity) if former.get(name) != identity.get(name)]
        raise other_settings(file.parent, names)
    return found


def require_alike(file: Path, former: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse what was kept of other settings or data, by what it says of itself.

    Files from before something was said do not say it, and are taken.

    Raises:
        RunError: names what differs.
    """
    names = [name for name in asked if name in former and former[name] != asked[name]]
    if names:
        raise other_settings(file, names)


def other_settings(place: Path, names: Sequence[str]) -> RunError:
    """The refusal of what lies at `place`; `names` are those of the settings that differ."""
    which = f" ({', '.join(names)})" if names else ""
    return RunError(
        f"{place} was made with other settings or data{which}; "
        "give the same ones, or another --out."
    )


def precision_facts(backbone: Backbone, precision: str | None = None) -> dict[str, str]:
    """What a precision, by default the backbone's, adds to the identity of its cells.

    Nothing where all is float32: cells from before there was a choice keep theirs.
    """
    products = precision or backbone.precision
    facts = {"precision": products, "dtype": replace(backbone, autocast=None).precision}
    return {name: value for name, value in facts.items() if value != "float32"}


def write_cell(folder: Path, ranks: pl.DataFrame, sheet: Mapping[str, Any]) -> None:
    """Write a cell: last the sheet, which makes it whole.

    Args:
        folder: of the cell.
        ranks: `user_id`, columns of ranks, and of what tells several ranks of a user apart.
        sheet: what the cell says of itself, with all that decides it as `identity`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / RANKS_FILE) as temporary:
        ranks.write_parquet(temporary)
    write_json(folder / SHEET_FILE, dict(sheet))


def read_cell(folder: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """Sheet and ranks of a finished cell."""
    return read_json(folder / SHEET_FILE), pl.read_parquet(folder / RANKS_FILE)


def publish_cells(folders: Sequence[Path], file: Path) -> None:
    """Write cells into one file: a row each, the sheet as JSON and lists of all but the users."""
    lines = []
    for sheet, ranks in map(read_cell, folders):
        lists = ranks.drop(USER).select(pl.col(pl.Int64).cast(pl.UInt16), pl.col(pl.String))
        line = pl.DataFrame({"sheet": json.dumps(sheet)})
        lines.append(line.hstack(lists.select(pl.all().implode())))
    with atomic_file(file) as temporary:
        pl.concat(lines).write_parquet(temporary, compression_level=_COMPRESSION_LEVEL)


def take_cells(name: str, cells: Iterable[tuple[Path, dict[str, Any], pl.DataFrame]]) -> None:
    """Put published cells of a target where a run has none, to go on from there, and say so.

    Args:
        name: of the target.
        cells: folder, sheet and ranks, with users, of each cell of the run's settings.
    """
    missing = [cell for cell in cells if not (cell[0] / SHEET_FILE).exists()]
    for folder, sheet, ranks in missing:
        write_cell(folder, ranks, sheet)
    say(f"{name}: took {len(missing)} published cells of these settings.")


def published_cells(file: Path) -> Iterator[tuple[dict[str, Any], pl.DataFrame]]:
    """Sheet and ranks, which lack the users, of each published cell."""
    for line in pl.read_parquet(file).iter_rows(named=True):
        sheet = json.loads(line.pop("sheet"))
        yield sheet, pl.DataFrame(line)
