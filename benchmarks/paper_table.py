"""The paper's two tables, with the controls: from prepared folders to figures with intervals.

    python benchmarks/paper_table.py --target PREPARED [--target ...] --base base_spirit \
        --minutes 60 --seeds 3 --out RUN

Warm, cold with the paper's negatives, and cold with cold negatives alone; baselines, both adapters,
cocktails, controls and the oracle, all on the same users. A cell is a target, a row, a seed and a
table, in RUN/TARGET/ROW/SEED/TABLE; finished cells are taken as they are, and the same command goes
on after a stop, or with `--published results/paper_table` on another machine. A cell of other
settings is refused. Nothing is chosen by test labels but the oracle. Writes paper_table.json,
paper_table.md, paper_table.html and a picture a target.
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import polars as pl
from rich.console import Console

from arguments import asked_backbone, backbone_arguments, recipe_argument, study_parser
from cells import SHEET_FILE, finished, published_cells, read_cell, take_cells, write_cell
from program import program
from provenance import environment
from reccocktail.data.columns import as_interactions
from reccocktail.data.domain import Domain
from reccocktail.data.tables import read_table
from reccocktail.errors import RecCocktailError, RunError
from reccocktail.progress import say
from reccocktail.schema import CANDIDATES, SPLIT, TARGET, USER, RankerName
from reccocktail.spirits import resolve
from reccocktail.storage import sha256_file
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import check_compatible
from study import target_recipe
from table_bench import Bench
from table_page import write_all
from table_report import Cells, summary
from table_rows import BASE, BY_NAME, ROWS, WORK, Row
from table_target import COLD_ONLY, NEGATIVES, Sizes, Target, cell_of

REPORT_SECONDS = 600.0  # between two writings of the tables while cells are made


def run(benches: Sequence[Sequence[Bench]], rows: Sequence[str], report: "Report") -> None:
    """Make every cell that is missing: all targets' rows of one seed before the next seed's."""
    for number, of_seed in enumerate(zip(*benches, strict=True)):
        for name in (name for name in WORK if name in rows):
            for bench in of_seed:
                if BY_NAME[name].seeded or number == 0:
                    make(bench, BY_NAME[name], report)
                    report.write(now=False)


def make(bench: Bench, row: Row, report: "Report") -> None:
    """Make a row's missing cells of one target and seed."""
    target = bench.target
    identities = {table: identity(bench, row, table) for table in target.rows}
    missing = [
        table
        for table, facts in identities.items()
        if not finished(place(target, row, bench.seed, table) / SHEET_FILE, facts)
    ]
    if not missing or row.name in report.skipped[target.domain.name]:
        return
    say(f"{target.domain.name}, seed {bench.seed}: {row.name}")
    try:
        found = bench.judge(row.name)
    except RecCocktailError as error:
        if not row.optional or row.name in report.wanted:
            raise
        report.skipped[target.domain.name][row.name] = str(error)
        say(f"{row.name} is left out: {error}")
        return
    for table in missing:
        sheet = {
            "identity": identities[table],
            "row": row.name,
            "seed": bench.seed if row.seeded else None,
            "table": table,
            "chosen": found[table]["chosen"],
            "cost": found[table]["cost"],
        }
        ranks, sheet = cell_of(target, table, found[table], sheet)
        write_cell(place(target, row, bench.seed, table), ranks, sheet)


def place(target: Target, row: Row, seed: int, table: str) -> Path:
    """Folder of a cell."""
    return target.out / row.name / (f"seed-{seed}" if row.seeded else "every-seed") / table


def identity(bench: Bench, row: Row, table: str) -> dict[str, Any]:
    """All that decides a cell, by name."""
    facts = bench.target.facts(table, row.name)
    facts |= {"seed": bench.seed} if row.seeded else {}
    return facts | ({"sources": [s.sha256 for s in bench.sources]} if row.name == "joint" else {})


