"""What stands beside the language model's scores: popularity, shared words, who chose what.

score = model + popularity weight * prior + words weight * cosine of the words
        + collaborative weight * cosine of who chose what

The weights are chosen together on validation users, 0 among the choices, so that each is used only
where it helps.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from reccocktail.data.domain import Domain
from reccocktail.evaluation.metrics import per_user, ranks
from reccocktail.ranking.collaborative import Collaborative
from reccocktail.ranking.lexical import Words, words_of
from reccocktail.ranking.newcomers import Levels, levelled, measured
from reccocktail.ranking.prior import WEIGHTS
from reccocktail.ranking.space import ItemSpace

WORDS_WEIGHTS = (0.0, 2.5, 5.0, 10.0, 20.0, 40.0)
"""Logits of a whole cosine; that of states is worth 20 at the default temperature."""
COLLABORATIVE_WEIGHTS = (0.0, 2.5, 5.0, 10.0, 20.0)

Cosines = Sequence[NDArray[np.float64]]
"""Of each row's candidates, as `ItemSpace.scores` gives them."""


@dataclass(frozen=True)
class Weights:
    """Weights of popularity (a factor of log counts) and of cosines (logits a cosine)."""

    prior: float = 0.0
    words: float = 0.0
    collaborative: float = 0.0


class Spaces:
    """The spaces of a domain that can stand beside a model, made when they are asked for."""

    def __init__(self, domain: Domain, max_history: int) -> None:
        """Of a prepared domain; the last `max_history` items of a history are read."""
        self._domain, self._max_history = domain, max_history

    @property
    def words(self) -> Words:
        """What the words of the titles tell."""
        return words_of(tuple(self._domain.titles), self._max_history)

    @cached_property
    def collaborative(self) -> Collaborative:
        """Who chose what in training."""
        return Collaborative(self._domain, self._max_history)

    def weighed(self, weights: Weights) -> list[tuple[float, ItemSpace]]:
        """Those that count, with their weights."""
        found: list[tuple[float, ItemSpace]] = []
        if weights.words:
            found.append((weights.words, self.words))
        if weights.collaborative:
            found.append((weights.collaborative, self.collaborative))
        return found


def add(
    scores: Sequence[NDArray[np.float64]],
    candidates: Sequence[Sequence[int]],
    prior: NDArray[np.float64],
    words: Cosines | None,
    weights: Weights,
    collaborative: Cosines | None = None,
) -> list[NDArray[np.float64]]:
    """Scores of each row's candidates (item numbers) with all in their weights.

    Args:
        scores: of the model, in logits.
        candidates: item numbers of each row.
        prior: (items,) from `popularity_prior`.
        words: cosines of each row's candidates; None for none.
        weights: of all.
        collaborative: as `words`.
    """
    none = [None] * len(scores)
    shared_words, choices = (none if c is None else c for c in (words, collaborative))
    rows = zip(scores, candidates, shared_words, choices, strict=True)
    return [
        _sum(row, prior[np.asarray(items)], shared, chosen, weights)
        for row, items, shared, chosen in rows
    ]


def choose(
    scores: Sequence[NDArray[np.float64]],
    candidates: Sequence[Sequence[int]],
    positive: NDArray[np.int64],
    prior: NDArray[np.float64],
    words: Cosines | None,
    collaborative: Cosines | None = None,
) -> Weights:
    """The weights with the highest NDCG@10 on validation rows; of equals, the least of all.

    Args: as `add`'s, of validation rows, and the place of each row's target.
    """
    return choose_levelled(scores, candidates, positive, prior, words, collaborative, None)[0]


def choose_levelled(
    scores: Sequence[NDArray[np.float64]],
    candidates: Sequence[Sequence[int]],
    positive: NDArray[np.int64],
    prior: NDArray[np.float64],
    words: Cosines | None,
    collaborative: Cosines | None,
    new: NDArray[np.bool_] | None,
) -> tuple[Weights, Levels]:
    """`choose`, for scores in which new items are brought to the level of known ones.

    Args: as `choose`'s, and `new`, (items,) whether nobody has touched an item; None for scores as
        they are.

    Returns:
        The weights, and the levels of new items in these weights.
    """
    if not len(scores):
        return Weights(), Levels()
    model = _block(scores, -np.inf)
    popularity = _block([prior[np.asarray(row)] for row in candidates], 0.0)
    shared = None if words is None else _block(words, 0.0)
    chosen = None if collaborative is None else _block(collaborative, 0.0)
    fresh = None if new is None else _block([new[np.asarray(row)] for row in candidates], 0.0) > 0
    choices = itertools.product(
        WEIGHTS,
        (0.0,) if shared is None else WORDS_WEIGHTS,
        (0.0,) if chosen is None else COLLABORATIVE_WEIGHTS,
    )

    def levels(weights: Weights) -> tuple[NDArray[np.float64], Levels]:
        together = _sum(model, popularity, shared, chosen, weights)
        if fresh is None:
            return together, Levels()
        found = measured(together, fresh, positive)
        return levelled(together, fresh, found), found

    def preferred(weights: Weights) -> tuple[float, ...]:
        together, _ = levels(weights)
        quality = float(per_user(ranks(together, positive))["ndcg@10"].mean())
        return quality, -weights.collaborative, -weights.words, -weights.prior

    best = max((Weights(*found) for found in choices), key=preferred)
    return best, levels(best)[1]


def _sum(
    scores: NDArray[np.float64],
    prior: NDArray[np.float64],
    words: NDArray[np.float64] | None,
    collaborative: NDArray[np.float64] | None,
    weights: Weights,
) -> NDArray[np.float64]:
    """Scores with all in their weights; arrays of one shape, None for what there is not."""
    for more, weight in ((words, weights.words), (collaborative, weights.collaborative)):
        if more is not None and weight:
            scores = scores + weight * more
    return scores + weights.prior * prior if weights.prior else scores


def _block(rows: Sequence[NDArray[np.float64]], beyond: float) -> NDArray[np.float64]:
    """Rows of any lengths as one array, filled up with `beyond`: one for each row is slow."""
    block = np.full((len(rows), max(map(len, rows))), beyond)
    for line, row in zip(block, rows, strict=True):
        line[: len(row)] = row
    return block
