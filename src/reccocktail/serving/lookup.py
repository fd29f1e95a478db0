"""Titles typed by people, and the items that they mean."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import nsmallest

import numpy as np
from rapidfuzz import fuzz, process

from reccocktail.data.domain import Domain
from reccocktail.data.titles import title_key
from reccocktail.errors import DataError

MATCH_FLOOR = 50.0
"""Below this similarity (0 to 100) a typed title is taken as not in the catalogue."""


@dataclass(frozen=True)
class Match:
    """A title typed by hand and the item it was taken for; `similarity` in [0, 100]."""

    typed: str
    item_id: str
    title: str
    similarity: float


class TitleLookup:
    """Finds items by what people type."""

    def __init__(self, name: str, ids: Sequence[str], titles: Sequence[str]) -> None:
        """Take the items of the domain `name`; the work is done at the first question."""
        self.name, self.ids, self.titles = name, ids, titles

    @classmethod
    def of(cls, domain: Domain) -> "TitleLookup":
        """Of a prepared catalogue."""
        return cls(domain.name, domain.item_ids, domain.titles)

    @cached_property
    def _plain(self) -> list[str]:
        return [title_key(title) for title in self.titles]

    @cached_property
    def _exact(self) -> dict[str, int]:
        return {key: place for place, key in reversed(list(enumerate(self._plain)))}

    @cached_property
    def _spelled(self) -> dict[str, int]:
        return {title: place for place, title in reversed(list(enumerate(self.titles)))}

    def extended(self, ids: Sequence[str], titles: Sequence[str]) -> "TitleLookup":
        """The same with more items, which come last; `ids` and `titles` are all of them."""
        lookup = TitleLookup(self.name, ids, titles)
        known = len(self.titles)
        # What was prepared already is taken over: uploads come often, questions oftener.
        if "_plain" in self.__dict__:
            lookup.__dict__["_plain"] = [*self._plain, *map(title_key, titles[known:])]
        if "_exact" in self.__dict__:
            exact = dict(self._exact)
            for place in range(known, len(titles)):
                exact.setdefault(lookup._plain[place], place)
            lookup.__dict__["_exact"] = exact
        if "_spelled" in self.__dict__:
            spelled = {titles[place]: place for place in reversed(range(known, len(titles)))}
            lookup.__dict__["_spelled"] = spelled | self._spelled
        return lookup

    def match(
        self, typed: Sequence[str], in_time: Callable[[], object] = lambda: None
    ) -> list[Match]:
        """Find each typed title, blanks left out: as it is spelled, as it is read, or the nearest.

        Args:
            typed: titles.
            in_time: called before each comparison with the whole catalogue; may raise to end it.

        Raises:
            DataError: nothing typed, or a title that resembles none of the catalogue.
        """
        wanted = [title.strip() for title in typed if title.strip()]
        if not wanted:
            raise DataError("The history is empty; give at least one title, separated by ';'.")
        matches = []
        for title in wanted:
            place = self._spelled.get(title, self._exact.get(title_key(title)))
            similarity = 100.0
            if place is None:
                in_time()
                place, similarity = self._nearest(title)
                if similarity < MATCH_FLOOR:
                    raise DataError(
                        f"No title of {self.name} resembles '{title}'; check its spelling."
                    )
            matches.append(Match(title, self.ids[place], self.titles[place], round(similarity, 1)))
        return matches

    def split(self, text: str) -> list[str]:
        """Titles between semicolons; one that holds semicolons itself stays whole.

        Of several readings the one with the longest title of the catalogue, from the left.
        """
        parts, titles = text.split(";"), []
        while parts:
            joined = (end for end in range(len(parts), 1, -1) if self._whole(";".join(parts[:end])))
            end = next(joined, 1)
            titles.append(";".join(parts[:end]).strip())
            parts = parts[end:]
        return titles

    def _whole(self, text: str) -> bool:
        """Whether this is a title with semicolons: as it is spelled, or as it is read.

        Keys have none, nor signs such as stars, and so would join two titles.
        """
        if (spelled := text.strip()) in self._spelled:
            return ";" in spelled
        place = self._exact.get(title_key(text))
        title = "" if place is None else self.titles[place]
        return ";" in title and _pieces(title) == _pieces(text)

    def _nearest(self, typed: str) -> tuple[int, float]:
        """The most similar title and its similarity, 0 to 100.

        The letters in their order, or the words in any: half for all of them, half for those that
        both have, so that neither one shared word nor a subtitle that was left out decides.
        """
        plain = title_key(typed)
        letters, words, shared = (
            process.cdist([plain], self._plain, scorer=scorer)[0]
            for scorer in (fuzz.ratio, fuzz.token_sort_ratio, fuzz.token_set_ratio)
        )
        similarity = np.maximum(letters, (words + shared) / 2)
        place = int(similarity.argmax())
        return place, float(similarity[place])

    def search(self, text: str, limit: int) -> list[int]:
        """Numbers of at most `limit` items whose titles hold all words of `text`.

        Words may be unfinished: people search while they type. Titles with words that begin so come
        before those that hold them elsewhere, and short titles before long ones.
        """
        words = title_key(text).split()
        if not words:
            return []
        plain = self._plain
        first, *rest = sorted(words, key=len, reverse=True)  # long words are rare
        found = [place for place, title in enumerate(plain) if first in title]
        for word in rest:
            found = [place for place in found if word in plain[place]]

        def order(place: int) -> tuple[bool, int, int]:
            title = f" {plain[place]}"
            return not all(f" {word}" in title for word in words), len(title), place

        return nsmallest(limit, found, key=order)


def _pieces(text: str) -> int:
    """How many of the pieces between semicolons hold anything."""
    return sum(bool(piece.strip()) for piece in text.split(";"))
