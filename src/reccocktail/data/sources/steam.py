"""Steam (Kang and McAuley; Pathak et al.): Python literals, one a line, plain or gzipped."""

from datetime import date
from pathlib import Path

import polars as pl

from reccocktail.data.categories import join
from reccocktail.data.sources.lines import field, one_file, parse, text_lines
from reccocktail.errors import DataError
from reccocktail.schema import CATEGORIES, ITEM, TIME, TITLE, USER

_ITEMS = {ITEM: pl.String, TITLE: pl.String, CATEGORIES: pl.String}


def read_folder(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read `steam_reviews` with `steam_games`, or else the Australian users' libraries."""
    if any(folder.glob("steam_reviews*")):
        reviews = one_file(folder, ("steam_reviews*",), "reviews")
        return read_steam(reviews, one_file(folder, ("steam_games*",), "games"))
    libraries = one_file(folder, ("*users_items*",), "reviews or libraries")
    return read_libraries(libraries)


def read_steam(reviews: Path, games: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read reviews and games.

    Args:
        reviews: records with `username`, `product_id` and `date` (YYYY-MM-DD).
        games: records with `id`, `app_name` or `title`, and `genres`; records without an id are
            left out.

    Returns:
        Interactions (`user_id, item_id, timestamp` in seconds, day-level) and items (`item_id,
        title, categories`).

    Raises:
        DataError: a file cannot be read, or a line has not the fields it must have.
    """
    users: list[str] = []
    items: list[str] = []
    times: list[int] = []
    for number, line in text_lines(reviews):
        record = parse(reviews, number, line)
        users.append(str(field(record, ("username", "user_id"), reviews, number)))
        items.append(str(field(record, ("product_id", "item_id"), reviews, number)))
        day = str(field(record, ("date", "posted"), reviews, number))
        try:
            times.append(
                (date.fromisoformat(day).toordinal() - date(1970, 1, 1).toordinal()) * 86_400
            )
        except ValueError as error:
            raise DataError(
                f"{reviews.name}: line {number} has the date '{day}', which is not YYYY-MM-DD."
            ) from error
    return pl.DataFrame({USER: users, ITEM: items, TIME: times}), _read_games(games)


def read_libraries(path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read which games users own, in the library's order (there are no times).

    Args:
        path: records with `user_id` and `items`, a list of records with `item_id` and `item_name`.

    Returns:
        Interactions (`user_id, item_id`) and items (`item_id, title`).

    Raises:
        DataError: the file cannot be read, or a line has not the fields it must have.
    """
    users: list[str] = []
    items: list[str] = []
    titles: dict[str, str] = {}
    for number, line in text_lines(path):
        record = parse(path, number, line)
        user = str(field(record, ("user_id", "steam_id"), path, number))
        for owned in field(record, ("items",), path, number):
            item = str(field(owned, ("item_id",), path, number))
            titles.setdefault(item, str(owned.get("item_name") or ""))
            users.append(user)
            items.append(item)
    text = pl.String()
    owned_games = pl.DataFrame({USER: users, ITEM: items}, schema={USER: text, ITEM: text})
    catalogue = {ITEM: list(titles), TITLE: list(titles.values())}
    return owned_games, pl.DataFrame(catalogue, schema={ITEM: text, TITLE: text})


def _read_games(path: Path) -> pl.DataFrame:
    rows: list[tuple[str, str | None, str | None]] = []
    for number, line in text_lines(path):
        record = parse(path, number, line)
        if record.get("id") is not None:
            genres = record.get("genres") or record.get("tags") or []
            name = record.get("app_name") or record.get("title")
            categories = join(map(str, genres))
            rows.append((str(record["id"]), None if name is None else str(name), categories))
    return pl.DataFrame(rows, schema=_ITEMS, orient="row")
