"""Text similarity: items whose titles share words and letters with the history's titles."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from reccocktail.errors import DataError, RunError
from reccocktail.schema import CANDIDATES, HISTORY

if TYPE_CHECKING:
    from reccocktail.data.domain import Domain

_ROWS = 128  # users scored at once: 40 MB for a catalogue of 40,000 items


class TextSimilarity:
    """Cosine of a candidate's title and the mean of the history's titles, as TF-IDF vectors.

    A title's vector is the L2-normalised TF-IDF of its words and pairs of words, beside that of its
    letters in runs of 3 to 5 within words, each with the same weight. It learns from the
    catalogue's titles alone, of cold items as well, and from no interaction.
    """

    name = "text-similarity"

    def __init__(self, half_life: float | None = None) -> None:
        """Make an unfitted model.

        Args:
            half_life: an item of the history counts half as much as one so many places later; None
                weighs all items alike.

        Raises:
            ValueError: `half_life` is not positive.
        """
        if half_life is not None and not half_life > 0:
            raise ValueError(f"half_life is {half_life} and must be positive")
        self._half_life = half_life
        self._items: sparse.csr_array | None = None
        self._index: Mapping[str, int] = {}

    def fit(self, domain: "Domain") -> "TextSimilarity":
        """Turn the domain's titles into vectors; returns itself.

        Raises:
            DataError: no title holds a word.
        """
        # Here, because the import costs a second that other commands need not pay.
        from sklearn.feature_extraction.text import TfidfVectorizer

        parts = [
            # Words of one letter or digit count: "size 7" is not "size 8".
            TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b"),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)),
        ]
        try:
            blocks = [part.fit_transform(domain.titles) for part in parts]
        except ValueError as error:  # "empty vocabulary"
            raise DataError(
                f"No title of '{domain.name}' holds a word; text-similarity has nothing to compare."
            ) from error
        self._items = _unit_rows(sparse.csr_array(sparse.hstack(blocks)))
        self._index = domain.index
        return self

    def scores(self, rows: pl.DataFrame) -> list[npt.NDArray[np.float64]]:
        """Cosines in [0, 1] of each row's candidates, one array a row, in the candidates' order.

        Raises:
            DataError: an item is not in the domain.
            RunError: the model is not fitted.
        """
        found: list[npt.NDArray[np.float64]] = []
        for start in range(0, rows.height, _ROWS):
            block = rows[start : start + _ROWS]
            candidates = block[CANDIDATES].to_list()
            for row, items in zip(self.catalogue_scores(block), candidates, strict=True):
                found.append(row[self._numbers(items)])
        return found

    def catalogue_scores(self, rows: pl.DataFrame) -> npt.NDArray[np.float64]:
        """Cosines of the whole catalogue, (rows, items)."""
        found: npt.NDArray[np.float64] = (self._users(rows) @ self._fitted().T).toarray()
        return found

    def _users(self, rows: pl.DataFrame) -> sparse.csr_array:
        """Unit vectors (rows, features): the weighted mean of each history's items."""
        items = self._fitted()
        histories = [self._numbers(history) for history in rows[HISTORY].to_list()]
        weights = [self._weights(len(history)) for history in histories]
        offsets = np.cumsum([0, *(len(history) for history in histories)])
        mean = sparse.csr_array(
            (
                np.concatenate([*weights, np.zeros(0)]),
                np.concatenate([*histories, np.zeros(0, dtype=np.intp)]),
                offsets,
            ),
            shape=(rows.height, items.shape[0]),
        )
        return _unit_rows(mean @ items)

    def _weights(self, length: int) -> npt.NDArray[np.float64]:
        if self._half_life is None:
            return np.ones(length)
        found: npt.NDArray[np.float64] = 0.5 ** (np.arange(length)[::-1] / self._half_life)
        return found

    def _numbers(self, item_ids: list[str]) -> npt.NDArray[np.intp]:
        try:
            return np.array([self._index[item] for item in item_ids], dtype=np.intp)
        except KeyError as error:
            raise DataError(
                f"Item {error.args[0]!r} is not in the domain's items; prepare the data again."
            ) from error

    def _fitted(self) -> sparse.csr_array:
        if self._items is None:
            raise RunError(
                "The text-similarity baseline has no titles yet; fit it on a domain first."
            )
        return self._items


def _unit_rows(matrix: sparse.csr_array) -> sparse.csr_array:
    """Rows scaled to length 1; rows of zeros stay."""
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)))
    return sparse.csr_array(matrix.multiply(1.0 / np.where(norms > 0, norms, 1.0)[:, None]))