class Report:
    """The files in RUN, from whatever cells are finished."""

    def __init__(
        self,
        benches: Sequence[Sequence[Bench]],
        wanted: Sequence[str],
        more: Mapping[str, Any],
        out: Path,
    ) -> None:
        """Take what the files say beside the cells; `wanted` are the rows asked for by name."""
        self._benches, self._more, self._out = benches, dict(more), out
        self.wanted = wanted
        self.skipped: dict[str, dict[str, str]] = {
            of_target[0].target.domain.name: {} for of_target in benches
        }
        self._written = time.monotonic()

    def write(self, now: bool) -> None:
        """Write all files, unless that was done in the last ten minutes and it is not `now`."""
        if not now and time.monotonic() - self._written < REPORT_SECONDS:
            return
        targets = {}
        for of_target in self._benches:
            target = of_target[0].target
            tables = {
                table: summary(cells, target.rows[table][TARGET].to_list())
                for table in target.rows
                if (cells := self._cells(of_target, table))
            }
            if tables:
                targets[target.domain.name] = {
                    "data": {"sha256": target.domain.sha256},
                    "tables": tables,
                    "cold_only": cold_only_facts(target),
                    "skipped": self.skipped[target.domain.name],
                }
        if targets:
            write_all(self._out, {"benchmark": "paper_table", "targets": targets, **self._more})
        self._written = time.monotonic()

    def _cells(self, of_target: Sequence[Bench], table: str) -> Cells:
        """Finished cells by row, those of an earlier command's rows among them."""
        found: dict[str, list[tuple[dict[str, Any], pl.DataFrame]]] = {}
        for row in ROWS:
            for bench in of_target if row.seeded else of_target[:1]:
                folder = place(bench.target, row, bench.seed, table)
                if not (folder / SHEET_FILE).exists():
                    continue
                sheet, ranks = read_cell(folder)
                if bench.target.made_alike(sheet):
                    found.setdefault(row.name, []).append((sheet, ranks))
        return found


def published(target: Target, file: Path) -> Iterator[tuple[Path, dict[str, Any], pl.DataFrame]]:
    """Folder, sheet and ranks of the published cells that were made with these settings."""
    for sheet, ranks in published_cells(file):
        table = sheet["table"]
        if table in target.rows and target.made_alike(sheet):
            folder = place(target, BY_NAME[sheet["row"]], sheet["seed"], table)
            yield folder, sheet, ranks.insert_column(0, target.rows[table][USER])


def cold_only_facts(target: Target) -> dict[str, Any] | None:
    """How many cold negatives there are, of how many cold items, and what was known of users."""
    if COLD_ONLY not in target.rows:
        return None
    rows = target.domain.rows("test_cold")
    return {
        "negatives": target.rows[COLD_ONLY][CANDIDATES].list.len()[0] - 1,
        "asked": rows[CANDIDATES].list.len()[0] - 1,
        "cold_items": int((target.domain.items[SPLIT] == "test_cold").sum()),
        "interactions": target.interactions,
    }


def raw_interactions(files: Mapping[Path, str], domain: Domain) -> tuple[str, pl.DataFrame] | None:
    """Of files and their hashes, the one that the domain was prepared from, by its manifest."""
    wanted = domain.manifest["inputs"]["interactions"]["sha256"]
    for file, found in files.items():
        if found == wanted:
            return wanted, as_interactions(read_table(file), file.name)
    return None


def require_used(files: Mapping[Path, str], domains: Sequence[Domain]) -> None:
    """Refuse a file of interactions that no target was prepared from.

    Raises:
        RunError: names the file.
    """
    known = {d.manifest["inputs"]["interactions"]["sha256"] for d in domains}
    for file, found in files.items():
        if found not in known:
            raise RunError(
                f"{file} is not the file that any target was prepared from; "
                "give that one as --interactions, or leave it out."
            )


