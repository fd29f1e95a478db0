"""A popularity prior beside the language model: affinity comes from text, popularity from counts.

scores + weight * prior, where prior(item) = log(training count) less its mean over the items that
have one. An item without training interactions gets 0, the average item's prior: being new is no
fault. The weight is chosen on validation users, 0 among the choices, so that it can only be used
where it helps.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reccocktail.evaluation.metrics import per_user, ranks

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)


def popularity_prior(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Prior (items,) in nats from training counts (items,); 0 for items without interactions."""
    seen = counts > 0
    logs = np.log(np.maximum(counts, 1).astype(np.float64))
    centre = float(logs[seen].mean()) if seen.any() else 0.0
    return np.where(seen, logs - centre, 0.0)


def with_prior(
    scores: Sequence[NDArray[np.float64]],
    candidates: Sequence[Sequence[int]],
    prior: NDArray[np.float64],
    weight: float,
) -> list[NDArray[np.float64]]:
    """Scores of each row's candidates (item numbers) with the weighted prior added."""
    if weight == 0.0:
        return list(scores)
    return [
        row + weight * prior[np.asarray(items)]
        for row, items in zip(scores, candidates, strict=True)
    ]


def choose_weight(
    scores: Sequence[NDArray[np.float64]],
    candidates: Sequence[Sequence[int]],
    positive: NDArray[np.int64],
    prior: NDArray[np.float64],
) -> float:
    """The weight of `WEIGHTS` with the highest NDCG@10 on validation rows; of equals, the least.

    Args:
        scores: validation scores without a prior.
        candidates: item numbers of each row.
        positive: place of each row's target.
        prior: from `popularity_prior`.
    """
    if not len(scores):
        return 0.0

    def quality(weight: float) -> float:
        return mean_ndcg(with_prior(scores, candidates, prior, weight), positive)

    return max(WEIGHTS, key=lambda weight: (quality(weight), -weight))


def mean_ndcg(scores: Sequence[NDArray[np.float64]], positive: NDArray[np.int64]) -> float:
    """Mean NDCG@10 of rows of scores."""
    return float(per_user(ranks(scores, positive))["ndcg@10"].mean())
