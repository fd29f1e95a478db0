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
import polars as pl
from numpy.typing import NDArray

from reccocktail.data.domain import Domain, sample_rows
from reccocktail.evaluation.metrics import per_user, ranks
from reccocktail.ranking.collaborative import Collaborative
from reccocktail.ranking.lexical import Words, words_of
from reccocktail.ranking.newcomers import AS_THEY_ARE, Levels, levelled, measured
from reccocktail.ranking.prior import WEIGHTS, popularity_prior
from reccocktail.ranking.space import ItemSpace
from reccocktail.schema import CANDIDATES, HISTORY, SCENARIOS

WORDS_WEIGHTS = (0.0, 2.5, 5.0, 10.0, 20.0, 40.0)
"""Logits of a whole cosine; that of states is worth 20 at the default temperature."""
COLLABORATIVE_WEIGHTS = (0.0, 2.5, 5.0, 10.0, 20.0)

WEIGHING_USERS = 64
"""Of each scenario: `weighing_rows`."""

Cosines = Sequence[NDArray[np.float64]]
"""Of each row's candidates, as `ItemSpace.scores` gives them."""


@dataclass(frozen=True)
class Weights:
    """Weights of popularity (a factor of log counts) and of cosines (logits a cosine)."""

    prior: float = 0.0
    words: float = 0.0
    collaborative: float = 0.0


def weighing_rows(domain: Domain) -> pl.DataFrame:
    """Validation rows on which the weights of a served model are chosen.

    Of known and of new items alike, because nobody knows which a user will choose.
    """
    tables = [domain.rows(f"valid_{scenario}") for scenario in SCENARIOS]
    return pl.concat([sample_rows(table, WEIGHING_USERS, seed=0) for table in tables])


class Spaces:
    """What a domain can put beside a model, made when it is asked for."""

    def __init__(self, domain: Domain, max_history: int) -> None:
        """Of a prepared domain; the last `max_history` items of a history are read."""
        self._domain, self._max_history = domain, max_history

    @property
    def prior(self) -> NDArray[np.float64]:
        """Popularity prior (items,)."""
        return popularity_prior(self._domain.train_counts())

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

    def beside(
        self,
        rows: pl.DataFrame,
        *,
        prior: bool = True,
        words: bool = True,
        collaborative: bool = True,
        level: bool = True,
    ) -> "Beside":
        """What is asked for of all that can stand beside scores of evaluation rows."""
        histories = self._domain.numbers(rows, HISTORY)
        candidates = self._domain.numbers(rows, CANDIDATES)
        return Beside(
            candidates,
            self.prior if prior else np.zeros(len(self._domain.titles)),
            self.words.scores(histories, candidates) if words else None,
            self.collaborative.scores(histories, candidates) if collaborative else None,
            self._domain.untouched() if level else None,
        )


@dataclass(frozen=True)
class Beside:
    """What can stand beside any model's scores of some rows' candidates.

    Scores are logits, one array a row.

    Attributes:
        candidates: item numbers of each row.
        prior: (items,) from `popularity_prior`.
        words: cosines of each row's candidates; None for none.
        collaborative: as `words`.
        new: (items,) whether nobody has touched an item, to bring those to the level of the others
            (see `ranking.newcomers`); None leaves all scores as they are.
    """

    candidates: Sequence[Sequence[int]]
    prior: NDArray[np.float64]
    words: Cosines | None = None
    collaborative: Cosines | None = None
    new: NDArray[np.bool_] | None = None

    def choose(
        self, scores: Sequence[NDArray[np.float64]], positive: NDArray[np.int64]
    ) -> tuple[Weights, Levels]:
        """The weights with the highest NDCG@10 on validation rows; of equals, the least of all.

        Args:
            scores: of the model.
            positive: place of each row's target among its candidates.

        Returns:
            The weights, and the levels of new items in these weights.
        """
        if not len(scores):
            return Weights(), Levels()
        model = _block(scores, -np.inf)
        popularity = _block([self.prior[np.asarray(row)] for row in self.candidates], 0.0)
        words = None if self.words is None else _block(self.words, 0.0)
        chosen = None if self.collaborative is None else _block(self.collaborative, 0.0)
        fresh = None
        if self.new is not None:
            fresh = _block([self.new[np.asarray(row)] for row in self.candidates], 0.0) > 0
        choices = itertools.product(
            WEIGHTS,
            (0.0,) if words is None else WORDS_WEIGHTS,
            (0.0,) if chosen is None else COLLABORATIVE_WEIGHTS,
        )

        def levels(weights: Weights) -> tuple[NDArray[np.float64], Levels]:
            together = _sum(model, popularity, words, chosen, weights)
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

    def add(
        self,
        scores: Sequence[NDArray[np.float64]],
        weights: Weights,
        levels: Levels = AS_THEY_ARE,
    ) -> list[NDArray[np.float64]]:
        """A model's scores with all in their weights, and new items on their level."""
        none = [None] * len(scores)
        words, chosen = (none if c is None else c for c in (self.words, self.collaborative))
        found = []
        for row, items, shared, choices in zip(scores, self.candidates, words, chosen, strict=True):
            numbers = np.asarray(items)
            together = _sum(row, self.prior[numbers], shared, choices, weights)
            if self.new is not None:
                together = levelled(together[None], self.new[None, numbers], levels)[0]
            found.append(together)
        return found


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
