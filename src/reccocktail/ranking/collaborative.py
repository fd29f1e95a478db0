"""Who chose what, beside the language model: items that the same people chose are alike.

A text says nothing of what goes with what; a table of interactions says it, and of nothing new.
Items are the leading right singular vectors of the training interactions (PureSVD, Cremonesi et
al. 2010), with users and items scaled by the root of their counts, so that neither busy people
nor popular items lead. Vectors are centred: on average an item neither gains nor loses.

What nobody has chosen gets the vector that its title leads to expect, by ridge regression from
the words of titles (see `lexical`; such maps are of Gantner et al. 2010). It is not scaled up to
length 1: the less a title tells, the nearer it is to 0, the average item.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from reccocktail.data.domain import Domain
from reccocktail.ranking import kept
from reccocktail.ranking.lexical import LEARNT_FROM, words_of
from reccocktail.ranking.space import ItemSpace, unit
from reccocktail.schema import HISTORY

DIMENSIONS = 64
"""Twice as many gain little (`benchmarks/collaborative.py`, on domains that are no targets)."""
_PENALTIES = np.logspace(-1, 3, 9)  # of the ridge regression; leaving one item out chooses


class Collaborative(ItemSpace):
    """Items by who chose them, those that nobody chose by their titles.

    Attributes:
        items: (items, width), of length 1 for items of the training interactions and less for
            others.
    """

    def __init__(self, domain: Domain, max_history: int) -> None:
        """Take the vectors from the disk, or learn them from the training interactions.

        Args:
            domain: a prepared domain.
            max_history: items of a history that are read, the last ones.
        """
        super().__init__(max_history)
        self._words = words_of(tuple(domain.titles), max_history)
        self._known = domain.train_counts() > 0
        made_by = [version(name) for name in ("numpy", "scipy", "scikit-learn")]
        settings = [DIMENSIONS, LEARNT_FROM, self._words.width, _PENALTIES.tolist()]
        file = kept.place(["collaborative", settings, made_by, domain.sha256])
        stored = kept.read(file)
        if stored is None:
            histories = domain.numbers(domain.train(), HISTORY)
            self.items = vectors_of(histories, len(self._known))
            new = np.flatnonzero(~self._known)
            self.items[new] = self._expected(self._words.items[new])
            kept.write(file, {"items": torch.from_numpy(self.items)})
        else:
            self.items = stored["items"].numpy()

    def new(self, titles: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors (titles, width) that titles lead to expect."""
        return self._expected(self._words.new(titles))

    def learn(self) -> None:
        """Learn the words and the regression."""
        self._words.learn()
        _ = self._map

    def _expected(self, words: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Vectors (titles, width) from the words (titles, width of words) of titles."""
        found: npt.NDArray[np.float32] = words @ self._map
        # Nothing is better known than what people did choose.
        found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1)
        return found

    @cached_property
    def _map(self) -> npt.NDArray[np.float32]:
        """The regression (width of words, width), learnt from what people chose."""
        from sklearn.linear_model import RidgeCV

        known = np.flatnonzero(self._known)
        if len(known) > LEARNT_FROM:
            known = np.sort(np.random.default_rng(0).choice(known, LEARNT_FROM, replace=False))
        titles, vectors = self._words.items[known], self.items[known]
        if len(known) < 2 or not titles.shape[1] or not vectors.shape[1]:
            return np.zeros((titles.shape[1], vectors.shape[1]), dtype=np.float32)
        # Without an intercept: a title that tells nothing is the average item, which is 0.
        found = RidgeCV(_PENALTIES, fit_intercept=False).fit(
            titles.astype(np.float64), vectors.astype(np.float64)
        )
        coefficients: npt.NDArray[np.float32] = found.coef_.T.astype(np.float32)
        return coefficients.reshape(titles.shape[1], vectors.shape[1])


def vectors_of(
    histories: Sequence[Sequence[int]],
    items: int,
    dimensions: int = DIMENSIONS,
    power: float = 1.0,
    centred: bool = True,
) -> npt.NDArray[np.float32]:
    """Unit vectors (items, width) of who chose what; zeros for items that nobody chose.

    The last three arguments are what `benchmarks/collaborative.py` chose from.

    Args:
        histories: the item numbers of each user; a repeated choice counts once.
        items: in the catalogue.
        dimensions: the width, where users and items are as many.
        power: of the singular values that scale the directions: 0 makes all alike.
        centred: take off the mean item.
    """
    from sklearn.decomposition import TruncatedSVD

    matrix = interactions(histories, items)
    counts = np.bincount(matrix.indices, minlength=items)
    known = counts > 0
    width = min(dimensions, len(histories), int(known.sum()))
    if width < 2:
        return np.zeros((items, 0), dtype=np.float32)
    busy = np.repeat(np.diff(matrix.indptr), np.diff(matrix.indptr))
    matrix.data = (1 / np.sqrt(busy * counts[matrix.indices])).astype(np.float32)
    space = TruncatedSVD(width, n_iter=3, random_state=0).fit(matrix)
    vectors = (space.components_.T * space.singular_values_**power).astype(np.float32)
    if centred:
        vectors -= vectors[known].mean(axis=0)
    vectors[~known] = 0
    return unit(vectors)


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
