"""The published search of coefficients against ours: seconds, peak memory, NDCG of what it finds.

    python benchmarks/published_cost.py --data PREPARED --base A --ingredient B --out DIR

Published: a softmax pair for every module, Adam on entropy, a run for each of ten learning rates,
of which test labels choose (this is their way; the choice by entropy stands beside it). Ours: the
line search. Same backbone, users and adapters, one process, the search alone, each run with an
empty cache. Test users are none of those adapted to. Writes published_cost.json into DIR.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from rich.console import Console
from torch import Tensor

from common import PeakMemory, environment, seconds
from reccocktail.backbone import Backbone, load_backbone
from reccocktail.data.domain import Domain
from reccocktail.evaluation.metrics import FloatArray, per_user, ranks
from reccocktail.evaluation.significance import paired_bootstrap
from reccocktail.mixing.measure import Mixer, MixSettings
from reccocktail.mixing.search import Descent, Groups, gradient_search, line_search
from reccocktail.ranking.scoring import positive_columns, score
from reccocktail.schema import SCENARIOS, USER, Scenario
from reccocktail.spirits import resolve
from reccocktail.storage import write_json
from reccocktail.training.adapter import Adapter, Lora
from reccocktail.training.model import merged
from reccocktail.training.validation import sample_rows

RATES: dict[Scenario, tuple[float, ...]] = {
    "warm": tuple(round(float(x), 3) for x in np.linspace(0.5, 5.0, 10)),
    "cold": tuple(round(float(x), 3) for x in np.linspace(0.01, 0.09, 10)),
}
SHOWN = ("ndcg@1", "ndcg@3", "ndcg@10")


class Found(NamedTuple):
    """What a search gives: the mix, its coefficients (groups, adapters), the entropy it saw."""

    lora: Lora
    coefficients: Tensor
    entropy: float


def find(mixer: Mixer, steps: int | None = None) -> Found:
    """The search alone: no curve, no validation, no files. `steps` shortens it (a warm-up)."""
    settings, loras = mixer.settings, [a.lora for a in mixer.adapters]
    groups = Groups.build(loras, settings.granularity)
    if settings.search == "published":
        descent = replace(mixer.descent, steps=steps or mixer.descent.steps)
        coefficients, losses = gradient_search(
            mixer.backbone.model, loras, groups, settings.method, mixer.gradient_loss, descent
        )
        return Found(mixer.lora(coefficients, groups), coefficients, losses[-1])
    grid = settings.grid[:steps]
    best, seen = line_search(
        lambda first: mixer.pair(first).value("entropy"), grid, 0 if steps else settings.refinements
    )
    coefficients = torch.tensor([[best, 1 - best]])
    return Found(mixer.lora(coefficients, groups), coefficients, seen[best])


@contextmanager
def own_cache() -> Iterator[None]:
    """No run may find item vectors that another one has left."""
    before = os.environ.get("RECCOCKTAIL_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RECCOCKTAIL_CACHE"] = folder
        try:
            yield
        finally:
            os.environ.pop("RECCOCKTAIL_CACHE")
            if before is not None:
                os.environ["RECCOCKTAIL_CACHE"] = before


def compare(
    pair: Sequence[Adapter],
    backbone: Backbone,
    domain: Domain,
    scenario: Scenario,
    settings: MixSettings,
    rates: Sequence[float],
    steps: int,
    test_users: int,
) -> dict[str, Any]:
    """Both searches for one scenario."""
    plans: list[tuple[str, float | None, MixSettings]] = [("ours", None, settings)]
    for rate in rates:
        descent = Descent(steps, rate)
        plans.append(("published", rate, replace(settings, search="published", descent=descent)))
    # The first pass of a process pays for what all of them need.
    for _, _, plan in plans[:2]:
        first = Mixer(pair, backbone, domain, scenario, plan)
        with own_cache():
            find(first, steps=1)
    rest = domain.rows(f"test_{scenario}").filter(
        ~pl.col(USER).is_in(first.unlabelled[USER].to_list())
    )
    rows = sample_rows(rest, test_users, settings.seed)
    runs: list[dict[str, Any]] = []
    values: list[dict[str, FloatArray]] = []
    for name, rate, plan in plans:
        mixer = Mixer(pair, backbone, domain, scenario, plan)  # knows nothing of the warm-up
        found: list[Found] = []
        with own_cache():
            with PeakMemory(backbone.device) as memory:
                spent = seconds(lambda m=mixer, f=found: f.append(find(m)), backbone.device)
            with merged(backbone.model, found[0].lora) as model:
                scored = score(model, mixer.catalogue, [rows], f"Judging {name}", entropy=False)
        values.append(per_user(ranks(scored[0].scores, positive_columns(rows))))
        runs.append(
            {
                "search": name,
                "learning_rate": rate,
                "seconds": spent,
                "peak_bytes": memory.bytes,
                "entropy": found[0].entropy,
                "lambda_1": float(found[0].coefficients[:, 0].mean()),
                "lambda_1_range": [
                    float(found[0].coefficients[:, 0].min()),
                    float(found[0].coefficients[:, 0].max()),
                ],
                "adapted_users": mixer.unlabelled.height,
                "n": rows.height,
                **{m: float(values[-1][m].mean()) for m in SHOWN},
            }
        )
    theirs = range(1, len(runs))
    by_labels = max(theirs, key=lambda i: runs[i]["ndcg@10"])
    by_entropy = min(theirs, key=lambda i: runs[i]["entropy"])
    total = sum(runs[i]["seconds"] for i in theirs)
    return {
        "runs": runs,
        "published_seconds": total,
        "times_cheaper": total / runs[0]["seconds"],
        "times_cheaper_than_one_rate": total / len(theirs) / runs[0]["seconds"],
        "ours_minus_published": {
            "rate chosen by test labels": _paired(values[0], values[by_labels]),
            "rate chosen by entropy": _paired(values[0], values[by_entropy]),
        },
    }


def _paired(one: dict[str, FloatArray], other: dict[str, FloatArray]) -> dict[str, Any]:
    found = paired_bootstrap(one, other)
    return {m: {k: found[m][k] for k in ("difference", "ci95")} for m in SHOWN}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--ingredient", type=Path, required=True)
    parser.add_argument("--scenario", choices=SCENARIOS, action="append")
    parser.add_argument("--users", type=int, default=50, help="to adapt to")
    parser.add_argument("--test", type=int, default=1000, help="users")
    parser.add_argument("--steps", type=int, default=10, help="of Adam")
    parser.add_argument("--rates", type=float, nargs="+", help="in place of the published ten")
    parser.add_argument("--backbone")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    pair = [Adapter.load(resolve(path)) for path in (args.base, args.ingredient)]
    backbone = load_backbone(args.backbone or pair[0].card.recipe.backbone)
    domain = Domain.load(args.data)
    settings = MixSettings(users=args.users, validation_users=0)
    results = {
        scenario: compare(
            pair, backbone, domain, scenario, settings, args.rates or RATES[scenario], args.steps,
            args.test,
        )
        for scenario in args.scenario or SCENARIOS
    }  # fmt: skip
    ranker = pair[0].card.recipe.ranker
    write_json(
        args.out / "published_cost.json",
        {"ranker": ranker, "steps": args.steps, "scenarios": results,
         **environment(backbone, domain)},
    )  # fmt: skip
    for scenario, found in results.items():
        gap = found["ours_minus_published"]["rate chosen by test labels"]["ndcg@10"]
        low, high = gap["ci95"]
        Console().print(
            f"{scenario}: ours {found['runs'][0]['seconds']:.1f} s, published "
            f"{found['published_seconds']:.1f} s ({found['times_cheaper']:.1f} times); NDCG@10 ours"
            f" minus published {gap['difference']:+.4f} [{low:+.4f}, {high:+.4f}].",
            markup=False,
        )


if __name__ == "__main__":
    main()
