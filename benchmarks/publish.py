"""Put an evaluation into results/: one JSON file without user ids, and its Markdown table.

    python benchmarks/publish.py RUN --command "make quickstart" --out results/quickstart.json

RUN holds `evaluation/` and the cocktails beside it. The table goes to standard output.
"""

import argparse
from pathlib import Path

from rich.console import Console

from reccocktail.evaluation.results import metrics_table, read_metrics
from reccocktail.storage import read_json, write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--command", required=True, help="the command that made the run")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    folder = args.run / "evaluation"
    metrics = read_metrics(folder)
    cocktails = read_json(folder / "cocktails.json")
    for cocktail in cocktails:
        del cocktail["adaptation"]["user_ids"]
    run = read_json(folder / "run.json") | {"command": args.command}
    write_json(args.out, {"metrics": metrics, "run": run, "cocktails": cocktails})
    Console().print(metrics_table(metrics), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
