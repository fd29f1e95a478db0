"""Write the README's table of `results/paper_table.json` between its markers, or check it.

    python benchmarks/publish.py RUN --command "..." --out results/paper_table.json
    python benchmarks/readme_table.py

The markers are `<!-- paper_table:start -->` and `<!-- paper_table:end -->`; what stands between
them is replaced. `--check` writes nothing and fails if the README says something else.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import program
from reccocktail.errors import RunError
from reccocktail.progress import say
from reccocktail.storage import atomic_file, read_json
from table_page import PRIOR, cold_remark
from table_report import TITLES, markdown_table, note, tables_of

START, END = "<!-- paper_table:start -->", "<!-- paper_table:end -->"
METRICS = ("ndcg@1", "ndcg@3", "ndcg@10")
ROWS = (
    *("popularity", "item-knn", "bpr", "sasrec", "gru4rec", "text-similarity", "backbone"),
    *("base_spirit", "ingredient", "average", "cocktail", "cocktail_factor", "second_round"),
    *("joint", "random_average", "ensemble", "oracle"),
)
"""The README's rows; all others stand in the results."""
_ROOT = Path(__file__).parents[1]


def rendered(result: Mapping[str, Any]) -> str:
    """The README's part: each target's tables, with the prior, and their notes."""
    blocks = []
    for name, target in result["targets"].items():
        for table in tables_of(target):
            found = target["tables"][table]
            view = found["views"][PRIOR]
            blocks.append(f"**{name}**, {TITLES[table]}:")
            blocks.append(markdown_table(name, table, view, METRICS, ROWS))
            blocks.append(note(found, view, name, table))
        if remark := cold_remark(target):
            blocks.append(remark)
    if command := result.get("command"):
        blocks.append(f"Made by `{command}`.")
    return "\n\n".join(blocks)


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
    parser.add_argument("--results", type=Path, default=_ROOT / "results" / "paper_table.json")
    parser.add_argument("--readme", type=Path, default=_ROOT / "README.md")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args(arguments)
    former = args.readme.read_text(encoding="utf-8")
    text = inserted(former, rendered(read_json(args.results)))
    if text == former:
        say(f"{args.readme.name} says what {args.results.name} says.")
    elif args.check:
        raise RunError(
            f"{args.readme.name} says something else than {args.results.name}; "
            "run python benchmarks/readme_table.py."
        )
    else:
        with atomic_file(args.readme) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    program(main)
