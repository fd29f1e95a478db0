"""Any table -> our columns: found by name, ids as text, times as numbers."""

from collections.abc import Callable
from contextlib import suppress

import polars as pl

from reccocktail.data.categories import join
from reccocktail.data.cells import cast, leaves
from reccocktail.data.times import DAY, as_clock, as_time
from reccocktail.errors import DataError
from reccocktail.progress import say
from reccocktail.schema import CATEGORIES, HISTORY, ITEM, RATING, TIME, TITLE, USER, validate

# Common names, most telling first; compared in lower case without "_", "-", spaces and a ":type"
# ending.
ALIASES: dict[str, tuple[str, ...]] = {
    USER: (
        "userid",
        "user",
        "reviewerid",
        "uid",
        "customerid",
        "householdid",
        "memberid",
        "accountid",
        "visitorid",
        "sessionid",
        "steamid",
        "author",
        "username",
    ),
    ITEM: (
        "itemid",
        "item",
        "parentasin",
        "asin",
        "movieid",
        "productid",
        "businessid",
        "gmapid",
        "recipeid",
        "artistid",
        "trackid",
        "songid",
        "bookid",
        "appid",
        "gameid",
        "newsid",
        "articleid",
        "sku",
        "iid",
    ),
    TIME: (
        "timestamp",
        "unixreviewtime",
        "unixtime",
        "time",
        "ts",
        "datetime",
        "date",
        "sortingtimestamp",
        "transactiontimestamp",
        "createdat",
        "reviewtime",
    ),
    RATING: ("rating", "overall", "stars", "score", "ratings"),
    TITLE: (
        "title",
        "movietitle",
        "itemtitle",
        "producttitle",
        "name",
        "itemname",
        "productname",
        "appname",
        "artistname",
        "recipename",
        "booktitle",
        "songtitle",
        "tracktitle",
    ),
    HISTORY: ("history",),
    CATEGORIES: ("categories", "category", "genres", "genre", "tags", "maincategory", "maincat"),
}
# In a table of items a bare "id" can only be the item's.
ITEM_TABLE_ALIASES = {**ALIASES, ITEM: (*ALIASES[ITEM], "id")}


def has_column(frame: pl.DataFrame, given: str) -> bool:
    """Whether a table has a column of that name, RecBole's type behind it or not."""
    return any(given in (name, name.partition(":")[0]) for name in frame.columns)


def find_column(
    frame: pl.DataFrame, wanted: str, given: str | None, where: str, *, items: bool = False
) -> str | None:
    """Find the column that holds `wanted` (one of our names), by the name given or by common names.

    Args:
        frame: the table.
        wanted: `USER`, `ITEM`, `TIME`, `RATING`, `TITLE` or `CATEGORIES`.
        given: the column's name as the user gave it, or None to look for a common name.
        where: the table's name in error messages.
        items: whether the table is one of items.

    Raises:
        DataError: the column given is not there, or two columns fit equally well.
    """
    if given is not None:
        exact = [c for c in frame.columns if c == given or c.partition(":")[0] == given]
        if not exact:
            raise DataError(
                f"{where} has no column '{given}' (columns found: {', '.join(frame.columns)}); "
                "name one of them."
            )
        return exact[0]
    plain = _by_plain_name(frame)
    for alias in (ITEM_TABLE_ALIASES if items else ALIASES)[wanted]:
        if len(found := plain.get(alias, [])) > 1:
            raise DataError(
                f"{where} has several columns for the {_PLAIN[wanted]} ({', '.join(found)}); "
                + ("" if wanted in (CATEGORIES, HISTORY) else f"name one with {_flag(wanted)}, or ")
                + "rename all but one."
            )
        if found:
            return found[0]
    return None


def _by_plain_name(frame: pl.DataFrame) -> dict[str, list[str]]:
    """The columns of each name as `ALIASES` spells them."""
    plain: dict[str, list[str]] = {}
    for column in frame.columns:
        key = "".join(c for c in column.partition(":")[0].lower() if c.isalnum())
        plain.setdefault(key, []).append(column)
    return plain


_PLAIN = {
    USER: "user",
    ITEM: "item",
    TIME: "time",
    RATING: "rating",
    TITLE: "title",
    CATEGORIES: "categories",
    HISTORY: "history",
}


def _flag(wanted: str) -> str:
    return f"--{_PLAIN[wanted]}-column"


def _require(
    frame: pl.DataFrame, wanted: str, given: str | None, where: str, *, items: bool = False
) -> str:
    column = find_column(frame, wanted, given, where, items=items)
    if column is None:
        found = ", ".join(frame.columns)
        raise DataError(
            f"{where} has no {_PLAIN[wanted]} column (columns found: {found}); name it with "
            f"{_flag(wanted)}."
        )
    return column


