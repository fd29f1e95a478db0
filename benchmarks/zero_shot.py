"""Without any target training: the base spirit against what needs none either.

    python benchmarks/zero_shot.py --target PREPARED [--target ...] --base ADAPTER --out RUN

Judges text similarity, popularity, the bare backbone (by the base spirit's ranker, with its fixed
readout, if it has one, and with plain states; and by the likelihood of the next title) and the base
spirit on the test users of each target, warm and cold: by the model alone, with popularity, and
with popularity and words, in weights that validation users choose, baselines' scores brought to
logits first. `--also NAME=FOLDER` adds adapters, of any ranker, that learnt nothing of the targets
either. Resumable: finished cells (a target and a scenario, RUN/TARGET/SCENARIO) are taken as they
are. Writes zero_shot.json and zero_shot.md into RUN, and every user's ranks into the cells.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from arguments import asked_backbone, backbone_arguments, named_adapters, study_parser
from cells import RANKS_FILE, SHEET_FILE, finished, precision_facts, write_cell
from program import program
from provenance import environment, write_result
from reccocktail.backbone import Backbone
from reccocktail.baselines import make_baseline
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.evaluation.evaluate import BACKBONE
from reccocktail.evaluation.metrics import FloatArray, mean_in_words, per_user, ranks, summarise
from reccocktail.evaluation.placing import Placed, Placing, place_baseline
from reccocktail.evaluation.scorer import Scorer
from reccocktail.evaluation.settings import EvaluationSettings
from reccocktail.evaluation.significance import paired_bootstrap
from reccocktail.ranking import build
from reccocktail.ranking.base import Ranker
from reccocktail.ranking.scoring import Catalogue, positive_columns
from reccocktail.recipe import Recipe
from reccocktail.schema import SCENARIOS, TARGET, USER, Scenario
from reccocktail.spirits import resolve
from reccocktail.storage import atomic_file, sha256_json
from reccocktail.training.adapter import Adapter, Lora
from reccocktail.training.model import ranker_of
from spreads import ratio_of_means
from study import require_judgeable

BASE = "base_spirit"
PLAIN = "backbone, plain states"  # without the fixed readout
TITLES = "backbone, next titles"  # by the ranker `title`
BASELINES = ("text-similarity", "popularity")
VIEWS = {  # whether popularity and words count
    "model alone": (False, False),
    "with popularity": (True, False),
    "with popularity and words": (True, True),
}
WEIGHED = "baselines too"
"""Beside whose scores popularity and words stand: part of every cell, for its ranks are."""
SHOWN = ("ndcg@1", "ndcg@3", "ndcg@10", "mrr")


def judge(
    target: Domain,
    scenario: Scenario,
    base: Adapter,
    also: Mapping[str, Adapter],
    backbone: Backbone,
    settings: EvaluationSettings,
    out: Path,
) -> dict[str, Any]:
    """One cell: every model's ranks of the same test users, unless they were made before."""
    others = {name: adapter.sha256 for name, adapter in also.items()}
    weights_of = [base.sha256, backbone.fingerprint.sha256, TITLES, others]
    facts = [target.sha256, weights_of, scenario, asdict(settings), list(VIEWS), WEIGHED]
    identity = sha256_json([*facts, *precision_facts(backbone).values()])
    if cell := finished(out / SHEET_FILE, identity):
        return cell | figures(pl.read_parquet(out / RANKS_FILE), target, scenario)
    test = sample_rows(target.rows(f"test_{scenario}"), settings.users or 0, settings.seed)
    valid = sample_rows(target.rows(f"valid_{scenario}"), settings.validation_users, settings.seed)
    placed: list[pl.DataFrame] = []
    weights: dict[str, dict[str, Any]] = {}

    def keep(model: str, view: str, chosen: Placed, scores: Sequence[FloatArray]) -> None:
        weights.setdefault(model, {})[view] = asdict(chosen.weights)
        found = ranks(scores, positive_columns(test))
        placed.append(test.select(USER, pl.lit(model).alias("model"), pl.lit(view).alias("view"),
                                  pl.Series("rank", found)))  # fmt: skip

    read = base.card.recipe.prompt.max_history
    placing = Placing(target, {scenario: test}, {scenario: valid}, read)

    def views() -> Iterator[tuple[str, Placing]]:
        for view, (prior, words) in VIEWS.items():
            yield view, replace(placing, prior=prior, words=words)

    for name in BASELINES:
        baseline = make_baseline(name, backbone)
        baseline.fit(target)
        for view, beside in views():
            keep(name, view, *place_baseline(baseline, beside, scenario)[:2])
    for name, lora, ranker in models(base, also, backbone):
        scorer = Scorer(backbone, Catalogue.of(target, ranker), placing)
        label = f"{target.name}, {scenario}: {name}"
        both = scorer.scored(lora, [scenario], label, whole=False)[scenario]
        for view, beside in views():
            keep(name, view, *beside.placed(scenario, both.test.scores, both.valid.scores))
    cell = {
        "identity": identity,
        "precision": backbone.precision,
        "users": test.height,
        "weights": weights,
    }
    table = pl.concat(placed)
    write_cell(out, table, cell)
    return cell | figures(table, target, scenario)


