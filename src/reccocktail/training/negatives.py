"""Hard negatives: items whose titles resemble a target's, which in-batch negatives seldom do."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reccocktail.data.domain import Domain
from reccocktail.prompting.encoding import TokenIds
from reccocktail.ranking.lexical import words_of

_NEAREST = 20  # drawn from: the very nearest are often the same thing in another size
_LEAST = 1e-6  # of a cosine; less is nothing in common


class SimilarItems:
    """Items by the words of their titles, those alone that may be negatives."""

    def __init__(
        self, vectors: NDArray[np.float32], pool: Sequence[int], titles: Sequence[TokenIds]
    ) -> None:
        """Take what is known of a catalogue's items.

        Args:
            vectors: (items, width) of length 1, or 0 where nothing is known of a title.
            pool: items that may be drawn.
            titles: token ids of every item; items that have the same are no negatives of each
                other, because no model can tell them apart.
        """
        self._pool = np.asarray(pool, dtype=np.int64)
        self._vectors = vectors
        self._of_pool = np.ascontiguousarray(vectors[self._pool])
        number = {ids: place for place, ids in enumerate({tuple(ids): None for ids in titles})}
        self._title = np.array([number[tuple(ids)] for ids in titles], dtype=np.int64)

    @classmethod
    def of(
        cls, domain: Domain, pool: Sequence[int], titles: Sequence[TokenIds], max_history: int
    ) -> "SimilarItems":
        """Those of a domain; the words are those that stand beside a model (see `Words`)."""
        return cls(words_of(tuple(domain.titles), max_history).items, pool, titles)

    def draw(self, targets: Sequence[int], each: int, rng: np.random.Generator) -> list[int]:
        """At most `each` items beside each target, out of the nearest to it.

        None has a target's title, and none has nothing in common with its target.

        Args:
            targets: item numbers, none twice.
            each: how many a target.
            rng: draws them.

        Returns:
            Item numbers, ascending, none twice.
        """
        wanted = np.asarray(targets, dtype=np.int64)
        alike = self._vectors[wanted] @ self._of_pool.T
        alike[:, np.isin(self._title[self._pool], self._title[wanted])] = 0.0
        size = min(_NEAREST, alike.shape[1])
        nearest = np.argpartition(-alike, size - 1, axis=1)[:, :size]
        found: set[int] = set()
        for row, places in zip(alike, nearest, strict=True):
            open_ = places[row[places] > _LEAST]
            drawn = rng.choice(open_, size=min(each, len(open_)), replace=False)
            found.update(self._pool[drawn].tolist())
        return sorted(found)
