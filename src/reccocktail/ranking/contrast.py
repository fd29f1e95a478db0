"""What the `dense` ranker learns from: each next item against the other items of its batch."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from reccocktail.ranking.base import Batch


class Contrast(NamedTuple):
    """What a training batch is judged by: P places against U items of its own and K lent ones.

    Attributes:
        logits: (P, U + K).
        wanted: (P,) the column of each place's next item.
        items: (U, d) unit vectors of the batch's own items, with gradient.
    """

    logits: Tensor
    wanted: Tensor
    items: Tensor

    def loss(self) -> Tensor:
        """Mean cross-entropy () of the next items, in nats."""
        return cross_entropy(self.logits, self.wanted)


def against_items(
    users: Tensor, items: Tensor, batch: Batch, temperature: float, correction: float
) -> Contrast:
    """Set each place against the batch's items.

    Items that a place's user touched, but for the next one itself, have the logit -inf. A batch
    with `bank_vectors` (see `training.bank`) has their items behind its own.

    Args:
        users: (B, L, d) unit vectors of the places.
        items: (U, d) unit vectors of the batch's items.
        batch: of `DenseRanker.training_batch`.
        temperature: cosines are divided by it.
        correction: share of log q(item) taken off, in [0, 1].
    """
    targets = batch["targets"]  # (B, L)
    rows, _ = (targets >= 0).nonzero(as_tuple=True)
    wanted = targets[targets >= 0]  # (P,)
    logits = users[targets >= 0] @ items.T / temperature  # (P, U)
    logits = logits - correction * batch["log_q"]
    false_negatives = batch["known"][rows]  # (P, U)
    false_negatives = false_negatives.scatter(1, wanted[:, None], False)
    logits = logits.masked_fill(false_negatives, float("-inf"))
    if "bank_vectors" in batch:
        more = users[targets >= 0] @ batch["bank_vectors"].T / temperature
        more = more - correction * batch["bank_log_q"]
        logits = torch.cat(
            [logits, more.masked_fill(batch["bank_known"][rows], float("-inf"))], dim=1
        )
    return Contrast(logits, wanted, items)


def known_items(column: Mapping[int, int], known: Sequence[set[int]]) -> Tensor:
    """Which of a batch's items each of its users has touched, bool (B, U).

    Args:
        column: item number -> column.
        known: all items that each user has touched.
    """
    found = np.zeros((len(known), len(column)), dtype=bool)
    for row, touched in zip(found, known, strict=True):
        row[[column[item] for item in touched if item in column]] = True
    return torch.from_numpy(found)
