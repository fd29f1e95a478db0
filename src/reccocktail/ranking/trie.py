"""Titles as paths of tokens: made distinct, kept in a trie, chosen greedily."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from reccocktail.errors import RecipeError
from reccocktail.prompting.encoding import TokenIds


def distinct(
    titles: Sequence[TokenIds], endings: Sequence[TokenIds], suffix: Callable[[int], TokenIds]
) -> list[TokenIds]:
    """Titles of which, with any of the endings, none starts with another.

    A title that equals an earlier one, or runs into one, gets a number behind it, the least that
    makes it distinct: (2), (3), ... What ends a title is taken out of the middle of one. So each
    path through a trie leads to one item.

    Args:
        titles: tokens of each title.
        endings: what may stand behind a title in an answer.
        suffix: number -> tokens of the mark.

    Raises:
        RecipeError: an ending cannot be told from titles and marks.
    """
    kept: list[TokenIds] = []
    for title in titles:
        title = _without(title, endings)
        found, number = title, 1
        while _clashes(found, kept, endings):
            number += 1
            if number > 2 * len(titles) + 100:
                raise RecipeError(
                    "The template's answer_separator cannot be told from titles; choose another."
                )
            # A tokenizer may know no such number: then marks pile up.
            found = [*title, *suffix(number)] if number <= len(titles) + 1 else [*found, *suffix(2)]
        kept.append(found)
    return kept


def unmistakable(
    titles: Sequence[TokenIds],
    variants: Sequence[Sequence[TokenIds]],
    endings: Sequence[TokenIds],
) -> list[list[TokenIds]]:
    """Each title's variants that can mean no other title, without those that say nothing new.

    A variant with which another title or its variant begins, or that begins with one, is left out,
    and so is what holds an ending. A variant that could mean two titles means neither.

    Args:
        titles: distinct ones; see `distinct`.
        variants: further ways to write each of them.
        endings: what may stand behind a title in an answer.
    """
    written = [[title, *more] for title, more in zip(titles, variants, strict=True)]
    found: list[list[TokenIds]] = []
    for own, (title, *more) in enumerate(written):
        others = [other for place, all_ in enumerate(written) if place != own for other in all_]
        kept = [title]
        for variant in more:
            whole = variant == _without(variant, endings)
            if variant and whole and not _clashes(variant, [*others, *kept], endings):
                kept.append(variant)
        found.append(kept[1:])
    return found


def _clashes(title: TokenIds, others: Sequence[TokenIds], endings: Sequence[TokenIds]) -> bool:
    """Whether, with one of the endings, the title starts another or another starts it."""
    return any(
        _starts(title + ending, other + ending) or _starts(other + ending, title + ending)
        for other in others
        for ending in endings
    )


def _without(title: TokenIds, endings: Sequence[TokenIds]) -> TokenIds:
    """The title without any ending inside it."""
    found = list(title)
    place = 0
    while place < len(found):
        ending = next((e for e in endings if e and found[place : place + len(e)] == e), None)
        if ending is None:
            place += 1
        else:
            del found[place : place + len(ending)]
            place = max(0, place - len(ending))  # what came together may be one again
    return found


def _starts(longer: TokenIds, shorter: TokenIds) -> bool:
    return longer[: len(shorter)] == shorter


@dataclass
class _Node:
    leaves: set[int] = field(default_factory=set)
    children: dict[int, "_Node"] = field(default_factory=dict)


class Trie:
    """Paths of tokens, none the start of another; each leads to a leaf, its number."""

    def __init__(self, paths: Sequence[TokenIds]) -> None:
        """Grow the trie.

        Raises:
            ValueError: a path is empty, or the start of another.
        """
        self._paths = [list(path) for path in paths]
        self._root = _Node()
        for leaf, path in enumerate(self._paths):
            node = self._root
            node.leaves.add(leaf)
            for token in path:
                node = node.children.setdefault(token, _Node())
                node.leaves.add(leaf)
        for path in self._paths:
            node = self._at(path)
            if not path or node.children or len(node.leaves) > 1:
                raise ValueError("Paths of a trie must not be empty or start one another.")

    def __len__(self) -> int:
        """Leaves that are left."""
        return len(self._root.leaves)

    def options(self, prefix: TokenIds) -> dict[int, int]:
        """Tokens that may follow, in ascending order, each with the first leaf behind it."""
        node = self._at(prefix)
        return {token: min(child.leaves) for token, child in sorted(node.children.items())}

    def remove(self, leaf: int) -> None:
        """Take a leaf out, and what led to it alone."""
        node = self._root
        node.leaves.discard(leaf)
        for token in self._paths[leaf]:
            child = node.children[token]
            child.leaves.discard(leaf)
            if not child.leaves:
                del node.children[token]
                return
            node = child

    def greedy(
        self,
        log_probs: Callable[[TokenIds, dict[int, int]], Sequence[float]],
        always: int = 0,
        most: int | None = None,
    ) -> TokenIds:
        """Walk from the root along the likeliest tokens that are allowed.

        Args:
            log_probs: (tokens so far, options) -> a number for each option, in their order; not
                asked where there is but one.
            always: ask at the first so many places even so.
            most: stop after so many tokens; None goes on to a leaf.

        Returns:
            The tokens walked.
        """
        prefix: TokenIds = []
        while options := self.options(prefix):
            if most is not None and len(prefix) >= most:
                break
            tokens = list(options)
            if len(tokens) > 1 or len(prefix) < always:
                values = log_probs(prefix, options)
                prefix.append(max(zip(values, [-t for t in tokens], tokens, strict=True))[2])
            else:
                prefix.append(tokens[0])
        return prefix

    def leaf(self, prefix: TokenIds) -> int:
        """The first leaf behind some tokens; the only one behind a whole path."""
        return min(self._at(prefix).leaves)

    def _at(self, prefix: TokenIds) -> _Node:
        node = self._root
        for token in prefix:
            node = node.children[token]
        return node
