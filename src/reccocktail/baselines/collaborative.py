"""What models have in common that know items by who chose them, and by nothing else."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from reccocktail.baselines.base import FloatArray, HistoryBaseline, Numbers
from reccocktail.errors import DataError

if TYPE_CHECKING:
    from reccocktail.data.domain import Domain


class CollaborativeBaseline(HistoryBaseline):
    """A model of interactions: users are their histories, items are the users who chose them.

    An item without a training interaction, every cold one among them, is unknown to such a model.
    All unknown items score 0 and every known item scores 0 or more, so that they tie at the bottom;
    the metrics break ties against the target. In a history unknown items say nothing and are
    skipped; a history that holds no known item gives 0 throughout.
    """

    def __init__(self, seed: int = 0) -> None:
        """Make an unfitted model; `seed` decides every draw, that of validation users included."""
        super().__init__()
        self._seed = seed
        self._known: npt.NDArray[np.bool_] = np.zeros(0, dtype=bool)

    @abstractmethod
    def _train(self, domain: "Domain", histories: list[Numbers], valid: pl.DataFrame) -> None:
        """Learn from training histories; `valid` (warm validation users) may choose settings."""

    @abstractmethod
    def _affinities(self, histories: Sequence[Numbers]) -> FloatArray:
        """Scores (histories, items); what it says of unknown items is not used.

        Args:
            histories: known items only, at least one in each.
        """

    def _learn(self, domain: "Domain") -> None:
        histories = self._histories(domain.train())
        if not histories:
            raise DataError(f"'{domain.name}' has no training user; prepare more data.")
        self._known = np.zeros(len(self._index), dtype=bool)
        self._known[np.concatenate(histories)] = True
        self._train(domain, histories, self._validation(domain, self._seed))

    def _score(self, histories: Sequence[Numbers]) -> FloatArray:
        known = [history[self._known[history]] for history in histories]
        rows = np.array([row for row, history in enumerate(known) if len(history)], dtype=np.intp)
        found = np.zeros((len(histories), len(self._known)))
        if len(rows):
            scores = self._affinities([known[row] for row in rows])[:, self._known]
            lowest = scores.min(axis=1, keepdims=True)
            found[np.ix_(rows, np.flatnonzero(self._known))] = scores - lowest
        return found


def interactions(histories: Iterable[npt.ArrayLike], items: int) -> sparse.csr_matrix:
    """Who chose what: ones, float32 (users, items); a repeated choice counts once.

    Args:
        histories: the item numbers of each user.
        items: in the catalogue.
    """
    unique = [np.unique(np.asarray(history, dtype=np.int64)) for history in histories]
    offsets = np.cumsum([0, *(len(history) for history in unique)])
    columns = np.concatenate([np.zeros(0, dtype=np.int64), *unique])
    ones = np.ones(len(columns), dtype=np.float32)
    return sparse.csr_matrix((ones, columns, offsets), shape=(len(unique), items))
