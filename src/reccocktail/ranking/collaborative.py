"""Who chose what, beside the language model: what people choose soon after what.

A text says nothing of what goes with what; a table of interactions says it, and of nothing new.
Every pair of items that a user chose within `WINDOW` places of one another counts, the nearer the
more, as in word2vec's windows (Mikolov et al. 2013), and once in its order to `BACKWARD` in the
other. Scaled by the roots of what items have in all, the matrix of pairs is brought to few numbers
by singular value decomposition, which is what such embeddings come to (Levy and Goldberg 2014). No
item is its own neighbour, as it is in a matrix of users and items (PureSVD, Cremonesi et al. 2010),
whose singular vectors rank worse (`benchmarks/collaborative.py`).

An item has two vectors: as what is chosen, and as what was chosen before. Recent choices of a
history count more. Vectors of what is chosen are centred: on average an item neither gains nor
loses.

What nobody has chosen gets the vectors that its title leads to expect, by ridge regression from
the words of titles (see `lexical`; such maps are of Gantner et al. 2010). They are not scaled up to
length 1: the less a title tells, the nearer it is to 0, the average item.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from reccocktail.data.domain import Domain
from reccocktail.progress import say
from reccocktail.ranking import kept
from reccocktail.ranking.lexical import LEARNT_FROM, words_of
from reccocktail.ranking.space import ItemSpace, of_histories, unit
from reccocktail.schema import HISTORY

# Chosen on domains that are no targets (`benchmarks/collaborative.py`).
DIMENSIONS = 64
WINDOW = 10
BACKWARD = 0.3
HALF_LIFE = 1.0
"""Later choices of a history after which one counts half."""
WAY = (DIMENSIONS, WINDOW, BACKWARD, HALF_LIFE)
"""All of these, for the names of what is kept."""
CHOICES = 5_000_000
"""Choices at most that are learnt from, of users drawn by chance: time and memory grow with them,
to some minutes and 3 GB."""
_MANY = 1_000_000  # choices whose reading takes long enough to be told of
_PENALTIES = np.logspace(-1, 3, 9)  # of the ridge regression; leaving one item out chooses

Vectors = npt.NDArray[np.float32]


class Collaborative(ItemSpace):
    """Items by who chose them, those that nobody chose by their titles.

    Attributes:
        items: (items, width): in the first half each item as what is chosen, in the second as what
            was chosen before. Halves have length 1 for items of the training interactions and at
            most that for others.
    """

    def __init__(self, domain: Domain, max_history: int) -> None:
        """Take the vectors from the disk, or learn them from the training interactions.

        Args:
            domain: a prepared domain.
            max_history: items of a history that are read, the last ones.
        """
        super().__init__(max_history)
        self._words = words_of(tuple(domain.titles), max_history)
        settings = [*WAY, CHOICES, LEARNT_FROM, self._words.width, _PENALTIES.tolist()]
        file = kept.place(["what follows what", settings, domain.sha256])
        stored = kept.read(file)
        if stored is None:
            histories = _drawn(domain.numbers(domain.train(), HISTORY))
            if (choices := sum(map(len, histories))) > _MANY:
                say(f"{domain.name}: learning who chose what from {choices:,} choices, once ...")
            self.items = np.concatenate(vectors_of(histories, len(domain.titles)), axis=1)
            # Before anything is filled in: what is expected of titles teaches nothing.
            self._known = np.stack([half.any(axis=1) for half in _halves(self.items)])
            expected = _halves(self._expected(self._words.items))
            for known, half, guess in zip(self._known, _halves(self.items), expected, strict=True):
                half[~known] = guess[~known]
            arrays = {"items": self.items, "known": self._known}
            kept.write(file, {name: torch.from_numpy(a) for name, a in arrays.items()})
        else:
            self.items, self._known = stored["items"].numpy(), stored["known"].numpy()

    def histories(self, items: Vectors, histories: Sequence[Sequence[int]]) -> Vectors:
        """What is expected next, (histories, width): zeros in the second half.

        Args: see `ItemSpace.histories`.
        """
        _, before = _halves(items)
        found = of_histories(before, histories, HALF_LIFE)
        return np.concatenate([found, np.zeros_like(found)], axis=1)

    def new(self, titles: Sequence[str]) -> Vectors:
        """Vectors (titles, width) that titles lead to expect."""
        return self._expected(self._words.new(titles))

    def learn(self) -> None:
        """Learn the words and the regression."""
        self._words.learn()
        _ = self._map

    def _expected(self, words: Vectors) -> Vectors:
        """Vectors (titles, width) from the words (titles, width of words) of titles."""
        found: Vectors = words @ self._map
        for half in _halves(found):
            # Nothing is better known than what people did choose.
            half /= np.maximum(np.linalg.norm(half, axis=1, keepdims=True), 1)
        return found

    @cached_property
    def _map(self) -> Vectors:
        """The regressions (width of words, width), learnt from what people chose."""
        titles = self._words.items
        both = zip(_halves(self.items), self._known, strict=True)
        return np.concatenate([_regression(titles, *half) for half in both], axis=1)


def _drawn(histories: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    """Histories of users drawn by chance, with `CHOICES` choices in all or all there are."""
    order = np.random.default_rng(0).permutation(len(histories))
    choices = np.cumsum([len(histories[user]) for user in order])
    few = np.sort(order[choices <= CHOICES]).tolist()
    return [histories[user] for user in few] if len(few) < len(order) else histories


def _halves(vectors: Vectors) -> tuple[Vectors, Vectors]:
    """Views of items as what is chosen and as what was chosen before."""
    width = vectors.shape[1] // 2
    return vectors[:, :width], vectors[:, width:]


def _regression(words: Vectors, vectors: Vectors, known: npt.NDArray[np.bool_]) -> Vectors:
    """Ridge regression (width of words, width) of the vectors of known items from their words."""
    from sklearn.linear_model import RidgeCV

    rows = np.flatnonzero(known)
    if len(rows) > LEARNT_FROM:
        rows = np.sort(np.random.default_rng(0).choice(rows, LEARNT_FROM, replace=False))
    if len(rows) < 2 or not words.shape[1] or not vectors.shape[1]:
        return np.zeros((words.shape[1], vectors.shape[1]), dtype=np.float32)
    # Without an intercept: a title that tells nothing is the average item, which is 0.
    found = RidgeCV(_PENALTIES, fit_intercept=False).fit(
        words[rows].astype(np.float64), vectors[rows].astype(np.float64)
    )
    coefficients: Vectors = found.coef_.T.astype(np.float32)
    return coefficients.reshape(words.shape[1], vectors.shape[1])


def vectors_of(
    histories: Sequence[Sequence[int]],
    items: int,
    dimensions: int = DIMENSIONS,
    window: int = WINDOW,
    backward: float = BACKWARD,
) -> tuple[Vectors, Vectors]:
    """Unit vectors of items as what is chosen, and as what was chosen before.

    Both are (items, width); zeros stand for items that were never chosen so. The last three
    arguments are what `benchmarks/collaborative.py` chose from.

    Args:
        histories: the item numbers of each user, oldest first.
        items: in the catalogue.
        dimensions: the width, where items are as many.
        window: places between two choices, at most, for them to count.
        backward: what a pair counts in the other order, in [0, 1].
    """
    from sklearn.decomposition import TruncatedSVD

    pairs = followers(histories, items, window)
    pairs = (pairs + backward * pairs.T).tocoo()
    before, after = (np.sqrt(np.asarray(pairs.sum(axis=axis)).ravel()) for axis in (1, 0))
    width = min(dimensions, int((before > 0).sum()), int((after > 0).sum()))
    if width < 2:
        empty = np.zeros((items, 0), dtype=np.float32)
        return empty, empty
    scaled = pairs.data / (before[pairs.row] * after[pairs.col])
    matrix = sparse.csr_matrix((scaled.astype(np.float32), (pairs.row, pairs.col)), pairs.shape)
    space = TruncatedSVD(width, n_iter=3, random_state=0).fit(matrix)
    # Half of each direction's strength goes to either side.
    strength = np.sqrt(np.maximum(space.singular_values_, np.finfo(np.float32).tiny))
    chosen = (space.components_.T * strength).astype(np.float32)
    chosen[after > 0] -= chosen[after > 0].mean(axis=0)
    chosen[after == 0] = 0
    return unit(chosen), unit((matrix @ space.components_.T / strength).astype(np.float32))


def followers(
    histories: Sequence[Sequence[int]], items: int, window: int = WINDOW
) -> sparse.csr_matrix:
    """How often an item (column) is chosen after another (row), float32 (items, items).

    A pair that is k places apart counts (window + 1 - k) / window; nothing follows itself.

    Args:
        histories: the item numbers of each user, oldest first.
        items: in the catalogue.
        window: places between two choices, at most.
    """
    lengths = [len(history) for history in histories]
    user = np.repeat(np.arange(len(lengths)), lengths)
    item = np.concatenate([np.zeros(0, dtype=np.int64), *map(np.asarray, histories)])
    item = item.astype(np.int64)
    found = sparse.csr_matrix((items, items), dtype=np.float32)
    for places in range(1, window + 1):
        first, second = item[:-places], item[places:]
        kept_pairs = (user[:-places] == user[places:]) & (first != second)
        weights = np.full(int(kept_pairs.sum()), (window + 1 - places) / window, dtype=np.float32)
        where = (first[kept_pairs], second[kept_pairs])
        found += sparse.csr_matrix((weights, where), shape=(items, items))
    return found
