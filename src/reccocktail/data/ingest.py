"""Raw tables -> integer codes, and the filters in their order, with what each leaves counted."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from reccocktail.data.candidates import Touched
from reccocktail.data.filtering import Ints, Log, Times, densify, first_of_each_pair, k_core
from reccocktail.data.titles import clean_titles
from reccocktail.errors import DataError
from reccocktail.progress import say
from reccocktail.schema import CATEGORIES, ITEM, RATING, TIME, TITLE, USER


@dataclass
class Raw:
    """Raw tables as codes.

    Every known item has a code, `titled` says which may be kept, and `positions` whether the times
    only number each user's interactions (seen before any filter makes gaps).
    """

    users: pl.Series
    items: pl.DataFrame
    titled: np.ndarray[Any, np.dtype[np.bool_]]
    log: Log
    rating: np.ndarray[Any, np.dtype[np.float64]] | None
    positions: bool


def encode(
    events: pl.DataFrame,
    items: pl.DataFrame,
    missing_titles: str,
    counts: list[dict[str, Any]],
    title_counts: dict[str, int],
) -> Raw:
    """Replace ids by codes: users by first appearance, items by place in their table."""
    unique = _first_rows(items)
    titles = clean_titles(unique[TITLE].to_list())
    titled = np.array([bool(title) for title in titles], dtype=np.bool_)
    title_counts["rows with a repeated item id left out"] = items.height - unique.height
    title_counts["missing"] = int(np.sum(~titled))
    title_counts["changed by cleaning"] = int(
        (pl.Series(titles) != unique[TITLE].fill_null("")).sum()
    )
    shown = pl.Series(TITLE, titles, dtype=pl.String)
    if missing_titles == "id":
        shown = pl.select(
            pl.when(pl.lit(pl.Series(titled))).then(shown).otherwise(unique[ITEM])
        ).to_series()
        titled = np.ones(len(titles), dtype=np.bool_)
    columns = [unique[ITEM], shown.alias(TITLE)] + (
        [unique[CATEGORIES]] if CATEGORIES in unique.columns else []
    )
    users = events[USER].unique(maintain_order=True)
    user = _codes(events[USER], users)
    item = _codes(events[ITEM], unique[ITEM])
    unknown = int(np.sum(item < 0))
    counts.append(
        {
            "step": "raw",
            "users": len(users),
            "items": events[ITEM].n_unique(),
            "interactions": events.height,
        }
    )
    if unknown * 2 > events.height:
        raise DataError(
            f"{unknown:,} of {events.height:,} interactions are with items that the table of items "
            "does not have "
            f"(such as '{events[ITEM][int(np.argmin(item))]}'); check that both tables use the "
            "same ids."
        )
    if unknown:
        are, what = ("are", "items") if unknown > 1 else ("is", "an item")
        say(
            f"{unknown:,} of {events.height:,} interactions {are} with {what} that the table of "
            f"items lacks (such as '{events[ITEM][int(np.argmin(item))]}'), and {are} left out."
        )
    known = item >= 0
    time = events[TIME].to_numpy() if TIME in events.columns else None
    positions = time is not None and _are_positions(user, time)
    time = None if time is None else time[known]
    rating = events[RATING].to_numpy()[known] if RATING in events.columns else None
    log = Log(user[known], item[known], time)
    counts.append({"step": "items with a row", **log.counts()})
    order = log.in_order()
    return Raw(
        users,
        pl.DataFrame(columns),
        titled,
        log.take(order),
        None if rating is None else rating[order],
        positions,
    )


def _first_rows(items: pl.DataFrame) -> pl.DataFrame:
    """One row an item, the first, with the item's first title of which something is readable."""
    unique = items.unique(subset=ITEM, keep="first", maintain_order=True)
    if unique.height == items.height:
        return unique
    readable = pl.Series(clean_titles(items[TITLE])) != ""
    titled = items.filter(readable).unique(ITEM, keep="first")
    titles = unique.join(titled.select(ITEM, TITLE), on=ITEM, how="left", maintain_order="left")
    return unique.with_columns(titles[f"{TITLE}_right"].alias(TITLE))


def require_times(raw: Raw) -> None:
    """Refuse times that cannot be compared across users.

    Raises:
        DataError: the times are positions within each user's sequence.
    """
    if raw.positions:
        raise DataError(
            "The timestamps are positions within each user's sequence and say nothing across "
            "users, so time cannot be cut for all; use --split leave-one-out."
        )


def _are_positions(user: Ints, time: Times) -> bool:
    """Whether times only number each user's rows from 0 or 1; 1 % of odd users are forgiven."""
    if time.min() not in (0, 1):
        return False
    order = Log(user, user, time).in_order()
    user, time = user[order], time[order]
    starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    size = np.diff(np.r_[starts, len(user)])
    steps = np.arange(len(user)) - np.repeat(starts, size)
    wrong = time != np.repeat(time[starts], size) + steps
    odd = np.logical_or.reduceat(wrong, starts) | ~np.isin(time[starts], (0, 1))
    return bool(odd.mean() <= 0.01)


def _codes(column: pl.Series, values: pl.Series) -> Ints:
    """Place of each cell in `values`, -1 where it is not there."""
    table = pl.DataFrame({"value": values}).with_row_index("code")
    found = pl.DataFrame({"value": column}).join(
        table, on="value", how="left", maintain_order="left"
    )
    return found["code"].cast(pl.Int64).fill_null(-1).to_numpy()


def keep_usable(
    raw: Raw, min_rating: float | None, min_count: int, counts: list[dict[str, Any]]
) -> tuple[Log, Ints, Ints]:
    """Apply the filters in turn; gives the dense log and the raw code of each user and item."""
    log = raw.log
    if min_rating is not None:
        if raw.rating is None:
            raise DataError(
                "A least rating is asked for and the interactions have no rating column; name it "
                "with --rating-column."
            )
        log = log.take(raw.rating >= min_rating)
        counts.append({"step": f"rating at least {min_rating:g}", **log.counts()})
    log = log.take(raw.titled[log.item])
    counts.append({"step": "items with a title", **log.counts()})
    log = log.take(first_of_each_pair(log))
    counts.append({"step": "first of repeated (user, item)", **log.counts()})
    before = log.counts()
    keep, rounds = k_core(log, min_count)
    log = log.take(keep)
    counts += [
        {"step": f"{min_count}-core, round {number}", **left}
        for number, left in enumerate(rounds, 1)
    ]
    if len(raw.log) and not raw.titled[raw.log.item].any():
        raise DataError(
            "No item that users chose has a title; give titles, or --missing-titles id."
        )
    if not len(log):
        per_user = before["interactions"] / max(before["users"], 1)
        raise DataError(
            f"No user and item with {min_count} interactions each are left of "
            f"{before['interactions']:,} interactions "
            f"({per_user:.1f} per user); lower "
            f"--min-count{' or --min-rating' if min_rating is not None else ''}."
        )
    user, user_of = densify(log.user)
    item, item_of = densify(log.item)
    return Log(user, item, log.time), user_of, item_of


def touched_pairs(raw: Raw, user_of: Ints, item_of: Ints) -> Touched:
    """All raw pairs, before any filter, between users and items that are left."""
    user = np.full(len(raw.users), -1, dtype=np.int64)
    item = np.full(raw.items.height, -1, dtype=np.int64)
    user[user_of] = np.arange(len(user_of))
    item[item_of] = np.arange(len(item_of))
    users, items = user[raw.log.user], item[raw.log.item]
    kept = (users >= 0) & (items >= 0)
    return Touched(users[kept], items[kept], len(item_of))
