"""Without any target training: the base spirit against what needs none either.

    python benchmarks/zero_shot.py --target PREPARED [--target ...] --base ADAPTER --out RUN

Judges text similarity, popularity, the bare backbone (with the base spirit's fixed readout, if it
has one, and with plain states) and the base spirit on the test users of each target, warm and cold:
by text alone, and with the popularity prior whose weight validation users choose. Resumable:
finished cells (a target and a scenario, RUN/TARGET/SCENARIO) are taken as they are. Writes
zero_shot.json and zero_shot.md into RUN.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

from common import (
    environment,
    finished,
    precision_argument,
    precision_facts,
    program,
    ratio_of_means,
    study_parser,
)
from reccocktail.backbone import Backbone, load_backbone
from reccocktail.data.domain import Domain
from reccocktail.evaluation.evaluate import BACKBONE, EvaluationSettings, evaluate
from reccocktail.evaluation.metrics import FloatArray, per_user, ranks, summarise
from reccocktail.evaluation.results import PREDICTIONS_FILE, RUN_FILE, read_metrics
from reccocktail.evaluation.significance import paired_bootstrap
from reccocktail.ranking.prior import popularity_prior
from reccocktail.ranking.scoring import positive_columns
from reccocktail.schema import CANDIDATES, SCENARIOS, Scenario
from reccocktail.spirits import resolve
from reccocktail.storage import atomic_file, read_json, sha256_json, write_json
from reccocktail.training.adapter import Adapter

BASE = "base_spirit"
PLAIN = "backbone, plain states"  # without the fixed readout
BASELINES = ("text-similarity", "popularity")
OPPONENTS = (BACKBONE, *BASELINES)
VIEWS = ("text alone", "with prior")
SHOWN = ("ndcg@1", "ndcg@3", "ndcg@10", "mrr")


def judge(
    target: Domain,
    scenario: Scenario,
    base: Adapter,
    base_folder: Path,
    backbone: Backbone,
    settings: EvaluationSettings,
    out: Path,
) -> dict[str, Any]:
    """One cell: evaluate and compare, unless it was done before."""
    facts = [target.sha256, base.sha256, scenario, asdict(settings)]
    identity = sha256_json([*facts, *precision_facts(backbone).values()])
    if cell := finished(out / "cell.json", identity):
        return cell
    evaluate(
        target,
        [(base, base_folder)],
        backbone,
        out,
        baselines=BASELINES,
        scenarios=[scenario],
        settings=settings,
    )
    weights = {
        name: model["prior_weight"][scenario]
        for name, model in read_json(out / RUN_FILE)["models"].items()
        if "prior_weight" in model
    }
    predictions = pl.read_parquet(out / PREDICTIONS_FILE)
    if base.card.readout_sha256:
        plain = out / "plain"
        dense = base.card.recipe.dense.model_copy(update={"readout": None, "temperature": None})
        recipe = base.card.recipe.model_copy(update={"dense": dense})
        evaluate(
            target, [], backbone, plain, scenarios=[scenario], settings=settings, recipe=recipe
        )
        rows = pl.read_parquet(plain / PREDICTIONS_FILE)
        predictions = pl.concat([predictions, rows.with_columns(pl.lit(PLAIN).alias("model"))])
        weights[PLAIN] = read_json(plain / RUN_FILE)["models"][BACKBONE]["prior_weight"][scenario]
    values = {view: by_model(target, predictions, weights, view) for view in VIEWS}
    cell = {
        "identity": identity,
        "precision": backbone.precision,
        "users": len(values[VIEWS[0]][BASE]["mrr"]),
        "prior_weight": weights,
        "models": {view: {m: summarise(v) for m, v in values[view].items()} for view in VIEWS},
        "full_catalogue": {
            model: found[scenario] for model, found in read_metrics(out)["full_catalogue"].items()
        },
        "base_spirit_minus": {
            view: {
                other: paired_bootstrap(values[view][BASE], values[view][other])
                for other in (*OPPONENTS, PLAIN)
                if other in values[view]
            }
            for view in VIEWS
        },
        "base_spirit_over_ndcg@1": {
            view: {
                other: ratio_of_means(values[view][BASE]["ndcg@1"], values[view][other]["ndcg@1"])
                for other in (BACKBONE, PLAIN)
                if other in values[view]
            }
            for view in VIEWS
        },
    }
    write_json(out / "cell.json", cell)
    return cell


def by_model(
    target: Domain, predictions: pl.DataFrame, weights: dict[str, float], view: str
) -> dict[str, dict[str, FloatArray]]:
    """Per-user metrics of each model, the prior taken off again for `text alone`."""
    prior = popularity_prior(target.train_counts())
    values = {}
    for (model,), rows in predictions.group_by("model", maintain_order=True):
        scores = [np.asarray(row) for row in rows["scores"].to_list()]
        weight = weights.get(str(model), 0.0)
        if view == "text alone" and weight:
            candidates = rows[CANDIDATES].to_list()
            # Scores are float32: the rounding brings ties back and parts nothing that was apart.
            scores = [
                np.round(row - weight * prior[[target.index[item] for item in items]], 9)
                for row, items in zip(scores, candidates, strict=True)
            ]
        values[str(model)] = per_user(ranks(scores, positive_columns(rows)))
    return values


def table(targets: dict[str, Any], view: str) -> str:
    """Markdown: one row a target, scenario and model."""
    lines = [
        f"| target | scenario (users) | model | {' | '.join(m.upper() for m in SHOWN)} |",
        "|---|---|---|" + "--:|" * len(SHOWN),
    ]
    for name, found in targets.items():
        for scenario, cell in found["scenarios"].items():
            for model, values in cell["models"][view].items():
                cells = [
                    f"{values[m]:.3f} [{values['ci95'][m][0]:.3f}, {values['ci95'][m][1]:.3f}]"
                    for m in SHOWN
                ]
                lines.append(
                    f"| {name} | {scenario} ({cell['users']:,}) | {model} | {' | '.join(cells)} |"
                )
    return "\n".join(lines)


def ratios(targets: dict[str, Any]) -> str:
    """Markdown: how many times the backbone's NDCG@1 the base spirit reaches."""
    lines = ["| target | scenario | over | " + " | ".join(VIEWS) + " |", "|---|---|---|--:|--:|"]
    for name, found in targets.items():
        for scenario, cell in found["scenarios"].items():
            over = cell["base_spirit_over_ndcg@1"]
            for other in over[VIEWS[0]]:
                cells = []
                for view in VIEWS:
                    ratio = over[view][other].values()
                    shown = ["-" if v is None else f"{v:.2f}" for v in ratio]
                    cells.append(f"{shown[0]} [{shown[1]}, {shown[2]}]")
                lines.append(f"| {name} | {scenario} | {other} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--users", type=int, default=2000, help="at most so many a scenario")
    parser.add_argument("--validation-users", type=int, default=200)
    parser.add_argument("--full-catalogue", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--backbone", help="where the backbone is, if not where it was")
    parser.add_argument("--device")
    precision_argument(parser)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    folder = resolve(args.base)
    base = replace(Adapter.load(folder), name=BASE)
    name = args.backbone or base.card.recipe.backbone
    backbone = load_backbone(name, device=args.device, precision=args.precision)
    settings = EvaluationSettings(
        users=args.users,
        validation_users=args.validation_users,
        full_catalogue=args.full_catalogue,
        seed=args.seed,
    )
    targets: dict[str, Any] = {}
    for path in args.target:
        target = Domain.load(path)
        machine = environment(backbone, target)
        found = {
            scenario: judge(
                target, scenario, base, folder, backbone, settings,
                args.out / target.name / scenario,
            )
            for scenario in SCENARIOS
            if target.rows(f"test_{scenario}").height
        }  # fmt: skip
        targets[target.name] = {"data": machine.pop("data"), "scenarios": found}
        result = {
            "targets": targets,
            "base_spirit": {"sha256": base.sha256, "steps": base.card.steps},
            "settings": asdict(settings),
            **machine,
        }
        write_json(args.out / "zero_shot.json", result)
    text = "\n\n".join(
        [
            *(
                f"{view.capitalize()}, each user's candidates ranked:\n\n{table(targets, view)}"
                for view in VIEWS
            ),
            f"NDCG@1 of the base spirit over the bare backbone's:\n\n{ratios(targets)}",
        ]
    )
    with atomic_file(args.out / "zero_shot.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    Console().print(text, markup=False, soft_wrap=True)


if __name__ == "__main__":
    program(main)
