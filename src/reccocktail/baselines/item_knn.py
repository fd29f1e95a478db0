"""Item neighbours: items that the same users chose, from the library `implicit`."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl
from scipy import sparse

from reccocktail.baselines.base import FloatArray, Numbers, profiles
from reccocktail.baselines.collaborative import CollaborativeBaseline, interactions
from reccocktail.baselines.extras import require
from reccocktail.progress import track

if TYPE_CHECKING:
    from reccocktail.data.domain import Domain


@dataclass(frozen=True)
class KnnSettings:
    """How alike two items are, and how a history is read.

    Attributes:
        weighting: of interactions before the product of items: `cosine`, `tfidf` or `bm25`.
        neighbours: items kept for each item, itself included.
        half_life: an item of the history counts half as much as one so many places later; None
            weighs all items alike.
    """

    weighting: str
    neighbours: int
    half_life: float | None


GRID = tuple(
    KnnSettings(*point)
    for point in product(("cosine", "tfidf", "bm25"), (100, 1000), (None, 20.0, 3.0))
)


class ItemKNN(CollaborativeBaseline):
    """A candidate's score is the sum of its similarities to the history's items.

    Similarities come from `implicit` (Sarwar et al. 2001, with the weightings of TF-IDF and Okapi
    BM25); validation users choose among the settings of `GRID` by NDCG@10.
    """

    name: ClassVar[str] = "item-knn"

    def __init__(self, grid: Sequence[KnnSettings] = GRID, seed: int = 0) -> None:
        """Make an unfitted model that will choose from `grid`; the first setting wins ties.

        Raises:
            RunError: the package implicit is missing.
        """
        super().__init__(seed)
        self._library = require("implicit.nearest_neighbours", "baselines", self.name)
        self._grid = grid
        self._half_life: float | None = None
        self._similarity = sparse.csr_array((0, 0))

    def _train(self, domain: "Domain", histories: list[Numbers], valid: pl.DataFrame) -> None:
        classes = {
            "cosine": self._library.CosineRecommender,
            "tfidf": self._library.TFIDFRecommender,
            "bm25": self._library.BM25Recommender,
        }
        matrix = interactions(histories, len(self._known))
        fitted: dict[tuple[str, int], sparse.csr_array] = {}
        best: tuple[float, KnnSettings] | None = None
        for settings in track(self._grid, "Fitting item-knn"):
            key = (settings.weighting, settings.neighbours)
            if key not in fitted:
                model = classes[settings.weighting](K=settings.neighbours, num_threads=1)
                with warnings.catch_warnings():  # of a conversion inside the library
                    warnings.filterwarnings("ignore", "Method expects CSR input")
                    model.fit(matrix, show_progress=False)
                fitted[key] = sparse.csr_array(model.similarity)
            self._similarity, self._half_life = fitted[key], settings.half_life
            quality = self._quality(valid)
            if best is None or quality > best[0]:
                best = (quality, settings)
        if best is None:
            raise ValueError("the grid of item-knn is empty")
        quality, settings = best
        self._similarity = fitted[settings.weighting, settings.neighbours]
        self._half_life = settings.half_life
        self.chosen = {**asdict(settings), "valid_ndcg@10": quality}

    def _affinities(self, histories: Sequence[Numbers]) -> FloatArray:
        weights = profiles(histories, len(self._known), self._half_life)
        return np.asarray((weights @ self._similarity).toarray(), dtype=np.float64)
