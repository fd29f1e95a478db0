"""Put a run into results/, without user ids; its Markdown table is printed.

    python benchmarks/publish.py RUN --command "make quickstart" --out results/quickstart.json
    python benchmarks/publish.py RUN --command "..." --out results/paper_table

RUN holds `evaluation/` and the cocktails beside it, and becomes one JSON file; or it is a run of
`paper_table.py` or `few_shot.py`, and `--out` is a folder: each target's figures become a JSON file
there, and its cells (every user's ranks) a Parquet file from which others can go on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cells import SHEET_FILE, publish_cells
from few_shot_report import gains
from program import program
from reccocktail.evaluation.results import metrics_table, read_metrics
from reccocktail.storage import read_json, write_json
from table_page import markdown

STUDIES = {"paper_table.json": markdown, "few_shot.json": gains}
"""What a study writes, and the Markdown of it."""


def publish_study(run: Path, file: str, command: str, out: Path) -> dict[str, Any]:
    """Put each target of a study's run into a folder of results; other targets stay."""
    result: dict[str, Any] = read_json(run / file) | {"command": command}
    for name, target in result["targets"].items():
        cells = sorted(sheet.parent for sheet in (run / name).rglob(SHEET_FILE))
        publish_cells(cells, out / f"{name}.parquet")
        write_json(out / f"{name}.json", result | {"targets": {name: target}})
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--command", required=True, help="the command that made the run")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    study = next((file for file in STUDIES if (args.run / file).exists()), None)
    if study:
        table = STUDIES[study](publish_study(args.run, study, args.command, args.out))
    else:
        folder = args.run / "evaluation"
        metrics = read_metrics(folder)
        cocktails = read_json(folder / "cocktails.json")
        for cocktail in cocktails:
            del cocktail["adaptation"]["user_ids"]
        run = read_json(folder / "run.json") | {"command": args.command}
        write_json(args.out, {"metrics": metrics, "run": run, "cocktails": cocktails})
        table = metrics_table(metrics)
    Console().print(table, markup=False, soft_wrap=True)


if __name__ == "__main__":
    program(main)
