"""Ranks of the targets in a whole catalogue, and what stands first in it, by blocks of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import polars as pl

from reccocktail.data.domain import Domain
from reccocktail.evaluation.metrics import FloatArray, IntArray, per_user, ranks, summarise
from reccocktail.evaluation.placing import ROWS
from reccocktail.ranking.scoring import RowScores
from reccocktail.schema import HISTORY, ITEM, TARGET, USER, Scenario

_EXAMPLES: Mapping[Scenario, int] = {"warm": 3, "cold": 2}
_SHOWN = 5


@dataclass
class WholeCatalogue:
    """What models make of all items of a domain.

    Attributes:
        domain: the items.
        seed: of the bootstrap.
        metrics: by model and scenario, as `metrics.summarise` gives them.
    """

    domain: Domain
    seed: int
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    _tops: dict[tuple[Scenario, str], dict[str, list[dict[str, Any]]]] = field(default_factory=dict)

    def record(self, model: str, scenario: Scenario, rows: pl.DataFrame, scores: RowScores) -> None:
        """Rank each target among all items that its user never touched, by any table of the domain.

        Args:
            model: its name.
            scenario: of the rows.
            rows: evaluation rows.
            scores: makes a block's scores (rows, items).
        """
        found: list[IntArray] = []
        for start in range(0, rows.height, ROWS):
            block = rows[start : start + ROWS]
            targets = [self.domain.index[target] for target in block[TARGET].to_list()]
            unknown = self._without_touched(scores(slice(start, start + ROWS)), block, targets)
            found.append(ranks(unknown, np.array(targets)))
            self._keep_tops(model, scenario, block, unknown, _EXAMPLES[scenario] - start)
        values = per_user(np.concatenate(found))
        self.metrics.setdefault(model, {})[scenario] = summarise(values, seed=self.seed)

    def _without_touched(
        self, scores: FloatArray, rows: pl.DataFrame, targets: Sequence[int]
    ) -> FloatArray:
        scores = scores.copy()  # who made them may keep them
        users = zip(rows[USER], rows[HISTORY].to_list(), targets, strict=True)
        for row, (user, history, target) in enumerate(users):
            # Before and after the target alike: what the user chose is no negative.
            touched = {*history, *self._touched.get(user, ())}
            others = {self.domain.index[item] for item in touched} - {target}
            scores[row, list(others)] = -np.inf
        return scores

    @cached_property
    def _touched(self) -> Mapping[str, Sequence[str]]:
        """Items of each user."""
        lists = self.domain.touched.group_by(USER).agg(ITEM)
        return dict(zip(lists[USER], lists[ITEM].to_list(), strict=True))

    def _keep_tops(
        self, model: str, scenario: Scenario, rows: pl.DataFrame, scores: FloatArray, wanted: int
    ) -> None:
        new = self.domain.untouched()
        for user, of_user in zip(rows[USER].head(max(wanted, 0)), scores, strict=False):
            best = np.argsort(-of_user, kind="stable")[:_SHOWN]
            best = best[np.isfinite(of_user[best])].tolist()  # a small catalogue may be all touched
            items = self.domain.items[best]
            self._tops.setdefault((scenario, user), {})[model] = [
                {"title": title, "score": round(float(of_user[item]), 4), "new": bool(new[item])}
                for item, title in zip(best, items["title"], strict=True)
            ]

    def examples(self, tables: Mapping[Scenario, pl.DataFrame]) -> list[dict[str, Any]]:
        """The first users of each table with what every model puts first for them."""
        titles = dict(zip(self.domain.item_ids, self.domain.titles, strict=True))
        examples = []
        for (scenario, user), models in self._tops.items():
            row = tables[scenario].filter(pl.col(USER) == user)
            history = cast(pl.Series, row[HISTORY][0]).to_list()
            examples.append(
                {
                    "user_id": user,
                    "scenario": scenario,
                    "history": [titles[item] for item in history][-10:],
                    "target": titles[row[TARGET][0]],
                    "models": models,
                }
            )
        return examples
