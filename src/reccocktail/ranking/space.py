"""Items as vectors of something other than the language model's, and histories among them."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

_DIGITS = 6  # of a score: items that share nothing must tie, not be ranked by rounding errors


class ItemSpace(ABC):
    """A catalogue in a space where a history has a direction, such as that of its items' sum.

    Items are named by their numbers. A score is the product of both, a cosine where the item's
    vector has length 1.

    Attributes:
        items: (items, width).
    """

    items: NDArray[np.float32]

    def __init__(self, max_history: int) -> None:
        """Read the last `max_history` items of a history."""
        self._max_history = max_history

    @abstractmethod
    def new(self, titles: Sequence[str]) -> NDArray[np.float32]:
        """Vectors (titles, width) of items that are not in the catalogue, by their titles."""

    @abstractmethod
    def learn(self) -> None:
        """Learn what `new` takes, so that the first new items need not wait."""

    @property
    def width(self) -> int:
        """Numbers in a vector; 0 where there is nothing to tell items apart by."""
        return int(self.items.shape[1])

    def histories(
        self, items: NDArray[np.float32], histories: Sequence[Sequence[int]]
    ) -> NDArray[np.float32]:
        """Vectors (histories, width), of length 1 or 0: the direction of each history's sum.

        Args:
            items: (items, width) of this space; added ones may stand behind the catalogue's.
            histories: item numbers, oldest first, no more than are to be read.
        """
        return of_histories(items, histories)

    def extended(self, titles: Sequence[str]) -> Self:
        """The same with more items behind the catalogue."""
        if not titles:
            return self
        found = copy.copy(self)
        found.items = np.concatenate([self.items, self.new(titles)])
        return found

    def users(self, histories: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Unit vectors (histories, width) of what is read of each history."""
        recent = [history[-self._max_history :] for history in histories]
        return self.histories(self.items, recent)

    def scores(
        self, histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float64]]:
        """Scores in [-1, 1] of each history's candidates."""
        return cosines(self.items, self.users(histories), candidates)

    def catalogue(self, histories: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Scores (histories, items) of every item for each history."""
        return (self.users(histories) @ self.items.T).astype(np.float64).round(_DIGITS)


def cosines(
    items: NDArray[np.float32], users: NDArray[np.float32], candidates: Sequence[Sequence[int]]
) -> list[NDArray[np.float64]]:
    """Scores of each user's candidates, from vectors (items, width) and (users, width)."""
    return [
        (items[list(row)].astype(np.float64) @ user).round(_DIGITS)
        for user, row in zip(users.astype(np.float64), candidates, strict=True)
    ]


def of_histories(
    items: NDArray[np.float32], histories: Sequence[Sequence[int]], half_life: float | None = None
) -> NDArray[np.float32]:
    """Unit vectors (histories, width): the direction of the sum of a history's items.

    Args:
        items: (items, width).
        histories: item numbers, oldest first.
        half_life: later items after which one counts half; None for as much as any.
    """
    sums = []
    for history in histories:
        vectors = items[list(history)]
        if half_life is not None:
            ages = np.arange(len(history) - 1, -1, -1, dtype=np.float32)
            vectors = vectors * np.exp2(-ages / np.float32(half_life))[:, None]
        sums.append(vectors.sum(axis=0))
    return unit(np.array(sums, dtype=np.float32).reshape(len(histories), items.shape[1]))


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1; rows of zeros stay."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled = np.zeros_like(vectors)
    np.divide(vectors, norms, out=scaled, where=norms > 0)
    return scaled
