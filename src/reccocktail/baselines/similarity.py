"""Item similarity: a candidate's vector against the mean of the history's vectors."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy import sparse

from reccocktail.baselines.base import FloatArray, HistoryBaseline, Numbers, profiles

if TYPE_CHECKING:
    from reccocktail.data.domain import Domain

Matrix: TypeAlias = Any
"""A scipy `csr_array` or a numpy array, float64; scipy has no types."""

HalfLives: TypeAlias = Sequence[float | None]
HALF_LIVES: HalfLives = (None, 20.0, 10.0, 3.0)


class ItemSimilarity(HistoryBaseline):
    """Cosine of a candidate's vector and the weighted mean of its history's unit vectors.

    A subclass makes the vectors of all items, cold ones too, from what the catalogue says of them;
    interactions are read to choose how fast a history fades, by validation users, and for nothing
    else.
    """

    def __init__(self, half_lives: HalfLives = HALF_LIVES) -> None:
        """Make an unfitted model.

        Args:
            half_lives: to choose from by NDCG@10, of equals and without validation users the first:
                an item of the history counts half as much as one so many places later; None weighs
                all items alike.

        Raises:
            ValueError: there is none, or one is not positive.
        """
        super().__init__()
        if not half_lives or not all(h is None or h > 0 for h in half_lives):
            raise ValueError(f"half_lives are {half_lives} and must be positive")
        self._half_lives = half_lives
        self._half_life = half_lives[0]
        self._items: Matrix = np.zeros((0, 0))

    @abstractmethod
    def _vectors(self, domain: "Domain") -> Matrix:
        """Vectors of all items, (items, d), of any length."""

    def _learn(self, domain: "Domain") -> None:
        self._items = unit_rows(self._vectors(domain))
        self._half_life = self._half_lives[0]
        if len(self._half_lives) == 1 or not (valid := self._validation(domain, seed=0)).height:
            return
        quality: dict[float | None, float] = {}
        for half_life in self._half_lives:
            self._half_life = half_life
            quality[half_life] = self._quality(valid)
        self._half_life = max(self._half_lives, key=lambda half_life: quality[half_life])
        found = {"half_life": self._half_life, "valid_ndcg@10": quality[self._half_life]}
        self.chosen = {**self.chosen, **found}

    def _score(self, histories: Sequence[Numbers]) -> FloatArray:
        """Cosines in [-1, 1]; an empty history has no direction and gives 0 throughout."""
        weights = profiles(histories, self._items.shape[0], self._half_life)
        found = unit_rows(weights @ self._items) @ self._items.T
        return np.asarray(found.toarray() if sparse.issparse(found) else found, dtype=np.float64)


def unit_rows(matrix: Matrix) -> Matrix:
    """Rows scaled to length 1; rows of zeros stay."""
    if isinstance(matrix, np.ndarray):
        norms = np.linalg.norm(matrix, axis=1)
    else:
        norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)))
    scale = 1.0 / np.where(norms > 0, norms, 1.0)[:, None]
    if isinstance(matrix, np.ndarray):
        return np.asarray(matrix * scale, dtype=np.float64)
    return sparse.csr_array(matrix.multiply(scale))
