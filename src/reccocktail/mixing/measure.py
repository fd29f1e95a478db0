"""Measure mixes of adapters on one domain: entropy without labels, quality with them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl
import torch
from torch import Tensor

from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain
from reccocktail.errors import AdapterError, DataError
from reccocktail.evaluation.metrics import per_user, ranks
from reccocktail.mixing.arithmetic import METHODS, Method, combine
from reccocktail.mixing.entropy import (
    as_matrix,
    fit_temperature,
    log_loss,
    mean_entropy,
    mutual_information,
)
from reccocktail.mixing.search import (
    GRANULARITIES,
    Descent,
    FunctionalModel,
    Granularity,
    Groups,
)
from reccocktail.ranking.base import Batch, entropy_of
from reccocktail.ranking.scoring import Catalogue, positive_columns, score
from reccocktail.schema import Scenario
from reccocktail.training.adapter import Adapter, Lora
from reccocktail.training.model import merged, model_sha256, ranker_of
from reccocktail.training.validation import sample_rows

Objective = Literal["entropy", "calibrated", "validation"]
OBJECTIVES: tuple[Objective, ...] = ("entropy", "calibrated", "validation")
_METRICS = ("ndcg@1", "ndcg@3", "ndcg@10", "mrr")


@dataclass(frozen=True)
class MixSettings:
    """How a cocktail is mixed; all of it is written into `cocktail.json`.

    Attributes:
        method: what is merged, see `combine`.
        granularity: one set of coefficients for the model, each layer or each module.
        objective: `entropy` (the paper's), `calibrated` (entropy at the temperature that fits
            validation users), or `validation` (log loss of labelled validation users; for cold: on
            pseudo-cold items).
        users: unlabelled test users whose predictions are looked at; evaluation leaves them out.
        validation_users: labelled validation users of the curve and of the last two objectives.
        transductive: score the adaptation users too (the paper's way); declared, never the default.
        grid: points of lambda_1 for a pair of adapters.
        refinements: evaluations beyond the grid.
        descent: the gradient search of `layer`, `module` and more than two adapters.
        seed: draws the users.
    """

    method: Method = "delta"
    granularity: Granularity = "global"
    objective: Objective = "entropy"
    users: int = 50
    validation_users: int = 200
    transductive: bool = False
    grid: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    refinements: int = 2
    descent: Descent = field(default_factory=Descent)
    seed: int = 0


@dataclass
class Point:
    """What is known of one mix.

    Attributes:
        coefficients: (adapters,), or None where groups differ.
        entropy: the ranker's, nats.
        information: mutual information of users and predictions, nats.
        candidates: of a user.
        certainty: entropy over the candidates, nats; `entropy` itself, unless the ranker looks at
            tokens.
    """

    coefficients: list[float] | None
    entropy: float
    information: float
    candidates: int
    certainty: float
    validation: dict[str, float] | None = None
    temperature: float | None = None
    calibrated_entropy: float | None = None
    log_loss: float | None = None
    per_user: dict[str, Any] = field(default_factory=dict)

    def value(self, objective: Objective) -> float:
        """What is minimised."""
        found = {
            "entropy": self.entropy,
            "calibrated": self.calibrated_entropy,
            "validation": self.log_loss,
        }
        value = found[objective]
        assert value is not None
        return value

    def card(self) -> dict[str, Any]:
        """The point as it stands in the curve of `cocktail.json`."""
        return {
            "coefficients": self.coefficients,
            "entropy": self.entropy,
            "calibrated_entropy": self.calibrated_entropy,
            "temperature": self.temperature,
            "mutual_information": self.information,
            "log_loss": self.log_loss,
            "validation": self.validation,
        }


class Mixer:
    """Measures mixes of given adapters on one domain and scenario; every lambda is encoded once."""

    def __init__(
        self,
        adapters: Sequence[Adapter],
        backbone: Backbone,
        domain: Domain,
        scenario: Scenario,
        settings: MixSettings,
    ) -> None:
        """Check that the adapters fit together and draw the users.

        Raises:
            AdapterError: different backbones, rankers or prompts, or unknown settings.
            DataError: too few rows to adapt on, or no validation rows where the objective needs
                them.
        """
        check_compatible(adapters, backbone)
        _check_settings(adapters, settings)
        self.adapters, self.backbone, self.domain = list(adapters), backbone, domain
        self.scenario, self.settings = scenario, settings
        self.ranker = ranker_of(adapters[0].card, backbone)
        self.catalogue = Catalogue.of(domain, self.ranker)
        table = domain.rows(f"test_{scenario}")
        if table.height < 2:
            raise DataError(
                f"{domain.name} has no test_{scenario} users to adapt to; prepare more data."
            )
        # At most half of the test users, so that some are left to be scored.
        self.unlabelled = sample_rows(table, min(settings.users, table.height // 2), settings.seed)
        self.labelled = sample_rows(
            domain.rows(f"valid_{scenario}"), settings.validation_users, settings.seed
        )
        if settings.objective != "entropy" and not self.labelled.height:
            raise DataError(
                f"{domain.name} has no valid_{scenario} users; use --objective entropy."
            )
        self._measured: dict[str, Point] = {}

    def lora(self, coefficients: Tensor, groups: Groups) -> Lora:
        """The merged LoRA of coefficients (groups, adapters)."""
        return combine(
            [a.lora for a in self.adapters], groups.spread(coefficients), self.settings.method
        )

    def measure(self, lora: Lora, coefficients: list[float] | None, label: str) -> Point:
        """Entropy on the unlabelled users, quality and temperature on the labelled ones."""
        tables = [self.unlabelled, self.labelled]
        identity = model_sha256(self.backbone, lora)
        with merged(self.backbone.model, lora) as model:
            without, with_labels = score(
                model, self.catalogue, tables, label, model_sha256=identity
            )
        scores = as_matrix(without.scores)
        point = Point(
            coefficients,
            float(without.entropy.mean()),
            mutual_information(without.common),
            scores.shape[1],
            mean_entropy(scores),
        )
        if self.labelled.height:
            positive = positive_columns(self.labelled)
            known = with_labels.scores
            columns = torch.from_numpy(positive)
            point.per_user = per_user(ranks(known, positive))
            point.validation = {"n": len(positive)} | {
                m: float(point.per_user[m].mean()) for m in _METRICS
            }
            point.temperature = fit_temperature(as_matrix(known), columns)
            point.log_loss = log_loss(as_matrix(known), columns, point.temperature)
            point.calibrated_entropy = mean_entropy(scores, point.temperature)
        return point

    def pair(self, first: float) -> Point:
        """Measure lambda_1 = `first`, lambda_2 = 1 - `first`."""
        groups = Groups.build([a.lora for a in self.adapters], "global")
        coefficients = torch.tensor([[first, 1.0 - first]])
        key = f"{first:.6f}"
        if key not in self._measured:
            label = f"Mixing ({self.scenario}), lambda {first:.2f}/{1 - first:.2f}"
            self._measured[key] = self.measure(
                self.lora(coefficients, groups), [first, 1.0 - first], label
            )
        return self._measured[key]

    def gradient_loss(self, model: FunctionalModel, step: int) -> Tensor:
        """The objective on a small batch of users, with gradient."""
        objective = self.settings.objective
        batch_users = self.ranker.gradient_users
        plain = self._batch(self.unlabelled, step, batch_users, model)
        if objective == "entropy":
            return self.ranker.entropy(model, plain).mean()
        rows, labelled = self._labelled_batch(step, batch_users, model)
        device = next(model.parameters()).device
        positive = torch.from_numpy(positive_columns(rows)).to(device)
        scores = self.ranker.scores(model, labelled)
        temperature = fit_temperature(scores.detach().cpu(), positive.cpu())
        if objective == "validation":
            return torch.nn.functional.cross_entropy(scores / temperature, positive)
        return entropy_of(self.ranker.scores(model, plain) / temperature).mean()

    def _labelled_batch(
        self, step: int, users: int, model: FunctionalModel
    ) -> tuple[pl.DataFrame, Batch]:
        rows = _take(self.labelled, step, users)
        return rows, self._batch(self.labelled, step, users, model)

    def _batch(self, table: pl.DataFrame, step: int, users: int, model: FunctionalModel) -> Batch:
        rows = _take(table, step, users)
        batch = self.ranker.ranking_batch(
            self.catalogue.histories(rows), self.catalogue.candidates(rows), self.catalogue.tokens
        )
        device = next(model.parameters()).device
        return {name: tensor.to(device) for name, tensor in batch.items()}


def check_compatible(adapters: Sequence[Adapter], backbone: Backbone) -> None:
    """Refuse adapters that do not belong together or not to the backbone.

    Raises:
        AdapterError: names the adapter and what differs.
    """
    if not adapters:
        raise AdapterError("Nothing to mix: give at least two adapters.")
    first = adapters[0]
    for adapter in adapters:
        backbone.fingerprint.require_match(adapter.card.backbone, adapter.name)
        ours, theirs = (
            a.card.reading() | {"score temperature": a.card.recipe.dense.temperature}
            for a in (first, adapter)
        )
        for what, value in ours.items():
            if value != theirs[what]:
                raise AdapterError(
                    f"'{first.name}' and '{adapter.name}' differ in their {what}; "
                    "train both with the same recipe."
                )


def _take(table: pl.DataFrame, step: int, users: int) -> pl.DataFrame:
    """A batch of rows, going round the table."""
    return table[[(step * users + i) % table.height for i in range(min(users, table.height))]]


def _check_settings(adapters: Sequence[Adapter], settings: MixSettings) -> None:
    for name, value, allowed in (
        ("method", settings.method, METHODS),
        ("granularity", settings.granularity, GRANULARITIES),
        ("objective", settings.objective, OBJECTIVES),
    ):
        if value not in allowed:
            raise AdapterError(f"Unknown {name} '{value}'; choose one of {', '.join(allowed)}.")
    if len(adapters) < 2:
        raise AdapterError("A cocktail needs two adapters; give --adapter twice.")
    gradient = len(adapters) > 2 or settings.granularity != "global"
    if gradient and settings.method == "svd":
        raise AdapterError(
            "Method 'svd' has no gradient search; "
            "use delta or factor, or two adapters with one pair."
        )
    if settings.users < 1:
        raise AdapterError("At least one adaptation user is needed; raise --users.")
    if min(settings.validation_users, settings.refinements, settings.seed) < 0:
        raise AdapterError(
            "The number of validation users, refinements and the seed must not be negative."
        )
