"""Titles to tokens: truncation, packing of histories, padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from reccocktail.prompting.template import DenseTemplate

TokenIds = list[int]


def plain_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[TokenIds]:
    """Tokens of texts, none of them special: a title is data, "<|im_end|>" inside one is text."""
    if not texts:
        return []
    found = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
    return [list(ids) for ids in found["input_ids"]]


@dataclass(frozen=True)
class Encoded:
    """Right-padded token ids with the positions at which states are read.

    Attributes:
        input_ids: int64 (sequences, tokens). Padding stands to the right, where causal attention
            never looks.
        positions: int64 (sequences, states), the token whose hidden state is read; -1 where there
            is none.
    """

    input_ids: Tensor
    positions: Tensor


class DenseEncoder:
    """Tokenises each title once and builds item and packed history sequences from the pieces."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: DenseTemplate, title_tokens: int
    ) -> None:
        """Tokenise the template; `title_tokens` is the number of tokens kept of each title."""
        self._tokenizer = tokenizer
        self._title_tokens = title_tokens
        self._pad = int(tokenizer.pad_token_id or 0)
        pieces = (
            template.history_prefix,
            template.separator,
            template.item_prefix,
            template.item_suffix,
        )
        self._history_prefix, self._separator, self._item_prefix, self._item_suffix = plain_tokens(
            tokenizer, pieces
        )

    @property
    def history_start(self) -> int:
        """Number of tokens before a history's first title."""
        return len(self._history_prefix)

    @property
    def item_start(self) -> int:
        """Number of tokens before an item's title."""
        return len(self._item_prefix)

    def titles(self, titles: Sequence[str]) -> list[TokenIds]:
        """Token ids of each title, cut at `title_tokens`."""
        return [ids[: self._title_tokens] for ids in plain_tokens(self._tokenizer, titles)]

    def item(self, title: TokenIds) -> TokenIds:
        """One item's sequence; its state is read at the last token."""
        return [*self._item_prefix, *title, *self._item_suffix]

    def history(self, titles: Sequence[TokenIds]) -> tuple[TokenIds, list[int]]:
        """A packed history and the positions of its states: after each title, what comes next?"""
        ids = list(self._history_prefix)
        positions = []
        for title in titles:
            ids += self.line(title)
            positions.append(len(ids) - 1)
        return ids, positions

    def line(self, title: TokenIds) -> TokenIds:
        """A title as one of a history's."""
        return [*title, *self._separator]

    def items_batch(self, titles: Sequence[TokenIds]) -> Encoded:
        """Pad items to one batch; positions are (items, 1)."""
        return self.pad_items([self.item(title) for title in titles])

    def pad_items(self, sequences: Sequence[TokenIds]) -> Encoded:
        """The same from the items' sequences."""
        return self._pad_batch(sequences, [[len(ids) - 1] for ids in sequences])

    def histories_batch(self, histories: Sequence[Sequence[TokenIds]], *, every: bool) -> Encoded:
        """Pad histories to one batch.

        Positions are (histories, longest history), or the last state only unless `every`.
        """
        packed = [self.history(titles) for titles in histories]
        return self._pad_batch(
            [ids for ids, _ in packed],
            [positions if every else positions[-1:] for _, positions in packed],
        )

    def _pad_batch(self, sequences: Sequence[TokenIds], positions: Sequence[list[int]]) -> Encoded:
        return Encoded(pad(sequences, self._pad), pad(positions, -1))


def pad(rows: Sequence[Sequence[int] | NDArray[np.intp]], value: int) -> Tensor:
    """Stack ragged rows into an int64 tensor (rows, longest), filled on the right with `value`."""
    width = max((len(row) for row in rows), default=0)
    out = torch.full((len(rows), width), value, dtype=torch.int64)
    for index, row in enumerate(rows):
        out[index, : len(row)] = torch.as_tensor(row, dtype=torch.int64)
    return out


def length_batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Group sequence numbers into batches of similar length, at most `tokens` padded tokens each.

    Padding is the largest waste on a CPU; sorting by length all but removes it. A sequence longer
    than `tokens` gets a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    batches: list[list[int]] = []
    for index in order:
        # Ascending lengths: the newcomer is the longest of its batch.
        if batches and (len(batches[-1]) + 1) * lengths[index] <= tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
