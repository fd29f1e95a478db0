"""Scores of any LoRA on the rows of one evaluation; what was scored once is not scored again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from reccocktail.backbone import Backbone
from reccocktail.evaluation.metrics import FloatArray
from reccocktail.ranking.additions import Weights, add, choose
from reccocktail.ranking.base import Ranker
from reccocktail.ranking.prior import popularity_prior
from reccocktail.ranking.scoring import Catalogue, RowScores, Scored, positive_columns, score
from reccocktail.schema import Scenario
from reccocktail.training.adapter import Lora
from reccocktail.training.model import model_sha256, scoring


@dataclass(frozen=True)
class Both:
    """One model's scores of a scenario's test and validation rows."""

    test: Scored
    valid: Scored


@dataclass
class Scorer:
    """Backbone and rows that LoRAs are scored on.

    Attributes:
        test: rows to be scored, by scenario.
        valid: labelled validation rows, by scenario; may be empty.
        prior: let popularity count (see `ranking.additions`).
        words: let the words that titles share count.
    """

    backbone: Backbone
    catalogue: Catalogue[Ranker]
    test: Mapping[Scenario, pl.DataFrame]
    valid: Mapping[Scenario, pl.DataFrame]
    prior: bool = True
    words: bool = False
    _known: dict[tuple[str, Scenario, bool], Both] = field(default_factory=dict)

    def scored(
        self, lora: Lora | None, scenarios: Sequence[Scenario], label: str, whole: bool
    ) -> dict[Scenario, Both]:
        """Scores by scenario; of the whole catalogue too if `whole`, where the ranker can."""
        identity = model_sha256(self.backbone, lora)
        # Scores of the whole catalogue hold those of the candidates.
        for scenario in scenarios:
            if (identity, scenario, True) in self._known:
                self._known[identity, scenario, False] = self._known[identity, scenario, True]
        missing = [s for s in scenarios if (identity, s, whole) not in self._known]
        if missing:
            tables = [*(self.test[s] for s in missing), *(self.valid[s] for s in missing)]
            with scoring(self.backbone, lora) as model:
                found = score(
                    model,
                    self.catalogue,
                    tables,
                    label,
                    model_sha256=identity,
                    whole_catalogue=whole,
                )
            for place, scenario in enumerate(missing):
                both = Both(found[place], found[len(missing) + place])
                self._known[identity, scenario, whole] = both
        return {s: self._known[identity, s, whole] for s in scenarios}

    def placed(self, scenario: Scenario, both: Both) -> tuple[Weights, list[FloatArray]]:
        """Weights of popularity and words that validation rows choose; test scores with them."""
        prior = self._prior()
        weights, valid = Weights(), self.valid[scenario]
        if valid.height:
            weights = choose(
                both.valid.scores,
                self.catalogue.candidates(valid),
                positive_columns(valid),
                prior,
                self._words(valid),
            )
        test = self.test[scenario]
        words = self._words(test) if weights.words else None
        candidates = self.catalogue.candidates(test)
        return weights, add(both.test.scores, candidates, prior, words, weights)

    def whole(self, scenario: Scenario, scores: RowScores, weights: Weights) -> RowScores:
        """Scores of the whole catalogue for test rows, popularity and words in their weights."""
        prior = weights.prior * self._prior()
        test = self.test[scenario]
        histories = self.catalogue.history_items(test) if weights.words else []

        def of_rows(part: slice) -> FloatArray:
            found: FloatArray = scores(part) + prior
            if weights.words:
                found += weights.words * self.catalogue.words.catalogue(histories[part])
            return found

        return of_rows

    def _prior(self) -> FloatArray:
        """Popularity (items,), or zeros, which no weight makes count."""
        counts = self.catalogue.domain.train_counts()
        return popularity_prior(counts if self.prior else np.zeros_like(counts))

    def _words(self, rows: pl.DataFrame) -> list[FloatArray] | None:
        """Cosines of the words of each row's candidates, if words count."""
        if not self.words:
            return None
        return self.catalogue.words.scores(
            self.catalogue.history_items(rows), self.catalogue.candidates(rows)
        )