def figures(table: pl.DataFrame, target: Domain, scenario: Scenario) -> dict[str, Any]:
    """Means, and what the base spirit and `TITLES` have over every other model, from ranks.

    Differences have two intervals: over users, and over target items.
    """
    item_of = dict(target.rows(f"test_{scenario}").select(USER, TARGET).iter_rows())
    items = [item_of[user] for user in table[USER].unique(maintain_order=True)]
    values: dict[str, dict[str, dict[str, FloatArray]]] = {view: {} for view in VIEWS}
    for (view, model), rows in table.group_by("view", "model", maintain_order=True):
        values[str(view)][str(model)] = per_user(rows["rank"].to_numpy())

    def less(first: str, view: str) -> dict[str, Any]:
        """What a model has over the others."""
        found = {}
        for other in values[view]:
            if other != first:
                pair = values[view][first], values[view][other]
                found[other] = paired_bootstrap(*pair)
                for name, over in paired_bootstrap(*pair, groups=items).items():
                    found[other][name]["ci95_over_items"] = over["ci95"]
        return found

    firsts = [name for name in (BASE, TITLES) if name in values["model alone"]]
    return {
        "models": {view: {m: summarise(v) for m, v in values[view].items()} for view in VIEWS},
        "target_items": len(set(items)),
        **{f"{first}_minus": {view: less(first, view) for view in VIEWS} for first in firsts},
        "base_spirit_over_ndcg@1": {
            view: {
                other: ratio_of_means(values[view][BASE]["ndcg@1"], values[view][other]["ndcg@1"])
                for other in (BACKBONE, PLAIN, TITLES)
                if other in values[view]
            }
            for view in VIEWS
        },
    }


def models(
    base: Adapter, also: Mapping[str, Adapter], backbone: Backbone
) -> Iterator[tuple[str, Lora | None, Ranker]]:
    """Name, update and ranker of each model of the language model's weights."""
    ranker, recipe = ranker_of(base.card, backbone), base.card.recipe
    yield BACKBONE, None, ranker
    if base.card.readout_sha256:
        dense = recipe.dense.model_copy(update={"readout": None, "temperature": None})
        yield PLAIN, None, build(backbone, recipe.model_copy(update={"dense": dense}))
    if recipe.ranker != "title":
        yield TITLES, None, build(backbone, Recipe(ranker="title", prompt=recipe.prompt))
    yield BASE, base.lora, ranker
    for name, adapter in also.items():
        yield name, adapter.lora, ranker_of(adapter.card, backbone)


def table(targets: dict[str, Any], view: str) -> str:
    """Markdown: one row a target, scenario and model."""
    lines = [
        f"| target | scenario (users) | model | {' | '.join(m.upper() for m in SHOWN)} |",
        "|---|---|---|" + "--:|" * len(SHOWN),
    ]
    for name, found in targets.items():
        for scenario, cell in found["scenarios"].items():
            for model, values in cell["models"][view].items():
                cells = [mean_in_words(values, m) for m in SHOWN]
                lines.append(
                    f"| {name} | {scenario} ({cell['users']:,}) | {model} | {' | '.join(cells)} |"
                )
    return "\n".join(lines)


def ratios(targets: dict[str, Any]) -> str:
    """Markdown: how many times the backbone's NDCG@1 the base spirit reaches."""
    lines = ["| target | scenario | over | " + " | ".join(VIEWS) + " |"]
    lines.append("|---|---|---|" + "--:|" * len(VIEWS))
    for name, found in targets.items():
        for scenario, cell in found["scenarios"].items():
            over = cell["base_spirit_over_ndcg@1"]
            for other in over["model alone"]:
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
    parser.add_argument("--also", action="append", default=[], metavar="NAME=FOLDER")
    backbone_arguments(parser)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    base = replace(Adapter.load(resolve(args.base)), name=BASE)
    also = named_adapters(args.also) if args.also else {}
    if taken := {BASE, BACKBONE, PLAIN, TITLES, *BASELINES} & set(also):
        parser.error(f"'{taken.pop()}' is a row of its own; call the adapter otherwise")
    backbone = asked_backbone(args, base.card.recipe)
    require_judgeable([base, *also.values()], backbone)
    settings = EvaluationSettings(
        users=args.users, validation_users=args.validation_users, seed=args.seed
    )
    settings.check()
    targets: dict[str, Any] = {}
    for path in args.target:
        target = Domain.load(path)
        machine = environment(backbone, target)
        found = {
            scenario: judge(
                target, scenario, base, also, backbone, settings, args.out / target.name / scenario
            )
            for scenario in SCENARIOS
            if target.rows(f"test_{scenario}").height
        }
        targets[target.name] = {"data": machine.pop("data"), "scenarios": found}
        result = {
            "targets": targets,
            "base_spirit": {"sha256": base.sha256, "steps": base.card.steps},
            "also": {name: {"sha256": a.sha256, "steps": a.card.steps} for name, a in also.items()},
            "settings": asdict(settings),
            **machine,
        }
        write_result(args.out / "zero_shot.json", result)
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
