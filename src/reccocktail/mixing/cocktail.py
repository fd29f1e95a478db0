"""Mix a cocktail: adapters and unlabelled users become one stock PEFT adapter (paper, Eq. 6-9)."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain
from reccocktail.errors import AdapterError
from reccocktail.evaluation.significance import paired_bootstrap
from reccocktail.mixing.arithmetic import merge, update_norm
from reccocktail.mixing.entropy import collapse_reason
from reccocktail.mixing.measure import Mixer, MixSettings
from reccocktail.mixing.objectives import Objective, Point
from reccocktail.mixing.search import Groups, gradient_search, line_search
from reccocktail.precision import in_precision
from reccocktail.progress import say
from reccocktail.schema import USER, Scenario
from reccocktail.storage import read_json
from reccocktail.training.adapter import Adapter, Card, DataCard, Lora, require_adapter_dir
from reccocktail.training.card import adapter_readme

COCKTAIL_FILE = "cocktail.json"


def mix(
    adapters: Sequence[Adapter],
    backbone: Backbone,
    domain: Domain,
    scenario: Scenario,
    out: Path,
    settings: MixSettings | None = None,
    coefficients: Sequence[float] | None = None,
) -> Adapter:
    """Merge adapters with the coefficients that minimise the objective; write the cocktail `out`.

    Args:
        adapters: two or more; by custom the base spirit first (lambda_1), the ingredient second.
        backbone: the model they were trained on.
        domain: the target domain; its test users lend their histories and candidates, never their
            targets.
        scenario: whose users to adapt to.
        out: adapter folder to write, with `cocktail.json`.
        settings: see `MixSettings`.
        coefficients: fixed ones in place of a search (the plain average, say); still measured. They
            need not sum to 1.

    Raises:
        AdapterError, DataError: see `Mixer`, and `require_adapter_dir` for `out`.
    """
    settings = settings or MixSettings()
    started = time.monotonic()
    require_adapter_dir(out)
    mixer = Mixer(adapters, backbone, domain, scenario, settings)
    settings = mixer.settings  # nothing is left open there
    fixed = coefficients is not None
    pairwise = len(adapters) == 2 and settings.granularity == "global"
    groups = Groups.build([a.lora for a in adapters], settings.granularity)
    descent_losses: list[float] = []
    curve: list[Point] = []
    collapse: str | None = None
    if coefficients is not None:
        chosen = _given(coefficients, len(adapters)).expand(len(groups.names), -1)
        curve = [
            mixer.measure(mixer.lora(chosen, groups), list(coefficients), "Measuring the given mix")
        ]
    elif pairwise:
        _, seen = line_search(
            lambda first: mixer.pair(first).value(settings.objective),
            settings.grid,
            settings.refinements,
        )
        curve = [mixer.pair(first) for first in sorted(seen)]
        ends = mixer.alone()
        for measured in curve:
            measured.relate(ends)
        point, collapse = _guarded(curve, settings.objective)
        assert point.coefficients is not None
        chosen = torch.tensor([point.coefficients])
    else:
        ends = mixer.alone()
        with in_precision(backbone.model, backbone.autocast):
            chosen, descent_losses = gradient_search(
                backbone.model,
                [a.lora for a in adapters],
                groups,
                settings.method,
                mixer.gradient_loss,
                mixer.descent,
                settings.options,
            )
        found = mixer.measure(mixer.lora(chosen, groups), None, "Measuring the cocktail")
        curve = [*ends, found]
        for measured in curve:
            measured.relate(ends)
        point, collapse = _guarded(curve, settings.objective, prefer=found)
        if settings.search == "published":
            point = found
        if point.coefficients is not None:
            chosen = torch.tensor([point.coefficients]).expand(len(groups.names), -1)
    lora, lost_energy = merge(
        [a.lora for a in adapters], groups.spread(chosen), settings.method, settings.options
    )
    card = Card(
        role="cocktail",
        backbone=backbone.fingerprint,
        recipe=adapters[0].card.recipe.model_copy(update={"quantization": backbone.quantization}),
        template_sha256=adapters[0].card.template_sha256,
        readout_sha256=adapters[0].card.readout_sha256,
        data=(
            DataCard(
                name=domain.name,
                sha256=domain.sha256,
                users=domain.train().height,
                items=len(domain.item_ids),
            ),
        ),
    )
    cocktail = Adapter(out.name, lora, card)
    sheet = {
        "format": 1,
        "name": out.name,
        "method": settings.method,
        "options": _options(settings),
        "lost_energy": lost_energy,
        "search": "fixed" if fixed else settings.search,
        "granularity": settings.granularity,
        "objective": "fixed" if fixed else settings.objective,
        "scenario": scenario,
        "adapters": [
            {
                "name": a.name,
                "role": a.card.role,
                "sha256": a.sha256,
                "update_norm": update_norm(a.lora),
            }
            for a in adapters
        ],
        "coefficients": {
            name: [round(float(value), 6) for value in row]
            for name, row in zip(groups.names, chosen, strict=True)
        },
        "curve": [point.card() for point in curve],
        "descent": descent_losses,
        "descent_settings": asdict(mixer.descent) if descent_losses else None,
        "adaptation": {
            "table": f"test_{scenario}",
            "users": 0 if fixed else mixer.unlabelled.height,
            "user_ids": [] if fixed else mixer.unlabelled[USER].to_list(),
            "transductive": settings.transductive,
        },
        "validation": {"table": f"valid_{scenario}", "users": mixer.labelled.height},
        "collapse": {"collapsed": collapse is not None, "reason": collapse or ""},
        "agreement": agreement(curve, settings.objective)
        if not fixed
        else "The coefficients were given, not searched.",
        "backbone": backbone.fingerprint.model_dump(mode="json"),
        "precision": backbone.precision,
        "data": {"name": domain.name, "sha256": domain.sha256},
        "update_norm": update_norm(lora),
        "seed": settings.seed,
    }
    body = "\nCoefficients: " + _in_words(adapters, groups, chosen) + f"\n\n{sheet['agreement']}\n"
    cocktail.save(out, adapter_readme(out.name, card, body), {COCKTAIL_FILE: sheet})
    say(
        f"{out.name}: {_in_words(adapters, groups, chosen)} in {time.monotonic() - started:.0f} s. "
        f"{sheet['agreement']}"
    )
    return cocktail


def weights_of(sheet: Mapping[str, Any], loras: Sequence[Lora]) -> dict[str, Tensor]:
    """Coefficients of a `cocktail.json` for `combine`: one (adapters,) for each module of `loras`.

    They are rounded to 6 decimals there.
    """
    groups = Groups.build(loras, sheet["granularity"])
    return groups.spread(torch.tensor([sheet["coefficients"][name] for name in groups.names]))


def load_sheet(adapter: Path) -> dict[str, Any] | None:
    """The sheet `cocktail.json` of an adapter folder; None if the adapter is no cocktail.

    Raises:
        RunError: it is not JSON.
        AdapterError: it is not what `mix` writes.
    """
    file = adapter / COCKTAIL_FILE
    if not file.is_file():
        return None
    sheet = read_json(file)
    entries = ("adapters", "coefficients", "method", "adaptation")
    if not isinstance(sheet, dict) or not all(entry in sheet for entry in entries):
        raise AdapterError(f"{file} is damaged; copy or mix the cocktail again.")
    if not isinstance(sheet["adaptation"], dict) or "user_ids" not in sheet["adaptation"]:
        raise AdapterError(f"{file} does not say whom it adapted to; mix the cocktail again.")
    return sheet


def agreement(curve: Sequence[Point], objective: Objective) -> str:
    """One sentence: does the objective's choice hold before labelled validation users?"""
    judged = [
        point for point in curve if point.validation is not None and point.coefficients is not None
    ]
    if len(judged) < 2:
        return "No labelled validation users were there to judge the choice by."
    chosen = min(judged, key=lambda point: point.value(objective))
    best = max(judged, key=lambda point: point.per_user["ndcg@10"].mean())
    n = len(best.per_user["ndcg@10"])
    at_chosen, at_best = _lambdas(chosen), _lambdas(best)
    if chosen is best:
        return (
            f"{objective.capitalize()} and validation NDCG@10 (n = {n}) "
            f"choose the same lambda, {at_best}."
        )
    paired = paired_bootstrap(chosen.per_user, best.per_user)["ndcg@10"]
    low, high = paired["ci95"]
    verdict = "they disagree" if high < 0 else "within noise"
    return (
        f"{objective.capitalize()} chooses lambda {at_chosen}, "
        f"validation NDCG@10 is highest at {at_best}: "
        f"difference {paired['difference']:+.4f} [{low:+.4f}, {high:+.4f}], n = {n}, {verdict}."
    )


