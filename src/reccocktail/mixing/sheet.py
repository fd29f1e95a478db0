"""The sheet of a cocktail, `cocktail.json`: what was mixed, how, and whom it adapted to."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reccocktail.errors import AdapterError
from reccocktail.evaluation.metrics import in_words
from reccocktail.evaluation.significance import paired_bootstrap
from reccocktail.mixing.arithmetic import MergeOptions, update_norm
from reccocktail.mixing.measure import Mixer, MixSettings
from reccocktail.mixing.objectives import MeasuredMix
from reccocktail.mixing.search import Groups
from reccocktail.schema import USER, Objective
from reccocktail.storage import read_json
from reccocktail.training.adapter import Adapter, Lora

COCKTAIL_FILE = "cocktail.json"
_ROUNDING = 1e-5  # sheets keep six decimals
_ENTRIES = (
    *("name", "method", "granularity", "objective", "scenario", "adapters", "coefficients"),
    *("adaptation", "data"),
)
"""What evaluation, reports and the service read of a sheet."""


@dataclass(frozen=True)
class SearchResult:
    """Coefficients, and what was seen on the way to them.

    Attributes:
        coefficients: (groups, adapters).
        curve: the mixes that were measured.
        taken: the one of them whose coefficients these are.
        fixed: they were given, not searched.
        collapse: why the first choice looks collapsed, None if it does not. The `published` search
            takes it all the same, and so does any other where every mix looks collapsed.
        losses: the objective at each step of a gradient search.
    """

    coefficients: Tensor
    curve: list[MeasuredMix]
    taken: MeasuredMix
    fixed: bool = False
    collapse: str | None = None
    losses: list[float] = field(default_factory=list)

    def agreement(self, objective: Objective) -> str:
        """One sentence on how far the choice can be trusted."""
        if self.fixed:
            return "The coefficients were given, not searched."
        return agreement_with_validation(self.curve, self.taken, objective)

    def in_words(self, adapters: Sequence[Adapter]) -> str:
        """The coefficients with the adapters' names; of several groups, their means."""
        groups = len(self.coefficients)
        mean = self.coefficients.mean(dim=0).tolist()
        parts = " + ".join(f"{value:.3f} {a.name}" for value, a in zip(mean, adapters, strict=True))
        return parts if groups == 1 else f"{parts} (means over {groups} groups)"


def cocktail_sheet(
    mixer: Mixer, groups: Groups, found: SearchResult, cocktail: Adapter, lost_energy: float
) -> dict[str, Any]:
    """The sheet of a mix; the same call gives the same sheet, so it holds no time.

    Args:
        mixer: what measured the mixes.
        groups: which modules share coefficients.
        found: the coefficients.
        cocktail: the merged adapter.
        lost_energy: of the merge, in [0, 1].
    """
    settings, fixed = mixer.settings, found.fixed
    return {
        "format": 1,
        "name": cocktail.name,
        "method": settings.method,
        "options": _options(settings),
        "lost_energy": lost_energy,
        "search": "fixed" if fixed else settings.search,
        "granularity": settings.granularity,
        "objective": "fixed" if fixed else settings.objective,
        "scenario": mixer.scenario,
        "adapters": [
            {
                "name": a.name,
                "role": a.card.role,
                "sha256": a.sha256,
                "update_norm": update_norm(a.lora),
            }
            for a in mixer.adapters
        ],
        "coefficients": {
            name: [round(float(value), 6) for value in row]
            for name, row in zip(groups.names, found.coefficients, strict=True)
        },
        "curve": [point.card() for point in found.curve],
        "descent": found.losses,
        "descent_settings": asdict(mixer.descent) if found.losses else None,
        "adaptation": {
            "table": f"test_{mixer.scenario}",
            "users": 0 if fixed else mixer.unlabelled.height,
            "user_ids": [] if fixed else mixer.unlabelled[USER].to_list(),
            "transductive": settings.transductive,
        },
        "validation": {"table": f"valid_{mixer.scenario}", "users": mixer.labelled.height},
        "collapse": {"collapsed": found.collapse is not None, "reason": found.collapse or ""},
        "agreement": found.agreement(settings.objective),
        "backbone": mixer.backbone.fingerprint.model_dump(mode="json"),
        "precision": mixer.backbone.precision,
        "data": {"name": mixer.domain.name, "sha256": mixer.domain.sha256},
        "update_norm": update_norm(cocktail.lora),
        "seed": settings.seed,
    }


