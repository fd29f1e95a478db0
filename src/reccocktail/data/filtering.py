"""Interactions as integer arrays, and the filters over them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int64] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Log:
    """Interactions, one entry each, in any order until `in_order` is called.

    Attributes:
        user: user codes, shape (interactions,), in [0, users).
        item: item codes, shape (interactions,), in [0, items).
        time: any number that grows with time, shape (interactions,), or None when only the order is
            known.
    """

    user: Ints
    item: Ints
    time: Times | None

    def __len__(self) -> int:
        """Give the number of interactions."""
        return len(self.user)

    def take(self, chosen: Mask | Ints) -> "Log":
        """Keep the interactions that a mask or an index array names."""
        return Log(
            self.user[chosen], self.item[chosen], None if self.time is None else self.time[chosen]
        )

    def counts(self) -> dict[str, int]:
        """Users, items and interactions that are left."""
        users, items = (
            int(np.count_nonzero(np.bincount(codes))) for codes in (self.user, self.item)
        )
        return {"users": users, "items": items, "interactions": len(self)}

    def in_order(self) -> Ints:
        """Index that groups users and sorts each one by time; ties keep their order."""
        keys = (self.user,) if self.time is None else (self.time, self.user)
        return np.lexsort(keys).astype(np.int64)


def first_of_each_pair(log: Log) -> Ints:
    """Index of the first interaction of each (user, item), in the order of `log`."""
    width = int(log.item.max(initial=0)) + 1
    first = np.unique(log.user * width + log.item, return_index=True)[1]
    return np.sort(first).astype(np.int64)


def k_core(log: Log, min_count: int) -> tuple[Mask, list[dict[str, int]]]:
    """Drop users and items with fewer than `min_count` interactions until none is left.

    Each round first drops items, then users, because a dropped item shortens histories.

    Args:
        log: interactions without repeated pairs.
        min_count: least number of interactions of every user and every item, at least 1.

    Returns:
        The mask of interactions that stay, and what is left after each round.
    """
    keep = np.ones(len(log), dtype=np.bool_)
    rounds: list[dict[str, int]] = []
    while True:
        before = int(keep.sum())
        for codes in (log.item, log.user):
            kept = codes[keep]
            keep[keep] = np.bincount(kept, minlength=1)[kept] >= min_count
        if int(keep.sum()) == before:
            return keep, rounds
        rounds.append(log.take(keep).counts())


def densify(codes: Ints) -> tuple[Ints, Ints]:
    """Renumber codes without gaps, keeping their order.

    Returns:
        The new codes, and for each new code the old one.
    """
    kept = np.flatnonzero(np.bincount(codes, minlength=1)).astype(np.int64)
    renumber = np.zeros(int(codes.max(initial=0)) + 1, dtype=np.int64)
    if len(codes):
        renumber[kept] = np.arange(len(kept))
    return renumber[codes], kept
