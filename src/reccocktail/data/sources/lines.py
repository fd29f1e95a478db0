"""Lines of large text files, one record each, plain or gzipped, never all in memory."""

import ast
import gzip
import json
import zlib
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

from reccocktail.data.cells import whole
from reccocktail.errors import DataError


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number (from 1) and text of each line that is not blank.

    Raises:
        DataError: the file is missing, cut off, damaged, or not UTF-8.
    """
    number = 0
    try:
        packed = path.suffix == ".gz"
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if packed
            else path.open(encoding="utf-8") as lines
        ):
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(
            f"{path.name} cannot be read after line {number} ({error}); fetch it again."
        ) from error


def parse(path: Path, number: int, line: str) -> dict[str, Any]:
    """Read one record: a JSON object or, as in files of 2014, a Python literal (never evaluated).

    Raises:
        DataError: the line is neither.
    """
    record: Any = None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        try:
            record = ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise DataError(
                f"{path.name}: line {number} is neither JSON nor a Python literal; mend or remove "
                "it."
            ) from error
    if not isinstance(record, dict):
        raise DataError(
            f"{path.name}: line {number} is not a record with fields; mend or remove it."
        )
    mended: dict[str, Any] = whole(record, line)
    return mended


def field(record: dict[str, Any], names: tuple[str, ...], path: Path, number: int) -> Any:
    """Value of the first of `names` that the record has.

    Raises:
        DataError: the record has none of them.
    """
    for name in names:
        if record.get(name) is not None:
            return record[name]
    raise DataError(
        f"{path.name}: line {number} has no field '{names[0]}' (fields found: "
        f"{', '.join(record) or 'none'})."
    )


def number_field(record: dict[str, Any], names: tuple[str, ...], path: Path, number: int) -> float:
    """Value of the first of `names` that the record has, a finite number or its text.

    Raises:
        DataError: the record has none of them, or its value is no such number.
    """
    value = field(record, names, path, number)
    try:
        found = int(value) if isinstance(value, int) else float(value)
        if isfinite(found) and abs(found) < 2**63:
            return found
    except (ValueError, TypeError):
        pass
    raise DataError(
        f"{path.name}: line {number} has '{str(value)[:40]}' for '{names[0]}', which is no number; "
        "mend or remove it."
    )


def one_file(folder: Path, patterns: tuple[str, ...], what: str) -> Path:
    """The one file in `folder` that fits the first pattern that any file fits.

    Raises:
        DataError: no file or several files fit.
    """
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise DataError(
                f"{folder} holds several files with {what} ({names}); keep one of them."
            )
        if found:
            return found[0]
    raise DataError(f"{folder} holds no file with {what} (looked for {', '.join(patterns)}).")
