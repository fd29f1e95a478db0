"""A history and candidates as one instruction, in the backbone's own chat format if it has one.

Prompts are put together from token pieces: the words of the template and of the chat format, and
titles. Titles are data: they are tokenised apart, with special tokens split, so that no title can
end a turn or start another.
"""

import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from reccocktail.errors import BackboneError
from reccocktail.prompting.encoding import TokenIds, plain_tokens
from reccocktail.prompting.template import InstructionTemplate

_CONTENT, _ANSWER = "THE-CONTENT-OF-THE-TURN", "THE-ANSWER-OF-THE-TURN"
# Templates that print today's date take it from here; a prompt must not depend on the day.
_CHAT: dict[str, Any] = {"enable_thinking": False, "date_string": "26 Jul 2024"}
_YEAR = re.compile(r"\s*\((\s*\d){4}\s*\)\s*$")  # some tokenizers put spaces between digits


class Instruction:
    """Writes prompts and answers as tokens.

    Attributes:
        separator: tokens between the titles of an answer.
        end: the token that ends an answer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: InstructionTemplate,
        title_tokens: int,
        cutoff: int,
    ) -> None:
        """Tokenise the template.

        Args:
            tokenizer: the backbone's; its chat template is used where it has one.
            template: the wording.
            title_tokens: tokens kept of each title.
            cutoff: tokens of a prompt with its answer.

        Raises:
            BackboneError: the chat template takes no plain conversation, or nothing ends an answer.
        """
        self._tokenizer = tokenizer
        self._title_tokens, self._cutoff = title_tokens, cutoff
        head, tail, end = self._chat(template) if tokenizer.chat_template else self._plain(template)
        pieces = [template.before_history, template.before_candidates, template.after_candidates]
        history, candidates, after = self.tokens(pieces)
        self._before_history = [*self._parsed(head), *history]
        self._before_candidates = candidates
        self._after_candidates = [*after, *self._parsed(tail)]
        self._between, self._after_label, self.separator = self.tokens(
            [template.separator, template.after_label, template.answer_separator]
        )
        self.end: TokenIds = [end]

    def _chat(self, template: InstructionTemplate) -> tuple[str, str, int]:
        """Text before and after the content of the user's turn, and the token after an answer."""
        system = {"role": "system", "content": template.system}
        turns = [
            [system, {"role": "user", "content": _CONTENT}],
            # Some formats know no system role.
            [{"role": "user", "content": f"{template.system}\n{_CONTENT}"}],
        ]
        for messages in turns:
            try:
                prompt = self._render(messages, add_generation_prompt=True)
                answered = self._render([*messages, {"role": "assistant", "content": _ANSWER}])
            except TemplateError:
                continue
            head, found, tail = prompt.partition(_CONTENT)
            if found and template.system in head and _ANSWER in answered:
                ending = self._parsed(answered.rpartition(_ANSWER)[2].strip())
                return head, tail, ending[0] if ending else self._eos()
        raise BackboneError(
            "The tokenizer's chat template takes no system line and question; "
            "use another backbone, or ranker dense."
        )

    def _plain(self, template: InstructionTemplate) -> tuple[str, str, int]:
        bos = str(self._tokenizer.bos_token or "")
        return f"{bos}{template.system}\n\n", template.plain_answer, self._eos()

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt, **_CHAT
        )
        assert isinstance(text, str)
        return text

    def _eos(self) -> int:
        if self._tokenizer.eos_token_id is None:
            raise BackboneError(
                "The tokenizer has no token that ends a text; "
                "use another backbone, or ranker dense."
            )
        return int(self._tokenizer.eos_token_id)

    def _parsed(self, text: str) -> TokenIds:
        """Tokens of the chat format, special ones included."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def tokens(self, texts: Sequence[str]) -> list[TokenIds]:
        """Tokens of texts, see `plain_tokens`."""
        return plain_tokens(self._tokenizer, texts)

    def titles(self, titles: Sequence[str]) -> list[TokenIds]:
        """Token ids of each title, cut at `title_tokens`."""
        return [ids[: self._title_tokens] for ids in self.tokens(titles)]

    def variants(self, title: TokenIds) -> list[TokenIds]:
        """Other ways to write a title: behind a space, in quotes, without the year at its end."""
        text = str(self._tokenizer.decode(title))
        return self.tokens([f" {text}", f'"{text}"', _YEAR.sub("", text)])

    def prompt(
        self,
        history: Sequence[TokenIds],
        candidates: Sequence[TokenIds],
        answer_tokens: int,
        labels: Sequence[TokenIds] | None = None,
    ) -> TokenIds:
        """The prompt up to the answer.

        Where prompt and answer are longer than the cutoff, the oldest items of the history give
        way; candidates never do, so a prompt of candidates alone may stay longer.

        Args:
            history: title tokens, oldest first.
            candidates: title tokens in the order of the prompt.
            answer_tokens: length of the longest answer.
            labels: tokens before each candidate; None for none.
        """
        below: TokenIds = list(self._before_candidates)
        for place, title in enumerate(candidates):
            below += self._between if place else []
            below += [*labels[place], *self._after_label] if labels is not None else []
            below += title
        below += self._after_candidates
        room = self._cutoff - len(self._before_history) - len(below) - answer_tokens
        kept: list[TokenIds] = []
        for title in reversed(history):
            room -= len(title) + (len(self._between) if kept else 0)
            if room < 0:
                break
            kept.append(title)
        above = list(self._before_history)
        for place, title in enumerate(reversed(kept)):
            above += self._between if place else []
            above += title
        return above + below