def check(args: argparse.Namespace, base: Adapter) -> None:
    """Refuse what cannot be run.

    Raises:
        RunError: names what to change.
    """
    if args.ranker and args.ranker != base.card.recipe.ranker:
        raise RunError(
            f"The base spirit ranks by {base.card.recipe.ranker}, not by {args.ranker}; "
            "give one that was trained for it as --base, or leave --ranker out."
        )
    for name in args.rows or ():
        if name not in BY_NAME:
            raise RunError(f"There is no row '{name}'; choose of {', '.join(BY_NAME)}.")
    if "joint" in (args.rows or ()) and not args.source:
        raise RunError("Joint training needs the base spirit's domains; give them as --source.")
    least = {
        "--seeds": args.seeds,
        "--users": args.users,
        "--adaptation-users": args.adaptation_users,
    }
    for flag, value in least.items():
        if value < 1:
            raise RunError(f"{flag} is {value} and must be at least 1.")
    for file in args.interactions:
        if not file.is_file():
            raise RunError(f"{file} does not exist; check the path given as --interactions.")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = study_parser(__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="of each training; 60 if left out")
    length.add_argument("--steps", type=int, help="of each training; repeats exactly")
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, ...")
    parser.add_argument("--first-seed", type=int, default=0,
                        help="another start, so that seeds can be made side by side")  # fmt: skip
    parser.add_argument("--users", type=int, default=2000, help="scored users a scenario")
    parser.add_argument("--validation-users", type=int, default=200)
    parser.add_argument("--adaptation-users", type=int, default=50)
    parser.add_argument("--ranker", choices=get_args(RankerName))
    parser.add_argument("--rows", nargs="+", metavar="ROW", help=f"of {', '.join(BY_NAME)}")
    parser.add_argument("--cold-negatives", choices=tuple(NEGATIVES), default="both")
    parser.add_argument("--interactions", type=Path, action="append", default=[],
                        help="a target's raw interactions, for exact cold negatives")  # fmt: skip
    parser.add_argument("--source", type=Path, action="append", default=[],
                        help="a domain of the base spirit, for the row 'joint'")  # fmt: skip
    parser.add_argument("--published", type=Path,
                        help="folder of published tables to go on from")  # fmt: skip
    recipe_argument(parser)
    backbone_arguments(parser)
    args = parser.parse_args(arguments)
    base = replace(Adapter.load(resolve(args.base)), name=BASE)
    check(args, base)
    recipe = target_recipe(base, args.recipe)
    backbone = asked_backbone(args, recipe)
    check_compatible([base], backbone)
    minutes = args.minutes if args.steps or args.minutes else 60.0
    sizes = Sizes(minutes, args.steps, args.users, args.validation_users, args.adaptation_users)
    sources = [Domain.load(path) for path in args.source]
    domains = [Domain.load(path) for path in args.target]
    files = {file: sha256_file(file) for file in args.interactions}
    require_used(files, domains)
    benches = []
    for domain in domains:
        raw, out = raw_interactions(files, domain), args.out / domain.name
        tables = NEGATIVES[args.cold_negatives]
        target = Target(domain, base, recipe, backbone, sizes, tables, raw, out)
        if args.published and (file := args.published / f"{domain.name}.parquet").exists():
            take_cells(domain.name, published(target, file))
        benches.append(
            [Bench(target, args.first_seed + number, sources) for number in range(args.seeds)]
        )
    names = [domain.name for domain in domains]
    if len(set(names)) < len(names):
        raise RunError(
            f"Two targets have one name ({', '.join(names)}); prepare one under another."
        )
    machine = environment(backbone, domains[0])
    settings = recipe.relevant()
    del machine["data"], settings["backbone"]  # which may be a path; its hash stands in the machine
    more = {
        "base_spirit": {"sha256": base.sha256, "steps": base.card.steps},
        "settings": {
            **asdict(sizes),
            "seeds": args.seeds,
            "ranker": recipe.ranker,
            "recipe_sha256": recipe.sha256,
            "recipe": settings,
        },
        **machine,
    }
    rows = args.rows or [row.name for row in ROWS if row.name != "joint" or sources]
    report = Report(benches, args.rows or (), more, args.out)
    run(benches, rows, report)
    report.write(now=True)
    text = (args.out / "paper_table.md").read_text(encoding="utf-8")
    Console().print(text, markup=False, soft_wrap=True)


if __name__ == "__main__":
    program(main)
