"""Controls: what a cocktail must be held against, made of the same two adapters.

| name | what it is |
|---|---|
| `average` | the plain average of both updates |
| `validation` | coefficients with the least log loss on labelled validation users |
| `oracle` | coefficients with the best NDCG@10 on the scored users themselves: uses test labels |
| `random` | random updates of the ingredient's norms in place of the base spirit |
| `ensemble` | scores of both adapters averaged: two passes of the backbone for every user |
| `linear`, `ties`, `dare` | merges of equal coefficients, see `mixing.arithmetic` |
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from reccocktail.data.domain import Domain
from reccocktail.errors import RunError
from reccocktail.evaluation.metrics import per_user, ranks
from reccocktail.evaluation.scorer import Both, Scorer
from reccocktail.mixing.arithmetic import MergeOptions, combine, update_norm
from reccocktail.mixing.entropy import as_matrix, fit_temperature, log_loss
from reccocktail.mixing.search import GRID
from reccocktail.mixing.sheet import coefficients_of, options_of
from reccocktail.ranking.base import entropy_of
from reccocktail.ranking.scoring import RowScores, Scored, positive_columns
from reccocktail.schema import Method, Scenario
from reccocktail.training.adapter import Adapter, Factors, Lora

CONTROLS = ("average", "validation", "oracle", "random", "ensemble", "linear", "ties", "dare")
TEST_LABELS = "oracle"
_MERGES: dict[str, Method] = {
    "average": "delta",
    "linear": "linear",
    "ties": "ties",
    "dare": "dare",
}


@dataclass(frozen=True)
class Controlled:
    """A control's scores, and what was chosen: coefficients or cost, by scenario."""

    scores: dict[Scenario, Both]
    chosen: dict[str, Any]


@dataclass(frozen=True)
class Controls:
    """The two adapters, where they are scored, and the cocktails beside them.

    Attributes:
        sheets: `cocktail.json` of the cocktails that are judged too.
        whole: score the whole catalogue.
        seed: of random updates, and of what `dare` drops.
    """

    base: Adapter
    ingredient: Adapter
    scorer: Scorer
    sheets: Sequence[Mapping[str, Any]]
    whole: bool
    seed: int

    def run(self, name: str) -> Controlled:
        """Score one control on every scenario."""
        label = f"Evaluating {name}"
        scenarios: list[Scenario] = list(self.scorer.test)
        if name == "ensemble":
            return self._ensemble(scenarios, label)
        if name in _MERGES:
            options = MergeOptions(seed=self.seed)
            even = combine(self._pair, torch.tensor([0.5, 0.5]), _MERGES[name], options)
            found = self.scorer.scored(even, scenarios, label, self.whole)
            return Controlled(found, {s: [0.5, 0.5] for s in scenarios})
        scores: dict[Scenario, Both] = {}
        chosen: dict[str, Any] = {}
        for scenario in scenarios:
            lora: Lora
            said: Any
            if name == "random":
                lora, said = self._random(scenario)
            else:
                judge = self._log_loss if name == "validation" else self._regret
                first = self._choose(scenario, judge)
                lora, said = self._mixed(first), [first, 1 - first]
            scores |= self.scorer.scored(lora, [scenario], label, self.whole)
            chosen[scenario] = said
        return Controlled(scores, chosen)

    @property
    def _pair(self) -> list[Lora]:
        return [self.base.lora, self.ingredient.lora]

    def _mixed(self, first: float) -> Lora:
        return combine(self._pair, torch.tensor([first, 1 - first]))

    def _choose(self, scenario: Scenario, judge: Callable[[Scenario, Both], float]) -> float:
        """The lambda_1 of the grid with the least value; the smaller one of equals."""
        values = {}
        for first in GRID:
            label = f"Controls ({scenario}), lambda {first:.2f}/{1 - first:.2f}"
            found = self.scorer.scored(self._mixed(first), [scenario], label, whole=False)
            values[first] = judge(scenario, found[scenario])
        return min(values, key=lambda first: (values[first], first))

    def _log_loss(self, scenario: Scenario, both: Both) -> float:
        scores = as_matrix(both.valid.scores)
        positive = torch.from_numpy(positive_columns(self.scorer.valid[scenario]))
        return log_loss(scores, positive, fit_temperature(scores, positive))

    def _regret(self, scenario: Scenario, both: Both) -> float:
        """NDCG@10 on the test rows with its sign changed: this looks at test labels."""
        _, scores = self.scorer.placed(scenario, both)
        positive = positive_columns(self.scorer.test[scenario])
        return -float(per_user(ranks(scores, positive))["ndcg@10"].mean())

    def _random(self, scenario: Scenario) -> tuple[Lora, dict[str, Any]]:
        """Noise mixed with the ingredient at the cocktail's coefficients, else at equal ones."""
        noise = random_like(self.ingredient.lora, self.seed)
        wanted = [self.base.sha256, self.ingredient.sha256]
        for sheet in self.sheets:
            if (
                sheet["scenario"] == scenario
                and sheet["objective"] != "fixed"
                and [a["sha256"] for a in sheet["adapters"]] == wanted
            ):
                rows = torch.tensor(list(sheet["coefficients"].values()))
                mean = [round(value, 6) for value in rows.mean(dim=0).tolist()]
                said = {"coefficients": mean, "of": sheet["name"]}
                weights = coefficients_of(sheet, self._pair)
                pair = [noise, self.ingredient.lora]
                return combine(pair, weights, sheet["method"], options_of(sheet)), said
        halves = torch.tensor([0.5, 0.5])
        return combine([noise, self.ingredient.lora], halves), {"coefficients": [0.5, 0.5]}

    def _ensemble(self, scenarios: Sequence[Scenario], label: str) -> Controlled:
        one, other = (self.scorer.scored(lora, scenarios, label, self.whole) for lora in self._pair)
        return Controlled(
            {
                s: Both(_mean(one[s].test, other[s].test), _mean(one[s].valid, other[s].valid))
                for s in scenarios
            },
            {"cost": "two passes of the backbone for every user, and two sets of item vectors"},
        )


