"""New items beside known ones in one list: their scores are brought to one scale.

What is new has no popularity, and who would choose it is guessed from its title. So its scores lie
closer together than those of known items, and the best new item for a user ranks below many known
ones that suit the user less. Scores of new items are therefore spread around the user's mean score
of known items until they lie as far apart as those, and shifted until they lie as high:

    mean of known + spread * (score - mean of known) + shift

Spread and shift are those of the whole catalogue, measured on candidates that are no targets:
before anybody chose, a new item is as likely to be among the first as a known one. Items of one
kind stay in their order.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MOST = 4.0
"""Of the spread and its inverse: beyond, there was next to nothing to measure."""
_LEAST = 1e-9  # logits: scores that lie no further apart say nothing


@dataclass(frozen=True)
class Levels:
    """What brings scores of new items to those of known ones; as it is, it changes nothing.

    Attributes:
        spread: factor of a new item's distance from the user's mean score of known items.
        shift: added to it, logits.
    """

    spread: float = 1.0
    shift: float = 0.0


AS_THEY_ARE = Levels()
"""Changes nothing."""


def measured(
    scores: NDArray[np.float64], new: NDArray[np.bool_], positive: NDArray[np.int64]
) -> Levels:
    """Levels of candidates' scores; of too few items of either kind, those that change nothing.

    Args:
        scores: (rows, candidates) logits; -inf where a row has fewer.
        new: (rows, candidates) whether nobody has touched the item.
        positive: (rows,) column of each row's target, which is left out.
    """
    other = np.isfinite(scores)
    other[np.arange(len(scores)), positive] = False
    old, fresh = other & ~new, other & new & (other & ~new).any(axis=1, keepdims=True)
    if old.sum() < 2 or fresh.sum() < 2:
        return Levels()
    apart = np.where(other, scores, 0.0) - _means(scores, old)
    widths = apart[old].std(), apart[fresh].std()
    if min(widths) < _LEAST:
        return Levels()
    spread = float(np.clip(widths[0] / widths[1], 1 / _MOST, _MOST))
    return Levels(spread, -spread * float(apart[fresh].mean()))


def levelled(
    scores: NDArray[np.float64], new: NDArray[np.bool_], levels: Levels
) -> NDArray[np.float64]:
    """Candidates' scores with those of new items on the level of known ones; shapes as above.

    The mean is that of the row's known candidates, targets among them: nobody knows which they are.
    Rows without known ones stay as they are.
    """
    held = np.isfinite(scores)
    known = held & ~new
    means = _means(scores, known)
    moved = held & new & known.any(axis=1, keepdims=True)
    found = scores.copy()
    np.copyto(found, means + levels.spread * (scores - means) + levels.shift, where=moved)
    return found


def _means(scores: NDArray[np.float64], which: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean (rows, 1) of some of each row's scores; 0 where there are none."""
    sums = np.where(which, scores, 0.0).sum(axis=1, keepdims=True)
    means: NDArray[np.float64] = sums / np.maximum(which.sum(axis=1, keepdims=True), 1)
    return means


@dataclass(frozen=True)
class Levelling:
    """The same in item vectors, so that one product with a user's gives scores of one level.

    Where a score is a product with the user's vector, so is the user's mean score of known items:
    that with their mean vector. The shift is left to what is added to products.

    Attributes:
        levels: see `Levels`.
        known: (items,) whether somebody has touched the item; items beyond are new.
        mean: (width,) mean vector of known items.
    """

    levels: Levels
    known: NDArray[np.bool_]
    mean: NDArray[np.float32]

    @classmethod
    def of(
        cls, levels: Levels, vectors: NDArray[np.float32], known: NDArray[np.bool_]
    ) -> "Levelling":
        """Of a catalogue's vectors (items, width) as they are; of no effect without known items."""
        if not known.any():
            return cls(Levels(), known, np.zeros(vectors.shape[1], dtype=np.float32))
        return cls(levels, known, vectors[known].mean(axis=0))

    def raised(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors (n, width) of new items on the level of known ones."""
        spread = np.float32(self.levels.spread)
        return spread * vectors + (1 - spread) * self.mean

    def former(self, vectors: NDArray[np.float32], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors (n, width) of items of these numbers as they were before `raised`.

        As a part of a history a new item is what it is.
        """
        fresh = items >= len(self.known)
        fresh[~fresh] = ~self.known[items[~fresh]]
        spread = np.float32(self.levels.spread)
        found = vectors.copy()
        found[fresh] = (vectors[fresh] - (1 - spread) * self.mean) / spread
        return found
