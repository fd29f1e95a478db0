"""Several categories in one cell of text: how this package writes them, how it reads any table's.

Catalogues divide them by `|` (MovieLens), commas (Yelp), semicolons, or spaces (RecBole).
"""

import re
from collections.abc import Iterable, Sequence

_MARK = "|"
_ALONE = 0.9  # of the words; a rare genre may have no item of its own
_OTHER_MARKS = re.compile(r"[,;]")


def join(categories: Iterable[str]) -> str | None:
    """One cell that `split` reads as these categories, whatever commas they hold; None for none."""
    names = [name for name in categories if name.strip()]
    cell = _MARK.join(names)
    if len(names) == 1 and _OTHER_MARKS.search(cell):
        cell += _MARK
    return cell or None


def split(cell: str | None) -> list[str]:
    """The categories in a cell as they are written, each once whatever its case.

    A cell with a `|` is divided there alone, another at commas and semicolons.
    """
    text = cell or ""
    parts = text.split(_MARK) if _MARK in text else _OTHER_MARKS.split(text)
    names = [name for part in parts if (name := part.strip())]
    return list({name.casefold(): name for name in reversed(names)}.values())[::-1]


def divided(cells: Sequence[str | None]) -> list[str | None]:
    """A catalogue's cells, rewritten for `split` if spaces divide them.

    They do where no cell holds another mark, nine in ten words stand in some cell alone, and there
    are more kinds of cells with several words than words: as of ``Animation Comedy``, but not of
    ``Hair Care``.
    """
    kinds = {tuple(cell.split()) for cell in cells if cell}
    words = {word for kind in kinds for word in kind}
    lists = [kind for kind in kinds if len(kind) > 1]
    marked = any(_MARK in word or _OTHER_MARKS.search(word) for word in words)
    alone = sum((word,) in kinds for word in words)
    if marked or len(lists) <= len(words) or alone < _ALONE * len(words):
        return list(cells)
    return [join(cell.split()) if cell else cell for cell in cells]
