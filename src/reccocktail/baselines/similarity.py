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


class ItemSimilarity(HistoryBaseline):
    """Cosine of a candidate's vector and the weighted mean of its history's unit vectors.

    A subclass makes the vectors of all items, cold ones too, from what the catalogue says of them;
    no interaction is read.
    """

    def __init__(self, half_life: float | None = None) -> None:
        """Make an unfitted model.

        Args:
            half_life: an item of the history counts half as much as one so many places later; None
                weighs all items alike.

        Raises:
            ValueError: `half_life` is not positive.
        """
        super().__init__()
        if half_life is not None and not half_life > 0:
            raise ValueError(f"half_life is {half_life} and must be positive")
        self._half_life = half_life
        self._items: Matrix = np.zeros((0, 0))

    @abstractmethod
    def _vectors(self, domain: "Domain") -> Matrix:
        """Vectors of all items, (items, d), of any length."""

    def _learn(self, domain: "Domain") -> None:
        self._items = unit_rows(self._vectors(domain))

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
