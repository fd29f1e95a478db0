"""Candidates of an evaluation row: its target and items its user never touched, shuffled."""

import numpy as np
import polars as pl

from reccocktail.data.domain import Domain
from reccocktail.data.filtering import Ints, Mask
from reccocktail.errors import DataError
from reccocktail.schema import (
    CANDIDATES,
    EVALUATION_TABLES,
    HISTORY,
    ITEM,
    SPLIT,
    TARGET,
    USER,
)

_ROUNDS = 30  # rounds of drawing anew before the rows that are left are drawn exactly
_EXACT_CELLS = 4_000_000  # user-item cells held at once by exact drawing (32 MB)


class Touched:
    """Which user touched which item, as one sorted array of pairs (memory linear in the pairs)."""

    def __init__(self, user: Ints, item: Ints, items: int) -> None:
        """Take the pairs (repeats allowed) over `items` items."""
        self.items = items
        keys = np.sort(user * items + item)
        self.keys = keys[np.r_[True, keys[1:] != keys[:-1]]] if len(keys) else keys

    def contains(self, user: Ints, item: Ints) -> Mask:
        """Whether each user touched the item beside it; shapes broadcast."""
        wanted = user * self.items + item
        if not len(self.keys):
            return np.zeros(wanted.shape, dtype=np.bool_)
        place = np.searchsorted(self.keys, wanted)
        found: Mask = self.keys[np.minimum(place, len(self.keys) - 1)] == wanted
        return found

    def of(self, user: Ints) -> tuple[Ints, Ints]:
        """The pairs of some users: position in `user` and item, each of shape (pairs,)."""
        low = np.searchsorted(self.keys, user * self.items)
        size = np.searchsorted(self.keys, (user + 1) * self.items) - low
        index = np.arange(int(size.sum())) + np.repeat(low - (np.cumsum(size) - size), size)
        return np.repeat(np.arange(len(user)), size), self.keys[index] % self.items


def enough_left(user: Ints, allowed: Mask, touched: Touched, negatives: int) -> Mask:
    """Whether each row's user has never touched at least `negatives` of the allowed items."""
    return _left(user, allowed, touched) >= negatives


def _left(user: Ints, allowed: Mask, touched: Touched) -> Ints:
    row, item = touched.of(user)
    found: Ints = allowed.sum() - np.bincount(row[allowed[item]], minlength=len(user))
    return found


def draw_candidates(
    user: Ints,
    target: Ints,
    allowed: Mask,
    touched: Touched,
    negatives: int,
    rng: np.random.Generator,
) -> Ints:
    """Draw each row's candidates: its target at a random place among `negatives` negatives.

    Negatives are distinct and uniform over the allowed items that the row's user never touched.

    Args:
        user: user codes, shape (rows,).
        target: item codes, shape (rows,); every target must be touched by its user.
        allowed: which items may be negatives, shape (items,).
        touched: all pairs before any filter.
        negatives: how many negatives, at least 1.
        rng: the source of chance.

    Returns:
        Item codes, shape (rows, negatives + 1).

    Raises:
        DataError: some user has touched all but fewer than `negatives` items.
    """
    if not len(user):
        return np.zeros((0, negatives + 1), dtype=np.int64)
    pool = np.flatnonzero(allowed).astype(np.int64)
    left = int(_left(user, allowed, touched).min())
    if left < negatives:
        fewer = f"use --negatives {left} or fewer, or " if left > 0 else ""
        raise DataError(
            f"{negatives} negatives are asked for, but a user has only {max(left, 0)} items left "
            f"that it never touched (catalogue of {len(pool)}); {fewer}give a larger catalogue."
        )
    drawn = pool[rng.integers(len(pool), size=(len(user), negatives))]
    redo = np.arange(len(user))
    for _ in range(_ROUNDS):
        wrong = touched.contains(user[redo, None], drawn[redo]) | _repeats(drawn[redo])
        bad = wrong.any(axis=1)
        redo, wrong = redo[bad], wrong[bad]
        if not len(redo):
            break
        fresh = drawn[redo]
        fresh[wrong] = pool[rng.integers(len(pool), size=int(wrong.sum()))]
        drawn[redo] = fresh
    if len(redo):
        drawn[redo] = _draw_exactly(user[redo], pool, touched, negatives, rng)
    place = rng.integers(negatives + 1, size=len(user))
    column = np.arange(negatives)
    result = np.empty((len(user), negatives + 1), dtype=np.int64)
    result[np.arange(len(user))[:, None], column + (column >= place[:, None])] = drawn
    result[np.arange(len(user)), place] = target
    return result


