"""Models to beat, behind one protocol and found by name."""

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from reccocktail.baselines.popularity import Popularity
from reccocktail.baselines.text_similarity import TextSimilarity

if TYPE_CHECKING:
    from reccocktail.data.domain import Domain


class Baseline(Protocol):
    """A recommender that learns from one domain and scores candidates."""

    name: str
    """Its name in predictions, tables and ``--baseline``."""

    def fit(self, domain: "Domain") -> Any:
        """Learn from the domain's training rows, never from its evaluation tables."""

    def scores(self, rows: pl.DataFrame) -> list[npt.NDArray[np.float64]]:
        """Score every row's candidates, higher is better: one array a row, candidates' order."""

    def catalogue_scores(self, rows: pl.DataFrame) -> npt.NDArray[np.float64]:
        """Score the whole catalogue for every row, (rows, items) in the order of the items."""


BASELINES: dict[str, type[Baseline]] = {
    Popularity.name: Popularity,
    TextSimilarity.name: TextSimilarity,
}
"""Name on the command line -> class; a class is made without arguments, then fitted."""

__all__ = ["BASELINES", "Baseline", "Popularity", "TextSimilarity"]
