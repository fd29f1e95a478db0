"""Write what `results/paper_table/` says into README and `docs/tables.md`, or check it.

    python benchmarks/publish.py RUN --command "..." --out results/paper_table
    python benchmarks/readme_table.py

The markers are `<!-- paper_table:start -->` and `<!-- paper_table:end -->`; what stands between
them is replaced by a picture of all rows and a table of some. `docs/tables.md` has everything.
`--check` writes nothing and fails if one of the two texts says something else.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from program import program
from reccocktail.errors import RunError
from reccocktail.evaluation.plots import save_png
from reccocktail.progress import say
from reccocktail.storage import atomic_file, read_json
from table_figure import gaps_figure
from table_page import PRIOR, markdown
from table_report import LETTERS, SHORT, overview, tables_of
from table_rows import ROWS as ALL_ROWS
from table_target import COLD, WARM

START, END = "<!-- paper_table:start -->", "<!-- paper_table:end -->"
ROWS = (
    *("popularity", "item-knn", "bpr", "sasrec", "gru4rec", "text-similarity", "backbone"),
    *("base_spirit", "ingredient", "average", "cocktail", "validation", "diluted", "second_round"),
    *("random_average", "ensemble", "oracle"),
)
"""The README's rows; all others stand in the picture and the results."""
TABLES = (WARM, COLD)
READING = """`average`: both adapters at one half; `validation`: coefficients by labelled users;
`second_round`: the base spirit trained on; `random_average`: noise in the base spirit's place;
`ensemble`: scores averaged, at double cost. In the picture an arrow lies further out, and grey
names are baselines and the single adapter.

With the popularity prior beside every row, weighed by validation users; 95 % intervals
over users and seeds; bold is the highest mean of a column. Cold items stand among negatives of the
whole catalogue, as in the paper. Arrows:
better or worse than a, the better single adapter, or b, the best baseline; shown if p < 0.05 both
over users and over target items (paired bootstrap), corrected for the number of rows (Holm). In the
picture the wider of the two intervals. All rows, metrics, costs, and cold items among cold ones \
alone, beside the paper's
figures, and what each row is: [docs/tables.md](docs/tables.md)."""
_ROOT = Path(__file__).parents[1]


def read_results(folder: Path) -> dict[str, Any]:
    """The published targets in one: `targets` by name, and the `commands` that made each."""
    found = [read_json(file) for file in sorted(folder.glob("*.json"))]
    targets = {name: target for one in found for name, target in one["targets"].items()}
    commands = {name: one["command"] for one in found for name in one["targets"]}
    return {"targets": targets, "commands": commands}


def rendered(result: Mapping[str, Any], picture: str) -> str:
    """The README's part: a picture, one table with the prior, and how to read them.

    Args:
        result: see `read_results`.
        picture: where the picture lies, from the README.
    """
    targets = result["targets"]
    blocks = [
        f"![What each row gains over the better single adapter]({picture})",
        overview(targets, TABLES, PRIOR, ROWS),
        " ".join(about(name, target) for name, target in targets.items()),
        READING,
    ]
    return "\n\n".join(blocks)


def about(name: str, target: Mapping[str, Any]) -> str:
    """How many users a target's columns have, and which rows their marks compare with."""
    said = []
    for table in (t for t in tables_of(target) if t in TABLES):
        found = target["tables"][table]
        references = found["views"][PRIOR]["references"]
        said.append(
            f"{SHORT[table]} n = {found['users']:,} users with {found['target_items']:,} "
            f"different targets, {', '.join(f'{LETTERS[k]} {r}' for k, r in references.items())}"
        )
    return f"{name}: {'; '.join(said)}.".replace("_", "\\_")


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
    parser.add_argument("--picture", type=Path, default=_ROOT / "docs" / "img" / "gaps.png")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args(arguments)
    result = read_results(args.results)
    former = args.readme.read_text(encoding="utf-8")
    picture = args.picture.relative_to(args.readme.parent).as_posix()
    wanted = {
        args.readme: inserted(former, rendered(result, picture)),
        args.page: full_page(result),
    }
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
    if not args.check:
        rows = [row.name for row in ALL_ROWS if row.kind != "oracle"]
        save_png(gaps_figure(result["targets"], PRIOR, rows), args.picture)


if __name__ == "__main__":
    program(main)
