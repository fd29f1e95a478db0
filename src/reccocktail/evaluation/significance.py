"""Is a difference between two models more than the luck of which users were drawn?"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reccocktail.evaluation.metrics import (
    FloatArray,
    IntArray,
    distinct_rows,
    resampled_means,
    tidy,
)

# A resampled mean of differences this close to 0 counts as 0: the rest is rounding.
_ZERO = 1e-12


def paired_bootstrap(
    a: Mapping[str, FloatArray],
    b: Mapping[str, FloatArray],
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Mean difference a - b over the same users, with a 95% interval and a two-sided p-value.

    Users are resampled, and both models' values move with their user. The interval is the
    percentile one. ``p = 2 min(P(d* <= 0), P(d* >= 0))`` over the resampled mean differences d*,
    each share with one added to count and total, so that p is never 0 and at most 1 (Davison &
    Hinkley 1997, section 4.2.3).

    Args:
        a: metric -> (users,), as from `metrics.per_user`.
        b: the same metrics of the same users in the same order.
        groups: (users,) what users share, such as their target item. Groups are resampled in place
            of users, so that the interval holds for other items too; cold items are few.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        ``{METRIC: {"difference": float, "ci95": [low, high], "p": float}}``.

    Raises:
        ValueError: the metrics or the number of users differ, or there are none.
    """
    if list(a) != list(b):
        raise ValueError(f"different metrics: {sorted(a)} and {sorted(b)}")
    for name in a:
        if len(a[name]) != len(b[name]):
            raise ValueError(f"{name}: {len(a[name])} users against {len(b[name])}")
    differences = {name: a[name] - b[name] for name in a}
    values, counts = distinct_rows(differences)
    observed = counts @ values / counts.sum()
    if groups is None:
        draws = np.concatenate(list(resampled_means(values, counts, resamples, seed)))
    else:
        columns = np.column_stack(list(differences.values()))
        draws = Drawn.of(groups, resamples, seed).means(columns)
    return with_interval(list(a), observed, draws)


def with_interval(
    names: Sequence[str], observed: FloatArray, draws: FloatArray
) -> dict[str, dict[str, Any]]:
    """Differences with the percentile interval and the p-value of `paired_bootstrap`.

    Args:
        names: of the metrics.
        observed: (metrics,) mean differences.
        draws: (resamples, metrics) mean differences of the resamples.
    """
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    below = ((draws <= _ZERO).sum(axis=0) + 1) / (len(draws) + 1)
    above = ((draws >= -_ZERO).sum(axis=0) + 1) / (len(draws) + 1)
    p = np.minimum(1.0, 2 * np.minimum(below, above))
    return {
        name: {
            "difference": tidy(observed[j]),
            "ci95": [tidy(low[j]), tidy(high[j])],
            "p": tidy(p[j]),
        }
        for j, name in enumerate(names)
    }


@dataclass(frozen=True)
class Drawn:
    """Resamples of whole groups of users, to be used for several models.

    Attributes:
        group: (users,) number of each user's group.
        times: (resamples, groups) how often each group was drawn.
    """

    group: IntArray
    times: FloatArray

    @classmethod
    def of(
        cls,
        groups: Sequence[Hashable],
        resamples: int,
        seed: int | np.random.Generator = 0,
    ) -> "Drawn":
        """Draw groups, each as likely as any other.

        Args:
            groups: (users,) what users share; a range over the users draws each on its own.
            resamples: how many.
            seed: of the draws, or the generator that makes them.
        """
        number: dict[Hashable, int] = {}
        group = np.array([number.setdefault(name, len(number)) for name in groups])
        even = np.full(len(number), 1 / len(number))
        times = np.random.default_rng(seed).multinomial(len(number), even, size=resamples)
        return cls(group, times.astype(np.float64))

    def means(self, values: FloatArray) -> FloatArray:
        """Means (resamples, columns) of values (users, columns)."""
        if len(self.group) != len(values):
            raise ValueError(f"{len(values)} users against {len(self.group)} of the groups")
        sums = np.zeros((self.times.shape[1], values.shape[1]))
        np.add.at(sums, self.group, values)
        sizes = np.bincount(self.group).astype(np.float64)
        means: FloatArray = (self.times @ sums) / (self.times @ sizes)[:, None]
        return means


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): p-values that hold for the whole family at once.

    With the m p-values sorted upwards, ``adjusted_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))``.

    Args:
        pvalues: of one family of tests, in [0, 1].

    Returns:
        Adjusted p-values in the order given.
    """
    given = np.asarray(pvalues, dtype=np.float64)
    if len(given) == 0:
        return []
    order = np.argsort(given, kind="stable")
    factors = np.arange(len(given), 0, -1)
    stepped = np.minimum(1.0, np.maximum.accumulate(given[order] * factors))
    adjusted = np.empty_like(stepped)
    adjusted[order] = stepped
    return [float(value) for value in adjusted]
