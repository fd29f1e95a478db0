"""Run models over a domain's test users and write an evaluation folder."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import torch

from reccocktail.backbone import Backbone
from reccocktail.baselines import baseline_name, make_baseline
from reccocktail.baselines.base import Baseline
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.environment import commit, hardware, peak_memory, versions
from reccocktail.errors import AdapterError, RunError
from reccocktail.evaluation.controls import TEST_LABELS, Controls, check_controls, singles
from reccocktail.evaluation.metrics import FloatArray, per_user
from reccocktail.evaluation.placing import Placed, Placing, place_baseline
from reccocktail.evaluation.results import (
    prediction_ranks,
    prediction_rows,
    require_evaluation_dir,
    write_evaluation,
)
from reccocktail.evaluation.scorer import Both, Scorer
from reccocktail.evaluation.settings import EvaluationSettings
from reccocktail.evaluation.whole import WholeCatalogue
from reccocktail.mixing.sheet import COCKTAIL_FILE, load_sheet
from reccocktail.progress import say
from reccocktail.ranking import build
from reccocktail.ranking.additions import weighing_rows
from reccocktail.ranking.base import Ranker
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.scoring import Catalogue, RowScores
from reccocktail.recipe import Recipe
from reccocktail.schema import USER, Scenario
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import check_compatible, ranker_of

BACKBONE = "backbone"


def check_request(
    adapters: Sequence[Adapter],
    out: Path,
    baselines: Sequence[str],
    controls: Sequence[str],
    settings: EvaluationSettings,
    *,
    backbone: bool,
) -> None:
    """Refuse what `evaluate` would, as far as it can be told without backbone and tables.

    Raises:
        RecipeError, RunError: see `evaluate`.
    """
    settings.check()
    require_evaluation_dir(out)
    names = [
        *(baseline_name(text) for text in baselines),
        *([BACKBONE] if backbone else []),
        *(adapter.name for adapter in adapters),
        *controls,
    ]
    for name in names:
        if names.count(name) > 1:
            raise RunError(
                f"Two models are named '{name}'; leave one out, or rename its adapter folder."
            )
    if settings.as_served and controls:
        raise RunError(
            "Controls are no models to be served; leave --control out, or judge without "
            "--as-served."
        )


@dataclass
class _Tables:
    """Scored and validation rows by scenario."""

    test: dict[Scenario, pl.DataFrame] = field(default_factory=dict)
    valid: dict[Scenario, pl.DataFrame] = field(default_factory=dict)


@dataclass
class _Results:
    """What the models have given so far."""

    whole: WholeCatalogue
    predictions: list[pl.DataFrame] = field(default_factory=list)
    entropy: dict[str, dict[str, float]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)


def evaluate(
    domain: Domain,
    adapters: Sequence[tuple[Adapter, Path]],
    backbone: Backbone | None,
    out: Path,
    *,
    baselines: Sequence[str] = (),
    controls: Sequence[str] = (),
    scenarios: Sequence[Scenario] = ("warm", "cold"),
    settings: EvaluationSettings | None = None,
    recipe: Recipe | None = None,
) -> dict[str, Any]:
    """Score test users with the bare backbone, each adapter and each baseline; write `out`.

    Users that a cocktail adapted to are left out for every model, unless the cocktail declares
    itself transductive.

    Args:
        domain: prepared domain.
        adapters: loaded adapters with their folders; a model goes by its adapter's name.
        backbone: their backbone; None if only baselines are judged.
        out: evaluation folder.
        baselines: names in `BASELINES`, or ``sentence-encoder=MODEL``.
        controls: names in `CONTROLS`; they need a base spirit and an ingredient.
        scenarios: `warm`, `cold`.
        settings: see `EvaluationSettings`.
        recipe: prompt and ranker of the bare backbone where there is no adapter.

    Returns:
        The content of metrics.json.

    Raises:
        RecipeError: see `EvaluationSettings.check`.
        RunError: unknown baseline or control or one that lacks what it needs, two models of one
            name, nobody left to score, or what is asked for as served is not what is served.
        AdapterError: adapters that do not fit the backbone or one another.
    """
    settings = settings or EvaluationSettings()
    loaded = [adapter for adapter, _ in adapters]
    with_backbone = backbone is not None
    check_request(loaded, out, baselines, controls, settings, backbone=with_backbone)
    started = time.monotonic()
    pair = check_controls(controls, loaded, domain, settings.chosen_on)
    sheets = [sheet for made in adapters if (sheet := _sheet(*made)) is not None]
    recipe = adapters[0][0].card.recipe if adapters else recipe or Recipe()
    # All of them first: what is missing is said before any of them learns for minutes.
    made = [make_baseline(text, backbone) for text in baselines]
    ranker = _ranker(adapters, backbone, recipe) if backbone else None
    if settings.as_served and ranker is not None and not isinstance(ranker, DenseRanker):
        raise RunError(
            "Only models that rank by vectors (ranker dense) are served over the whole catalogue; "
            "judge these without --as-served."
        )
    tables = _tables(domain, scenarios, sheets, settings)
    for scenario, rows in tables.valid.items():
        if "validation" in controls and not rows.height:
            raise RunError(
                f"The control 'validation' chooses on validation users, and {domain.name} has no "
                f"valid_{scenario} users; leave the control or the scenario out."
            )
    results = _Results(WholeCatalogue(domain, settings.seed))
    placing = Placing(
        domain,
        tables.test,
        tables.valid,
        recipe.prompt.max_history,
        **settings.parts,
        level=settings.as_served,
    )
    _judge_baselines(results, made, placing, settings)
    if backbone and ranker:
        scorer = Scorer(backbone, Catalogue.of(domain, ranker), placing)
        _judge_adapters(results, [None, *(a for a, _ in adapters)], scorer, settings)
        if pair:
            making = Controls(*pair, scorer, sheets, settings.full_catalogue, settings.seed)
            _judge_controls(results, controls, making, settings)
    run = {
        "recipe": recipe.model_dump(mode="json"),
        "settings": asdict(settings) | {"precision": backbone.precision if backbone else None},
        "data": {"name": domain.name, "sha256": domain.sha256, "items": len(domain.item_ids)},
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(backbone.device if backbone else torch.device("cpu")),
        "seconds": {"evaluate": time.monotonic() - started},
        "peak_memory_bytes": peak_memory(),
        "command": " ".join(["reccocktail", *sys.argv[1:]]),
        "models": results.models,
    }
    out.mkdir(parents=True, exist_ok=True)
    predictions = pl.concat(results.predictions)
    return write_evaluation(
        out,
        predictions,
        run,
        beside={"cocktails.json": sheets, "examples.json": results.whole.examples(tables.test)},
        extra={"full_catalogue": results.whole.metrics, "entropy": results.entropy},
        uses_test_labels=[name for name in controls if name == TEST_LABELS],
        reference=_references(predictions, [a for a, _ in adapters], domain),
        seed=settings.seed,
    )


def _judge_baselines(
    results: _Results,
    baselines: Sequence[Baseline],
    placing: Placing,
    settings: EvaluationSettings,
) -> None:
    """Fit each baseline and keep what it gives to each scenario."""
    for baseline in baselines:
        name = baseline.name
        placed: dict[Scenario, Placed] = {}
        with _timed(results, name, name):
            baseline.fit(placing.domain)
            for scenario in placing.test:
                placed[scenario], scores, whole = place_baseline(baseline, placing, scenario)
                _keep(results, name, placing, scenario, scores, whole, settings)
        results.models[name]["chosen"] = dict(baseline.chosen)
        _record_weights(results, name, placed, settings)


def _judge_adapters(
    results: _Results,
    adapters: Sequence[Adapter | None],
    scorer: Scorer,
    settings: EvaluationSettings,
) -> None:
    """Keep what the backbone gives with each adapter; None is the bare one."""
    for adapter in adapters:
        name = adapter.name if adapter else BACKBONE
        with _timed(results, name, adapter.card.role if adapter else BACKBONE):
            # A cocktail at lambda 0, 1/2 or 1 is a model that stands in the table already.
            found = scorer.scored(
                adapter.lora if adapter else None,
                list(scorer.test),
                f"Evaluating {name}",
                settings.needs_whole,
            )
        if adapter:
            results.models[name] |= {"sha256": adapter.sha256, "steps": adapter.card.steps}
        _record(results, name, scorer, found, settings)


def _judge_controls(
    results: _Results, controls: Sequence[str], making: Controls, settings: EvaluationSettings
) -> None:
    """Make each control and keep what it gives."""
    for name in controls:
        labels = " that uses test labels" if name == TEST_LABELS else ""
        with _timed(results, name, f"control{labels}"):
            control = making.run(name)
            results.models[name]["chosen"] = control.chosen
        _record(results, name, making.scorer, control.scores, settings)


def _ranker(adapters: Sequence[tuple[Adapter, Path]], backbone: Backbone, recipe: Recipe) -> Ranker:
    """The ranker of all models: the adapters', or the recipe's where there is none."""
    if not adapters:
        return build(backbone, recipe)
    check_compatible([adapter for adapter, _ in adapters], backbone)
    return ranker_of(adapters[0][0].card, backbone)


def _sheet(adapter: Adapter, folder: Path) -> dict[str, Any] | None:
    """What a cocktail says of itself, or None for an adapter that adapted to nobody.

    Raises:
        AdapterError: a cocktail does not say whom it adapted to; those users would be scored.
    """
    sheet = load_sheet(folder)
    if sheet is None and adapter.card.role == "cocktail":
        raise AdapterError(
            f"{folder} is a cocktail without {COCKTAIL_FILE}, so nothing says which users it "
            "adapted to; evaluate the folder that `mix` wrote, or copy that file from there."
        )
    return sheet


def _tables(
    domain: Domain,
    scenarios: Sequence[Scenario],
    sheets: Sequence[dict[str, Any]],
    settings: EvaluationSettings,
) -> _Tables:
    # By name too: a share of the domain, or one prepared anew, has another hash and the same users.
    adapted = {
        user
        for sheet in sheets
        if not sheet["adaptation"]["transductive"]
        and (sheet["data"]["sha256"] == domain.sha256 or sheet["data"]["name"] == domain.name)
        for user in sheet["adaptation"]["user_ids"]
    }
    tables = _Tables()
    served = weighing_rows(domain) if settings.as_served else None
    for scenario in scenarios:
        rows = domain.rows(f"test_{scenario}")
        rows = rows.filter(~pl.col(USER).is_in(sorted(adapted)))
        if not rows.height:
            say(f"{domain.name} has no test_{scenario} users to score; the scenario is left out.")
            continue
        tables.test[scenario] = sample_rows(rows, settings.users or rows.height, settings.seed)
        valid = domain.rows(f"valid_{scenario}")
        if served is None:
            valid = sample_rows(valid, settings.chosen_on, settings.seed)
        else:
            valid = served
        tables.valid[scenario] = valid
    if not tables.test:
        raise RunError(
            f"{domain.name} has nobody to score in {' or '.join(scenarios)}; choose another "
            "--scenario, or prepare more data."
        )
    return tables


def _record(
    results: _Results,
    name: str,
    scorer: Scorer,
    scores: Mapping[Scenario, Both],
    settings: EvaluationSettings,
) -> None:
    """Keep what a model gave to each scenario, with the weights that its validation rows choose."""
    placed: dict[Scenario, Placed] = {}
    for scenario, both in scores.items():
        placed[scenario], together = scorer.placed(scenario, both)
        results.entropy.setdefault(name, {})[scenario] = float(both.test.entropy.mean())
        whole = both.test.catalogue
        if whole is not None:
            whole = scorer.placing.whole(scenario, whole, placed[scenario])
        _keep(results, name, scorer.placing, scenario, together, whole, settings)
    _record_weights(results, name, placed, settings)


def _keep(
    results: _Results,
    name: str,
    placing: Placing,
    scenario: Scenario,
    scores: list[FloatArray],
    whole: RowScores | None,
    settings: EvaluationSettings,
) -> None:
    """Keep a model's scores of a scenario's candidates and its ranks in the whole catalogue."""
    rows = placing.test[scenario]
    if settings.as_served:
        assert whole is not None
        # The level of new items is that of a user's whole catalogue, not of a few candidates.
        scores = placing.of_candidates(scenario, whole)
    results.predictions.append(prediction_rows(name, scenario, rows, scores))
    if whole is not None and settings.full_catalogue:
        results.whole.record(name, scenario, rows, whole)


def _record_weights(
    results: _Results, name: str, placed: Mapping[Scenario, Placed], settings: EvaluationSettings
) -> None:
    asked = settings.parts | {"prior": True}
    for part in (part for part, wanted in asked.items() if wanted):
        of = {scenario: getattr(found.weights, part) for scenario, found in placed.items()}
        results.models[name][f"{part}_weight"] = of
    if settings.as_served:
        levels = {scenario: asdict(found.levels) for scenario, found in placed.items()}
        results.models[name]["levels"] = levels


def _references(
    predictions: pl.DataFrame, adapters: Sequence[Adapter], domain: Domain
) -> dict[str, str]:
    """The harder opponent in each scenario: the single adapter with the higher NDCG@10."""
    names = [a.name for part in singles(adapters, domain).values() for a in part]
    references: dict[str, str] = {}
    for scenario in predictions["scenario"].unique(maintain_order=True).to_list():
        quality = {}
        for name in names:
            rows = predictions.filter((pl.col("model") == name) & (pl.col("scenario") == scenario))
            quality[name] = per_user(prediction_ranks(rows))["ndcg@10"].mean()
        if quality:
            references[scenario] = max(quality, key=lambda name: quality[name])
    return references


@contextmanager
def _timed(results: _Results, name: str, kind: str) -> Iterator[None]:
    started = time.monotonic()
    results.models[name] = {"kind": kind}
    yield
    results.models[name]["seconds"] = time.monotonic() - started
