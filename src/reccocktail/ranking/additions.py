"""What stands beside the language model's scores: popularity, and the words that titles share.

score = model + popularity weight * prior + words weight * cosine of the words

Both weights are chosen together on validation users, 0 among the choices, so that each is used only
where it helps.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reccocktail.evaluation.metrics import per_user, ranks
from reccocktail.ranking.prior import WEIGHTS, with_prior

WORDS_WEIGHTS = (0.0, 2.5, 5.0, 10.0, 20.0, 40.0)
"""Logits of a whole cosine; that of states is worth 20 at the default temperature."""


@dataclass(frozen=True)
class Weights:
    """Weights of popularity (a factor of log counts) and of words (logits a cosine)."""

    prior: float = 0.0
    words: float = 0.0


def add(
    scores: Sequence[NDArray[np.float64]],
    candidates: Sequence[Sequence[int]],
    prior: NDArray[np.float64],
    words: Sequence[NDArray[np.float64]] | None,
    weights: Weights,
) -> list[NDArray[np.float64]]:
    """Scores of each row's candidates (item numbers) with both in their weights.

    Args:
        scores: of the model, in logits.
        candidates: item numbers of each row.
        prior: (items,) from `popularity_prior`.
        words: cosines of each row's candidates; None for none.
        weights: of both.
    """
    if words is not None and weights.words:
        scores = [row + weights.words * more for row, more in zip(scores, words, strict=True)]
    return with_prior(scores, candidates, prior, weights.prior)


def choose(
    scores: Sequence[NDArray[np.float64]],
    candidates: Sequence[Sequence[int]],
    positive: NDArray[np.int64],
    prior: NDArray[np.float64],
    words: Sequence[NDArray[np.float64]] | None,
) -> Weights:
    """The weights with the highest NDCG@10 on validation rows; of equals, the least words.

    Args: as `add`'s, of validation rows, and the place of each row's target.
    """
    if not len(scores):
        return Weights()
    pairs = itertools.product((0.0,) if words is None else WORDS_WEIGHTS, WEIGHTS)
    grid = [Weights(prior=p, words=w) for w, p in pairs]

    def quality(weights: Weights) -> float:
        found = ranks(add(scores, candidates, prior, words, weights), positive)
        return float(per_user(found)["ndcg@10"].mean())

    return max(grid, key=lambda weights: (quality(weights), -weights.words, -weights.prior))
