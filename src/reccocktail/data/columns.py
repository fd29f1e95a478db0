"""Any table -> our columns: found by name, ids as text, times as numbers."""

from typing import Any

import polars as pl

from reccocktail.errors import DataError
from reccocktail.schema import CATEGORIES, ITEM, RATING, TIME, TITLE, USER, row_numbers, validate

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
        "itemname",
        "artistname",
        "recipename",
        "booktitle",
        "songtitle",
        "tracktitle",
    ),
    CATEGORIES: ("categories", "category", "genres", "genre", "tags", "maincategory", "maincat"),
}
# In a table of items a bare "id" can only be the item's.
ITEM_TABLE_ALIASES = {**ALIASES, ITEM: (*ALIASES[ITEM], "id")}


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
                f"{where} has no column '{given}' (columns found: {', '.join(frame.columns)})."
            )
        return exact[0]
    plain: dict[str, list[str]] = {}
    for column in frame.columns:
        key = "".join(c for c in column.partition(":")[0].lower() if c.isalnum())
        plain.setdefault(key, []).append(column)
    for alias in (ITEM_TABLE_ALIASES if items else ALIASES)[wanted]:
        if len(found := plain.get(alias, [])) > 1:
            raise DataError(
                f"{where} has several columns for the {_PLAIN[wanted]} ({', '.join(found)}); "
                + ("" if wanted == CATEGORIES else f"name one with {_flag(wanted)}, or ")
                + "rename all but one."
            )
        if found:
            return found[0]
    return None


_PLAIN = {
    USER: "user",
    ITEM: "item",
    TIME: "time",
    RATING: "rating",
    TITLE: "title",
    CATEGORIES: "categories",
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
        columns.append(_as_time(frame[time], where).alias(TIME))
    rating = find_column(frame, RATING, rating_column, where)
    if rating is not None and rated:
        columns.append(_as_rating(frame[rating], where).alias(RATING))
    return validate(pl.DataFrame(columns), "interactions", where)


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
    categories_column: str | None = None,
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
    categories = find_column(frame, CATEGORIES, categories_column, where, items=True)
    if categories not in (None, title, item):
        columns.append(_as_text(frame[categories], where).alias(CATEGORIES))
    return validate(pl.DataFrame(columns), "items", where)


def _cast(column: pl.Series, dtype: pl.DataType, where: str, what: str, advice: str) -> pl.Series:
    """Cast a column; empty cells stay empty.

    Args:
        column: its name is the one in the user's table.
        dtype: the type to cast to.
        where: the table's name in error messages.
        what: what cells are that cannot be cast.
        advice: what to do about them.

    Raises:
        DataError: some cells, or all cells of the column's type, cannot be cast.
    """
    try:
        cast = column.cast(dtype, strict=False)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{where}: '{column.name}' holds {what} ({column.dtype}); {advice}."
        ) from error
    rows = (cast.is_null() & column.is_not_null()).arg_true()
    if rows.len():
        first = str(column[int(rows[0])])[:40]
        raise DataError(
            f"{where}: '{column.name}' holds {what} ({row_numbers(rows)}, such as '{first}'); "
            f"{advice}."
        )
    return cast


def _as_text(column: pl.Series, where: str) -> pl.Series:
    """Write cells as text; whole floats (an id column that once held gaps) as whole numbers."""
    if column.dtype == pl.String:
        return column
    if isinstance(column.dtype, pl.List | pl.Array):
        listed = column.to_list()
        return pl.Series(
            [None if row is None else ", ".join(_flat(row)) for row in listed], dtype=pl.String
        )
    if column.dtype.is_float():
        column = column.fill_nan(None)
        if (column.is_null() | (column == column.round())).all():
            column = _cast(column, pl.Int64(), where, "numbers beyond 64 bits", "write text")
    return _cast(column, pl.String(), where, "what is no text", "write it as UTF-8 text")


def _flat(value: Any) -> list[str]:
    """Leaves of nested lists, each once, in order (Amazon's categories are lists of paths)."""
    leaves = [
        leaf for part in value for leaf in (_flat(part) if isinstance(part, list) else [str(part)])
    ]
    return list(dict.fromkeys(leaves))


def _as_rating(column: pl.Series, where: str) -> pl.Series:
    explain = (where, "ratings that are no numbers", "write them such as 4.5")
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        column = _cast(column, pl.String(), *explain).str.strip_chars().replace("", None)
    return _cast(column, pl.Float64(), *explain)


def _as_time(column: pl.Series, where: str) -> pl.Series:
    what = "times that are neither numbers nor dates"
    advice = "write numbers or YYYY-MM-DD HH:MM:SS, or name another column with --time-column"
    if column.dtype in (pl.Date, pl.Datetime):
        return column.cast(pl.Datetime("us")).cast(pl.Int64)
    if column.dtype.is_temporal():  # times of day, durations
        raise DataError(f"{where}: '{column.name}' holds {what} ({column.dtype}); {advice}.")
    if column.dtype.is_integer():
        return _cast(column, pl.Int64(), where, "times beyond 64 bits", advice)
    if column.dtype.is_float():
        return column.fill_nan(None)
    text = _cast(column, pl.String(), where, what, advice).str.strip_chars()
    whole = text.cast(pl.Int64, strict=False)
    if whole.null_count() == column.null_count():
        return whole
    number = text.cast(pl.Float64, strict=False)
    if number.null_count() == column.null_count():
        return number
    moment = text.str.replace("T", " ").str.strip_suffix("Z")
    for form in (
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%d",
        "%Y-%m-%d %H:%M",
        "%m %d, %Y",
        "%d/%m/%Y",
        "%Y/%m/%d",
    ):
        parsed = moment.str.to_datetime(form, time_unit="us", strict=False)
        if parsed.null_count() == column.null_count():
            return parsed.cast(pl.Int64)
    return _cast(text, pl.Float64(), where, what, advice)  # which names the rows that are none
