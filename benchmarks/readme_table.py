"""Write what `results/paper_table/` says into README and `docs/tables.md`, or check it.

    python benchmarks/publish.py RUN --command "..." --out results/paper_table
    python benchmarks/readme_table.py

The markers are `<!-- paper_table:start -->` and `<!-- paper_table:end -->`; what stands between
them is replaced: one table a target. `docs/tables.md` has everything. `--check` writes nothing and
fails if one of the two says something else.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import program
from reccocktail.errors import RunError
from reccocktail.progress import say
from reccocktail.storage import atomic_file, read_json
from table_page import PRIOR, markdown
from table_report import LETTERS, SHORT, overview, tables_of

START, END = "<!-- paper_table:start -->", "<!-- paper_table:end -->"
ROWS = (
    *("popularity", "item-knn", "bpr", "sasrec", "gru4rec", "text-similarity", "backbone"),
    *("base_spirit", "ingredient", "average", "cocktail", "cocktail_calibrated", "cocktail_factor"),
    *("validation", "diluted", "second_round", "joint", "random_average", "ensemble", "oracle"),
)
"""The README's rows; all others stand in the results."""
READING = """With the popularity prior; 95 % intervals over users and seeds; bold is the highest
mean of a column. *Cold*: negatives of the whole catalogue, as in the paper; *cold among cold*:
all candidates are new, so that telling new from old is worth nothing. ↑ ↓: above or below a, the
better single adapter, or b, the best baseline (paired bootstrap over users and over target
items, Holm over the rows, both p < 0.05). All rows, metrics and costs, with the paper's figures:
[docs/tables.md](docs/tables.md)."""
_ROOT = Path(__file__).parents[1]


def read_results(folder: Path) -> dict[str, Any]:
    """The published targets in one: `targets` by name, and the `commands` that made each."""
    found = [read_json(file) for file in sorted(folder.glob("*.json"))]
    targets = {name: target for one in found for name, target in one["targets"].items()}
    commands = {name: one["command"] for one in found for name in one["targets"]}
    return {"targets": targets, "commands": commands}


def rendered(result: Mapping[str, Any]) -> str:
    """The README's part: one table a target, with the prior, and how to read them."""
    blocks = []
    for name, target in result["targets"].items():
        sizes = [(SHORT[table], target["tables"][table]) for table in tables_of(target)]
        said = (
            f"{t} n = {f['users']:,} users with {f['target_items']:,} different targets, "
            f"{f['candidates']} candidates"
            for t, f in sizes
        )
        blocks.append(f"**{name}** ({'; '.join(said)}):")
        blocks.append(overview(target, PRIOR, ROWS))
        blocks.append(better_adapters(target))
    blocks.append(READING)
    return "\n\n".join(blocks)


def better_adapters(target: Mapping[str, Any]) -> str:
    """Which rows the marks of a target's table compare with."""
    said = []
    for table in tables_of(target):
        references = target["tables"][table]["views"][PRIOR]["references"]
        said.append(
            f"{SHORT[table]}: " + ", ".join(f"{LETTERS[k]} {r}" for k, r in references.items())
        )
    return "; ".join(said).replace("_", "\\_") + "."


def full_page(result: Mapping[str, Any]) -> str:
    """`docs/tables.md`: all tables, views, metrics and costs, with the paper's figures."""
    made = (f"\n{name} was made by `{how}`.\n" for name, how in result["commands"].items())
    return markdown(result) + "".join(made)


def inserted(readme: str, text: str) -> str:
    """The README with `text` between its markers.

    Raises:
        RunError: there is not one pair of markers, in their order.
    """
    head, start, rest = readme.partition(START)
    _, end, tail = rest.partition(END)
    if not (start and end) or START in rest or END in head + tail:
        raise RunError(f"README.md needs one {START} and one {END} after it; put them in.")
    return f"{head}{START}\n\n{text}\n\n{END}{tail}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=_ROOT / "results" / "paper_table")
    parser.add_argument("--readme", type=Path, default=_ROOT / "README.md")
    parser.add_argument("--page", type=Path, default=_ROOT / "docs" / "tables.md")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args(arguments)
    result = read_results(args.results)
    former = args.readme.read_text(encoding="utf-8")
    wanted = {args.readme: inserted(former, rendered(result)), args.page: full_page(result)}
    for file, text in wanted.items():
        if file.exists() and file.read_text(encoding="utf-8") == text:
            say(f"{file.name} says what {args.results.name} says.")
        elif args.check:
            raise RunError(
                f"{file.name} says something else than {args.results.name}; "
                "run python benchmarks/readme_table.py."
            )
        else:
            with atomic_file(file) as temporary:
                temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    program(main)
