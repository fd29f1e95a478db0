"""Put a run into results/: one JSON file without user ids; its Markdown table is printed.

    python benchmarks/publish.py RUN --command "make quickstart" --out results/quickstart.json

RUN holds `evaluation/` and the cocktails beside it, or it is a run of `paper_table.py`, whose
figures are taken as they are.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from reccocktail.evaluation.results import metrics_table, read_metrics
from reccocktail.storage import read_json, write_json
from table_page import markdown

PAPER_TABLE = "paper_table.json"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--command", required=True, help="the command that made the run")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    if (args.run / PAPER_TABLE).exists():
        result = read_json(args.run / PAPER_TABLE) | {"command": args.command}
        write_json(args.out, result)
        table = markdown(result)
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
    main()
