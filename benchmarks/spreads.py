"""What measurements say together: spreads, ratios, and means over users and seeds."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from reccocktail.evaluation.metrics import FloatArray, distinct_rows, in_words, resampled_means
from reccocktail.evaluation.significance import Drawn

RESAMPLES = 2000  # the least p, twice 1 in 2001, survives Holm over all rows of a table


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
    return in_words(found["median"], (found["min"], found["max"]), f".{digits}f")


def ratio_in_words(ratio: Mapping[str, float], form: str = ".2f") -> str:
    """`ratio_of_pairs` in words."""
    return in_words(ratio["median"], (ratio["low"], ratio["high"]), form)


def gap_in_words(gap: Mapping[str, Any], form: str = "+.3f") -> str:
    """One metric's paired difference in words."""
    return in_words(gap["difference"], gap["ci95"], form)


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


def two_way(values: FloatArray, resamples: int = RESAMPLES) -> tuple[FloatArray, ...]:
    """Means over users and seeds with their 95 % percentile intervals.

    Users and seeds are drawn anew, each on its own: a user's values move together over seeds, and
    a seed's over users. Few seeds cannot tell their spread well; the interval is then too narrow
    rather than too wide.

    Args:
        values: (users, seeds, metrics).
        resamples: bootstrap resamples.

    Returns:
        Means, lower and upper bounds, each (metrics,).
    """
    users, by_seed = _drawn(*values.shape[:2], resamples)
    draws = _over_both(values, users, by_seed)
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    return values.mean(axis=(0, 1)), low, high


def described(values: FloatArray, metrics: Sequence[str]) -> dict[str, Any]:
    """Means and intervals of (users, seeds, metrics), by the names of the metrics."""
    mean, low, high = two_way(values)
    users, seeds, _ = values.shape
    return (
        {"n": users, "seeds": seeds}
        | {metric: float(mean[j]) for j, metric in enumerate(metrics)}
        | {"ci95": {m: [float(low[j]), float(high[j])] for j, m in enumerate(metrics)}}
    )


def over_seeds(values: FloatArray, drawn: Drawn, seed: int) -> FloatArray:
    """Means (resamples, metrics) of (users, seeds, metrics) over drawn users and drawn seeds.

    Args:
        values: of each user in each seed.
        drawn: the users, or groups of them.
        seed: of drawing the seeds: rows that share their seeds draw the same ones.
    """
    random = np.random.default_rng(seed)
    return _over_both(values, drawn, _shares(values.shape[1], len(drawn.times), random))


def _over_both(values: FloatArray, users: Drawn, by_seed: FloatArray) -> FloatArray:
    flat = users.means(values.reshape(len(values), -1))
    means: FloatArray = np.einsum("rsm,rs->rm", flat.reshape(-1, *values.shape[1:]), by_seed)
    return means


@lru_cache(maxsize=4)
def _drawn(users: int, seeds: int, resamples: int) -> tuple[Drawn, FloatArray]:
    """Users, each on their own, and the shares of seeds in each resample."""
    random = np.random.default_rng(0)
    return Drawn.of(range(users), resamples, random), _shares(seeds, resamples, random)


def _shares(seeds: int, resamples: int, random: np.random.Generator) -> FloatArray:
    """Share (resamples, seeds) of each seed in each resample."""
    return random.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
