"""Ranking metrics with one relevant item a row, from scores to means with bootstrap intervals.

Every metric here is a function of one integer, the 0-based rank of the positive in its row.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

RANK_CUTOFFS = (1, 3, 5, 10)
METRICS = (
    *(f"hr@{k}" for k in RANK_CUTOFFS),
    *(f"ndcg@{k}" for k in RANK_CUTOFFS),
    "mrr",
)

# Cells of resampled counts held at once; 2**21 int64 cells are 16 MiB.
_CHUNK_CELLS = 2**21


def ranks(
    scores: npt.NDArray[np.floating[Any]] | Sequence[npt.ArrayLike], positive: npt.ArrayLike
) -> IntArray:
    """Rank of the positive in each row, ties broken against it.

    ``rank = |{j : s_j >= s_positive}| - 1``: a candidate that scores as high as the positive
    stands before it, so a model that scores all candidates alike gets the last place.

    Args:
        scores: (users, candidates), higher is better; or one 1-D array a user, of any lengths.
        positive: (users,), the index of the positive in its row.

    Returns:
        (users,), 0 is the best place.

    Raises:
        ValueError: a score is NaN, an index lies outside its row, or the lengths differ.
    """
    places = np.asarray(positive)
    if places.ndim != 1 or len(places) != len(scores):
        raise ValueError(f"{len(scores)} rows of scores need as many positives, got {places.shape}")
    if len(places) == 0:
        return np.zeros(0, dtype=np.int64)
    if not np.issubdtype(places.dtype, np.integer):
        raise ValueError(f"positive must hold integer indices, not {places.dtype}")
    if isinstance(scores, np.ndarray) and scores.ndim == 2:
        return _ranks_block(scores, places)
    return np.concatenate(
        [
            _ranks_block(np.asarray(row)[None, :], places[i : i + 1], first=i)
            for i, row in enumerate(scores)
        ]
    )


def _ranks_block(block: npt.NDArray[Any], places: npt.NDArray[Any], first: int = 0) -> IntArray:
    """`ranks` for rows of one length; `first` is the block's first row, for messages."""
    if np.isnan(block).any():
        row = first + int(np.isnan(block).any(axis=1).argmax())
        raise ValueError(f"row {row} has a score that is NaN")
    if ((places < 0) | (places >= block.shape[1])).any():
        bad = int(((places < 0) | (places >= block.shape[1])).argmax())
        raise ValueError(
            f"row {first + bad}: positive {places[bad]} is outside its {block.shape[1]} candidates"
        )
    own = np.take_along_axis(block, places[:, None], axis=1)  # (users, 1)
    return np.asarray((block >= own).sum(axis=1) - 1, dtype=np.int64)


def per_user(ranks: npt.ArrayLike) -> dict[str, FloatArray]:
    """Every metric of every row, from the positive's 0-based rank r.

    - ``hr@k = 1 if r < k else 0``
    - ``ndcg@k = 1 / log2(r + 2) if r < k else 0`` (Järvelin & Kekäläinen 2002; with one
      relevant item the ideal gain is 1, so ``ndcg@1 == hr@1``)
    - ``mrr = 1 / (r + 1)``, over the full list of candidates

    Args:
        ranks: (users,), non-negative integers.

    Returns:
        One (users,) array in [0, 1] for each name in `METRICS`.

    Raises:
        ValueError: a rank is negative or not an integer.
    """
    places = np.asarray(ranks)
    if len(places) and (not np.issubdtype(places.dtype, np.integer) or (places < 0).any()):
        raise ValueError("ranks must be non-negative integers")
    gain = 1.0 / np.log2(places + 2.0)
    values: dict[str, FloatArray] = {}
    for k in RANK_CUTOFFS:
        values[f"hr@{k}"] = (places < k).astype(np.float64)
    for k in RANK_CUTOFFS:
        values[f"ndcg@{k}"] = np.where(places < k, gain, 0.0)
    values["mrr"] = 1.0 / (places + 1.0)
    return values


def summarise(
    per_user: Mapping[str, FloatArray], *, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Means over the rows with 95% percentile bootstrap intervals (Efron 1979).

    Rows with equal values are interchangeable, so a resample is drawn as one multinomial count for
    each distinct row of values: the same distribution as drawing rows with replacement, at a cost
    that depends on the number of distinct ranks and not on the number of users.

    Args:
        per_user: metric -> (users,), as from `per_user`; at least one user.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        ``{"n": users, METRIC: mean, ..., "ci95": {METRIC: [low, high]}}``.

    Raises:
        ValueError: there are no rows, or the metrics' lengths differ.
    """
    values, counts = distinct_rows(per_user)
    n = int(counts.sum())
    means = counts @ values / n
    draws = np.concatenate(list(resampled_means(values, counts, resamples, seed)))
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    summary: dict[str, Any] = {"n": n}
    summary |= {name: float(mean) for name, mean in zip(per_user, means, strict=True)}
    summary["ci95"] = {name: [tidy(low[j]), tidy(high[j])] for j, name in enumerate(per_user)}
    return summary


def in_words(value: float, bounds: Sequence[float], form: str = ".3f") -> str:
    """A figure with its interval as tables and sentences show them: `0.412 [0.398, 0.425]`.

    Args:
        value: the figure.
        bounds: lower and upper.
        form: of each number; a sign (`+.3f`) marks differences.
    """
    low, high = bounds
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def mean_in_words(summary: Mapping[str, Any], metric: str) -> str:
    """One metric of what `summarise` returns, in words."""
    return in_words(summary[metric], summary["ci95"][metric])


def distinct_rows(per_user: Mapping[str, FloatArray]) -> tuple[FloatArray, IntArray]:
    """The distinct rows of a table of per-user values and how often each occurs.

    Returns:
        Values (distinct, metrics), sorted, and counts (distinct,), so that the order of the users
        cannot touch a result.

    Raises:
        ValueError: there are no rows, or the metrics' lengths differ.
    """
    lengths = {len(column) for column in per_user.values()}
    if len(lengths) != 1:
        raise ValueError(
            f"every metric needs one value for each user, got lengths {sorted(lengths)}"
        )
    if lengths == {0}:
        raise ValueError("there are no users to average over")
    table = np.column_stack(list(per_user.values())).astype(np.float64)
    values, counts = np.unique(table, axis=0, return_counts=True)
    return values, np.asarray(counts, dtype=np.int64)


def resampled_means(
    values: FloatArray, counts: IntArray, resamples: int, seed: int
) -> Iterator[FloatArray]:
    """Means of bootstrap resamples, in chunks of bounded memory.

    Args:
        values: (distinct, metrics), as from `distinct_rows`.
        counts: (distinct,), how often each row occurs.
        resamples: how many resamples in all.
        seed: of the generator; the chunk size does not change the draws.

    Yields:
        (resamples in this chunk, metrics).
    """
    generator = np.random.default_rng(seed)
    n = int(counts.sum())
    chunk = max(1, _CHUNK_CELLS // len(counts))
    for start in range(0, resamples, chunk):
        drawn = generator.multinomial(n, counts / n, size=min(chunk, resamples - start))
        yield drawn @ values / n


def tidy(value: float) -> float:
    """Round to 10 decimals: below sampling noise, above what summation order can change."""
    return round(float(value), 10) + 0.0  # + 0.0 turns -0.0 into 0.0
