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
                f"{where} has several columns for the {_PLAIN[wanted]} ({', '.join(found)}); name "
                f"one with {_flag(wanted)}."
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
) -> pl.DataFrame:
    """Bring a table of interactions into our form.

    Returns:
        `user_id`, `item_id` (text) and, where the table has them, `timestamp` (Int64 or Float64;
        dates become microseconds) and `rating` (Float64), in the table's order.

    Raises:
        DataError: a column is missing, or cells are empty or not readable (rows are named).
    """
    user = _require(frame, USER, user_column, where)
    item = _require(frame, ITEM, item_column, where)
    columns = [_as_text(frame[user]).alias(USER), _as_text(frame[item]).alias(ITEM)]
    time = find_column(frame, TIME, time_column, where)
    if time is not None:
        columns.append(_as_time(frame[time], where).alias(TIME))
    rating = find_column(frame, RATING, rating_column, where)
    if rating is not None:
        columns.append(frame[rating].cast(pl.Float64, strict=False).alias(RATING))
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
    columns = [_as_text(frame[item]).alias(ITEM), _as_text(frame[title]).alias(TITLE)]
    categories = find_column(frame, CATEGORIES, categories_column, where, items=True)
    if categories not in (None, title, item):
        columns.append(_as_text(frame[categories]).alias(CATEGORIES))
    return validate(pl.DataFrame(columns), "items", where)


def _as_text(column: pl.Series) -> pl.Series:
    """Write cells as text; whole floats (an id column that once held gaps) as whole numbers."""
    if column.dtype == pl.String:
        return column
    if isinstance(column.dtype, pl.List | pl.Array):
        listed = column.to_list()
        return pl.Series(
            [None if row is None else ", ".join(_flat(row)) for row in listed], dtype=pl.String
        )
    if column.dtype.is_float() and (column.is_null() | (column == column.round())).all():
        column = column.cast(pl.Int64)
    return column.cast(pl.String)


def _flat(value: Any) -> list[str]:
    """Leaves of nested lists, each once, in order (Amazon's categories are lists of paths)."""
    leaves = [
        leaf for part in value for leaf in (_flat(part) if isinstance(part, list) else [str(part)])
    ]
    return list(dict.fromkeys(leaves))


def _as_time(column: pl.Series, where: str) -> pl.Series:
    if column.dtype.is_temporal():
        return column.cast(pl.Datetime("us")).cast(pl.Int64)
    if column.dtype.is_integer():
        return column.cast(pl.Int64)
    if column.dtype.is_float():
        return column.fill_nan(None)
    text = column.cast(pl.String).str.strip_chars()
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
    rows = (number.is_null() & column.is_not_null()).arg_true()
    raise DataError(
        f"{where}: '{column.name}' holds times that are neither numbers nor dates "
        f"({row_numbers(rows)}, "
        f"such as '{text[int(rows[0])]}'); write them as numbers or as YYYY-MM-DD HH:MM:SS."
    )
