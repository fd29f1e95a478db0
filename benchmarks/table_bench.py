"""What one target and seed of `paper_table.py` trains, mixes and ranks; all is kept, made once."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from costs import PeakMemory
from reccocktail.baselines import make_baseline
from reccocktail.data.domain import Domain
from reccocktail.data.overlap import overlapping_items
from reccocktail.errors import RunError
from reccocktail.evaluation.controls import GRID, Controls
from reccocktail.evaluation.metrics import per_user
from reccocktail.mixing.arithmetic import combine
from reccocktail.mixing.measure import MixSettings
from reccocktail.mixing.sheet import coefficients_of
from reccocktail.recipe import Recipe
from reccocktail.schema import Scenario
from reccocktail.storage import read_json, write_json
from reccocktail.training.adapter import Adapter, Lora
from reccocktail.training.schedule import Length
from reccocktail.training.trainer import train
from study import best_of_curve, kept_sheet, without_validation
from table_rows import BASE, BY_NAME, INGREDIENT
from table_target import SCENARIO, VIEWS, WEIGHTS, Board, Target

_SEARCHES: dict[str, dict[str, Any]] = {
    "cocktail": {},
    "cocktail_factor": {"method": "factor"},
    "cocktail_layer": {"granularity": "layer"},
    "diluted": {"objective": "validation", "dilutions": (0.75, 0.5), "refinements": 0},
}
_CHOSEN_BY = {"validation": "log_loss", "cocktail_calibrated": "calibrated_entropy"}
"""Rows that choose among the mixes which the cocktail's search has measured, and by what."""
_SOUPS = {"soup": INGREDIENT, "second_soup": "second_round"}
"""Rows that average a row's adapter with another seed's, which started alike."""
_CONTROLS = {
    "average": "average",
    "linear": "linear",
    "ties": "ties",
    "dare": "dare",
    "ensemble": "ensemble",
    "random": "random",
    "random_average": "random",
}