def cold_candidates(
    domain: Domain,
    rows: pl.DataFrame,
    *,
    negatives: int | None = None,
    seed: int = 0,
    interactions: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Rows of `test_cold` with candidates drawn anew, from cold items alone.

    Candidates of a prepared folder come from the whole catalogue, so a model can win on cold
    targets by telling new items from old ones. Here all candidates are new: items whose `split` is
    `test_cold`.

    Args:
        domain: prepared domain.
        rows: of its table `test_cold`.
        negatives: how many, at least 1; None for as many as the rows have. Where users have fewer
            cold items left, all rows get as many as the user with the fewest has.
        seed: of the draw.
        interactions: all interactions before any filter (`user_id`, `item_id`), so that no cold
            item that a user touched is a negative. A prepared folder holds only one of a user's
            cold items, the target, and without this argument others may be among the negatives.

    Raises:
        DataError: `negatives` is below 1, or a user has no cold item left but its own.
    """
    if not rows.height:
        return rows
    if negatives is not None and negatives < 1:
        raise DataError(f"Negatives is {negatives} and must be at least 1.")
    wanted = negatives or int(rows[CANDIDATES].list.len().to_numpy().min()) - 1
    user = np.arange(rows.height, dtype=np.int64)
    target = rows[TARGET].replace_strict(domain.index, return_dtype=pl.Int64).to_numpy()
    touched = Touched(*_touched(domain, rows, interactions), len(domain.item_ids))
    allowed = (domain.items[SPLIT] == "test_cold").to_numpy()
    left = _left(user, allowed, touched)
    if not left.min():
        raise DataError(
            f"{domain.name} has a user without a cold item to rank the target against; prepare it "
            "with a larger --cold-fraction."
        )
    rng = np.random.default_rng([seed, 1 + len(EVALUATION_TABLES)])
    drawn = draw_candidates(user, target, allowed, touched, min(wanted, int(left.min())), rng)
    ids = domain.items[ITEM].gather(drawn.ravel()).reshape(drawn.shape)
    return rows.with_columns(ids.arr.to_list().alias(CANDIDATES))


def _touched(
    domain: Domain, rows: pl.DataFrame, interactions: pl.DataFrame | None
) -> tuple[Ints, Ints]:
    """Row numbers and item numbers of all that is known of what the rows' users touched."""
    pairs = [
        domain.touched,
        rows.select(USER, pl.col(HISTORY).alias(ITEM)).explode(ITEM),
        rows.select(USER, pl.col(TARGET).alias(ITEM)),
    ]
    if interactions is not None:
        pairs.append(interactions.select(USER, ITEM))
    users = rows.select(USER).with_row_index("row")
    numbers = domain.items.select(ITEM).with_row_index("number")
    found = pl.concat(pairs).unique().join(users, on=USER).join(numbers, on=ITEM)
    return (
        found["row"].cast(pl.Int64).to_numpy(),
        found["number"].cast(pl.Int64).to_numpy(),
    )


def _repeats(rows: Ints) -> Mask:
    """Mark every value that stands further left in its row too."""
    order = np.argsort(rows, axis=1, kind="stable")
    values = np.take_along_axis(rows, order, axis=1)
    repeated = np.zeros(rows.shape, dtype=np.bool_)
    repeated[:, 1:] = values[:, 1:] == values[:, :-1]
    result = np.empty_like(repeated)
    np.put_along_axis(result, order, repeated, axis=1)
    return result


def _draw_exactly(
    user: Ints, pool: Ints, touched: Touched, negatives: int, rng: np.random.Generator
) -> Ints:
    """Draw for users with few free items: the smallest of random keys over them."""
    step = max(1, _EXACT_CELLS // len(pool))
    where = np.full(touched.items, -1, dtype=np.int64)
    where[pool] = np.arange(len(pool))
    parts = []
    for start in range(0, len(user), step):
        some = user[start : start + step]
        keys = rng.random((len(some), len(pool)))
        row, item = touched.of(some)
        inside = where[item] >= 0
        keys[row[inside], where[item[inside]]] = np.inf
        parts.append(pool[np.argpartition(keys, negatives - 1, axis=1)[:, :negatives]])
    return np.concatenate(parts)
