"""BPR matrix factorisation, from the library `implicit`, with users folded in by their history."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import expit

from reccocktail.baselines.base import FloatArray, Numbers
from reccocktail.baselines.collaborative import CollaborativeBaseline, interactions
from reccocktail.baselines.extras import require
from reccocktail.progress import track

if TYPE_CHECKING:
    from reccocktail.data.domain import Domain

_STEPS = 50
_RATE = 1.0  # the loss of a user is smooth and convex: plain descent arrives
_POSITIVES, _NEGATIVES = 64, 256  # of a user, in the folding


@dataclass(frozen=True)
class BprSettings:
    """Settings of the factorisation.

    Attributes:
        factors: dimension of users and items; items have a bias beside it.
        learning_rate: of stochastic gradient descent.
        regularization: L2, on every factor that a step touches.
        epochs: passes over the interactions.
    """

    factors: int
    learning_rate: float
    regularization: float
    epochs: int


GRID = tuple(
    BprSettings(*point) for point in product((64,), (0.05,), (0.003, 0.01, 0.03, 0.1), (100,))
)


class BPR(CollaborativeBaseline):
    """Bayesian personalised ranking (Rendle et al. 2009): chosen items above the others.

    A user's factors are not those of training but the ones that minimise the same loss over the
    row's history with all items fixed (folding in), so known and new users are treated alike and a
    history counts as long as it is by now. Negatives of the folding are one seeded draw of known
    items for everybody, less the user's own. Validation users choose among `GRID` by NDCG@10.
    """

    name: ClassVar[str] = "bpr"

    def __init__(self, grid: Sequence[BprSettings] = GRID, seed: int = 0) -> None:
        """Make an unfitted model that will choose from `grid`; the first setting wins ties.

        Raises:
            RunError: the package implicit is missing.
        """
        super().__init__(seed)
        self._library = require("implicit.cpu.bpr", "baselines", self.name)
        self._grid = grid
        self._regularization = 0.0
        self._items: FloatArray = np.zeros((0, 1))
        self._negatives: Numbers = np.zeros(0, dtype=np.intp)

    def _train(self, domain: "Domain", histories: list[Numbers], valid: pl.DataFrame) -> None:
        matrix = interactions(histories, len(self._known))
        known = np.flatnonzero(self._known)
        rng = np.random.default_rng(self._seed)
        self._negatives = rng.choice(known, min(_NEGATIVES, len(known)), replace=False)
        best: tuple[float, BprSettings, FloatArray] | None = None
        for settings in track(self._grid, "Fitting bpr"):
            model = self._library.BayesianPersonalizedRanking(
                factors=settings.factors,
                learning_rate=settings.learning_rate,
                regularization=settings.regularization,
                iterations=settings.epochs,
                num_threads=1,  # more race for the same factors, and no two runs agree
                random_state=self._seed,
            )
            model.fit(matrix, show_progress=False)
            self._items = np.asarray(model.item_factors, dtype=np.float64)
            self._regularization = settings.regularization
            quality = self._quality(valid)
            if best is None or quality > best[0]:
                best = (quality, settings, self._items)
        if best is None:
            raise ValueError("the grid of bpr is empty")
        quality, settings, self._items = best
        self._regularization = settings.regularization
        self.chosen = {**asdict(settings), "valid_ndcg@10": quality}

    def _affinities(self, histories: Sequence[Numbers]) -> FloatArray:
        # The last column is the item's bias; the user's factor there is 1.
        factors, bias = self._items[:, :-1], self._items[:, -1]
        users = np.stack([self._fold_in(history, factors, bias) for history in histories])
        return np.asarray(users @ factors.T + bias, dtype=np.float64)

    def _fold_in(
        self, history: Numbers, factors: FloatArray, bias: FloatArray
    ) -> npt.NDArray[np.float64]:
        """User factors (d,): mean of ``-log sigmoid(s_i - s_j)`` over pairs, plus the L2 term."""
        # Spread over a long history, so that all of its ages are heard.
        places = np.linspace(0, len(history) - 1, min(_POSITIVES, len(history))).round()
        chosen = history[places.astype(np.intp)]
        others = self._negatives[~np.isin(self._negatives, history)]
        user = np.zeros(factors.shape[1])
        if not len(others):
            return user
        ahead, behind = factors[chosen], factors[others]
        for _ in range(_STEPS):
            margins = (ahead @ user + bias[chosen])[:, None] - (behind @ user + bias[others])
            wrong = expit(-margins)  # (positives, negatives)
            pull = wrong.mean(axis=1) @ ahead / len(chosen) - wrong.mean(axis=0) @ behind / len(
                others
            )
            user = user + _RATE * (pull - self._regularization * user)
        return user
