"""Find the coefficients that minimise an objective (paper, Eq. 9).

A line search serves two adapters with one pair of coefficients. Gradients serve coefficients of
each layer or module, and more than two adapters.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from transformers import PreTrainedModel

from reccocktail.errors import AdapterError
from reccocktail.mixing.arithmetic import MergeOptions, combine
from reccocktail.mixing.functional import FunctionalModel
from reccocktail.progress import bar
from reccocktail.schema import Granularity, Method
from reccocktail.training.adapter import Factors, Lora
from reccocktail.training.model import attach

GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
GLOBAL_GROUP = "all"
GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of lambda_1: where a search looks first, what controls choose from, what a service slides to."""


@dataclass(frozen=True)
class Groups:
    """Which coefficients a module takes: all the same, one set a layer, or one a module.

    Attributes:
        names: group names, in order.
        group_of: module name -> group number.
    """

    names: tuple[str, ...]
    group_of: Mapping[str, int]

    @classmethod
    def build(cls, adapters: Sequence[Lora], granularity: Granularity) -> "Groups":
        """Group the modules of all adapters."""
        modules = sorted({name for lora in adapters for name in lora})
        keys = {module: _group(module, granularity) for module in modules}
        names = tuple(sorted(set(keys.values()), key=lambda name: (len(name), name)))
        return cls(names, {module: names.index(key) for module, key in keys.items()})

    def spread(self, coefficients: Tensor) -> dict[str, Tensor]:
        """Coefficients (groups, adapters) -> one (adapters,) for each module."""
        return {module: coefficients[group] for module, group in self.group_of.items()}


def _group(module: str, granularity: Granularity) -> str:
    """Group of a module; for `layer` the number in its name, or the name where it has none."""
    if granularity == "module":
        return module
    if granularity == "layer":
        numbers = [part for part in module.split(".") if part.isdigit()]
        return numbers[0] if numbers else module
    return GLOBAL_GROUP


def line_search(
    objective: Callable[[float], float], grid: Sequence[float], refinements: int
) -> tuple[float, dict[float, float]]:
    """Minimise over lambda_1 in [0, 1], lambda_2 = 1 - lambda_1 (Eq. 6 and 9).

    A grid first, so that no basin is missed, then Brent's method between the neighbours of its best
    point. Points are rounded to 3 decimals, and of equal values the smaller lambda_1 wins.

    Args:
        objective: lambda_1 -> value.
        grid: ascending, from 0 to 1.
        refinements: evaluations spent beyond the grid.

    Returns:
        The best lambda_1, and lambda_1 -> value of every point that was evaluated.
    """
    seen = {point: objective(point) for point in grid}
    best = min(grid, key=lambda point: seen[point])
    place = list(grid).index(best)
    budget = len(seen) + refinements
    low, high = grid[max(place - 1, 0)], grid[min(place + 1, len(grid) - 1)]

    def remembered(point: float) -> float:
        point = round(float(point), 3)
        if point not in seen:
            if len(seen) == budget:  # the optimiser always asks for two points
                return float("inf")
            seen[point] = objective(point)
        return seen[point]

    if refinements > 0 and high > low:
        minimize_scalar(
            remembered,
            bounds=(low, high),
            method="bounded",
            options={"maxiter": refinements, "xatol": 0.01},
        )
    return min(seen, key=lambda point: (seen[point], point)), seen


@dataclass(frozen=True)
class Descent:
    """Settings of the gradient search: Adam on w, coefficients softmax(w / T), equal at first.

    Attributes:
        steps: of Adam.
        learning_rate: of Adam.
        temperature: T.
        passes: batches of users over which the gradient of each step is averaged.
    """

    steps: int = 15
    learning_rate: float = 0.3
    temperature: float = 1.0
    passes: int = 1

    def check(self) -> None:
        """Refuse what cannot be descended with.

        Raises:
            AdapterError: a number is out of range.
        """
        if self.steps < 1 or self.passes < 1:
            raise AdapterError("The gradient search needs at least one step.")
        if not (0 < self.learning_rate < math.inf and 0 < self.temperature < math.inf):
            raise AdapterError(
                "The learning rate and the softmax temperature of the search must be above 0."
            )


def gradient_search(
    backbone: PreTrainedModel,
    adapters: Sequence[Lora],
    groups: Groups,
    method: Method,
    loss: Callable[[FunctionalModel, int], Tensor],
    descent: Descent,
    options: MergeOptions | None = None,
) -> tuple[Tensor, list[float]]:
    """Descend on softmax coefficients through the merged model (AdaMerging; the paper's Eq. 9).

    Args:
        backbone: the bare causal LM.
        adapters: LoRAs to merge.
        groups: which modules share coefficients.
        method: one of `DIFFERENTIABLE`.
        loss: (merged model, number of the batch) -> scalar with gradient.
        descent: steps, learning rate, temperature.
        options: of the merge.

    Returns:
        Coefficients (groups, adapters), each row in [0, 1] with sum 1, and the loss before each
        step. The backbone is given back as it was.

    Raises:
        AdapterError: see `combine`.
    """
    device = next(backbone.parameters()).device
    on_device = [
        {m: Factors(f.a.to(device), f.b.to(device), f.scaling) for m, f in lora.items()}
        for lora in adapters
    ]
    w = torch.zeros(len(groups.names), len(adapters), device=device, requires_grad=True)

    def merged() -> Lora:
        coefficients = torch.softmax(w / descent.temperature, -1)
        return combine(on_device, groups.spread(coefficients), method, options)

    optimiser = torch.optim.Adam([w], lr=descent.learning_rate)
    with torch.no_grad():
        start = merged()
    peft_model = attach(backbone, start)
    peft_model.requires_grad_(False)
    losses: list[float] = []
    try:
        with bar("Searching coefficients", descent.steps) as advance:
            for step in range(descent.steps):
                optimiser.zero_grad()
                total = 0.0
                for number in range(step * descent.passes, (step + 1) * descent.passes):
                    value = loss(FunctionalModel(peft_model, merged()), number) / descent.passes
                    torch.autograd.backward(value)
                    total += float(value.detach())
                optimiser.step()
                losses.append(total)
                advance(1, f"Searching coefficients (objective {np.mean(losses[-3:]):.3f})")
    finally:
        peft_model.unload()
    return torch.softmax(w.detach() / descent.temperature, -1).cpu(), losses