def as_interactions(
    frame: pl.DataFrame,
    where: str,
    *,
    user_column: str | None = None,
    item_column: str | None = None,
    time_column: str | None = None,
    rating_column: str | None = None,
    rated: bool = True,
) -> pl.DataFrame:
    """Bring a table of interactions into our form.

    Args:
        frame: the table.
        where: its name in error messages.
        user_column: its column with user ids, if it has no common name.
        item_column: the same for item ids.
        time_column: the same for times.
        rating_column: the same for ratings.
        rated: read ratings. Without, whatever is in their column does no harm ("PG-13", say).

    Returns:
        `user_id`, `item_id` (text) and, where the table has them, `timestamp` (Int64 or Float64;
        dates become microseconds) and `rating` (Float64), in the table's order.

    Raises:
        DataError: a column is missing, or cells are empty or not readable (rows are named).
    """
    user = _require(frame, USER, user_column, where)
    item = _require(frame, ITEM, item_column, where)
    columns = [
        _as_text(frame[user], where).alias(USER),
        _as_text(frame[item], where).alias(ITEM),
    ]
    time = find_column(frame, TIME, time_column, where)
    if time is not None:
        time, times = _times(frame, time, time_column is not None, where)
        columns.append(times.alias(TIME))
    rating = find_column(frame, RATING, rating_column, where)
    if rating is not None and rated:
        columns.append(_as_rating(frame[rating], where).alias(RATING))
    named = {USER: user, ITEM: item} | ({} if time is None else {TIME: time})
    return validate(pl.DataFrame(columns), "interactions", where, named)


def _times(frame: pl.DataFrame, found: str, given: bool, where: str) -> tuple[str, pl.Series]:
    """Name and times of the column to read; of several with common names, it is said which.

    It is the one that was `found`, but for a `time` with times of day: then it is the column of
    dates beside it, and the times of day are added to dates that have none.

    Raises:
        DataError: cells are no times.
    """
    plain = _by_plain_name(frame)
    known = [column for alias in ALIASES[TIME] for column in plain.get(alias, [])]
    if given or len(known) == 1:
        return found, as_time(frame[found], where)
    name, beside = found, ""
    clock = as_clock(frame[found]) if found in plain.get("time", []) else None
    times = None if clock is None else _dates(frame, known[1:], where)
    if times is None:
        times = as_time(frame[found], where)
    else:
        name = times.name
        if clock is not None and (times % DAY == 0).all():
            times, beside = times + clock.fill_null(0), f" with the times of day of '{found}'"
    say(
        f"{where} has several time columns ({', '.join(known)}) and '{name}' is read{beside}; name "
        "another with --time-column."
    )
    return name, times


def _dates(frame: pl.DataFrame, columns: list[str], where: str) -> pl.Series | None:
    """The first of these columns that holds times, and not those of a day alone."""
    for column in columns:
        with suppress(DataError):
            times = as_time(frame[column], where)
            if times.count() and as_clock(frame[column]) is None:
                return times.alias(column)
    return None


def in_time_order(interactions: pl.DataFrame) -> pl.DataFrame:
    """Group users in order of first appearance and sort each by time; ties keep their order."""
    users = interactions.select(pl.col(USER).unique(maintain_order=True)).with_row_index("_order")
    keys = ["_order", TIME] if TIME in interactions.columns else ["_order"]
    coded = interactions.join(users, on=USER, how="left", maintain_order="left")
    return coded.sort(keys, maintain_order=True).drop("_order")


def as_items(
    frame: pl.DataFrame,
    where: str,
    *,
    item_column: str | None = None,
    title_column: str | None = None,
) -> pl.DataFrame:
    """Bring a table of items into our form.

    Returns:
        `item_id`, `title` (text, may be missing) and, where the table has them, `categories`
        (text).

    Raises:
        DataError: a column is missing or an item has no id.
    """
    item = _require(frame, ITEM, item_column, where, items=True)
    title = _require(frame, TITLE, title_column, where, items=True)
    columns = [
        _as_text(frame[item], where).alias(ITEM),
        _as_text(frame[title], where).alias(TITLE),
    ]
    categories = find_column(frame, CATEGORIES, None, where, items=True)
    if categories not in (None, title, item):
        columns.append(_as_categories(frame[categories], where).alias(CATEGORIES))
    return validate(pl.DataFrame(columns), "items", where, {ITEM: item})


def _as_text(column: pl.Series, where: str) -> pl.Series:
    """Write cells as text; whole floats (an id column that once held gaps) as whole numbers."""
    if column.dtype == pl.String:
        return column
    if isinstance(column.dtype, pl.Struct):
        raise DataError(
            f"{where}: '{column.name}' holds records with fields of their own; write one text a "
            "cell."
        )
    if _is_list(column):
        return _listed(column, lambda row: ", ".join(row) or None)
    if column.dtype.is_float():
        column = column.fill_nan(None)
        if (column.is_null() | (column == column.round())).all():
            column = cast(column, pl.Int64(), where, "numbers beyond 64 bits", "write text")
    return cast(column, pl.String(), where, "what is no text", "write it as UTF-8 text")


def _as_categories(column: pl.Series, where: str) -> pl.Series:
    return _listed(column, join) if _is_list(column) else _as_text(column, where)


def _is_list(column: pl.Series) -> bool:
    return isinstance(column.dtype, pl.List | pl.Array)


def _listed(column: pl.Series, write: Callable[[list[str]], str | None]) -> pl.Series:
    """Text of cells that are lists, perhaps of lists."""
    rows = (None if row is None else write(leaves(row)) for row in column.to_list())
    return pl.Series(list(rows), dtype=pl.String)


def _as_rating(column: pl.Series, where: str) -> pl.Series:
    explain = (where, "ratings that are no numbers", "write them such as 4.5")
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        column = cast(column, pl.String(), *explain).str.strip_chars().replace("", None)
    return cast(column, pl.Float64(), *explain)
