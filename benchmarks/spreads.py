"""What a few measurements say together: spreads, and ratios with their intervals."""

from collections.abc import Mapping, Sequence

import numpy as np

from reccocktail.evaluation.metrics import FloatArray, distinct_rows, resampled_means


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of a few measurements."""
    return {
        "median": float(np.median(values)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
        "n": len(values),
    }


def range_text(found: Mapping[str, float], digits: int = 2) -> str:
    """`spread` in words: median [least, greatest]."""
    median, low, high = (f"{found[part]:.{digits}f}" for part in ("median", "min", "max"))
    return f"{median} [{low}, {high}]"


def ratio_of_pairs(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float]:
    """Median ratio of measurements made side by side, with its 95 % bootstrap interval."""
    ratios = np.asarray(numerators) / np.asarray(denominators)
    drawn = np.random.default_rng(0).integers(0, len(ratios), size=(2000, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def ratio_of_means(
    numerators: FloatArray, denominators: FloatArray, resamples: int = 10_000
) -> dict[str, float | None]:
    """Ratio of two means over the same users, with its 95 % interval from resampled users.

    A bound is None where the denominator's resampled mean is 0.
    """
    values, counts = distinct_rows({"above": numerators, "below": denominators})
    draws = np.concatenate(list(resampled_means(values, counts, resamples, seed=0)))
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = numerators.mean() / denominators.mean()
        # An actual draw, because nothing lies between a number and infinity.
        bounds = np.nanquantile(draws[:, 0] / draws[:, 1], (0.025, 0.975), method="nearest")
    named = zip(("ratio", "low", "high"), (observed, *bounds), strict=True)
    return {name: float(value) if np.isfinite(value) else None for name, value in named}