def singles(adapters: Sequence[Adapter], domain: Domain) -> dict[str, list[Adapter]]:
    """The paper's two kinds by role: base spirits and ingredients.

    A second round of fine-tuning starts from another adapter, and joint training saw the domain as
    a base spirit does its own: both are left out where their role has others.
    """

    def apart(adapter: Adapter) -> bool:
        trained_on = {data.name for data in adapter.card.data}
        joint = adapter.card.role == "base" and domain.name in trained_on
        return joint or adapter.card.initial_sha256 is not None

    found = {role: [a for a in adapters if a.card.role == role] for role in ("base", "ingredient")}
    return {role: [a for a in part if not apart(a)] or part for role, part in found.items()}


def check_controls(
    names: Sequence[str], adapters: Sequence[Adapter], domain: Domain, validation_users: int
) -> tuple[Adapter, Adapter] | None:
    """The two of `singles` that the controls are made of; None without controls.

    Raises:
        RunError: an unknown control, not one base spirit and one ingredient, or no validation users
            where they choose.
    """
    if not names:
        return None
    for name in names:
        if name not in CONTROLS:
            raise RunError(f"There is no control '{name}'; choose of {', '.join(CONTROLS)}.")
    found = singles(adapters, domain)
    if any(len(part) != 1 for part in found.values()):
        raise RunError(
            "Controls are made of one base spirit and one ingredient; give both as --adapter, "
            f"not {len(found['base'])} and {len(found['ingredient'])}."
        )
    if "validation" in names and not validation_users:
        raise RunError(
            "The control 'validation' chooses on validation users; "
            "keep the prior, and let --validation-users be above 0."
        )
    return found["base"][0], found["ingredient"][0]


def random_like(lora: Lora, seed: int) -> dict[str, Factors]:
    """Random factors of the same shapes, every module's update with the norm it has in `lora`."""
    generator = torch.Generator().manual_seed(seed)
    noise: dict[str, Factors] = {}
    for module, (a, b, scaling) in sorted(lora.items()):
        drawn = Factors(
            torch.randn(a.shape, generator=generator),
            torch.randn(b.shape, generator=generator),
            scaling,
        )
        size = update_norm({module: lora[module]}) / update_norm({module: drawn})
        noise[module] = drawn._replace(b=drawn.b * size)
    return noise


def _mean(one: Scored, other: Scored) -> Scored:
    """Scores averaged, which ranks as averaging the log-probabilities over candidates does."""
    scores = [(x + y) / 2 for x, y in zip(one.scores, other.scores, strict=True)]
    entropy = entropy_of(torch.from_numpy(np.stack(scores))) if scores else one.entropy
    whole = one.catalogue and other.catalogue and _mean_rows(one.catalogue, other.catalogue)
    return Scored(scores, entropy, lambda: (one.common() + other.common()) / 2, whole)


def _mean_rows(one: RowScores, other: RowScores) -> RowScores:
    return lambda part: (one(part) + other(part)) / 2