@dataclass
class Bench:
    """What one seed of a target trains and mixes; everything is kept and made once.

    Attributes:
        target: the domain and its rows.
        seed: of batches, random updates, dropped entries and baselines' starts.
        sources: domains of the base spirit, for joint training.
    """

    target: Target
    seed: int
    sources: Sequence[Domain] = ()
    _adapters: dict[str, Adapter] = field(default_factory=dict)
    _neighbour: "Bench | None" = None

    @property
    def folder(self) -> Path:
        """Where this seed's adapters and sheets lie."""
        return self.target.out / f"seed-{self.seed}"

    @property
    def ingredient(self) -> Adapter:
        """Trained for the asked minutes or steps."""
        sizes = self.target.sizes
        return self._trained(INGREDIENT, Length(minutes=sizes.minutes, steps=sizes.steps))

    def _trained(
        self,
        name: str,
        length: Length,
        initial: Adapter | None = None,
        beside: Adapter | None = None,
        joint: bool = False,
    ) -> Adapter:
        target, out = self.target, self.folder / name
        file = self.folder / f"{name}.cost.json"
        if file.exists() and name in self._adapters:
            return self._adapters[name]
        domains = [*self.sources, target.domain] if joint else [target.domain]
        recipe = target.recipe
        if joint:
            recipe = _joint_recipe(target.domain.name, self.ingredient, target.base)
        exclude = {s.name: frozenset(overlapping_items(s, [target.domain])) for s in self.sources}
        with PeakMemory(target.backbone.device) as memory:
            adapter = train(
                "base" if joint else "ingredient",
                domains,
                target.backbone,
                without_validation(recipe, self.seed),
                out,
                length,
                resume=True,
                exclude=exclude if joint else None,
                initial=initial,
                beside=beside,
            )
        if not file.exists():
            run = read_json(out.with_name(f"{name}.training") / "run.json")
            write_json(file, {"seconds": run["seconds"], "peak_memory_bytes": memory.bytes})
        self._adapters[name] = adapter
        return adapter

    def _own(self, row: str) -> Adapter:
        """The adapter that is the ingredient or its second round."""
        if row == INGREDIENT:
            return self.ingredient
        length = Length(steps=_steps(self.ingredient))
        return self._trained(row, length, initial=self.target.base)

    @property
    def neighbours(self) -> list["Bench"]:
        """This seed and the one it makes soups with: 0 and 1, 2 and 3."""
        if self._neighbour is None:
            self._neighbour = replace(self, seed=self.seed ^ 1, _adapters={}, _neighbour=self)
        return sorted((self, self._neighbour), key=lambda bench: bench.seed)

    @property
    def pair(self) -> list[Adapter]:
        """Base spirit and ingredient."""
        return [self.target.base, self.ingredient]

    def sheet(self, row: str, scenario: Scenario) -> dict[str, Any]:
        """The cocktail's sheet for a scenario."""
        target, sizes = self.target, self.target.sizes
        settings = MixSettings(
            users=sizes.adaptation_users,
            validation_users=sizes.validation_users,
            **_SEARCHES[row],
        )
        out = self.folder / f"{row}_{scenario}"
        return kept_sheet(self.pair, target.backbone, target.domain, scenario, out, settings)

    def lora(self, row: str, scenario: Scenario) -> tuple[Lora | None, dict[str, Any]]:
        """The LoRA of a row that has one, and what the row says of how it was made."""
        if row == "backbone":
            return None, {}
        if row == BASE:
            return self.target.base.lora, {"steps": self.target.base.card.steps}
        if row in _SOUPS.values():
            found = self._own(row)
            return found.lora, {"steps": found.card.steps}
        if row == "woven":
            base = self.target.base
            found = self._trained(row, Length(steps=_steps(self.ingredient)), beside=base)
            both = combine([base.lora, found.lora], torch.tensor([1.0, 1.0]))
            return both, {"steps": found.card.steps, "coefficients": [1.0, 1.0]}
        if row == "joint":
            length = Length(steps=_joint_steps(self.ingredient, self.target.base))
            found = self._trained(row, length, joint=True)
            return found.lora, {"steps": found.card.steps, "sources": len(self.sources)}
        if row in _SOUPS:
            half, parts = [0.5, 0.5], [bench._own(_SOUPS[row]).lora for bench in self.neighbours]
            said = {"coefficients": half, "of seeds": [bench.seed for bench in self.neighbours]}
            return combine(parts, torch.tensor(half)), said
        pair = [adapter.lora for adapter in self.pair]
        sheet = self.sheet("cocktail" if row in _CHOSEN_BY else row, scenario)
        if row in _CHOSEN_BY:
            chosen = best_of_curve(sheet, _CHOSEN_BY[row])
            if chosen is None:
                raise RunError(
                    f"There are no labelled validation users; leave the row '{row}' out."
                )
            return combine(pair, torch.tensor(chosen)), {"coefficients": chosen}
        rows = np.array(list(sheet["coefficients"].values()))
        said = {"coefficients": rows.mean(axis=0).round(6).tolist(), "groups": len(rows)}
        said |= {"collapse": sheet["collapse"], "agreement": sheet["agreement"]}
        return combine(pair, coefficients_of(sheet, pair), sheet["method"]), said

    def judge(self, row: str) -> dict[str, dict[str, Any]]:
        """Ranks of a row by table, with `chosen` (what it says of itself) and `cost`."""
        if BY_NAME[row].kind == "baseline":
            return self._baseline(row)
        found: dict[str, dict[str, Any]] = {}
        with PeakMemory(self.target.backbone.device) as memory:
            for board in self.target.boards:
                board.scorer.costs.clear()
                for table, placed in self._judge(row, board).items():
                    found[table] = placed | {"cost": self._cost(row, table, board)}
        for placed in found.values():
            peaks = (memory.bytes, placed["cost"]["peak_memory_bytes"])
            placed["cost"]["peak_memory_bytes"] = max((p for p in peaks if p), default=None)
        return found

    def _judge(self, row: str, board: Board) -> dict[str, dict[str, Any]]:
        scenarios: list[Scenario] = list(board.scorer.test)
        if row == "oracle":
            return {t: found for s in scenarios for t, found in self._oracle(board, s).items()}
        if row in _CONTROLS:
            sheets = [self.sheet("cocktail", s) for s in scenarios] if row == "random" else []
            controls = Controls(*self.pair, board.scorer, sheets, whole=False, seed=self.seed)
            control = controls.run(_CONTROLS[row])
            placed = board.placed(control.scores)
            chosen = control.chosen
            return {t: p | {"chosen": _said(chosen, SCENARIO[t])} for t, p in placed.items()}
        found: dict[str, dict[str, Any]] = {}
        for scenario in scenarios:
            lora, said = self.lora(row, scenario)
            placed = board.placed(board.scorer.scored(lora, [scenario], row, whole=False))
            found |= {table: p | {"chosen": said} for table, p in placed.items()}
        return found

    def _oracle(self, board: Board, scenario: Scenario) -> dict[str, dict[str, Any]]:
        """For each table and view the mix of the grid with the best NDCG@10 on the test users."""
        pair = [adapter.lora for adapter in self.pair]
        every = {}
        for first in GRID:
            lora = combine(pair, torch.tensor([first, 1 - first]))
            label = f"Oracle, lambda {first:.2f}"
            every[first] = board.placed(board.scorer.scored(lora, [scenario], label, whole=False))
        found: dict[str, dict[str, Any]] = {}
        for table in board.of[scenario]:
            placed: dict[str, Any] = {}
            chosen: dict[str, Any] = {}
            for view, column in VIEWS.items():
                quality = {
                    first: per_user(part[table][column])["ndcg@10"].mean()
                    for first, part in every.items()
                }
                best = max(GRID, key=lambda first, q=quality: (q[first], -first))
                placed[column] = every[best][table][column]
                placed |= {w: every[best][table][w] for w, of in WEIGHTS.items() if of == column}
                chosen[view] = [best, 1 - best]
            said = {"coefficients": chosen["with prior"], "by view": chosen}
            found[table] = placed | {"chosen": said | {"uses_test_labels": True}}
        return found

    def _baseline(self, row: str) -> dict[str, dict[str, Any]]:
        target = self.target
        with PeakMemory(target.backbone.device) as memory:
            started = time.monotonic()
            made = make_baseline(row, target.backbone, seed=self.seed)
            made.fit(target.domain)
            fitted = time.monotonic()
            found = target.baseline(made)
            users = sum(rows.height for rows in target.rows.values())
            rate = users / max(time.monotonic() - fitted, 1e-9)
        cost = {
            "train_seconds": fitted - started,
            "mix_seconds": 0.0,
            "users_per_second": rate,
            "peak_memory_bytes": memory.bytes,
        }
        return {t: p | {"chosen": dict(made.chosen), "cost": cost} for t, p in found.items()}

    def _cost(self, row: str, table: str, board: Board) -> dict[str, Any]:
        """What the row cost on this target, beyond the base spirit."""
        own = {name: [name] for name in ("second_round", "woven", "joint")}
        own |= {"backbone": [], BASE: []}
        trained = [
            read_json(bench.folder / f"{name}.cost.json")
            for bench in (self.neighbours if row in _SOUPS else [self])
            for name in own.get(_SOUPS.get(row, row), [INGREDIENT])
        ]
        sheet = "cocktail" if row in (*_CHOSEN_BY, "random") else row
        mixed = [self.sheet(sheet, SCENARIO[table])] if sheet in _SEARCHES else []
        scored = [c for c in board.scorer.costs if c["scenario"] == SCENARIO[table]]
        if row == "oracle":  # one mix is scored; the others are the price of choosing by labels
            scored = scored[:1]
        passes = 2 if row == "ensemble" else 1
        users = sum(c["users"] for c in scored) / passes
        peaks = [x["peak_memory_bytes"] or 0 for x in (*trained, *mixed)]
        return {
            "train_seconds": sum(x["seconds"] for x in trained),
            "mix_seconds": sum(x["seconds"] for x in mixed),
            "users_per_second": users / max(sum(c["seconds"] for c in scored), 1e-9),
            "peak_memory_bytes": max(peaks, default=0) or None,
        }


