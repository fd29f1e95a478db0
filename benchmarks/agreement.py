"""How far two ways of scoring the same users agree."""

from collections.abc import Sequence

import numpy as np

from reccocktail.evaluation.metrics import FloatArray

TOP = 10


def score_difference(one: Sequence[FloatArray], other: Sequence[FloatArray]) -> dict[str, float]:
    """How far the scores of the same things are apart, in logits.

    Returns:
        `largest` and `mean` absolute difference over all users and things, and
        `mean_spread_of_a_user`: logits have no unit, so a difference is small or large beside the
        standard deviation of a user's scores in `one`.
    """
    gaps = np.concatenate([np.abs(a - b) for a, b in zip(one, other, strict=True)])
    return {
        "largest": float(gaps.max()),
        "mean": float(gaps.mean()),
        "mean_spread_of_a_user": float(np.mean([np.std(row) for row in one])),
    }


def agreement(one: Sequence[FloatArray], other: Sequence[FloatArray]) -> dict[str, float]:
    """How far two rankings of the same things agree, as means over users.

    Returns:
        `shared`: share of the ten best of the one that are among the ten best of the other;
        `same_order`: share of users whose ten best are the same in the same order; `same_first`:
        share of users with the same first.
    """
    best = [[np.argsort(-row, kind="stable")[:TOP].tolist() for row in side]
            for side in (one, other)]  # fmt: skip
    pairs = list(zip(*best, strict=True))
    return {
        "shared": float(np.mean([len({*a} & {*b}) / len(a) for a, b in pairs])),
        "same_order": float(np.mean([a == b for a, b in pairs])),
        "same_first": float(np.mean([a[0] == b[0] for a, b in pairs])),
    }
