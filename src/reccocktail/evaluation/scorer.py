"""Scores of any LoRA on the rows of one evaluation; what was scored once is not scored again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from reccocktail.backbone import Backbone
from reccocktail.evaluation.metrics import FloatArray
from reccocktail.evaluation.placing import Placed, Placing
from reccocktail.ranking.base import Ranker
from reccocktail.ranking.scoring import Catalogue, Scored, score
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
    """Backbone and rows that LoRAs are scored on."""

    backbone: Backbone
    catalogue: Catalogue[Ranker]
    placing: Placing
    _known: dict[tuple[str, Scenario, bool], Both] = field(default_factory=dict)

    @property
    def test(self) -> Mapping[Scenario, pl.DataFrame]:
        """Rows to be scored, by scenario."""
        return self.placing.test

    @property
    def valid(self) -> Mapping[Scenario, pl.DataFrame]:
        """Labelled validation rows, by scenario; may be empty."""
        return self.placing.valid

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
            # Validation rows of one scenario may be those of the other too; they are read once.
            both = [*(self.test[s] for s in missing), *(self.valid[s] for s in missing)]
            tables = {id(rows): rows for rows in both}
            with scoring(self.backbone, lora) as model:
                found = score(
                    model,
                    self.catalogue,
                    list(tables.values()),
                    label,
                    model_sha256=identity,
                    whole_catalogue=whole,
                )
            of = dict(zip(tables, found, strict=True))
            for scenario in missing:
                pair = Both(of[id(self.test[scenario])], of[id(self.valid[scenario])])
                self._known[identity, scenario, whole] = pair
        return {s: self._known[identity, s, whole] for s in scenarios}

    def placed(self, scenario: Scenario, both: Both) -> tuple[Placed, list[FloatArray]]:
        """One model's test scores with what counts beside them (see `Placing.placed`)."""
        return self.placing.placed(scenario, both.test.scores, both.valid.scores)
