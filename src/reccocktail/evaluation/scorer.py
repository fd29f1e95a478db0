"""Scores of any LoRA on the rows of one evaluation; what was scored once is not scored again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from reccocktail.backbone import Backbone
from reccocktail.evaluation.metrics import FloatArray
from reccocktail.ranking.base import Ranker
from reccocktail.ranking.prior import choose_weight, popularity_prior, with_prior
from reccocktail.ranking.scoring import Catalogue, Scored, positive_columns, score
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
    """

    backbone: Backbone
    catalogue: Catalogue[Ranker]
    test: Mapping[Scenario, pl.DataFrame]
    valid: Mapping[Scenario, pl.DataFrame]
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

    def placed(self, scenario: Scenario, both: Both) -> tuple[float, list[FloatArray]]:
        """The popularity prior's weight that validation rows choose, and test scores with it."""
        prior = popularity_prior(self.catalogue.domain.train_counts())
        weight, valid = 0.0, self.valid[scenario]
        if valid.height:
            weight = choose_weight(
                both.valid.scores, self.catalogue.candidates(valid), positive_columns(valid), prior
            )
        candidates = self.catalogue.candidates(self.test[scenario])
        return weight, with_prior(both.test.scores, candidates, prior, weight)
