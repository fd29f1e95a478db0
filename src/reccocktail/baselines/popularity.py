"""Popularity: every user gets the items that most users chose."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from reccocktail.errors import DataError, RunError
from reccocktail.schema import CANDIDATES

if TYPE_CHECKING:
    from reccocktail.data.domain import Domain


class Popularity:
    """Scores ``log(1 + training interactions of the item)``, the same for every user.

    Items with equal counts tie on purpose, and the metrics break ties against the positive: all
    cold items have count 0, so this baseline has nothing to say about them.
    """

    name: ClassVar[str] = "popularity"

    def __init__(
        self, counts: npt.ArrayLike | None = None, index: Mapping[str, int] | None = None
    ) -> None:
        """Take the counts here, or call `fit` later.

        Args:
            counts: (items,) training interactions of each item.
            index: item id -> place in `counts`.
        """
        self._scores: npt.NDArray[np.float64] | None = None
        self.chosen: Mapping[str, Any] = {}
        self._index: Mapping[str, int] = index or {}
        if counts is not None:
            self._scores = np.log1p(np.asarray(counts, dtype=np.float64))

    def fit(self, domain: "Domain") -> "Popularity":
        """Count the domain's training interactions; returns itself."""
        self._scores = np.log1p(np.asarray(domain.train_counts(), dtype=np.float64))
        self._index = domain.index
        return self

    def _fitted(self) -> npt.NDArray[np.float64]:
        if self._scores is None:
            raise RunError("The popularity baseline has no counts yet; fit it on a domain first.")
        return self._scores

    def item_scores(self, item_ids: Sequence[str]) -> npt.NDArray[np.float64]:
        """Scores of the given items, in their order.

        Raises:
            DataError: an item is not in the domain.
            RunError: the baseline has no counts yet.
        """
        scores = self._fitted()
        try:
            places = [self._index[item] for item in item_ids]
        except KeyError as error:
            raise DataError(
                f"Item {error.args[0]!r} is not in the domain's items; prepare the data again."
            ) from error
        return scores[np.asarray(places, dtype=np.intp)]

    def catalogue_scores(self, rows: pl.DataFrame) -> npt.NDArray[np.float64]:
        """Scores of the whole catalogue, (rows, items): one read-only row seen many times."""
        scores = self._fitted()
        return np.broadcast_to(scores, (len(rows), len(scores)))

    def scores(self, rows: pl.DataFrame) -> list[npt.NDArray[np.float64]]:
        """Scores of each row's candidates, one array a row, in the candidates' order."""
        return [self.item_scores(candidates) for candidates in rows[CANDIDATES].to_list()]
