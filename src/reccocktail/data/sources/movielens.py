"""MovieLens (GroupLens): `.dat` files (1M, 10M), `.csv` files (since), `u.data` (100K)."""

import re
from collections.abc import Callable
from pathlib import Path

import polars as pl

from reccocktail.errors import DataError
from reccocktail.schema import CATEGORIES, ITEM, RATING, TIME, TITLE, USER

_ARTICLE = re.compile(
    r"^(?P<name>[^()]+), (?P<article>The|A|An|Les|Le|La|L'|Il|Lo|El|Los|Las|Der|Die|Das|Een|En)"
    r"(?P<rest> \(.*)?$"
)
Row = tuple[str, str, str | None]
_RATINGS = (USER, ITEM, RATING, TIME)
_RATINGS_FORM = {".dat": ("\t", False), ".data": ("\t", False), ".csv": (",", True)}
"""Separator, once `::` is a tab, and whether there is a header."""


def article_first(title: str) -> str:
    """Put a trailing article back in front, as people and language models write titles.

    >>> article_first("American President, The (1995)")
    'The American President (1995)'
    """
    match = _ARTICLE.match(title)
    if match is None:
        return title
    article = match["article"]
    return (
        f"{article}{'' if article.endswith(chr(39)) else ' '}{match['name']}{match['rest'] or ''}"
    )


def read_folder(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read whichever family of files the folder holds.

    Raises:
        DataError: it holds none.
    """
    families = (("ratings.dat", "movies.dat"), ("ratings.csv", "movies.csv"), ("u.data", "u.item"))
    for ratings, movies in families:
        if (folder / ratings).is_file() and (folder / movies).is_file():
            return read_movielens(folder / ratings, folder / movies)
    raise DataError(
        f"{folder} holds no MovieLens files (ratings and movies as .dat or .csv, or u.data and "
        "u.item); "
        "give the folder into which the archive was unpacked."
    )


def read_movielens(ratings: Path, movies: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read ratings and films.

    Args:
        ratings: `ratings.dat` (`user::item::rating::seconds`), `ratings.csv` or `u.data`
            (tab-separated).
        movies: `movies.dat` (`item::title::genre|genre`), `movies.csv` or `u.item` (`|`-separated).

    Returns:
        Interactions (`user_id, item_id, rating, timestamp`) and items (`item_id, title,
        categories`; titles such as "Matrix, The (1999)" become "The Matrix (1999)").

    Raises:
        DataError: a file cannot be read or a line has too few fields.
    """
    if ratings.suffix not in _RATINGS_FORM:
        raise DataError(
            f"{ratings.name} is no MovieLens file of ratings; give ratings.dat, ratings.csv or "
            "u.data."
        )
    readers = {".dat": _films_dat, ".csv": _films_csv, ".item": _films_item}
    if movies.suffix not in readers:
        raise DataError(
            f"{movies.name} is no MovieLens file of films; give movies.dat, movies.csv or u.item."
        )
    items = readers[movies.suffix](movies)
    titles = [None if title is None else article_first(title.strip()) for title in items[TITLE]]
    return _read_ratings(ratings), items.with_columns(pl.Series(TITLE, titles, dtype=pl.String))


def _read_ratings(path: Path) -> pl.DataFrame:
    content = _content(path)
    separator, header = _RATINGS_FORM[path.suffix]
    if path.suffix == ".dat":
        content = content.replace(b"::", b"\t")
    try:
        frame = pl.read_csv(content, separator=separator, has_header=header, infer_schema=False)
        if frame.width != len(_RATINGS):
            raise DataError(
                f"{path.name} has {frame.width} fields a line and must have user, item, rating and "
                "time; give the file as it is published."
            )
        frame.columns = list(_RATINGS)
        return frame.with_columns(pl.col(RATING).cast(pl.Float64), pl.col(TIME).cast(pl.Int64))
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path.name} is no MovieLens file of ratings ({reason}).") from error


def _films_dat(path: Path) -> pl.DataFrame:
    return _films(
        path, "::", 3, lambda fields: (fields[0], fields[1], fields[2].replace("|", ", "))
    )


def _films_item(path: Path) -> pl.DataFrame:
    return _films(path, "|", 5, lambda fields: (fields[0], fields[1], None)).drop(CATEGORIES)


def _films(
    path: Path, separator: str, least: int, pick: Callable[[list[str]], Row]
) -> pl.DataFrame:
    rows = []
    # Not splitlines(): it also cuts at characters that a title may hold, such as U+0085.
    lines = _text(_content(path)).replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        fields = line.split(separator)
        if line.strip() and len(fields) < least:
            raise DataError(
                f"{path.name}: line {number} has {len(fields)} field(s) and must have {least}."
            )
        if line.strip():
            rows.append(pick(fields))
    return pl.DataFrame(
        rows, schema={ITEM: pl.String, TITLE: pl.String, CATEGORIES: pl.String}, orient="row"
    )


def _films_csv(path: Path) -> pl.DataFrame:
    try:
        frame = pl.read_csv(_content(path), infer_schema=False)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path.name} is no MovieLens file of films ({reason}).") from error
    if frame.columns[:3] != ["movieId", "title", "genres"]:
        found = ", ".join(frame.columns)
        raise DataError(
            f"{path.name} must have the columns movieId, title and genres (columns found: {found})."
        )
    return frame.select(
        pl.col("movieId").alias(ITEM),
        pl.col("title").alias(TITLE),
        pl.col("genres")
        .replace("(no genres listed)", None)
        .str.replace_all("|", ", ", literal=True)
        .alias(CATEGORIES),
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path.") from error


def _text(content: bytes) -> str:
    """Decode UTF-8 (10M) or, where that fails, Latin-1 (100K, 1M)."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")
