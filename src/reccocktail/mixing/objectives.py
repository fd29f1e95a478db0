"""What a search may minimise: functions of what was measured of one mix, by name.

p_u is the mix's softmax over the candidates of user u, q_iu that of adapter i alone, H the entropy,
and T the temperature that fits labelled validation users best.

| name | minimised |
|---|---|
| `entropy` | mean_u H(p_u), as the ranker defines it (paper, Eq. 8) |
| `calibrated` | mean_u H(p_u at T), T fitted to this mix |
| `adapter-calibrated` | the same at T = (prod_i T_i^l_i)^(1 / sum_i l_i), T_i fitted to adapter i |
| `divergence` | mean over adapters i and users u of JS(p_u, q_iu) |
| `distillation` | the same of KL(q_iu, p_u): least where p_u is nearest to mean_i q_iu |
| `information` | -(H(mean_u p_u) - mean_u H(p_u)), answers being the same items for all users |
| `validation` | log loss of labelled validation users at T |

A gradient search sees a few users at a time; its T is fitted to the latest scores of all labelled
users (`batch_loss`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from reccocktail.evaluation.metrics import per_user, ranks
from reccocktail.mixing.entropy import (
    as_matrix,
    distillation,
    fit_temperature,
    jensen_shannon,
    log_loss,
    mean_entropy,
    mutual_information,
)
from reccocktail.ranking.scoring import Scored
from reccocktail.schema import Objective

_METRICS = ("ndcg@1", "ndcg@3", "ndcg@10", "mrr")


_DISTANCES: Mapping[Objective, Callable[[Tensor, Tensor], Tensor]] = {
    "divergence": jensen_shannon,
    "distillation": distillation,
}


def distance_from_adapters(objective: Objective, scores: Tensor, alone: Sequence[Tensor]) -> Tensor:
    """How far a mix is from its adapters by `divergence` or `distillation`, a scalar in nats.

    All scores are (users, candidates) in the same order, those of each adapter in `alone`.
    """
    return torch.stack([_DISTANCES[objective](scores, own) for own in alone]).mean()


@dataclass
class MeasuredMix:
    """What is known of one mix.

    Attributes:
        coefficients: (adapters,), or None where groups differ.
        entropy: the ranker's (Eq. 8), nats.
        mutual_information: of users and predictions, nats.
        candidates: how many each user has.
        candidate_entropy: over the candidates, nats; `entropy` itself, unless the ranker looks at
            tokens.
        validation: mean metrics of the labelled users, and their number `n`; None without any.
        temperature: fitted to the labelled users, in [0.05, 20].
        calibrated_entropy: over the candidates of the unlabelled users at that temperature, nats.
        log_loss: of the labelled users at that temperature, nats.
        per_user: metric -> (labelled users,).
        divergence: from the adapters alone, nats; None until `compare_with_adapters` was called, as
            are the next two.
        distillation: of the adapters alone into the mix, nats.
        adapter_calibrated_entropy: entropy at a temperature between those of the adapters, nats.
        scores: (unlabelled users, candidates).
    """

    coefficients: list[float] | None
    entropy: float
    mutual_information: float
    candidates: int
    candidate_entropy: float
    validation: dict[str, float] | None = None
    temperature: float | None = None
    calibrated_entropy: float | None = None
    log_loss: float | None = None
    per_user: dict[str, Any] = field(default_factory=dict)
    divergence: float | None = None
    distillation: float | None = None
    adapter_calibrated_entropy: float | None = None
    scores: Tensor | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        coefficients: list[float] | None,
        unlabelled: Scored,
        labelled: Scored | None = None,
        positive: NDArray[Any] | None = None,
    ) -> "MeasuredMix":
        """Measure a mix by its scores.

        Args:
            coefficients: of the mix.
            unlabelled: scores of the users to adapt to.
            labelled: scores of validation users, if there are any.
            positive: (labelled users,) column of each one's target.
        """
        scores = as_matrix(unlabelled.scores)
        point = cls(
            coefficients,
            float(unlabelled.entropy.mean()),
            mutual_information(unlabelled.common()),
            scores.shape[1],
            mean_entropy(scores),
            scores=scores,
        )
        if labelled is not None and positive is not None and len(positive):
            known, columns = as_matrix(labelled.scores), torch.from_numpy(positive)
            point.per_user = per_user(ranks(labelled.scores, positive))
            point.validation = {"n": len(positive)} | {
                m: float(point.per_user[m].mean()) for m in _METRICS
            }
            point.temperature = fit_temperature(known, columns)
            point.log_loss = log_loss(known, columns, point.temperature)
            point.calibrated_entropy = mean_entropy(scores, point.temperature)
        return point

    def compare_with_adapters(self, alone: Sequence["MeasuredMix"]) -> None:
        """Compare with the unmixed adapters, measured on the same users."""
        assert self.scores is not None
        others = [p.scores for p in alone if p.scores is not None]
        self.divergence = float(distance_from_adapters("divergence", self.scores, others))
        self.distillation = float(distance_from_adapters("distillation", self.scores, others))
        temperatures = [p.temperature for p in alone if p.temperature is not None]
        if self.coefficients is not None and len(temperatures) == len(self.coefficients):
            logs = sum(
                c * math.log(t) for c, t in zip(self.coefficients, temperatures, strict=True)
            )
            between = math.exp(logs / sum(self.coefficients))
            self.adapter_calibrated_entropy = mean_entropy(self.scores, between)

    @property
    def lambdas(self) -> str:
        """The coefficients, for messages."""
        if self.coefficients is None:
            return "of the cocktail"
        digits = 2 if all(round(c, 2) == round(c, 3) for c in self.coefficients) else 3
        return "/".join(f"{c:.{digits}f}" for c in self.coefficients)

    def value(self, objective: Objective) -> float:
        """What is minimised."""
        value = OBJECTIVES[objective].value_of(self)
        assert value is not None, f"{objective} was not measured"
        return value

    def card(self) -> dict[str, Any]:
        """The point as it stands in the curve of `cocktail.json`."""
        return {
            "coefficients": self.coefficients,
            "entropy": self.entropy,
            "calibrated_entropy": self.calibrated_entropy,
            "adapter_calibrated_entropy": self.adapter_calibrated_entropy,
            "temperature": self.temperature,
            "mutual_information": self.mutual_information,
            "divergence": self.divergence,
            "distillation": self.distillation,
            "log_loss": self.log_loss,
            "validation": self.validation,
        }


@dataclass(frozen=True)
class Rule:
    """One objective.

    Attributes:
        value_of: a measured mix -> what is minimised, None where it was not measured.
        curve_key: its name in the curve of `cocktail.json`.
        description: what a cocktail was chosen by, for readers.
        sign: -1 where the curve holds what is to be large.
        needs_labels: reads labelled validation users.
        needs_adapters: compares with the adapters measured alone.
        gradient: can be followed by gradients on a few users at a time.
        scale_free: does not take the larger of two parallel updates for the better one, so that it
            may choose how far a mix is diluted.
    """

    value_of: Callable[[MeasuredMix], float | None]
    curve_key: str
    description: str
    sign: int = 1
    needs_labels: bool = False
    needs_adapters: bool = False
    gradient: bool = True
    scale_free: bool = False


OBJECTIVES: Mapping[Objective, Rule] = {
    "entropy": Rule(
        lambda mix: mix.entropy,
        "entropy",
        "lowest entropy, without labels",
    ),
    "calibrated": Rule(
        lambda mix: mix.calibrated_entropy,
        "calibrated_entropy",
        "lowest calibrated entropy",
        needs_labels=True,
        scale_free=True,
    ),
    "adapter-calibrated": Rule(
        lambda mix: mix.adapter_calibrated_entropy,
        "adapter_calibrated_entropy",
        "lowest entropy, calibrated for each adapter",
        needs_labels=True,
        needs_adapters=True,
        gradient=False,
    ),
    "divergence": Rule(
        lambda mix: mix.divergence,
        "divergence",
        "least divergence from its adapters, without labels",
        needs_adapters=True,
    ),
    "distillation": Rule(
        lambda mix: mix.distillation,
        "distillation",
        "distilling its adapters, without labels",
        needs_adapters=True,
    ),
    "information": Rule(
        lambda mix: -mix.mutual_information,
        "mutual_information",
        "most mutual information of users and items, without labels",
        sign=-1,
        gradient=False,
    ),
    "validation": Rule(
        lambda mix: mix.log_loss,
        "log_loss",
        "validation quality",
        needs_labels=True,
        scale_free=True,
    ),
}
