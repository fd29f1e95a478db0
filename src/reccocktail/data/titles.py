"""Titles as a language model and a person should read them."""

import html
import re
import unicodedata
from collections.abc import Iterable

# Only what looks like a tag: "I <3 U" and "5 < 6 > 2" are text.
_TAG = re.compile(r"</?[A-Za-z!][^<>]*>")
# Control characters, zero-width spaces and marks that reverse the direction of text that follows.
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)
_SPACE = re.compile(r"\s+")
_MISSING = frozenset({"", "nan", "null", "n/a", "\\n"})  # pandas, JSON, people, MySQL


def clean_title(title: str | None) -> str:
    r"""Make a title one line of plain text.

    HTML entities are unescaped (also those escaped twice, ``&amp;amp;``), tags, control characters
    and runs of space removed. Letters keep their accents (Unicode NFC).

    Returns:
        The title, or ``""`` when nothing readable is left.

    >>> clean_title("  Tom &amp;amp; Jerry<br>\n(1965) ")
    'Tom & Jerry (1965)'
    """
    # What one pass uncovers (an entity escaped twice, a tag within a tag) the next one removes.
    for _ in range(8):
        plain = _clean_once(title or "")
        if plain == title:
            break
        title = plain
    return "" if plain.casefold() in _MISSING else plain


def _clean_once(title: str) -> str:
    plain = unicodedata.normalize("NFC", html.unescape(title))
    plain = _TAG.sub(" ", _INVISIBLE.sub("", plain))
    return _SPACE.sub(" ", plain).strip()


def clean_titles(titles: Iterable[str | None]) -> list[str]:
    """`clean_title` of each title, in order."""
    return [clean_title(title) for title in titles]


def title_key(title: str) -> str:
    """What two spellings of one title have in common: words without case, accents and punctuation.

    >>> title_key("Amélie: The Movie!") == title_key("AMELIE the movie")
    True
    """
    found: list[str] = []
    for c in unicodedata.normalize("NFKD", title.casefold()):
        if c.isalnum():
            found.append(c)
        elif "\u0300" <= c <= "\u036f":  # accents go
            continue
        # Marks that carry vowels (Indic, Thai) belong to the letter before them.
        elif found and found[-1] != " " and unicodedata.category(c) in ("Mn", "Mc"):
            found.append(c)
        else:
            found.append(" ")
    return " ".join("".join(found).split()) or title.strip()
