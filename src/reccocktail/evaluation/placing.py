"""What stands beside any model's scores on the rows of one evaluation.

Language models and baselines go through the same door, so that none leads by what another was not
given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl
import torch

from reccocktail.baselines.base import Baseline
from reccocktail.baselines.popularity import Popularity
from reccocktail.data.domain import Domain
from reccocktail.evaluation.metrics import FloatArray
from reccocktail.mixing.entropy import as_matrix, fit_temperature
from reccocktail.ranking.additions import Beside, Spaces, Weights
from reccocktail.ranking.newcomers import AS_THEY_ARE, Levels, levelled
from reccocktail.ranking.scoring import RowScores, positive_columns
from reccocktail.schema import CANDIDATES, HISTORY, Scenario

ROWS = 256
"""Rows whose scores of a whole catalogue are in memory at once."""


@dataclass(frozen=True)
class Placed:
    """How a model was placed: what counts beside it, and how far new items were moved."""

    weights: Weights = field(default_factory=Weights)
    levels: Levels = AS_THEY_ARE


@dataclass(frozen=True)
class Placing:
    """The rows that models are judged on, and what may count beside their scores there.

    Attributes:
        domain: whose rows they are.
        test: rows to be scored, by scenario.
        valid: labelled validation rows, by scenario; may be empty.
        max_history: items of a history whose words are read, the last ones.
        prior: let popularity count (see `ranking.additions`).
        words: let the words that titles share count.
        collaborative: let count who chose what.
        level: bring new candidates to the level of known ones (see `ranking.newcomers`).
    """

    domain: Domain
    test: Mapping[Scenario, pl.DataFrame]
    valid: Mapping[Scenario, pl.DataFrame]
    max_history: int
    prior: bool = True
    words: bool = False
    collaborative: bool = False
    level: bool = False

    def placed(
        self, scenario: Scenario, test: Sequence[FloatArray], valid: Sequence[FloatArray]
    ) -> tuple[Placed, list[FloatArray]]:
        """Test scores with what counts beside them, in the weights that validation rows choose.

        Args:
            scenario: of the rows.
            test: logits of each test row's candidates.
            valid: of each validation row's.
        """
        rows, found = self.valid[scenario], Placed()
        if rows.height:
            beside = self._beside(rows, self.words, self.collaborative)
            found = Placed(*beside.choose(valid, positive_columns(rows)))
        weights = found.weights
        beside = self._beside(self.test[scenario], weights.words > 0, weights.collaborative > 0)
        return found, beside.add(test, weights, found.levels)

    def whole(self, scenario: Scenario, scores: RowScores, placed: Placed) -> RowScores:
        """Logits of the whole catalogue for test rows, with what counts beside in its weights."""
        weights, levels = placed.weights, placed.levels
        prior = weights.prior * self._spaces.prior if self.prior else 0.0
        spaces = self._spaces.weighed(weights)
        histories = self.domain.numbers(self.test[scenario], HISTORY) if spaces else []
        new = self.domain.untouched()

        def of_rows(part: slice) -> FloatArray:
            found: FloatArray = scores(part) + prior
            for weight, space in spaces:
                found += weight * space.catalogue(histories[part])
            if levels == AS_THEY_ARE:
                return found
            return levelled(found, np.broadcast_to(new, found.shape), levels)

        return of_rows

    def of_candidates(self, scenario: Scenario, whole: RowScores) -> list[FloatArray]:
        """Each test row's candidates in scores of the whole catalogue."""
        numbers, found = self.domain.numbers(self.test[scenario], CANDIDATES), []
        for start in range(0, len(numbers), ROWS):
            part = slice(start, start + ROWS)
            block = whole(part)
            found += [row[list(items)] for row, items in zip(block, numbers[part], strict=True)]
        return found

    def _beside(self, rows: pl.DataFrame, words: bool, collaborative: bool) -> Beside:
        return self._spaces.beside(
            rows,
            prior=self.prior,
            words=words,
            collaborative=collaborative,
            level=self.level,
        )

    @cached_property
    def _spaces(self) -> Spaces:
        return Spaces(self.domain, self.max_history)


class InLogits:
    """A fitted baseline whose scores, of whatever scale, are brought to logits.

    They are divided by one number: their mean spread over a row's candidates times the temperature
    that fits validation rows best. Where these say nothing, scores stay as they are.

    Attributes:
        valid: logits of each validation row's candidates.
    """

    def __init__(self, baseline: Baseline, valid: pl.DataFrame) -> None:
        """Find the number on labelled validation rows, which have equally many candidates each."""
        self._baseline, self._scale = baseline, 1.0
        known = baseline.scores(valid)
        spread = float(np.mean([row.std() for row in known])) if known else 0.0
        if spread:
            positive = torch.from_numpy(positive_columns(valid))
            self._scale = spread * fit_temperature(as_matrix(known) / spread, positive)
        self.valid = [row / self._scale for row in known]

    def scores(self, rows: pl.DataFrame) -> list[FloatArray]:
        """Logits of each row's candidates."""
        return [row / self._scale for row in self._baseline.scores(rows)]

    def catalogue_scores(self, rows: pl.DataFrame) -> FloatArray:
        """Logits of the whole catalogue for every row, (rows, items)."""
        return self._baseline.catalogue_scores(rows) / self._scale


def place_baseline(
    baseline: Baseline, placing: Placing, scenario: Scenario
) -> tuple[Placed, list[FloatArray], RowScores]:
    """A fitted baseline's scores of test rows, with what stands beside them.

    Popularity is left as it is: it would stand beside itself.

    Returns:
        What validation rows choose, scores of each row's candidates, and of the whole catalogue.
    """
    rows, valid = placing.test[scenario], placing.valid[scenario]
    if isinstance(baseline, Popularity):
        return Placed(), baseline.scores(rows), lambda part: baseline.catalogue_scores(rows[part])
    scaled = InLogits(baseline, valid)
    placed, together = placing.placed(scenario, scaled.scores(rows), scaled.valid)

    def logits(part: slice) -> FloatArray:
        return scaled.catalogue_scores(rows[part])

    return placed, together, placing.whole(scenario, logits, placed)
