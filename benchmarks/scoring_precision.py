"""How much faster is scoring in bfloat16 on this CPU, and what does the rounding change?

    python benchmarks/scoring_precision.py --data PREPARED --adapter ADAPTER [--users 200] \
        [--out results/scoring_precision.json]

The same test users are scored in float32 and in bfloat16 (`--precision` of the commands) in turns:
in every round both precisions score the same share of the users, with the item vectors that are
still missing. No cache is read. Of the scores there are the largest and the mean difference, the
agreement of every user's ten best, and NDCG@10 with a paired interval, by text alone. With
--full-catalogue, the ten best of the whole catalogue agree so or so too, which no clock counts.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.table import Table

from agreement import agreement, score_difference
from costs import seconds
from program import program
from provenance import environment, write_result
from reccocktail.backbone import Backbone, load_backbone
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.errors import RunError
from reccocktail.evaluation.metrics import FloatArray, per_user, ranks, summarise
from reccocktail.evaluation.significance import paired_bootstrap
from reccocktail.precision import bfloat16_is_fast
from reccocktail.ranking.base import Ranker
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.scoring import Catalogue, ItemVectors, encode, positive_columns, score
from reccocktail.schema import SCENARIOS
from reccocktail.spirits import resolve
from reccocktail.training.adapter import Adapter, Lora
from reccocktail.training.model import ranker_of, scoring
from spreads import gap_in_words, spread

EXACT, ROUNDED = "float32", "bfloat16"
METRIC = "ndcg@10"


@dataclass
class Side:
    """One precision's scores of the users so far, and what they cost.

    Attributes:
        scores: (candidates,) of each user.
        whole: (items,) of each user, if asked for.
        seconds: of each round.
        cpu_seconds: of each round, those of this process alone: others' load does not count.
    """

    backbone: Backbone
    lora: Lora
    catalogue: Catalogue[Ranker]
    scores: list[FloatArray] = field(default_factory=list)
    whole: list[FloatArray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Keep item vectors from round to round, in memory alone."""
        ranker = self.catalogue.ranker
        if isinstance(ranker, DenseRanker):
            self._dense = Catalogue(self.catalogue.domain, ranker, self.catalogue.tokens)
            self._items = ItemVectors(self._dense)

    def warm_up(self, rows: pl.DataFrame) -> None:
        """What only the first pass pays for; nothing of it is kept."""
        with scoring(self.backbone, self.lora) as model:
            score(model, self.catalogue, [rows], f"Warming up {self.backbone.precision}")

    def turn(self, rows: pl.DataFrame, label: str) -> None:
        """Score some users, with the clock running."""
        label = f"{label}, {self.backbone.precision}"
        with scoring(self.backbone, self.lora) as model:
            started = time.process_time()
            spent = seconds(lambda: self._score(model, rows, label), self.backbone.device)
            self.cpu_seconds.append(time.process_time() - started)
        self.seconds.append(spent)

    def _score(self, model: Any, rows: pl.DataFrame, label: str) -> None:
        ranker = self.catalogue.ranker
        if isinstance(ranker, DenseRanker):
            (vectors,) = encode(model, self._items, self._dense, [rows], label)
            self.scores += vectors.scores(ranker, self._dense.candidates(rows))
        else:
            (found,) = score(model, self.catalogue, [rows], label, entropy=False)
            self.scores += found.scores

    def rank_catalogue(self, rows: pl.DataFrame) -> None:
        """Score every item for every user."""
        label = f"The whole catalogue, {self.backbone.precision}"
        with scoring(self.backbone, self.lora) as model:
            (found,) = score(model, self.catalogue, [rows], label, whole_catalogue=True)
        assert found.catalogue is not None
        self.whole = list(found.catalogue(slice(None)))