def load_sheet(adapter: Path) -> dict[str, Any] | None:
    """The sheet of an adapter folder; None if the adapter is no cocktail.

    Raises:
        RunError: it is not JSON.
        AdapterError: it is not what `mix` writes.
    """
    file = adapter / COCKTAIL_FILE
    if not file.is_file():
        return None
    sheet: dict[str, Any] = read_json(file)
    if not _holds(sheet, _ENTRIES) or not _holds(sheet["data"], ("name", "sha256")):
        raise AdapterError(f"{file} is damaged; copy or mix the cocktail again.")
    if not _holds(sheet["adaptation"], ("user_ids", "transductive")):
        raise AdapterError(f"{file} does not say whom it adapted to; mix the cocktail again.")
    return sheet


def _holds(found: Any, names: Sequence[str]) -> bool:
    return isinstance(found, dict) and all(name in found for name in names)


def coefficients_of(sheet: Mapping[str, Any], loras: Sequence[Lora]) -> dict[str, Tensor]:
    """Coefficients of a sheet for `combine`: one (adapters,) for each module of `loras`.

    They are rounded to 6 decimals there.

    Raises:
        KeyError: the sheet lacks a group of these adapters.
    """
    groups = Groups.build(loras, sheet["granularity"])
    return groups.spread(torch.tensor([sheet["coefficients"][name] for name in groups.names]))


def sums_to_one(coefficients: Sequence[float] | None) -> bool:
    """Whether coefficients are shares of one mix between the adapters: known, and 1 together.

    Those of a diluted cocktail, or of adapters that are both taken whole, are not.
    """
    return coefficients is not None and abs(sum(coefficients) - 1) < _ROUNDING


def options_of(sheet: Mapping[str, Any]) -> MergeOptions:
    """What a sheet's merge took beside method and coefficients, for `combine`."""
    return MergeOptions(**sheet.get("options", {}))


def agreement_with_validation(
    curve: Sequence[MeasuredMix], chosen: MeasuredMix, objective: Objective
) -> str:
    """One sentence: does the objective's choice hold before labelled validation users?"""
    judged = [point for point in curve if point.validation is not None]
    if len(judged) < 2 or chosen.validation is None:
        return "No labelled validation users were there to judge the choice by."
    best = max(judged, key=lambda point: point.per_user["ndcg@10"].mean())
    n = len(best.per_user["ndcg@10"])
    if chosen is best:
        return (
            f"{objective.capitalize()} and validation NDCG@10 (n = {n}) "
            f"choose the same lambda, {best.lambdas}."
        )
    paired = paired_bootstrap(chosen.per_user, best.per_user)["ndcg@10"]
    gap = in_words(paired["difference"], paired["ci95"], "+.4f")
    verdict = "they disagree" if paired["ci95"][1] < 0 else "within noise"
    return (
        f"{objective.capitalize()} chooses lambda {chosen.lambdas}, "
        f"validation NDCG@10 is highest at {best.lambdas}: "
        f"difference {gap}, n = {n}, {verdict}."
    )


def _options(settings: MixSettings) -> dict[str, Any]:
    """The merge's options as far as the method knows them."""
    known = {"svd": ("rank",), "ties": ("density", "rank"), "dare": ("density", "seed")}
    names = ("norm_matched", *known.get(settings.method, ()))
    return {name: value for name, value in asdict(settings.options).items() if name in names}
