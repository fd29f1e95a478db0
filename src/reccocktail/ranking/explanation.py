"""A reason in words for one item: a title of the history, chosen by the model, and its own words.

The sentence is built so that it cannot cite what the user never had: the title behind its opening
is decoded along a trie of the history's titles. What follows is free, greedy and bounded, without
quotation marks, and dropped where it fails a check of form (`ranking.faithful`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from reccocktail.prompting.encoding import TokenIds
from reccocktail.prompting.instruction import Instruction
from reccocktail.prompting.template import ExplanationTemplate, load
from reccocktail.ranking.base import Model
from reccocktail.ranking.continuation import Context
from reccocktail.ranking.faithful import QUOTES, Titles, ends, faults_of, one_line
from reccocktail.ranking.trie import Trie, distinct
from reccocktail.recipe import PromptSettings

FREE_TOKENS = 40
"""The model's own words are at most so many tokens."""
TITLE_CHARACTERS, FREE_CHARACTERS = 100, 240
"""A title, and the model's own words, are shown up to so many characters."""


@dataclass(frozen=True)
class Reason:
    """Why an item may suit a user, in one sentence.

    Attributes:
        text: the sentence, on one line; what it quotes is a title of the history and the item's.
        cited: place in the history (0 is the oldest) of the title that it cites.
        continuation: what the model wrote freely, cleaned, whether it is in `text` or not.
        faults: what is wrong with the continuation, of `faithful.FAULTS`; with any, it is left out
            of `text`.
    """

    text: str
    cited: int
    continuation: str
    faults: tuple[str, ...]


class Explainer:
    """Writes reasons with any causal language model; no `generation_config` is read.

    Attributes:
        tokenizer: the backbone's.
        instruction: writes the prompt.
        opening: tokens of a reason up to the title that it cites.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: PromptSettings,
        titles: Titles,
        template: str = "explanation",
    ) -> None:
        """Bind wording and truncation to a backbone's tokenizer.

        Args:
            tokenizer: the backbone's.
            prompt: truncation of titles and histories.
            titles: of the catalogue, for the checks.
            template: a shipped template of explanations, or a YAML file.

        Raises:
            RecipeError, BackboneError: see `template.load` and `Instruction`.
        """
        self.template = load(template, ExplanationTemplate)
        self.tokenizer, self._prompt, self._titles = tokenizer, prompt, titles
        self.instruction = Instruction(tokenizer, self.template, prompt.title_tokens, prompt.cutoff)
        pieces = [self.template.opening, self.template.middle, self.template.closing]
        self.opening, self._middle, self._closing = self.instruction.tokens(pieces)

    @property
    def template_sha256(self) -> str:
        """Hash of the wording."""
        return self.template.sha256

    @torch.no_grad()
    def reason(self, model: Model, history: Sequence[str], item: str) -> Reason:
        """The reason for one item.

        Args:
            model: a language model, best with the adapter that ranked.
            history: titles, oldest first, at least one; the last `max_history` are read.
            item: the recommended item's title.
        """
        first = max(0, len(history) - self._prompt.max_history)
        read = [*history[first:]]
        *tokens, own = self.instruction.titles([*read, item])
        # Equal titles are one to a reader: the latest of them may be cited.
        places = {tuple(title): place for place, title in enumerate(tokens) if title}
        marked = distinct(
            [list(title) for title in places],
            [self._middle],
            lambda n: self.instruction.tokens([f" ({n})"])[0],
        )
        answer = len(self.opening) + len(self._middle) + len(own) + len(self._closing)
        room = answer + max(len(title) for title in marked) + FREE_TOKENS
        prompt = self.instruction.prompt(tokens, [own], room)
        device = next(model.parameters()).device
        context = Context(model, torch.tensor([*prompt, *self.opening], device=device))
        trie = Trie([title + self._middle for title in marked])

        def look(prefix: TokenIds, options: dict[int, int]) -> list[float]:
            following = context.next(prefix)
            return [float(following[token]) for token in options]

        path = trie.greedy(look)
        cited = list(places.values())[trie.leaf(path)]
        continuation = one_line(self._free(context, path + own + self._closing), FREE_CHARACTERS)
        faults = faults_of(continuation, [*read, item], self._titles)
        return Reason(
            self._sentence(read[cited], item, "" if faults else continuation),
            first + cited,
            continuation,
            faults,
        )

    def _sentence(self, cited: str, item: str, continuation: str) -> str:
        template = self.template
        titles = [one_line(title, TITLE_CHARACTERS) for title in (cited, item)]
        start = f"{template.opening}{titles[0]}{template.middle}{titles[1]}"
        return (
            f"{start}{template.closing} {continuation}"
            if continuation
            else (f"{start}{template.short}")
        )

    def _free(self, context: Context, written: TokenIds) -> str:
        """The likeliest next tokens until a sentence ends, at most `FREE_TOKENS`."""
        fresh: TokenIds = []
        text = ""
        end = self.instruction.end[0]
        while len(fresh) < FREE_TOKENS:
            following = context.next([*written, *fresh])
            allowed = self._allowed.to(following.device)
            following = following[: len(allowed)].masked_fill(~allowed, float("-inf"))
            token = int(following.argmax())
            if token == end:
                break
            fresh.append(token)
            text = str(self.tokenizer.decode(fresh, skip_special_tokens=True))
            if ends(text):
                break
        return text

    @cached_property
    def _allowed(self) -> Tensor:
        """Tokens that may be written (vocabulary,): no quotation, no new line, none but the end."""
        size = len(self.tokenizer)
        special = set(self.tokenizer.all_special_ids) - set(self.instruction.end)
        texts = self.tokenizer.batch_decode([[token] for token in range(size)])
        return torch.tensor(
            [
                token not in special and not any(c in QUOTES or c in "\r\n" for c in text)
                for token, text in enumerate(texts)
            ]
        )
