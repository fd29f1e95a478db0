"""Hard negatives: items whose titles resemble a target's, which in-batch negatives seldom do."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reccocktail.data.domain import Domain
from reccocktail.ranking.lexical import words_of

_NEAREST = 20  # drawn from: the very nearest are often the same thing in another size


class SimilarItems:
    """Items by the words of their titles, those alone that may be negatives."""

    def __init__(self, vectors: NDArray[np.float32], pool: Sequence[int]) -> None:
        """Take unit vectors (items, width) of a catalogue and the items that may be drawn."""
        self._pool = np.asarray(pool, dtype=np.int64)
        self._vectors = vectors
        self._of_pool = np.ascontiguousarray(vectors[self._pool])

    @classmethod
    def of(cls, domain: Domain, pool: Sequence[int], max_history: int) -> "SimilarItems":
        """Those of a domain; the words are those that stand beside a model (see `Words`)."""
        return cls(words_of(tuple(domain.titles), max_history).items, pool)

    def draw(self, targets: Sequence[int], each: int, rng: np.random.Generator) -> list[int]:
        """At most `each` items beside each target, out of the nearest to it, without the targets.

        Args:
            targets: item numbers, none twice.
            each: how many a target.
            rng: draws them.

        Returns:
            Item numbers, ascending, none twice.
        """
        alike = self._vectors[np.asarray(targets, dtype=np.int64)] @ self._of_pool.T
        alike[:, np.isin(self._pool, targets)] = -np.inf
        size = min(_NEAREST, alike.shape[1])
        nearest = np.argpartition(-alike, size - 1, axis=1)[:, :size]
        found: set[int] = set()
        for row, places in zip(alike, nearest, strict=True):
            open_ = places[np.isfinite(row[places])]
            drawn = rng.choice(open_, size=min(each, len(open_)), replace=False)
            found.update(self._pool[drawn].tolist())
        return sorted(found)
