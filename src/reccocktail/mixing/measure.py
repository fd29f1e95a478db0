"""Measure mixes of adapters on one domain: entropy without labels, quality with them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import polars as pl
import torch
from torch import Tensor

from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.errors import AdapterError, DataError
from reccocktail.mixing.arithmetic import DIFFERENTIABLE, METHODS, MergeOptions, combine
from reccocktail.mixing.objectives import OBJECTIVES, MeasuredMix
from reccocktail.mixing.search import (
    GRANULARITIES,
    GRID,
    Descent,
    Groups,
)
from reccocktail.progress import say
from reccocktail.ranking.base import Ranker
from reccocktail.ranking.scoring import Catalogue, positive_columns, score
from reccocktail.schema import Granularity, Method, Objective, Scenario, Search
from reccocktail.training.adapter import Adapter, Lora
from reccocktail.training.model import check_compatible, model_sha256, ranker_of, scoring

SEARCHES: tuple[Search, ...] = get_args(Search)


@dataclass(frozen=True)
class MixSettings:
    """How a cocktail is mixed; all of it is written into `cocktail.json`.

    Attributes:
        method: what is merged, see `combine`.
        options: the merge's other settings.
        search: `auto` is a line search for one pair of coefficients and gradients for more;
            `published` is the algorithm of the paper's code (see `resolved`), taken as it comes,
            without the guard against a collapse.
        granularity: one set of coefficients for the model, each layer or each module.
        objective: what is minimised, see `mixing.objectives`.
        users: unlabelled test users whose predictions are looked at, 1 or more; at most half of
            them all, and evaluation leaves them out.
        validation_users: labelled validation users of the curve and of objectives with labels, 0
            for none.
        transductive: score the adaptation users too (the paper's way); declared, never the default.
        grid: points of lambda_1 for a pair of adapters, ascending from 0 to 1.
        refinements: evaluations beyond the grid, 0 or more.
        dilutions: factors in (0, 1) that the grid's coefficients are multiplied by as well: steps
            from each mix towards the bare backbone. A pair with one set of coefficients only.
        descent: the gradient search of `layer`, `module` and more than two adapters; None for
            `default_descent`.
        seed: draws the users, 0 or more.
    """

    method: Method = "delta"
    options: MergeOptions = field(default_factory=MergeOptions)
    search: Search = "auto"
    granularity: Granularity = "global"
    objective: Objective = "entropy"
    users: int = 50
    validation_users: int = 200
    transductive: bool = False
    grid: tuple[float, ...] = GRID
    refinements: int = 2
    dilutions: tuple[float, ...] = ()
    descent: Descent | None = None
    seed: int = 0

    def check(self, adapters: int, searched: bool) -> None:
        """Refuse what cannot be mixed.

        Args:
            adapters: how many are mixed.
            searched: coefficients are searched, not given.

        Raises:
            AdapterError: an unknown name, a number out of range, or settings that exclude each
                other.
        """
        options: tuple[tuple[str, str, Iterable[str]], ...] = (
            ("method", self.method, METHODS),
            ("search", self.search, SEARCHES),
            ("granularity", self.granularity, GRANULARITIES),
            ("objective", self.objective, OBJECTIVES),
        )
        for name, value, allowed in options:
            if value not in allowed:
                raise AdapterError(f"Unknown {name} '{value}'; choose one of {', '.join(allowed)}.")
        if adapters < 2:
            raise AdapterError("A cocktail needs two adapters; give --adapter twice.")
        gradient = searched and self.by_gradient(adapters)
        if gradient and self.method not in DIFFERENTIABLE:
            raise AdapterError(
                f"Method '{self.method}' has no gradient search; "
                "use delta or factor, or two adapters with one pair."
            )
        if gradient and not OBJECTIVES[self.objective].gradient:
            raise AdapterError(
                f"Objective '{self.objective}' has no gradient search; "
                "use another one, or two adapters with one pair."
            )
        if self.dilutions:
            if not searched:
                raise AdapterError(
                    "--dilute is for a search; leave it out, and give --coefficients that are "
                    "smaller."
                )
            if gradient:
                raise AdapterError(
                    "Only two adapters with one pair of coefficients can be diluted; "
                    "leave --dilute out, or mix them with --granularity global."
                )
            self._check_dilutions()
        grid = list(self.grid)
        if grid != sorted({*grid, 0.0, 1.0}) or grid[0] < 0 or grid[-1] > 1:
            raise AdapterError(f"The grid of lambda_1 must ascend from 0 to 1; it is {grid}.")
        self.options.check(self.method)
        if self.descent:
            self.descent.check()
        if self.users < 1:
            raise AdapterError("At least one adaptation user is needed; raise --users.")
        if min(self.validation_users, self.refinements, self.seed) < 0:
            raise AdapterError(
                "The number of validation users, refinements and the seed must not be negative."
            )

    def by_gradient(self, adapters: int) -> bool:
        """Whether so many adapters are searched by gradient, and not on a line."""
        return adapters > 2 or self.granularity != "global" or self.search == "published"

    def _check_dilutions(self) -> None:
        if not OBJECTIVES[self.objective].scale_free:
            known = ", ".join(name for name, rule in OBJECTIVES.items() if rule.scale_free)
            raise AdapterError(
                f"Objective '{self.objective}' takes the larger update for the better one, so "
                f"it cannot choose how far to dilute; use one of {known}."
            )
        if self.method == "ties" and not self.options.norm_matched:
            raise AdapterError(
                "Method 'ties' knows relative coefficients only, so its mixes cannot be diluted; "
                "leave --dilute out, or use another method."
            )
        if not all(0 < share < 1 for share in self.dilutions):
            raise AdapterError("A dilution lies between 0 and 1; change --dilute.")


PUBLISHED_LEARNING_RATE: dict[Scenario, float] = {"warm": 1.0, "cold": 0.05}
"""Within the ranges that the published code searches: 0.5 to 5 (warm), 0.01 to 0.09 (cold)."""
PUBLISHED_USERS = 16
"""Users a step: 4 batches of 60 token distributions, of 5 titles with 3 tokens each."""


def default_descent(search: Search, scenario: Scenario) -> Descent:
    """Steps and learning rate of the gradient search where none are given."""
    if search == "published":
        return Descent(steps=10, learning_rate=PUBLISHED_LEARNING_RATE[scenario])
    return Descent()


def resolved(settings: MixSettings, scenario: Scenario, ranker: Ranker) -> MixSettings:
    """The settings with nothing left open, the descent among them.

    A `published` search has one softmax pair of coefficients a module, equal at the start, and Adam
    on the ranker's entropy, `PUBLISHED_USERS` users a step, whatever else was asked for.
    """
    descent = settings.descent or default_descent(settings.search, scenario)
    if settings.search != "published":
        return replace(settings, descent=descent)
    passes = math.ceil(min(PUBLISHED_USERS, settings.users) / ranker.gradient_users)
    return replace(
        settings,
        granularity="module",
        objective="entropy",
        descent=replace(descent, passes=max(1, passes)),
    )


class Mixer:
    """Measures mixes of given adapters on one domain and scenario.

    Each pair of coefficients is measured once and kept.

    Attributes:
        adapters, backbone, domain, scenario: as given.
        settings: as given, with nothing left open.
        descent: of the gradient search.
        rule: of the objective.
        ranker, catalogue: how the adapters read the domain.
        unlabelled: rows of the test users that lend their histories and candidates.
        labelled: rows of the validation users.
    """

    def __init__(
        self,
        adapters: Sequence[Adapter],
        backbone: Backbone,
        domain: Domain,
        scenario: Scenario,
        settings: MixSettings,
        *,
        searched: bool = True,
    ) -> None:
        """Check that the adapters fit together and draw the users.

        Args:
            adapters: two or more.
            backbone: theirs.
            domain: whose users lend their histories.
            scenario: which of them.
            settings: see `MixSettings`.
            searched: False where coefficients are given, so that no search must be able to run.

        Raises:
            AdapterError: different backbones, rankers or prompts, or unknown settings.
            DataError: too few rows to adapt on, or no validation rows where the objective needs
                them.
        """
        check_compatible(adapters, backbone)
        self.ranker = ranker_of(adapters[0].card, backbone)
        settings = resolved(settings, scenario, self.ranker)
        settings.check(len(adapters), searched)
        self.adapters, self.backbone, self.domain = list(adapters), backbone, domain
        self.scenario, self.settings = scenario, settings
        assert settings.descent is not None  # `resolved` leaves nothing open
        self.descent = settings.descent
        self.catalogue = Catalogue.of(domain, self.ranker)
        table = domain.rows(f"test_{scenario}")
        if table.height < 2:
            raise DataError(
                f"{domain.name} has no test_{scenario} users to adapt to; prepare more data."
            )
        self.unlabelled = adaptation_rows(table, settings.users, settings.seed)
        if searched and self.unlabelled.height < settings.users:
            some = f"{self.unlabelled.height} of its {table.height} test_{scenario} users"
            say(f"{domain.name} lends {some}; the others are left to be scored.")
        self.labelled = sample_rows(
            domain.rows(f"valid_{scenario}"), settings.validation_users, settings.seed
        )
        self.rule = OBJECTIVES[settings.objective]
        labels = searched and self.rule.needs_labels
        if labels and not settings.validation_users:
            raise AdapterError(
                f"Objective '{settings.objective}' reads labelled users; raise --validation-users, "
                "or use --objective entropy."
            )
        if labels and not self.labelled.height:
            raise DataError(
                f"{domain.name} has no valid_{scenario} users; use --objective entropy."
            )
        self._measured: dict[str, MeasuredMix] = {}

    def merged_lora(self, coefficients: Tensor, groups: Groups) -> Lora:
        """The merged LoRA of coefficients (groups, adapters)."""
        return combine(
            [a.lora for a in self.adapters],
            groups.spread(coefficients),
            self.settings.method,
            self.settings.options,
        )

    def measure(self, lora: Lora, coefficients: list[float] | None, label: str) -> MeasuredMix:
        """Entropy on the unlabelled users, quality and temperature on the labelled ones.

        Args:
            lora: the mix.
            coefficients: (adapters,), or None where groups differ.
            label: of the progress bar.
        """
        tables = [self.unlabelled, self.labelled]
        identity = model_sha256(self.backbone, lora)
        with scoring(self.backbone, lora) as model:
            unlabelled, labelled = score(
                model, self.catalogue, tables, label, model_sha256=identity
            )
        return MeasuredMix.of(coefficients, unlabelled, labelled, positive_columns(self.labelled))

    def measure_pair(self, first: float, dilution: float = 1.0) -> MeasuredMix:
        """Measure lambda_1 = `first` in [0, 1], lambda_2 = 1 - `first` (Eq. 6), diluted."""
        pair = [dilution * first, dilution * (1.0 - first)]
        point = self._measured_once(
            pair, f"Mixing ({self.scenario}), lambda {pair[0]:.2f}/{pair[1]:.2f}"
        )
        if self.rule.needs_adapters:
            point.compare_with_adapters(self.measure_adapters())
        return point

    def measure_adapters(self) -> list[MeasuredMix]:
        """The adapters, each measured alone."""
        units = torch.eye(len(self.adapters)).tolist()
        return [
            self._measured_once(unit, f"Measuring {adapter.name}")
            for unit, adapter in zip(units, self.adapters, strict=True)
        ]

    def _measured_once(self, coefficients: list[float], label: str) -> MeasuredMix:
        key = " ".join(f"{value:.6f}" for value in coefficients)
        if key not in self._measured:
            groups = Groups.build([a.lora for a in self.adapters], "global")
            lora = self.merged_lora(torch.tensor([coefficients]), groups)
            self._measured[key] = self.measure(lora, coefficients, label)
        return self._measured[key]


def adaptation_rows(table: pl.DataFrame, users: int, seed: int) -> pl.DataFrame:
    """The test rows that a mix adapts to: at most half, so that some are left to be scored."""
    return sample_rows(table, min(users, table.height // 2), seed)
