"""Published tables with rows made anew, or figures computed anew: from ranks alone, no training.

    python benchmarks/paper_table.py ... --rows sasrec gru4rec --out RUN
    python benchmarks/table_again.py RUN --published results/paper_table --target PREPARED [...]
    python benchmarks/publish.py RUN --command "..." --out results/paper_table

Rows that RUN holds take the place of the published ones of that name, the others are published
ones, and all intervals, differences and marks come from every user's ranks again. Rows of RUN must
be judged on the same users. The published adapters are not needed, and not even their backbone.
`--compare base_spirit text-similarity` says how two rows differ, without an adjusted p-value;
`--differences FILE` keeps it.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch

from cells import SHEET_FILE, published_cells, read_cell, require_alike, write_cell
from program import program
from provenance import command, machine, write_result
from reccocktail.data.domain import Domain
from reccocktail.errors import RunError
from reccocktail.progress import say
from reccocktail.schema import TARGET, USER
from reccocktail.storage import read_json
from study import judged_rows
from table_page import write_all
from table_report import HEADLINE, Cells, difference_in_words, differences, summary
from table_rows import BY_NAME, ROWS
from table_target import SCENARIO


def again(
    domain: Domain,
    former: Mapping[str, Any],
    file: Path,
    out: Path,
    pairs: Sequence[Sequence[str]] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A target's tables, with the rows that were in `out` before its published cells.

    Beside them, how the `pairs` differ: table, names, view.

    Args:
        domain: the target, prepared as it was.
        former: the published figures.
        file: the published cells.
        out: the target's folder in the run.
        pairs: rows whose difference is said and returned.

    Raises:
        RunError: the data are others, or a cell of the run was made for other users.
    """
    found: dict[str, Any] = former["targets"][domain.name]
    if found["data"]["sha256"] != domain.sha256:
        raise RunError(
            f"{domain.name} is not prepared as it was for {file}; prepare it with the settings and "
            "the version of RecCocktail named there."
        )
    sizes = ("users", "validation_users", "adaptation_users")
    _, rows = judged_rows(domain, *(former["settings"][name] for name in sizes))
    tables = {t: rows[f"test_{SCENARIO[t]}"] for t in found["tables"]}
    wanted = {name.replace("_", "-"): former["settings"][name] for name in sizes}
    wanted["data"] = domain.sha256
    published: dict[Path, tuple[dict[str, Any], pl.DataFrame]] = {}
    for sheet, ranks in published_cells(file):
        seed = f"seed-{sheet['seed']}" if BY_NAME[sheet["row"]].seeded else "every-seed"
        published[out / sheet["row"] / seed / sheet["table"]] = sheet, ranks
    own: set[str] = set()
    for place in sorted(out.rglob(SHEET_FILE)):
        sheet = read_json(place)
        require_alike(place.parent, sheet["identity"], wanted)
        if place.parent not in published or sheet != published[place.parent][0]:
            own.add(sheet["row"])  # and no copy of a former call
    for folder, (sheet, ranks) in published.items():
        if sheet["row"] not in own and not (folder / SHEET_FILE).exists():
            write_cell(folder, ranks.insert_column(0, tables[sheet["table"]][USER]), sheet)
    cells = {table: (_cells(out, table), of[TARGET].to_list()) for table, of in tables.items()}
    gaps: dict[str, Any] = {}
    for table, (of_table, items) in cells.items():
        for pair in pairs:
            if set(pair) <= set(of_table):
                name = " less ".join(pair)
                views = gaps.setdefault(table, {})[name] = differences(of_table, items, pair)
                for view, gap in views.items():
                    words = difference_in_words(gap)
                    say(f"{domain.name}, {table}, {view}: {name} {words}")
    return found | {"tables": {t: summary(*both) for t, both in cells.items()}}, gaps


def _cells(out: Path, table: str) -> Cells:
    """All of a target's cells of one table, by row, seeds in their order."""
    found: dict[str, list[tuple[dict[str, Any], pl.DataFrame]]] = {}
    for row in ROWS:
        cells = [read_cell(sheet.parent) for sheet in (out / row.name).glob(f"*/{table}/cell.json")]
        if cells:
            found[row.name] = sorted(cells, key=lambda cell: cell[0]["seed"] or 0)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--target", type=Path, action="append", required=True)
    parser.add_argument("--compare", nargs=2, metavar="ROW", action="append", default=[],
                        help="print the first row less the second, in every table")  # fmt: skip
    parser.add_argument("--differences", type=Path, help="also write what --compare says there")
    args = parser.parse_args(arguments)
    targets: dict[str, Any] = {}
    gaps: dict[str, Any] = {}
    former: dict[str, Any] = {}
    for path in args.target:
        domain = Domain.load(path)
        former = read_json(args.published / f"{domain.name}.json")
        file = args.published / f"{domain.name}.parquet"
        targets[domain.name], gaps[domain.name] = again(
            domain, former, file, args.run / domain.name, args.compare
        )
    made = {"command": command(), **machine(torch.device("cpu"))}
    if args.differences:
        write_result(args.differences, {"metric": HEADLINE, "targets": gaps, **made})
    write_all(args.run, former | {"targets": targets, "figures_made_anew": made})


if __name__ == "__main__":
    program(main)
