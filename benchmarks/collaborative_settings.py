"""Who chose what, without any model: how should its vectors be made and read?

    python benchmarks/collaborative_settings.py --data PREPARED [--data ...] [--users 500] \
        [--out results/FILE.json]

NDCG@10 on warm validation users of vectors of each window, share of the other order, width and
half-life of a history, and of singular vectors of users and items, by themselves and with
popularity, the seconds they take, and the means over the domains.
"""

import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.decomposition import TruncatedSVD

from program import program
from reccocktail.baselines.collaborative import interactions
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.evaluation.metrics import FloatArray, per_user, ranks
from reccocktail.progress import track
from reccocktail.ranking.additions import Beside
from reccocktail.ranking.collaborative import vectors_of
from reccocktail.ranking.prior import popularity_prior
from reccocktail.ranking.scoring import positive_columns
from reccocktail.ranking.space import cosines, of_histories, unit
from reccocktail.recipe import PromptSettings
from reccocktail.schema import CANDIDATES, HISTORY
from study import study_without_model

DIMENSIONS, WINDOWS, BACKWARDS = (64, 128), (3, 5, 10, 20), (0.0, 0.3, 1.0)
HALF_LIVES = (1.0, 2.0, None)
PURE = "users by items, 64 wide"
Floats = NDArray[np.float32]
Both = tuple[Floats, Floats]


def settings_of(domain: Domain, users: int) -> dict[str, Any]:
    """NDCG@10 on warm validation users of each way to make vectors, alone and with popularity."""
    rows = sample_rows(domain.rows("valid_warm"), users, seed=0)
    histories, candidates = domain.numbers(rows, HISTORY), domain.numbers(rows, CANDIDATES)
    positive, prior = positive_columns(rows), popularity_prior(domain.train_counts())
    read = PromptSettings().max_history
    recent = [history[-read:] for history in histories]
    training = domain.numbers(domain.train(), HISTORY)
    nothing = [np.zeros(len(row)) for row in candidates]
    found: dict[str, Any] = {}

    def judge(name: str, both: Both, half_life: float | None, seconds: float) -> None:
        chosen, before = both
        scores = cosines(chosen, of_histories(before, recent, half_life), candidates)
        beside = Beside(candidates, prior, collaborative=scores)
        together = beside.add(nothing, beside.choose(nothing, positive)[0])
        found[name] = {
            "alone": ndcg(scores, positive),
            "with popularity": ndcg(together, positive),
            "seconds": seconds,
        }

    for way in itertools.product(DIMENSIONS, WINDOWS, BACKWARDS):
        began = time.perf_counter()
        both = vectors_of(training, len(domain.titles), *way)
        spent = time.perf_counter() - began
        for half_life in HALF_LIVES:
            judge(name_of(*way, half_life), both, half_life, spent)
    began = time.perf_counter()
    alike = pure_svd(training, len(domain.titles))
    judge(PURE, (alike, alike), None, time.perf_counter() - began)
    return {"users": rows.height, "ways": found}


def pure_svd(histories: Sequence[Sequence[int]], items: int) -> Floats:
    """Unit vectors (items, 64) by users and items alone (PureSVD), as a control.

    Users and items are scaled by the root of their counts; centred.
    """
    matrix = interactions(histories, items)
    counts = np.bincount(matrix.indices, minlength=items)
    busy = np.repeat(np.diff(matrix.indptr), np.diff(matrix.indptr))
    matrix.data = (1 / np.sqrt(busy * counts[matrix.indices])).astype(np.float32)
    space = TruncatedSVD(min(64, *matrix.shape), n_iter=3, random_state=0).fit(matrix)
    vectors = (space.components_.T * space.singular_values_).astype(np.float32)
    vectors -= vectors[counts > 0].mean(axis=0)
    vectors[counts == 0] = 0
    return unit(vectors)


def ndcg(scores: Sequence[FloatArray], positive: NDArray[np.int64]) -> float:
    """Mean NDCG@10 of rows."""
    return float(per_user(ranks(scores, positive))["ndcg@10"].mean())


def name_of(dimensions: int, window: int, backward: float, half_life: float | None) -> str:
    """One way to make and to read vectors, in words."""
    memory = "no half-life" if half_life is None else f"half-life {half_life:g}"
    return f"{dimensions} wide, window {window}, backward {backward:g}, {memory}"


def choose_settings(domains: Sequence[Domain], users: int) -> dict[str, Any]:
    """Every domain's figures, and their means, the best first."""
    of = {d.name: settings_of(d, users) for d in track(domains, "Ways to read who chose what")}
    ways = next(iter(of.values()))["ways"]
    means = {
        way: {
            view: float(np.mean([found["ways"][way][view] for found in of.values()]))
            for view in ways[way]
        }
        for way in ways
    }
    best = sorted(means, key=lambda way: -means[way]["with popularity"])
    table = Table("way", "alone", "with popularity", "seconds")
    for way in best:
        *qualities, spent = means[way].values()
        table.add_row(way, *(f"{value:.4f}" for value in qualities), f"{spent:.1f}")
    Console().print(table)
    return {"domains": of, "means": {way: means[way] for way in best}}


def main(arguments: Sequence[str] | None = None) -> None:
    study_without_model(__doc__, choose_settings, arguments)


if __name__ == "__main__":
    program(main)
