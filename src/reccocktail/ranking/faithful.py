"""What can be checked of a free sentence without a model: that it names nothing it was not given.

These are checks of form. A sentence without a fault may still be untrue.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from reccocktail.data.titles import title_key

FAULTS = ("empty", "unfinished", "repeats", "names", "titles")
QUOTES = '"\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a\uff02`'
"""Characters that may open or close a quotation; apostrophes are none."""
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_DIGITS = re.compile(r"\d+")
_END = re.compile(r"[.!?\u3002\uff01\uff1f]$")
_CONTENT_LETTERS = 4  # shorter words come again in any sentence


def one_line(text: str, characters: int) -> str:
    """Text without control, format and quotation characters, on one line, cut with an ellipsis.

    A double quotation mark becomes an apostrophe: what stands in quotation marks around the text
    then stays in them.
    """
    plain = "".join("'" if c in QUOTES else c for c in text)
    plain = "".join(" " if c.isspace() else c for c in plain)
    plain = "".join(c for c in plain if not unicodedata.category(c).startswith("C"))
    plain = " ".join(plain.split())
    return plain if len(plain) <= characters else f"{plain[: characters - 1].rstrip()}\u2026"


def ends(text: str) -> bool:
    """Whether a sentence ends with the text."""
    return _END.search(text.rstrip()) is not None


class Titles:
    """The titles of a catalogue, to find those that a text speaks of."""

    def __init__(self, titles: Iterable[str]) -> None:
        """Take all titles; those of a single word are words, and not looked for."""
        self._keys = {f" {key} " for key in map(title_key, titles) if " " in key}

    def within(self, text: str, known: Sequence[str] = ()) -> list[str]:
        """Keys of the titles that stand in the text word by word, but for parts of known ones."""
        inside, given = f" {title_key(text)} ", [f" {title_key(title)} " for title in known]
        found = [key for key in self._keys if key in inside]
        return sorted(key.strip() for key in found if not any(key in one for one in given))


def faults_of(text: str, known: Sequence[str], titles: Titles) -> tuple[str, ...]:
    """What is wrong with the free end of a sentence, some of `FAULTS`.

    - `empty`: not a word.
    - `unfinished`: the sentence does not end.
    - `repeats`: a word right behind itself, three words in a row twice, or a word of four letters
      or more twice.
    - `names`: a capitalised word or a number that is in no known title.
    - `titles`: a title of the catalogue that is no known one.

    Args:
        text: the part that a model wrote freely; it begins within a sentence.
        known: titles that it was given: the history's and the item's.
        titles: of the whole catalogue.
    """
    words = [word.casefold() for word in _WORD.findall(text)]
    found = {
        "empty": not words,
        "unfinished": not ends(text),
        "repeats": _repeats(words),
        "names": bool(_strangers(text, known)),
        "titles": bool(titles.within(text, known)),
    }
    return tuple(name for name in FAULTS if found[name])


def _repeats(words: Sequence[str]) -> bool:
    twins = any(one == two for one, two in pairwise(words))
    triples = Counter(zip(words, words[1:], words[2:], strict=False))
    content = Counter(word for word in words if len(word) >= _CONTENT_LETTERS)
    return twins or max(triples.values(), default=0) > 1 or max(content.values(), default=0) > 1


def _strangers(text: str, known: Sequence[str]) -> list[str]:
    """Capitalised words and numbers of a text that known titles do not hold."""
    given = {word.casefold() for title in known for word in _WORD.findall(title)}
    numbers = {number for title in known for number in _DIGITS.findall(title)}
    capitals = [w for w in _WORD.findall(text) if w[0].isupper() and w != "I"]
    strangers = [word for word in capitals if word.casefold() not in given]
    return strangers + [n for n in _DIGITS.findall(text) if n not in numbers]
