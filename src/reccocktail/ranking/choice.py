"""The `choice` ranker: candidates carry letters, and the logits of the letters are the scores.

One forward pass ranks all candidates (LlamaRec, arXiv 2311.02089). Language models favour places,
so scores may be averaged over several orders of the candidates.
"""

import string
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from reccocktail.errors import RecipeError
from reccocktail.prompting.encoding import TokenIds, pad
from reccocktail.ranking.answers import NO_TOKEN, lengths_of, logits_at
from reccocktail.ranking.base import Batch, Model, entropy_of
from reccocktail.ranking.prompted import Example, PromptRanker
from reccocktail.recipe import ChoiceSettings, PromptSettings

LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits


class ChoiceRanker(PromptRanker):
    """Logits of the candidates' letters at the end of the prompt."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: PromptSettings,
        choice: ChoiceSettings,
        wording: Mapping[str, str] | None = None,
    ) -> None:
        """Bind wording, truncation and letters to a backbone's tokenizer.

        Raises:
            RecipeError, BackboneError: see `PromptRanker`.
        """
        super().__init__(tokenizer, prompt, choice, wording)
        self.choice = choice
        self.labels = self._labels(tokenizer.unk_token_id)
        """Token of each letter; every one is a single token that no other letter has."""

    def _labels(self, unknown: int | None) -> list[int]:
        labels: list[int] = []
        for ids in self.instruction.tokens(list(LETTERS)):
            if len(ids) == 1 and ids[0] != unknown and ids[0] not in labels:
                labels.append(ids[0])
        return labels

    # -- batches ------------------------------------------------------------------------------

    def example_batch(self, examples: Sequence[Example]) -> Batch:
        """prompt_ids (B, T), places (B, 1, C; the place of each candidate), positives (B,)."""
        batch = self._batch(
            [example.history for example in examples],
            [example.candidates for example in examples],
            orders=1,
        )
        return batch | {"positives": torch.tensor([example.positive for example in examples])}

    def ranking_batch(
        self,
        histories: Sequence[Sequence[TokenIds]],
        candidates: Sequence[Sequence[int]],
        titles: Sequence[TokenIds],
    ) -> Batch:
        """prompt_ids (B * orders, T) and places (B, orders, C), padded with -1.

        Raises:
            RecipeError: more candidates than the tokenizer has letters.
        """
        return self._batch(
            [self.recent(history) for history in histories],
            [[titles[item] for item in row] for row in candidates],
            orders=self.choice.orders,
        )

    def _batch(
        self,
        histories: Sequence[Sequence[TokenIds]],
        candidates: Sequence[Sequence[TokenIds]],
        orders: int,
    ) -> Batch:
        prompts: list[TokenIds] = []
        places: list[list[int]] = []
        for history, row in zip(histories, candidates, strict=True):
            if len(row) > len(self.labels):
                raise RecipeError(
                    f"The backbone's tokenizer has {len(self.labels)} letters of one token, too "
                    f"few for {len(row)} candidates; use ranker generate or dense."
                )
            labels = [[label] for label in self.labels[: len(row)]]
            for number in range(orders):
                order = _order(len(row), number)
                shown = [row[candidate] for candidate in order]
                prompts.append(self.instruction.prompt(history, shown, 1, labels))
                places.append(np.argsort(order).tolist())
        stacked = pad(places, NO_TOKEN)
        return {
            "prompt_ids": pad(prompts, NO_TOKEN),
            "places": stacked.reshape(len(histories), orders, stacked.shape[1]),
        }

    # -- the Ranker protocol ------------------------------------------------------------------

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Mean cross-entropy of the positives' letters among the letters of their prompts."""
        return cross_entropy(self.scores(model, batch), batch["positives"])

    def scores(self, model: Model, batch: Batch) -> Tensor:
        """Logits of the letters (users, candidates), the mean over the orders; -inf for padding."""
        ids, places = batch["prompt_ids"], batch["places"]
        users, orders, candidates = places.shape
        rows = torch.arange(len(ids), device=ids.device)
        logits = logits_at(model, ids, rows, lengths_of(ids) - 1)  # (B * orders, V)
        letters = torch.tensor(self.labels[:candidates], device=ids.device)
        by_place = logits[:, letters].reshape(users, orders, candidates)
        scores = by_place.gather(2, places.clamp(min=0)).mean(1)
        return scores.masked_fill(places[:, 0] == NO_TOKEN, float("-inf"))

    def scores_and_entropy(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores, and the entropy over the candidates in [0, log(candidates)]."""
        scores = self.scores(model, batch)
        return scores, entropy_of(scores)


def _order(size: int, number: int) -> list[int]:
    """The candidate at each place: as given in the first order, else a permutation of its own."""
    if number == 0:
        return list(range(size))
    drawn: list[int] = np.random.default_rng([number, size]).permutation(size).tolist()
    return drawn
