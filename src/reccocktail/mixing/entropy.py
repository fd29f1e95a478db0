"""How sure a model is of its predictions: the objective that needs no labels (paper, Eq. 8).

It has limits. Entropy falls when an update grows, right or wrong, because larger updates make
larger logits. Two answers stand beside the paper's plain entropy: the *calibrated* one divides the
scores by the temperature that fits labelled validation users best, so that only the shape of the
prediction counts; and the *mutual information* between users and items shows a collapse, when a
model is sure because it says the same to everybody.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from reccocktail.ranking.base import entropy_of

_LOG_TEMPERATURES = (math.log(0.05), math.log(20.0))
# Where a mix counts as collapsed. Set by hand, not measured.
_LEAST_ENTROPY = 0.02  # of its maximum
_LEAST_INFORMATION = 0.5  # of the least among the unmixed adapters


def mean_entropy(scores: Tensor, temperature: float = 1.0) -> float:
    """Mean entropy of softmax(scores / temperature), in [0, log candidates] nats (Eq. 8).

    Scores are (users, candidates).
    """
    return float(entropy_of(scores.double() / temperature).mean())


def log_loss(scores: Tensor, positive: Tensor, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood, in nats, of the positives under softmax(scores / temperature).

    Args:
        scores: (users, candidates).
        positive: (users,) column of each user's positive.
        temperature: divides the scores.
    """
    log_p = torch.log_softmax(scores.double() / temperature, dim=-1)
    return -float(log_p.gather(1, positive[:, None]).mean())


def fit_temperature(scores: Tensor, positive: Tensor) -> float:
    """The temperature in [0.05, 20] with the least log loss (Guo et al. 2017); see `log_loss`.

    Above 1, the model was too sure.
    """
    found = minimize_scalar(
        lambda log_t: log_loss(scores, positive, math.exp(log_t)),
        bounds=_LOG_TEMPERATURES,
        method="bounded",
        options={"xatol": 1e-3},
    )
    return math.exp(float(found.x))


def jensen_shannon(scores: Tensor, others: Tensor) -> Tensor:
    """Mean Jensen-Shannon divergence, a scalar in nats from 0 to log 2.

    H((p + q) / 2) - (H(p) + H(q)) / 2 of each user's softmax p over `scores` and q over `others`,
    both (users, candidates) in the same order (Lin 1991).
    """
    p, q = (torch.log_softmax(s.double(), dim=-1) for s in (scores, others))
    middle = torch.logaddexp(p, q) - math.log(2.0)
    return ((p.exp() * (p - middle) + q.exp() * (q - middle)).sum(dim=-1) / 2).mean()


def distillation(scores: Tensor, taught: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence KL(q || p), a scalar in nats.

    p is each user's softmax over `scores`, q that over `taught`, both (users, candidates) in the
    same order: what p still lacks of a teacher's prediction (Hinton et al. 2015; MergeRec, arXiv
    2601.01753, merges recommenders by it).
    """
    log_p, log_q = (torch.log_softmax(s.double(), dim=-1) for s in (scores, taught))
    return (log_q.exp() * (log_q - log_p)).sum(dim=-1).mean()


def mutual_information(scores: Tensor) -> float:
    """Entropy of the average prediction less the average entropy, in [0, log items] nats.

    Scores are (users, items), the items the same for all. 0 when every user gets the same
    prediction.
    """
    log_p = torch.log_softmax(scores.double(), dim=-1)
    marginal = torch.logsumexp(log_p, dim=0) - math.log(len(log_p))
    return float(-(marginal.exp() * marginal).sum()) - mean_entropy(scores)


def collapse_reason(
    entropy: float, candidates: int, information: float, reference_information: float
) -> str | None:
    """Why a model's certainty is not to be trusted, or None.

    Args:
        entropy: mean entropy over the candidates, nats.
        candidates: how many there are.
        information: mutual information of the model, nats.
        reference_information: the least among the unmixed adapters.
    """
    most = math.log(candidates)
    if entropy < _LEAST_ENTROPY * most:
        return (
            f"entropy {entropy:.3f} is below {100 * _LEAST_ENTROPY:g} % of its maximum {most:.3f}"
        )
    if information < _LEAST_INFORMATION * reference_information:
        return (
            f"users get nearly the same prediction: mutual information {information:.3f} nats, "
            f"the adapters alone {reference_information:.3f} or more"
        )
    return None


def as_matrix(scores: list[NDArray[np.float64]]) -> Tensor:
    """Rows of scores as a float64 tensor (users, candidates).

    Raises:
        ValueError: rows of different lengths.
    """
    return torch.from_numpy(np.stack(scores))
