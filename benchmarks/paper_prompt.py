"""The paper's instruction as supervised fine-tuning: the baseline of `training_throughput.py`.

The text of a prompt is tokenised as a whole, as such training does it. The package's own
`prompting.instruction` tokenises titles apart, so that none can end a turn; that makes other and
more tokens of the same text, and would change what the baseline is measured at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from reccocktail.data.domain import Domain
from reccocktail.prompting.encoding import TokenIds, pad
from reccocktail.ranking.base import hidden_states

CANDIDATES = 30
CUTOFF = 1200  # tokens of one prompt with its answer, as in the paper
SYSTEM = "You are a helpful recommendation assistant."
TASK = (
    "The user has interacted with these items, in this order:\n{history}\n"
    "Choose the item that the user will most likely interact with next, from these candidates:\n"
    "{candidates}\nAnswer with its title."
)
SEPARATOR = " || "


@dataclass(frozen=True)
class Prompt:
    """One example of supervised fine-tuning: the last `answer` of `ids` are to be predicted."""

    ids: TokenIds
    answer: int


class PromptWriter:
    """Writes targets as instructions."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, domain: Domain, seed: int) -> None:
        self._tokenizer = tokenizer
        self._titles = domain.titles
        self._rng = np.random.default_rng(seed)

    def candidates(self, target: int, known: set[int]) -> list[int]:
        """The target among items that the user never touched, in random order."""
        chosen: list[int] = []
        possible = len(self._titles) - len(known)
        while len(chosen) < min(CANDIDATES - 1, possible):
            item = int(self._rng.integers(len(self._titles)))
            if item not in known and item not in chosen:
                chosen.append(item)
        chosen.insert(int(self._rng.integers(len(chosen) + 1)), target)
        return chosen

    def write(self, history: Sequence[int], target: int, known: set[int]) -> Prompt:
        """The example of one target; the oldest items go first where it is longer than `CUTOFF`."""
        candidates = self.candidates(target, known)
        answer = self._tokens(self._titles[target] + (self._tokenizer.eos_token or ""))
        for first in range(len(history)):
            ids = self._tokens(self.text(history[first:], candidates))
            if len(ids) + len(answer) <= CUTOFF:
                break
        return Prompt([*ids, *answer], len(answer))

    def text(self, history: Sequence[int], candidates: Sequence[int]) -> str:
        """The prompt up to the answer, in the backbone's chat format if it has one."""
        task = TASK.format(
            history=SEPARATOR.join(self._titles[item] for item in history),
            candidates=SEPARATOR.join(self._titles[item] for item in candidates),
        )
        if not self._tokenizer.chat_template:
            return f"{SYSTEM}\n{task}\n"
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": task}]
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        assert isinstance(text, str)
        return text

    def _tokens(self, text: str) -> TokenIds:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


class ShortTitles(PromptWriter):
    """The same with titles cut at `title_tokens`."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, domain: Domain, seed: int, title_tokens: int
    ) -> None:
        super().__init__(tokenizer, domain, seed)
        cut = tokenizer(domain.titles, add_special_tokens=False)["input_ids"]
        self._titles = tokenizer.batch_decode([ids[:title_tokens] for ids in cut])


def prompt_loss(model: Any, prompts: Sequence[Prompt]) -> Tensor:
    """Mean cross-entropy in nats of the answers' tokens; logits are computed for them alone."""
    device = next(model.parameters()).device
    hidden = hidden_states(model, pad([p.ids for p in prompts], 0).to(device))  # (B, T, d)
    rows, columns, wanted = [], [], []
    for row, prompt in enumerate(prompts):
        start = len(prompt.ids) - prompt.answer
        rows += [row] * prompt.answer
        columns += range(start - 1, len(prompt.ids) - 1)  # the state before a token predicts it
        wanted += prompt.ids[start:]
    states = hidden[torch.tensor(rows, device=device), torch.tensor(columns, device=device)]
    logits = model.get_output_embeddings()(states)  # (answer tokens, vocabulary)
    return cross_entropy(logits.float(), torch.tensor(wanted, device=device))
