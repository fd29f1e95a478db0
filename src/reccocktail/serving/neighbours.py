"""The items near a user in a served catalogue too large to look at all: a graph that grows.

A graph is shared by the states of a domain before and after items were added, as `Rows` are. A
state knows how many items are its own, and finds no others.
"""

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reccocktail.serving.index import Ids, ScoreIndex, Vectors

_AT_ONCE = 32  # items added while searches wait


class Neighbours:
    """Near items by number; safe from several threads, with one adding at a time."""

    def __init__(
        self, vectors: Vectors, prior: NDArray[np.floating[Any]], temperature: float
    ) -> None:
        """Build the graph of items 0, 1, ...

        Args:
            vectors: (items, d + w) of `EncodedCatalogue`; their lengths differ.
            prior: (items,) weighted popularity prior.
            temperature: of the ranker.

        Raises:
            RunError: `usearch` is not installed.
        """
        self._index = ScoreIndex(vectors, prior, temperature, exact=False)
        self._items: Ids = np.arange(len(vectors), dtype=np.int64)  # of each vector; -1: given up
        self._lock = threading.Lock()

    def extend(self, vectors: Vectors, prior: NDArray[np.floating[Any]], at: int) -> None:
        """Add the items from number `at` on; those that stood there were given up."""
        with self._lock:
            self._items[self._items >= at] = -1
        for start in range(0, len(vectors), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            numbers = at + np.arange(len(vectors), dtype=np.int64)[part]
            with self._lock:
                self._items = np.concatenate([self._items, numbers])
                self._index.add(vectors[part], prior[part])

    def of(self, user: NDArray[np.float32], wanted: int, items: int) -> Ids:
        """At least about the `wanted` items with the highest scores for a user.

        More where the graph holds others too, which are sought along and left out.

        Args:
            user: (d,) unit vector.
            wanted: how many.
            items: only items below this number; all of them are in the graph.

        Returns:
            Item numbers, ascending.
        """
        with self._lock:
            others = len(self._index) - items
            found = self._items[self._index.neighbours(user, wanted + others)]
        return np.sort(found[(found >= 0) & (found < items)])
