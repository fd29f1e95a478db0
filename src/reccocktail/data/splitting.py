"""Which interactions teach, which choose and which judge, for warm and for cold items.

All histories hold warm items only, so a history is always a prefix of its user's *warm sequence*
(warm items in time order). A row is therefore three numbers: user, length of the prefix, target.
"""

from dataclasses import dataclass, field

import numpy as np

from reccocktail.data.filtering import Ints, Log, Mask
from reccocktail.errors import DataError
from reccocktail.schema import EVALUATION_TABLES

WARM, VALID_COLD, TEST_COLD = range(3)
LEAST_TRAIN_LENGTH = 2  # a training history needs one item to predict and one to predict it from


@dataclass(frozen=True)
class Rows:
    """Rows of one table: `user`, `length` of its warm prefix, `target` item; each of shape (rows,).

    `target` is empty for the training table.
    """

    user: Ints
    length: Ints
    target: Ints

    def __len__(self) -> int:
        """Give the number of rows."""
        return len(self.user)

    def take(self, chosen: Mask) -> "Rows":
        """Keep the rows of a mask."""
        return Rows(self.user[chosen], self.length[chosen], self.target[chosen])


@dataclass(frozen=True)
class Split:
    """A split domain.

    Attributes:
        kind: `WARM`, `VALID_COLD` or `TEST_COLD` of each item, shape (items,).
        warm_item: the warm sequences of all users, one after the other.
        offset: where each user's warm sequence starts in `warm_item`, shape (users + 1,).
        train: the training rows.
        tables: the rows of each of `EVALUATION_TABLES`.
        skipped: how many rows were left out, by reason.
    """

    kind: Ints
    warm_item: Ints
    offset: Ints
    train: Rows
    tables: dict[str, Rows]
    skipped: dict[str, int] = field(default_factory=dict)