def _said(chosen: Mapping[str, Any], scenario: Scenario) -> dict[str, Any]:
    """What a control says of one scenario, with coefficients by that name."""
    found = chosen.get(scenario, chosen)
    return dict(found) if isinstance(found, Mapping) else {"coefficients": found}


def _joint_steps(ingredient: Adapter, base: Adapter) -> int:
    """Steps of the base spirit's recipe that show as many examples as both trainings together."""
    return _steps(base) + ceil(_of_target(ingredient, base))


def _joint_recipe(target: str, ingredient: Adapter, base: Adapter) -> Recipe:
    """The base spirit's, with as many examples of the target as the ingredient has seen."""
    training = base.card.recipe.training
    own = _of_target(ingredient, base)
    share = own / (_steps(base) + own)
    theirs = {name: (1 - share) * of for name, of in (training.domain_shares or {}).items()}
    training = training.model_copy(update={"domain_shares": theirs | {target: share}})
    return base.card.recipe.model_copy(update={"training": training})


def _of_target(ingredient: Adapter, base: Adapter) -> float:
    """The ingredient's training in steps of the base spirit's recipe."""
    own, theirs = (_examples(adapter.card.recipe) for adapter in (ingredient, base))
    return _steps(ingredient) * own / theirs


def _examples(recipe: Recipe) -> int:
    """Examples of a step."""
    training = recipe.training
    return training.targets_per_batch if recipe.ranker == "dense" else training.prompts_per_batch


def _steps(adapter: Adapter) -> int:
    if not adapter.card.steps:
        raise RunError(f"The card of '{adapter.name}' does not say its steps; leave joint out.")
    return adapter.card.steps