def _guarded(
    curve: Sequence[Point], objective: Objective, prefer: Point | None = None
) -> tuple[Point, str | None]:
    """The point to take, and why the first choice was refused, if it was (collapse guard)."""
    ends = [p for p in curve if p.coefficients is not None and max(p.coefficients) == 1.0]
    reference = min((p.information for p in ends), default=0.0)
    order = sorted(curve, key=lambda p: (p.value(objective), str(p.coefficients)))
    if prefer is not None:
        order = [prefer, *(p for p in order if p is not prefer)]
    first_reason: str | None = None
    for point in order:
        reason = collapse_reason(point.certainty, point.candidates, point.information, reference)
        if reason is None:
            return point, first_reason
        first_reason = first_reason or f"lambda {_lambdas(point)} was refused: {reason}"
    return order[0], "every mix looks collapsed: " + str(first_reason)


def _lambdas(point: Point) -> str:
    return (
        "of the cocktail"
        if point.coefficients is None
        else "/".join(f"{c:.2f}" for c in point.coefficients)
    )


def _in_words(adapters: Sequence[Adapter], groups: Groups, chosen: Tensor) -> str:
    mean = chosen.mean(dim=0).tolist()
    parts = " + ".join(f"{value:.3f} {a.name}" for value, a in zip(mean, adapters, strict=True))
    return parts if len(groups.names) == 1 else f"{parts} (means over {len(groups.names)} groups)"


def _options(settings: MixSettings) -> dict[str, Any]:
    """The merge's options as far as the method knows them."""
    known = {"svd": ("rank",), "ties": ("density", "rank"), "dare": ("density", "seed")}
    names = ("norm_matched", *known.get(settings.method, ()))
    return {name: value for name, value in asdict(settings.options).items() if name in names}


def _given(coefficients: Sequence[float], size: int) -> Tensor:
    """Coefficients as a tensor; given ones may leave the simplex."""
    usable = all(0 <= c < math.inf for c in coefficients) and any(c > 0 for c in coefficients)
    if len(coefficients) != size or not usable:
        raise AdapterError(
            f"Give {size} coefficients, one for each adapter, none below 0 and not all 0."
        )
    return torch.tensor([list(coefficients)], dtype=torch.float32)