def measure(
    backbone: Backbone,
    domain: Domain,
    adapter: Adapter,
    rows: pl.DataFrame,
    rounds: int,
    full_catalogue: bool = False,
) -> dict[str, Any]:
    """Cost of both precisions, and how far their scores of the same users are apart.

    Args:
        backbone: float32 weights on a CPU.
        domain: the users' domain.
        adapter: whose scores they are.
        rows: an evaluation table.
        rounds: turns of each precision, at most one a user.
        full_catalogue: compare the ten best of all items too.
    """
    catalogue = Catalogue.of(domain, ranker_of(adapter.card, backbone))
    sides = {
        name: Side(replace(backbone, autocast=dtype), adapter.lora, catalogue)
        for name, dtype in ((EXACT, None), (ROUNDED, torch.bfloat16))
    }
    for side in sides.values():
        side.warm_up(rows[:2])
    parts = np.array_split(np.arange(rows.height), rounds)
    for number, part in enumerate(parts):
        order = list(sides.values())[:: 1 if number % 2 == 0 else -1]
        for side in order:
            side.turn(rows[part.tolist()], f"Round {number + 1}/{rounds}")
    exact, rounded = sides[EXACT], sides[ROUNDED]
    quality = {n: per_user(ranks(s.scores, positive_columns(rows))) for n, s in sides.items()}
    found: dict[str, Any] = {
        "users": rows.height,
        "rounds": rounds,
        "precisions": {
            name: {
                "seconds": side.seconds,
                "cpu_seconds": side.cpu_seconds,
                "users_per_second": rows.height / sum(side.seconds),
                **{key: summarise(quality[name])[key] for key in ("ndcg@1", METRIC, "mrr")},
            }
            for name, side in sides.items()
        },
        "times_faster": spread(
            [a / b for a, b in zip(exact.seconds, rounded.seconds, strict=True)]
        ),
        "times_less_cpu": spread(
            [a / b for a, b in zip(exact.cpu_seconds, rounded.cpu_seconds, strict=True)]
        ),
        "score_difference": score_difference(exact.scores, rounded.scores),
        "top_10": agreement(exact.scores, rounded.scores),
        "bfloat16_minus_float32": paired_bootstrap(quality[ROUNDED], quality[EXACT])[METRIC],
    }
    if full_catalogue:
        for side in sides.values():
            side.rank_catalogue(rows)
        found["top_10_of_the_catalogue"] = agreement(exact.whole, rounded.whole)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True, help="folder or shipped name")
    parser.add_argument("--scenario", choices=SCENARIOS, default="warm")
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full-catalogue", action="store_true")
    parser.add_argument("--backbone", help="where the backbone is, if not where it was")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    adapter, domain = Adapter.load(resolve(args.adapter)), Domain.load(args.data)
    if args.full_catalogue and adapter.card.recipe.ranker != "dense":
        raise RunError(
            f"The ranker {adapter.card.recipe.ranker} cannot rank a whole catalogue; "
            "leave --full-catalogue out."
        )
    rows = sample_rows(domain.rows(f"test_{args.scenario}"), args.users, args.seed)
    if not 1 <= args.rounds <= rows.height:
        raise RunError(
            f"{rows.height} {args.scenario} users cannot be scored in {args.rounds} rounds; "
            "change --users or --rounds, or give another domain."
        )
    name = args.backbone or adapter.card.recipe.backbone
    backbone = load_backbone(name, device="cpu", dtype=EXACT)
    machine = environment(backbone, domain)
    result = measure(backbone, domain, adapter, rows, args.rounds, args.full_catalogue)
    result |= {
        "scenario": args.scenario,
        "seed": args.seed,
        "adapter": adapter.sha256,
        "ranker": adapter.card.recipe.ranker,
        "bfloat16_in_hardware": bfloat16_is_fast(backbone.device),
        **machine,
    }
    table = Table("precision", "users a second", "NDCG@10")
    for precision, found in result["precisions"].items():
        figures = (f"{found['users_per_second']:.2f}", f"{found[METRIC]:.4f}")
        table.add_row(precision, *figures)
    console = Console()
    console.print(table)
    faster, less = result["times_faster"], result["times_less_cpu"]
    gap = result["bfloat16_minus_float32"]
    apart, top = result["score_difference"], result["top_10"]
    console.print(
        f"{faster['median']:.2f} times faster [{faster['min']:.2f}, {faster['max']:.2f}], "
        f"{less['median']:.2f} times less CPU time [{less['min']:.2f}, {less['max']:.2f}], "
        f"n = {result['users']}. NDCG@10 {gap_in_words(gap, '+.4f')}. "
        f"Scores differ by {apart['mean']:.4f} in the mean and {apart['largest']:.4f} at most. "
        f"Of the ten best {100 * top['shared']:.1f} % are shared.",
        highlight=False,
        soft_wrap=True,
    )
    if args.out:
        write_result(args.out, result)


if __name__ == "__main__":
    program(main)
