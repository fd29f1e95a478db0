"""What rankers that read candidates in the prompt share: examples with negatives, batches."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from reccocktail.prompting.encoding import TokenIds
from reccocktail.prompting.instruction import Instruction
from reccocktail.prompting.template import InstructionTemplate, load
from reccocktail.ranking.base import Batch, Model
from reccocktail.ranking.trie import distinct
from reccocktail.recipe import ChoiceSettings, GenerateSettings, PromptSettings

NEGATIVES = 29  # beside the target in a training prompt, as in the paper


@dataclass(frozen=True)
class Example:
    """One training prompt: title tokens, and which candidate comes next."""

    history: list[TokenIds]
    candidates: list[TokenIds]
    positive: int


class PromptRanker(ABC):
    """Base of `generate` and `choice`: one prompt holds a user's history and its candidates."""

    packed = False
    readout_sha256: str | None = None
    gradient_users = 2

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: PromptSettings,
        own: GenerateSettings | ChoiceSettings,
        wording: Mapping[str, str] | None = None,
    ) -> None:
        """Bind wording and truncation to a backbone's tokenizer.

        Args:
            tokenizer: the backbone's.
            prompt: truncation.
            own: the ranker's settings, its template among them.
            wording: see `template.load`.

        Raises:
            RecipeError, BackboneError: see `template.load` and `Instruction`.
        """
        self.prompt = prompt
        self.settings: dict[str, object] = own.model_dump(exclude={"template"})
        self.template = load(own.template, InstructionTemplate, wording)
        self.instruction = Instruction(tokenizer, self.template, prompt.title_tokens, prompt.cutoff)

    @property
    def template_sha256(self) -> str:
        """Hash of the wording."""
        return self.template.sha256

    def titles(self, titles: Sequence[str]) -> list[TokenIds]:
        """Token ids of each title, cut at `title_tokens`."""
        return self.instruction.titles(titles)

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
        """One prompt a window: its last item among negatives that the user never touched.

        Args:
            windows: item numbers in time order; the last one is the target.
            known: all items that each window's user has touched.
            titles: token ids of every item of the domain.
            log_q: not used; negatives are drawn evenly, as they are for the evaluation.
            pool: items that may be negatives.
            negatives: not used; each prompt draws its own.
            rng: draws negatives and order.

        Returns:
            See `example_batch` of the ranker.
        """
        rng = rng if rng is not None else np.random.default_rng(0)
        items = np.asarray(pool, dtype=np.int64)
        return self.example_batch(
            [
                self._example(window, touched, titles, items, rng)
                for window, touched in zip(windows, known, strict=True)
            ]
        )

    @abstractmethod
    def example_batch(self, examples: Sequence[Example]) -> Batch:
        """A batch for `loss`."""

    @abstractmethod
    def scores_and_entropy(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores (users, candidates) and entropies (users,)."""

    def entropy(self, model: Model, batch: Batch) -> Tensor:
        """Entropy of each user's prediction (users,) in nats."""
        return self.scores_and_entropy(model, batch)[1]

    def recent(self, history: Sequence[TokenIds]) -> list[TokenIds]:
        """The part of a history that is read: its last `max_history` items."""
        return list(history[-self.prompt.max_history :])

    def distinct(
        self, candidates: Sequence[TokenIds], endings: Sequence[TokenIds]
    ) -> list[TokenIds]:
        """Candidates whose titles lead to one item each; see `trie.distinct`."""
        return distinct(candidates, endings, lambda n: self.instruction.tokens([f" ({n})"])[0])

    def _example(
        self,
        window: Sequence[int],
        known: set[int],
        titles: Sequence[TokenIds],
        pool: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> Example:
        *history, target = window
        free = np.setdiff1d(pool, np.fromiter(known, dtype=np.int64), assume_unique=True)
        drawn = rng.choice(free, size=min(NEGATIVES, len(free)), replace=False).tolist()
        positive = int(rng.integers(len(drawn) + 1))
        candidates = [*drawn[:positive], target, *drawn[positive:]]
        return Example(
            self.recent([titles[item] for item in history]),
            [titles[item] for item in candidates],
            positive,
        )
