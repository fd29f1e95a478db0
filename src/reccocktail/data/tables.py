"""Any table file -> a frame, with every id as the file writes it."""

import codecs
import csv
import gzip
import json
import re
import zlib
from pathlib import Path
from typing import Any

import polars as pl

from reccocktail.data.cells import leaves, whole
from reccocktail.errors import DataError

FORMATS = ".parquet, .csv, .tsv, .inter, .item, .jsonl, .ndjson or .json, each also with .gz"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_TEXTS = (".csv", ".tsv", ".inter", ".item")
_JSON = (".jsonl", ".ndjson", ".json")
_MARKS = (b",", b";", b"\t")  # between the cells of a .csv file
_QUOTED = re.compile(rb'"[^"]*"')
# The line before the header in which Excel says what separates cells.
_SAID = re.compile(rb'(?:\xef\xbb\xbf)?"?sep=([^\w"\r\n\x80-\xff])"?\r?\n', re.IGNORECASE)
_HEAD, _LINES = 2**20, 100  # bytes and lines of a .csv file that say what separates its cells
_INFERRED = 10_000  # lines of JSON that say what type a column has


def read_table(path: Path) -> pl.DataFrame:
    """Read a table; text formats keep every cell as text, so that ids such as ``007`` survive.

    Args:
        path: a Parquet, CSV (also with semicolons or tabs, and with Excel's ``sep=;`` before the
            header), TSV, RecBole atomic or JSON lines file, also with ``.gz``.

    Raises:
        DataError: the file is missing, empty, of an unknown format or cannot be read.
    """
    endings = [ending.lower() for ending in path.suffixes]
    packed = bool(endings) and endings[-1] == ".gz"
    ending = (endings[-2:-1] or [""])[0] if packed else (endings or [""])[-1]
    try:
        if not path.is_file():
            what = "is a folder, not a table" if path.is_dir() else "does not exist"
            raise DataError(f"{path} {what}; give the path of a file ({FORMATS}).")
        if ending == ".parquet" and not packed:
            return _filled(pl.read_parquet(path, glob=False), path)
        if ending not in (".parquet", *_TEXTS, *_JSON):
            raise DataError(f"{path.name} has an unknown format; give a {FORMATS} file.")
        content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
        if not content.strip():
            raise DataError(f"{path.name} is empty; give a table with a header and rows.")
        if ending == ".parquet":
            return _filled(pl.read_parquet(content), path)
        if content.startswith(_UTF_16) or b"\0" in content[:1000]:
            raise DataError(f"{path.name} seems to be UTF-16 text; save it as UTF-8.")
        if ending in _JSON:
            return _filled(_read_json(content, path), path)
        try:
            return _filled(_read_text(content, ending), path)
        except pl.exceptions.ComputeError as error:
            if (broken := _broken_line(content, ending)) is None:
                raise
            raise DataError(f"{path.name}: {broken}.") from error
    except (OSError, EOFError, zlib.error, pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        advice = "save it as UTF-8" if "utf" in reason.lower() else "check the file"
        if isinstance(error, PermissionError):
            reason, advice = error.strerror or reason, "check who may read it"
        raise DataError(f"{path.name} cannot be read ({reason[:200]}); {advice}.") from error


def _filled(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    if frame.height == 0:
        raise DataError(f"{path.name} has no rows; give a table that is not empty.")
    return frame


def _read_text(content: bytes, ending: str) -> pl.DataFrame:
    separator, before = _separator(content) if ending == ".csv" else ("\t", 0)
    content = content[before:]
    # RecBole's atomic files know no quotes: a title may begin with one.
    quote = None if ending in (".inter", ".item") else '"'
    try:
        found = pl.read_csv(content, separator=separator, quote_char=quote, infer_schema=False)
        if ending != ".tsv" or not _swallowed(content, found.height):
            return found
    except pl.exceptions.ComputeError:
        if ending != ".tsv":
            raise
    return pl.read_csv(content, separator=separator, quote_char=None, infer_schema=False)


def _broken_line(content: bytes, ending: str) -> str | None:
    """What hinders the reading of a text, with its line, and what to do; None if nothing is seen.

    A cell that holds the separator or a quote must stand in quotes.
    """
    separator, before = _separator(content) if ending == ".csv" else ("\t", 0)
    text = content[before:].decode("utf-8-sig")
    above = 1 if before else 0
    advice = f"put cells that hold '{separator}' or quotes in double quotes, and double their own"
    rows = csv.reader(text.splitlines(keepends=True), delimiter=separator)
    header = next(rows, [])
    for row in rows:
        if len(row) > len(header):
            number = rows.line_num + above
            return f"line {number} has {len(row)} cells, the header {len(header)}; {advice}"
    for number, line in enumerate(text.splitlines(), 1 + above):
        if line.count('"') % 2:
            return f"line {number} holds a quote without its other half; {advice}"
    return None


def _swallowed(content: bytes, rows: int) -> bool:
    """Whether quotes of a TSV are plain text: inch marks that took whole lines for one cell.

    Then each line alone has as many cells as the header, and there are more of them than rows.
    """
    header, *lines = [line for line in content.splitlines() if line.strip()]
    tabs = header.count(b"\t")
    return len(lines) > rows and all(line.count(b"\t") == tabs for line in lines)


def _separator(content: bytes) -> tuple[str, int]:
    """What stands between the cells of a .csv file, and how many bytes stand before its header.

    It is what Excel says in a line of its own; else the comma, or what stands in the header oftener
    in its place: spreadsheets write semicolons, too. What most of the next lines have another
    number of is part of a name; of two that are equally frequent more lines decide.
    """
    if said := _SAID.match(content):
        return said[1].decode(), said.end()
    header, *lines = (_QUOTED.sub(b"", line) for line in content[:_HEAD].splitlines()[:_LINES])
    counts = {mark: header.count(mark) for mark in _MARKS if mark in header}
    fits = {mark: [line.count(mark) for line in lines].count(n) for mark, n in counts.items()}

    def order(mark: bytes) -> tuple[bool, int, int]:
        return fits[mark] * 2 >= len(lines), counts[mark], fits[mark]

    return max(counts, key=order, default=b",").decode(), 0


def _read_json(content: bytes, path: Path) -> pl.DataFrame:
    if content.lstrip()[:1] == b"[":
        raise DataError(f"{path.name} is one JSON array; write one object a line (JSON lines).")
    try:
        found = pl.read_ndjson(content, infer_schema_length=_INFERRED)
        if found.height <= _INFERRED:
            return found
        # A column that the first lines lack is left out without a word, and so is what they leave
        # open, such as a list's type.
        every = pl.read_ndjson(content, infer_schema_length=None).columns
        if set(every) == set(found.columns) and "Null" not in str(found.dtypes):
            return found
    except pl.exceptions.PolarsError:
        pass  # types that change after the first lines, or a broken line
    return _line_by_line(content, path)


def _line_by_line(content: bytes, path: Path) -> pl.DataFrame:
    """JSON lines of any kind, read slowly; a broken line is named."""
    rows = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8-sig")
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path.name}: line {number} is not JSON ({error}); mend or remove it."
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{path.name}: line {number} is not a JSON object; mend or remove it.")
        rows.append(whole(row, text))
    names = dict.fromkeys(name for row in rows for name in row)
    return pl.DataFrame([_column(name, [row.get(name) for row in rows]) for name in names])


def _column(name: str, cells: list[Any]) -> pl.Series:
    """A column of JSON values; of mixed ones all become text, beside lists all become lists.

    One of records stays one, whatever their fields: whoever needs it refuses it.
    """
    if any(isinstance(cell, list) for cell in cells):
        lists = [None if cell is None else leaves(cell) for cell in cells]
        return pl.Series(name, lists, dtype=pl.List(pl.String))
    records = [cell for cell in cells if isinstance(cell, dict)]
    if records and len(records) == sum(cell is not None for cell in cells):
        return pl.Series(name, [None if cell is None else {"": str(cell)} for cell in cells])
    plain = [str(cell) if isinstance(cell, dict) else cell for cell in cells]
    return pl.Series(name, plain, strict=False)
