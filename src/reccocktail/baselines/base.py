"""What every baseline promises, and what the ones that read a history share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from reccocktail.data.domain import sample_rows
from reccocktail.errors import DataError, RunError
from reccocktail.evaluation.metrics import per_user, ranks
from reccocktail.ranking.scoring import positive_columns
from reccocktail.schema import CANDIDATES, HISTORY

if TYPE_CHECKING:
    from reccocktail.data.domain import Domain

Numbers = npt.NDArray[np.intp]
"""Item numbers of one history, oldest first."""

FloatArray = npt.NDArray[np.float64]

ROWS = 128  # users scored at once: 40 MB for a catalogue of 40,000 items
VALIDATION_USERS = 1000


class Baseline(Protocol):
    """A recommender that learns from one domain and scores candidates."""

    name: ClassVar[str]
    """Its name in predictions, tables and ``--baseline``."""

    chosen: Mapping[str, Any]
    """Settings that validation users chose in `fit`, for the record; empty if there are none."""

    def fit(self, domain: "Domain") -> Any:
        """Learn from training rows; validation rows may choose settings, test rows are not read."""

    def scores(self, rows: pl.DataFrame) -> list[FloatArray]:
        """Score every row's candidates, higher is better: one array a row, candidates' order."""

    def catalogue_scores(self, rows: pl.DataFrame) -> FloatArray:
        """Score the whole catalogue for every row, (rows, items) in the order of the items."""


class HistoryBaseline(ABC):
    """A baseline whose scores follow from the row's history: users need not be known.

    A subclass learns in `_learn` and scores histories of any length, empty ones too, in `_score`.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self.chosen: Mapping[str, Any] = {}
        self._index: Mapping[str, int] = {}
        self._fitted = False

    @abstractmethod
    def _learn(self, domain: "Domain") -> None:
        """Learn from the domain; `scores` works as soon as `_score` does."""

    @abstractmethod
    def _score(self, histories: Sequence[Numbers]) -> FloatArray:
        """Scores of the whole catalogue, (histories, items)."""

    def fit(self, domain: "Domain") -> Self:
        """Learn from the domain's training rows; returns itself.

        Raises:
            DataError: the domain holds nothing to learn from.
            RunError: an optional package is missing.
        """
        self._fitted = False
        self._index = domain.index
        self._learn(domain)
        self._fitted = True
        return self

    def scores(self, rows: pl.DataFrame) -> list[FloatArray]:
        """Scores of each row's candidates, one array a row, in the candidates' order.

        Raises:
            DataError: an item is not in the domain.
            RunError: the model is not fitted.
        """
        self._require_fit()
        return self._candidate_scores(rows)

    def catalogue_scores(self, rows: pl.DataFrame) -> FloatArray:
        """Scores of the whole catalogue, (rows, items).

        Raises:
            DataError: an item of a history is not in the domain.
            RunError: the model is not fitted.
        """
        self._require_fit()
        found = np.empty((rows.height, len(self._index)))
        for start in range(0, rows.height, ROWS):
            found[start : start + ROWS] = self._score(self._histories(rows[start : start + ROWS]))
        return found

    def _candidate_scores(self, rows: pl.DataFrame) -> list[FloatArray]:
        """`scores` without the question whether `fit` is through: it asks too."""
        found: list[FloatArray] = []
        for start in range(0, rows.height, ROWS):
            block = rows[start : start + ROWS]
            whole = self._score(self._histories(block))
            for row, items in zip(whole, block[CANDIDATES].to_list(), strict=True):
                found.append(row[self._numbers(items)])
        return found

    @staticmethod
    def _validation(domain: "Domain", seed: int) -> pl.DataFrame:
        """Warm validation users, who choose settings."""
        return sample_rows(domain.rows("valid_warm"), VALIDATION_USERS, seed)

    def _quality(self, valid: pl.DataFrame) -> float:
        """Mean NDCG@10 over validation users, each with its own candidates; 0 without users."""
        if not valid.height:
            return 0.0
        found = per_user(ranks(self._candidate_scores(valid), positive_columns(valid)))
        return float(found["ndcg@10"].mean())

    def _histories(self, rows: pl.DataFrame) -> list[Numbers]:
        return [self._numbers(history) for history in rows[HISTORY].to_list()]

    def _numbers(self, item_ids: Sequence[str]) -> Numbers:
        try:
            return np.array([self._index[item] for item in item_ids], dtype=np.intp)
        except KeyError as error:
            raise DataError(
                f"Item {error.args[0]!r} is not in the domain's items; prepare the data again."
            ) from error

    def _require_fit(self) -> None:
        if not self._fitted:
            raise RunError(f"The {self.name} baseline is not fitted; fit it on a domain first.")


def profiles(
    histories: Sequence[Numbers], items: int, half_life: float | None = None
) -> sparse.csr_array:
    """Histories as weights over the catalogue, sparse float64 (histories, items).

    Args:
        histories: item numbers, oldest first.
        items: size of the catalogue.
        half_life: an item counts half as much as one so many places later; None counts all alike.
            An item that occurs twice counts twice.
    """
    lengths = [len(history) for history in histories]
    ages = [np.arange(length)[::-1] for length in lengths]
    weights = [np.ones(len(a)) if half_life is None else 0.5 ** (a / half_life) for a in ages]
    return sparse.csr_array(
        (
            np.concatenate([*weights, np.zeros(0)]),
            np.concatenate([*histories, np.zeros(0, dtype=np.intp)]),
            np.cumsum([0, *lengths]),
        ),
        shape=(len(histories), items),
    )
