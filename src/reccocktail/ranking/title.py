"""The `title` ranker: how well does an item's title go on with the titles of the history?

The history is written one title a line, and the language model says how likely each candidate is as
the next line. Nothing is asked and no candidate is shown, so what a prompt costs does not grow with
the candidates, and every title of a packed history but the first is a training example: language
models as recommenders by next-title likelihood (Zhang et al., 2021). Lists of titles are what
language models have read, so that a bare one ranks this way before any training.

A candidate's score is the mean log-probability of the tokens of its title and of the line's end.
Their sum, the probability of the whole title, falls with every further token.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from reccocktail.errors import RecipeError
from reccocktail.prompting.encoding import DenseEncoder, TokenIds, pad
from reccocktail.prompting.template import DenseTemplate, load
from reccocktail.ranking.answers import NO_TOKEN, answers_batch, logits_at, stacked, users_of
from reccocktail.ranking.base import Batch, Model, entropy_of
from reccocktail.ranking.continuation import LinesReader
from reccocktail.recipe import PromptSettings, TitleSettings


class TitleRanker:
    """Mean log-likelihood of a title as the next line, over a temperature."""

    packed = True
    readout_sha256: str | None = None
    gradient_users = 2

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: PromptSettings,
        title: TitleSettings,
        wording: Mapping[str, str] | None = None,
    ) -> None:
        """Bind wording and truncation to a backbone's tokenizer.

        Args:
            tokenizer: the backbone's.
            prompt: wording and truncation; of the wording, what stands around a history's titles.
            title: the temperature.
            wording: see `template.load`.

        Raises:
            RecipeError: see `template.load`, or nothing separates the titles.
        """
        self.prompt = prompt
        self.settings: dict[str, object] = title.model_dump()
        self.temperature = title.temperature
        self.template = load(prompt.template, DenseTemplate, wording)
        if not self.template.separator:
            raise RecipeError(
                "The title ranker needs an end for each title; give the template a separator."
            )
        self.encoder = DenseEncoder(tokenizer, self.template, prompt.title_tokens)
        self.read = LinesReader()

    @property
    def template_sha256(self) -> str:
        """Hash of the wording."""
        return self.template.sha256

    # -- batches ------------------------------------------------------------------------------

    def titles(self, titles: Sequence[str]) -> list[TokenIds]:
        """Token ids of each title, cut at `title_tokens`."""
        return self.encoder.titles(titles)

    def training_batch(
        self,
        windows: Sequence[Sequence[int]],
        known: Sequence[set[int]],
        titles: Sequence[TokenIds],
        log_q: Tensor,
        *,
        pool: Sequence[int] = (),
        negatives: Sequence[int] = (),
        rng: np.random.Generator | None = None,
    ) -> Batch:
        """Packed histories, each title of which but the first is taught.

        Args:
            windows: item numbers of each history in time order.
            known: not used; there are no negatives.
            titles: token ids of every item of the domain.
            log_q: not used.
            pool: not used.
            negatives: not used.
            rng: not used; nothing is drawn.

        Returns:
            ids (B, T), padded with -1, and targets (B, T): the token that follows, where it belongs
            to a title that is taught or ends one, else -1.
        """
        rows, targets = [], []
        for window in windows:
            ids, ends = self.encoder.history([titles[item] for item in window])
            rows.append(ids)
            targets.append([*[NO_TOKEN] * ends[0], *ids[ends[0] + 1 :]])
        taught = pad(targets, NO_TOKEN)
        # Nothing follows the last token of a row.
        return {
            "ids": pad(rows, NO_TOKEN),
            "targets": torch.nn.functional.pad(taught, (0, 1), value=NO_TOKEN),
        }

    def ranking_batch(
        self,
        histories: Sequence[Sequence[TokenIds]],
        candidates: Sequence[Sequence[int]],
        titles: Sequence[TokenIds],
    ) -> Batch:
        """The histories, and the candidates' titles as their next line; see `answers_batch`."""
        prompts = [self.encoder.history(history[-self.prompt.max_history :])[0]
                   for history in histories]  # fmt: skip
        answers = [[self.encoder.line(titles[item]) for item in row] for row in candidates]
        return answers_batch(prompts, answers, [list(range(len(row))) for row in answers])

    # -- the Ranker protocol ------------------------------------------------------------------

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of the taught titles' tokens, nats a token."""
        targets = batch["targets"]
        rows, columns = (targets != NO_TOKEN).nonzero(as_tuple=True)
        return cross_entropy(logits_at(model, batch["ids"], rows, columns), targets[rows, columns])

    def scores(self, model: Model, batch: Batch) -> Tensor:
        """Mean log-likelihoods (users, candidates) over the temperature; -inf for padding."""
        prompts, paths, _ = zip(*users_of(batch), strict=True)
        return stacked(
            [
                torch.stack([line.mean() for line in lines]) / self.temperature
                for lines in self.read(model, prompts, paths)
            ]
        )

    def entropy(self, model: Model, batch: Batch) -> Tensor:
        """Entropy over the candidates (users,), in nats, in [0, log(candidates)]."""
        return entropy_of(self.scores(model, batch))

    def scores_and_entropy(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both, from one reading."""
        scores = self.scores(model, batch)
        return scores, entropy_of(scores)