def choose_cold(items: int, fraction: float, rng: np.random.Generator) -> Ints:
    """Mark a random `fraction` of the items as cold, half for validation and half for the test.

    Returns:
        `WARM`, `VALID_COLD` or `TEST_COLD` of each item, shape (items,).

    Raises:
        DataError: the fraction is above 0 but makes fewer than two items cold.
    """
    kind = np.full(items, WARM, dtype=np.int64)
    cold = round(items * fraction)
    if fraction > 0 and cold < 2:
        raise DataError(
            f"A cold fraction of {fraction:g} of {items} items makes {cold} item(s) cold and two "
            "are needed; "
            "raise --cold-fraction, or set it to 0 for no cold scenario."
        )
    chosen = rng.permutation(items)[:cold]
    kind[chosen[: cold // 2]] = VALID_COLD
    kind[chosen[cold // 2 :]] = TEST_COLD
    return kind


def leave_one_out(log: Log, users: int, kind: Ints) -> Split:
    """Hold out the last two warm items of every user, and one cold item for each cold scenario.

    With a user's warm sequence w_1 .. w_m: training is w_1 .. w_(m-2), the warm validation target
    is w_(m-1) and the warm test target w_m, each after all warm items before it. The cold targets
    are the user's last `VALID_COLD` and last `TEST_COLD` item with a warm item before it; the
    history is the warm items before it in time. A validation history never shows the user's warm
    test target.

    Args:
        log: interactions grouped by user, in time order, without repeated pairs.
        users: number of users.
        kind: the kind of each item, from `choose_cold`.
    """
    warm = kind[log.item] == WARM
    warm_item, offset, before = _warm_sequences(log, users, warm)
    size = np.diff(offset)
    everyone = np.arange(users, dtype=np.int64)
    train = Rows(everyone, size - 2, np.zeros(users, dtype=np.int64))
    tables = {}
    for name, back in (("valid_warm", 2), ("test_warm", 1)):
        user = everyone[size >= back]
        place = offset[user] + size[user] - back
        tables[name] = Rows(user, size[user] - back, warm_item[place])
    for name, cold in (("valid_cold", VALID_COLD), ("test_cold", TEST_COLD)):
        length = np.minimum(before, size[log.user] - 1) if name == "valid_cold" else before
        tables[name] = _last_rows(log, kind[log.item] == cold, length)
    return _finish(kind, warm_item, offset, train, tables)


def global_time(log: Log, users: int, items: int, valid_from: float, test_from: float) -> Split:
    """Cut time at two moments for all: train before t1, validate in [t1, t2), test from t2.

    t1 and t2 are quantiles of the interaction times. Cold items are the naturally new ones: those
    whose first interaction falls into the validation (`VALID_COLD`) or the test window
    (`TEST_COLD`). In each window a user's target is the last warm (or cold) interaction; its
    history is all warm items before it.

    Args:
        log: interactions grouped by user, in time order, without repeated pairs.
        users: number of users.
        items: number of items.
        valid_from: share of the interactions before t1, in (0, 1).
        test_from: share of the interactions before t2, in (valid_from, 1).

    Raises:
        DataError: there are no times, or a window is empty.
    """
    if log.time is None:
        raise DataError(
            "A global-time split needs timestamps and the interactions have none; use --split "
            "leave-one-out."
        )
    ordered = np.sort(log.time)
    t1, t2 = (
        ordered[min(int(len(ordered) * share), len(ordered) - 1)]
        for share in (valid_from, test_from)
    )
    if not ordered[0] < t1 < t2:
        raise DataError(
            f"The quantiles {valid_from:g} and {test_from:g} of the timestamps do not cut time "
            "into three windows "
            f"(first {ordered[0]}, cuts {t1} and {t2}); use --split leave-one-out."
        )
    first = np.full(items, ordered[-1])
    np.minimum.at(first, log.item, log.time)
    kind = np.where(first < t1, WARM, np.where(first < t2, VALID_COLD, TEST_COLD)).astype(np.int64)
    here = kind[log.item]
    warm = here == WARM
    warm_item, offset, before = _warm_sequences(log, users, warm)
    early = np.bincount(log.user[warm & (log.time < t1)], minlength=users).astype(np.int64)
    train = Rows(np.arange(users, dtype=np.int64), early, np.zeros(users, dtype=np.int64))
    in_valid = (log.time >= t1) & (log.time < t2)
    in_test = log.time >= t2
    tables = {
        "valid_warm": _last_rows(log, warm & in_valid, before),
        "valid_cold": _last_rows(log, (here == VALID_COLD) & in_valid, before),
        "test_warm": _last_rows(log, warm & in_test, before),
        "test_cold": _last_rows(log, (here == TEST_COLD) & in_test, before),
    }
    return _finish(kind, warm_item, offset, train, tables)


def _warm_sequences(log: Log, users: int, warm: Mask) -> tuple[Ints, Ints, Ints]:
    """Warm items by user, where each user starts, and warm items before each interaction."""
    size = np.bincount(log.user[warm], minlength=users)
    offset = np.r_[0, np.cumsum(size)].astype(np.int64)
    before = np.cumsum(warm) - warm - offset[log.user]
    return log.item[warm], offset, before.astype(np.int64)


def _last_rows(log: Log, chosen: Mask, length: Ints) -> Rows:
    """Each user's last chosen interaction; if it has no history, no earlier one has."""
    place = np.flatnonzero(chosen)
    user = log.user[place]
    place = place[np.r_[user[1:] != user[:-1], True]] if len(place) else place
    return Rows(log.user[place], length[place], log.item[place])


def _finish(
    kind: Ints, warm_item: Ints, offset: Ints, train: Rows, tables: dict[str, Rows]
) -> Split:
    """Leave out rows that cannot be used, and count why."""
    long_enough = train.length >= LEAST_TRAIN_LENGTH
    skipped = {f"train: fewer than {LEAST_TRAIN_LENGTH} items": int(np.sum(~long_enough))}
    train = train.take(long_enough)
    for name in EVALUATION_TABLES:
        usable = tables[name].length >= 1
        skipped[f"{name}: empty history"] = int(np.sum(~usable))
        tables[name] = tables[name].take(usable)
    split = Split(kind, warm_item, offset, train, tables, skipped)
    drop_unknown_targets(split)
    return split


def drop_unknown_targets(split: Split) -> None:
    """Leave out warm test rows whose target is in no training or validation row, and count them.

    To be called again whenever validation rows were left out.
    """
    tables, skipped = split.tables, split.skipped
    teaching = [split.train, tables["valid_warm"], tables["valid_cold"]]
    seen = _seen(split.warm_item, split.offset, len(split.kind), teaching)
    seen[tables["valid_warm"].target] = True
    known = seen[tables["test_warm"].target]
    reason = "test_warm: target in no training or validation row"
    skipped[reason] = skipped.get(reason, 0) + int(np.sum(~known))
    tables["test_warm"] = tables["test_warm"].take(known)


def _seen(warm_item: Ints, offset: Ints, items: int, tables: list[Rows]) -> Mask:
    """Mark items that occur in a history of the tables, shape (items,)."""
    longest = np.zeros(len(offset) - 1, dtype=np.int64)
    for rows in tables:
        np.maximum.at(longest, rows.user, rows.length)
    seen = np.zeros(items, dtype=np.bool_)
    seen[warm_item[prefix_index(offset[:-1], longest)]] = True
    return seen


def prefix_index(start: Ints, length: Ints) -> Ints:
    """Index of the runs ``start[r] .. start[r] + length[r] - 1``, one after the other."""
    ends = np.cumsum(length)
    total = int(ends[-1]) if len(ends) else 0
    index: Ints = np.arange(total, dtype=np.int64) + np.repeat(start - (ends - length), length)
    return index
