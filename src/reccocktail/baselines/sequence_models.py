"""Small networks that read a sequence of item numbers: SASRec's attention and GRU4Rec's GRU."""

from abc import abstractmethod
from typing import cast

import torch
from torch import Tensor, nn


class SequenceModel(nn.Module):
    """Item embeddings (which are the output layer too) and an encoder that never looks ahead."""

    def __init__(self, items: int, dimension: int, dropout: float) -> None:
        """Make the embeddings; number `items` stands for padding, to the right of a sequence."""
        super().__init__()
        self.padding = items
        self.items = nn.Embedding(items + 1, dimension, padding_idx=items)
        nn.init.normal_(self.items.weight, std=dimension**-0.5)
        with torch.no_grad():
            self.items.weight[items].zero_()
        self.dropout = nn.Dropout(dropout)

    @property
    def catalogue(self) -> Tensor:
        """Output vectors of all items, (items, d)."""
        return self.items.weight[: self.padding]

    @abstractmethod
    def encode(self, embedded: Tensor) -> Tensor:
        """States (sequences, length, d) of embedded items; each knows what stands before it."""

    def forward(self, numbers: Tensor) -> Tensor:
        """States (sequences, length, d) of int64 item numbers (sequences, length)."""
        return self.encode(self.items(numbers))


class AttentionModel(SequenceModel):
    """SASRec (Kang & McAuley 2018): causal self-attention over items and their places."""

    def __init__(
        self, items: int, dimension: int, dropout: float, layers: int, max_history: int
    ) -> None:
        """Make `layers` pre-norm blocks of two heads for sequences of at most `max_history`."""
        super().__init__(items, dimension, dropout)
        self.places = nn.Embedding(max_history, dimension)
        nn.init.normal_(self.places.weight, std=0.02)
        block = nn.TransformerEncoderLayer(
            dimension,
            nhead=2,
            dim_feedforward=4 * dimension,
            dropout=dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(
            block, layers, norm=nn.LayerNorm(dimension), enable_nested_tensor=False
        )

    def encode(self, embedded: Tensor) -> Tensor:
        """States of the last block; padding stands to the right, where no state looks."""
        length = embedded.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        placed = self.dropout(embedded + self.places.weight[:length])
        return cast(Tensor, self.blocks(placed, mask=mask, is_causal=True))


class RecurrentModel(SequenceModel):
    """GRU4Rec (Hidasi et al. 2016) with tied embeddings: a GRU whose states meet the items."""

    def __init__(
        self, items: int, dimension: int, dropout: float, layers: int, max_history: int
    ) -> None:
        """Make `layers` GRU layers; it has no limit of its own, so `max_history` is not needed."""
        super().__init__(items, dimension, dropout)
        self.gru = nn.GRU(
            dimension, dimension, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0
        )
        self.project = nn.Linear(dimension, dimension)

    def encode(self, embedded: Tensor) -> Tensor:
        """States of the last layer."""
        states, _ = self.gru(self.dropout(embedded))
        return cast(Tensor, self.project(self.dropout(states)))
