"""Cells of `paper_table.py` (a row, seed and table of one target), in folders or published.

A folder holds every user's ranks and a sheet. The published file of a target holds all its cells,
without user ids: whoever prepares the same data has the same users in the same order.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from few_shot_report import RANKS_FILE
from reccocktail.schema import USER
from reccocktail.storage import atomic_file, read_json, write_json
from table_rows import ROWS

SHEET_FILE = "cell.json"
_COMPRESSION_LEVEL = 19  # the files are read for years and written once


def cell_folder(out: Path, row: str, seed: int | None, table: str) -> Path:
    """Folder of a cell in a target's; `seed` is None where it decides nothing."""
    return out / row / ("every-seed" if seed is None else f"seed-{seed}") / table


def write_cell(folder: Path, ranks: pl.DataFrame, sheet: Mapping[str, Any]) -> None:
    """Write a cell: last the sheet, which makes it whole.

    Args:
        folder: of the cell.
        ranks: `user_id`, and a column of ranks for each view.
        sheet: what the cell says of itself, with all that decides it as `identity`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / RANKS_FILE) as temporary:
        ranks.write_parquet(temporary)
    write_json(folder / SHEET_FILE, dict(sheet))


def read_cell(folder: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """Sheet and ranks of a finished cell."""
    return read_json(folder / SHEET_FILE), pl.read_parquet(folder / RANKS_FILE)


def publish_cells(out: Path, tables: Sequence[str], file: Path) -> None:
    """Write all finished cells of a target's folder into one file.

    Columns: `row`, `seed` (null where it decides nothing), `table`, `sheet` (JSON), and a list of
    the users' ranks for each view, in the order of the target's rows.
    """
    lines = [
        _line(*read_cell(sheet.parent))
        for row in ROWS
        for sheet in sorted((out / row.name).glob(f"*/*/{SHEET_FILE}"))
        if sheet.parent.name in tables
    ]
    with atomic_file(file) as temporary:
        pl.concat(lines).write_parquet(temporary, compression_level=_COMPRESSION_LEVEL)


def _line(sheet: Mapping[str, Any], ranks: pl.DataFrame) -> pl.DataFrame:
    facts = {name: sheet[name] for name in ("row", "seed", "table")}
    text = {"sheet": json.dumps(sheet, sort_keys=True)}
    line = pl.DataFrame(facts | text, schema_overrides={"seed": pl.Int64})
    return line.hstack(ranks.drop(USER).select(pl.all().cast(pl.UInt16).implode()))


def published_cells(
    file: Path, users: Mapping[str, pl.Series]
) -> Iterator[tuple[dict[str, Any], pl.DataFrame]]:
    """Sheet and ranks of each published cell of the tables in `users`, which has their ids."""
    for line in pl.read_parquet(file).iter_rows(named=True):
        sheet = json.loads(line.pop("sheet"))
        if sheet["table"] in users:
            views = {name: ranks for name, ranks in line.items() if isinstance(ranks, list)}
            if all(len(ranks) == len(users[sheet["table"]]) for ranks in views.values()):
                ids = {USER: users[sheet["table"]]}
                yield sheet, pl.DataFrame(ids | views)
