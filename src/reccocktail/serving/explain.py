"""Why a recommendation: what its score rests on, and a reason in words. No HTTP, no printing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reccocktail.backbone import Backbone
from reccocktail.ranking.explanation import Explainer, Reason
from reccocktail.ranking.faithful import Titles
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import scoring

ScoreMany = Callable[[Sequence[Sequence[int]], Sequence[int]], NDArray[np.float64]]
"""(histories of item numbers, items) -> scores (histories, items)."""


@dataclass(frozen=True)
class Influence:
    """One item of the history, and by how much the recommended item's score rests on it.

    `change` is the score with the whole history less the score without this item: above 0, the
    item speaks for the recommendation.
    """

    item_id: str
    title: str
    change: float


@dataclass(frozen=True)
class Explanation:
    """Why one item is recommended.

    Attributes:
        influences: the items of the history that were read, what speaks most for the item first;
            empty where the history is a single item, which cannot be left out.
        reason: in words; None where the adapter does not write.
    """

    influences: tuple[Influence, ...]
    reason: Reason | None


def leave_one_out(
    history: Sequence[int], items: Sequence[int], score_many: ScoreMany, max_history: int
) -> tuple[list[int], NDArray[np.float64]]:
    """Change of each item's score when one item of the history is left out.

    Only what is read is left out, and nothing older moves up in its place: the change is that
    item's alone. An item that was touched twice is left out at both places.

    Args:
        history: item numbers, oldest first.
        items: item numbers to explain.
        score_many: exact scores, with everything else as it was.
        max_history: items that the ranker reads.

    Returns:
        The items that were left out, oldest first, and changes (left out, items), scores with less
        scores without.
    """
    read = list(history[-max_history:])
    kinds = list(dict.fromkeys(read))
    if len(kinds) < 2:
        return [], np.empty((0, len(items)))
    scores = score_many([read, *([i for i in read if i != kind] for kind in kinds)], items)
    return kinds, scores[0] - scores[1:]


class Writer:
    """Reasons in words, by an adapter that was trained to write."""

    def __init__(self, adapter: Adapter, backbone: Backbone, titles: Sequence[str]) -> None:
        """Tokenise the wording.

        Args:
            adapter: of the ranker `generate`.
            backbone: the language model it was made on.
            titles: of the catalogue.
        """
        self._lora, self._backbone = adapter.lora, backbone
        self.explainer = Explainer(backbone.tokenizer, adapter.card.recipe.prompt, Titles(titles))

    def reasons(self, history: Sequence[str], items: Sequence[str]) -> list[Reason]:
        """A reason for each item's title, from the history's titles."""
        with scoring(self._backbone, self._lora) as model:
            return [self.explainer.reason(model, history, item) for item in items]
