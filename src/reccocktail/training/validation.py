"""Ranking quality of a model on a few validation users, while it trains."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from reccocktail.data.domain import sample_rows
from reccocktail.evaluation.metrics import IntArray, per_user, ranks
from reccocktail.ranking.base import Model, Ranker
from reccocktail.ranking.scoring import Catalogue, positive_columns, score


class Validation:
    """Mean NDCG@10 over the validation rows of each domain, warm."""

    def __init__(self, catalogues: Sequence[Catalogue[Ranker]], users: int, seed: int) -> None:
        """Draw the users of each domain once, so that the figures of a run can be compared."""
        drawn = [(c, sample_rows(c.domain.rows("valid_warm"), users, seed)) for c in catalogues]
        self._parts = [(catalogue, rows) for catalogue, rows in drawn if rows.height]

    def ranks(self, model: Model) -> dict[str, IntArray]:
        """Rank of each drawn user's next item, from 0, by domain.

        Of domains of one name the second is ``<domain> (2)``, and so on.
        """
        found: dict[str, IntArray] = {}
        seen: Counter[str] = Counter()
        for catalogue, rows in self._parts:
            name = catalogue.domain.name
            seen[name] += 1
            if seen[name] > 1:
                name = f"{name} ({seen[name]})"
            label = f"Validating on {name}"
            (found_here,) = score(model, catalogue, [rows], label, entropy=False)
            found[name] = ranks(found_here.scores, positive_columns(rows))
        return found

    def __call__(self, model: Model) -> dict[str, float]:
        """``ndcg@10/<domain>`` of each domain and ``ndcg@10``, their mean; empty without users."""
        found = {
            f"ndcg@10/{name}": float(per_user(places)["ndcg@10"].mean())
            for name, places in self.ranks(model).items()
        }
        if found:
            found["ndcg@10"] = float(np.mean(list(found.values())))
        return found
