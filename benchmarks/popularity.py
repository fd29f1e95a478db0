"""Popularity by the loss or by a prior? Sampling correction on and off, with and without a prior.

    python benchmarks/popularity.py --data PREPARED [--data PREPARED ...] --steps 150 --out RUN

Trains one ingredient a domain and correction, with the same steps and the same batches. The prior's
weight is chosen on one half of the drawn warm validation users and judged on the other; test users
are never read. Resumable: the same command goes on. Writes popularity.json into --out.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from program import program
from provenance import machine, write_result
from reccocktail.backbone import Backbone, load_backbone
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.evaluation.metrics import mean_in_words, per_user, ranks, summarise
from reccocktail.evaluation.significance import paired_bootstrap
from reccocktail.ranking import build
from reccocktail.ranking.additions import Beside
from reccocktail.ranking.prior import popularity_prior
from reccocktail.ranking.scoring import Catalogue, ItemVectors, encode, positive_columns
from reccocktail.recipe import Recipe
from reccocktail.training.model import model_sha256, scoring
from reccocktail.training.schedule import Length
from reccocktail.training.trainer import train

METRICS = ("ndcg@1", "ndcg@3", "ndcg@10", "hr@1")


def recipe_with(correction: float, backbone: str, compiled: bool) -> Recipe:
    """The default recipe with a sampling correction, and no time spent on validation."""
    return Recipe.model_validate(
        {
            "backbone": backbone,
            "dense": {"sampling_correction": correction},
            "training": {"validations": 0, "compile": compiled},
        }
    )


def judge(
    backbone: Backbone, domain: Domain, recipe: Recipe, out: Path, steps: int, users: int
) -> dict[str, Any]:
    """Train one cell and measure it on half of the drawn validation users."""
    length = Length(steps=steps)
    adapter = train("ingredient", [domain], backbone, recipe, out, length, resume=True)
    catalogue = Catalogue.of(domain, build(backbone, recipe))
    rows = sample_rows(domain.rows("valid_warm"), users, seed=0)
    items = ItemVectors(catalogue, model_sha256(backbone, adapter.lora))
    with scoring(backbone, adapter.lora) as model:
        (vectors,) = encode(model, items, catalogue, [rows], f"Judging {out.name}")
    candidates, places = catalogue.candidates(rows), positive_columns(rows)
    scores = vectors.scores(catalogue.ranker, candidates)
    prior = popularity_prior(domain.train_counts())
    choosing, judging = slice(0, None, 2), slice(1, None, 2)
    weights, _ = Beside(candidates[choosing], prior).choose(scores[choosing], places[choosing])
    alone = per_user(ranks(scores[judging], places[judging]))
    mixed = Beside(candidates[judging], prior).add(scores[judging], weights)
    together = per_user(ranks(mixed, places[judging]))
    return {
        "steps": adapter.card.steps,
        "weight": weights.prior,
        "text alone": summarise(alone),
        "with prior": summarise(together),
        "gain of the prior": paired_bootstrap(together, alone),
        "per_user": together,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--users", type=int, default=600)
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--compile", action="store_true", help="see training.compile")
    args = parser.parse_args(arguments)
    backbone = load_backbone(args.backbone)
    about = machine(backbone.device)
    cells: dict[str, Any] = {}
    for path in args.data:
        domain = Domain.load(path)
        found = {}
        for correction in (0.0, 1.0):
            recipe = recipe_with(correction, args.backbone, args.compile)
            out = args.out / f"{domain.name}-correction-{correction:g}"
            found[f"{correction:g}"] = judge(backbone, domain, recipe, out, args.steps, args.users)
        values = {key: cell.pop("per_user") for key, cell in found.items()}
        found["correction 0 against 1, both with prior"] = paired_bootstrap(
            values["0"], values["1"]
        )
        cells[domain.name] = {"sha256": domain.sha256, "cells": found}
        write_result(
            args.out / "popularity.json",
            {
                "domains": cells,
                "steps": args.steps,
                **about,
            },
        )
        for key in ("0", "1"):
            cell = found[key]
            parts = [
                f"{kind}: " + ", ".join(f"{m} {mean_in_words(cell[kind], m)}" for m in METRICS[:3])
                for kind in ("text alone", "with prior")
            ]
            Console().print(
                f"{domain.name}, correction {key}, {cell['steps']} steps, n = "
                f"{cell['text alone']['n']}, weight {cell['weight']}: {'; '.join(parts)}",
                markup=False,
                soft_wrap=True,
            )


if __name__ == "__main__":
    program(main)
