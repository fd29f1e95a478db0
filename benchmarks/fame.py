"""Does the likelihood of the next title know the user, or only the title's fame?

    python benchmarks/fame.py --target PREPARED --run RUN --out results/fame.json

RUN is a run of `zero_shot.py`, whose users are ranked for once more by the bare backbone with the
ranker `title`, but behind no history at all: how likely is the title by itself? Beside it stands
what the same backbone made of each user's history, and the difference, user by user, with intervals
over users and over target items.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from numpy.typing import NDArray
from rich.console import Console

from arguments import asked_backbone, backbone_arguments
from cells import RANKS_FILE
from program import program
from provenance import environment, write_result
from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain
from reccocktail.errors import RunError
from reccocktail.evaluation.metrics import mean_in_words, per_user, ranks, summarise
from reccocktail.evaluation.significance import paired_bootstrap
from reccocktail.progress import bar
from reccocktail.ranking.scoring import positive_columns
from reccocktail.ranking.title import TitleRanker
from reccocktail.recipe import Recipe
from reccocktail.schema import CANDIDATES, SCENARIOS, TARGET, USER
from reccocktail.training.model import scoring
from spreads import gap_in_words
from zero_shot import TITLES

CHUNK = 64  # titles behind one reading of the prefix


def by_themselves(target: Domain, items: Sequence[int], backbone: Backbone) -> dict[int, float]:
    """Score of each item's title as the first line of a history."""
    recipe = Recipe(ranker="title")
    ranker = TitleRanker(backbone.tokenizer, recipe.prompt, recipe.title)
    found: dict[int, float] = {}
    with scoring(backbone, None) as model, bar("Titles by themselves", len(items)) as advance:
        for start in range(0, len(items), CHUNK):
            some = list(items[start : start + CHUNK])
            titles = ranker.titles([target.titles[item] for item in some])
            batch = ranker.ranking_batch([[]], [list(range(len(some)))], titles)
            with torch.no_grad():
                scores = ranker.scores(model, {k: v.to(backbone.device) for k, v in batch.items()})
            found |= dict(zip(some, scores[0].double().tolist(), strict=True))
            advance(len(some))
    return found


def judge(target: Domain, backbone: Backbone, run: Path) -> dict[str, Any]:
    """Figures of each scenario of a target."""
    rows = {}
    for scenario in SCENARIOS:
        file = run / target.name / scenario / RANKS_FILE
        if not file.is_file():
            raise RunError(f"{file} is missing; run zero_shot.py on {target.name} first.")
        kept = pl.read_parquet(file).filter(model=TITLES, view="model alone")
        rows[scenario] = kept.join(target.rows(f"test_{scenario}"), on=USER, maintain_order="left")
    asked = {item for table in rows.values() for row in target.numbers(table, CANDIDATES)
             for item in row}  # fmt: skip
    alone = by_themselves(target, sorted(asked), backbone)
    found = {}
    for scenario, table in rows.items():
        scores: list[NDArray[Any]] = [
            pl.Series([alone[item] for item in row]).to_numpy()
            for row in target.numbers(table, CANDIDATES)
        ]
        values = {
            "behind the history": per_user(table["rank"].to_numpy()),
            "by themselves": per_user(ranks(scores, positive_columns(table))),
        }
        gap = paired_bootstrap(*values.values())
        over = paired_bootstrap(*values.values(), groups=table[TARGET].to_list())
        for name, of in over.items():
            gap[name]["ci95_over_items"] = of["ci95"]
        found[scenario] = {
            "users": table.height,
            "target_items": table[TARGET].n_unique(),
            "models": {name: summarise(of) for name, of in values.items()},
            "what the history adds": gap,
        }
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", type=Path, action="append", required=True)
    parser.add_argument("--run", type=Path, required=True, help="of zero_shot.py")
    parser.add_argument("--out", type=Path)
    backbone_arguments(parser)
    args = parser.parse_args(arguments)
    backbone = asked_backbone(args, Recipe())
    targets: dict[str, Any] = {}
    for path in args.target:
        target = Domain.load(path)
        machine = environment(backbone, target)
        data = machine.pop("data")
        targets[target.name] = {"data": data, "scenarios": judge(target, backbone, args.run)}
        for scenario, cell in targets[target.name]["scenarios"].items():
            means = [f"{n} {mean_in_words(m, 'ndcg@10')}" for n, m in cell["models"].items()]
            gap = gap_in_words(cell["what the history adds"]["ndcg@10"])
            Console().print(f"{target.name}, {scenario}: NDCG@10 {', '.join(means)}; less: {gap}")
        if args.out:
            write_result(args.out, {"targets": targets, **machine})


if __name__ == "__main__":
    program(main)
