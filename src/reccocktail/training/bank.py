"""Vectors of items seen lately: more negatives for each target at next to no cost.

A batch holds few items, and encoding more of them is what costs. The vectors that earlier batches
of the same domain computed are a little stale and still tell a good item from a bad one
(cross-batch memory: Wang et al., 2020).
"""

from collections import OrderedDict

import torch
from torch import Tensor

from reccocktail.ranking.base import Batch


class ItemBank:
    """The last vectors of each domain's items, at most `size` a domain, without gradient.

    A kept row is the vector (d,) and, behind it, the item's log q.
    """

    def __init__(self, size: int) -> None:
        """Start empty."""
        self.size = size
        self._vectors: dict[int, OrderedDict[int, Tensor]] = {}

    def negatives(self, batch: Batch) -> Batch:
        """What `DenseRanker.contrast` reads beside the batch itself.

        Args:
            batch: with `domain` (), `items` (U,) and `touched` (B, longest; padded with -1).

        Returns:
            bank_vectors (K, d) of the domain's items that are not in the batch, bank_log_q (K,),
            and bank_known (B, K), which of them each user touched; empty as long as there are none.
        """
        kept = self._vectors.get(int(batch["domain"]), OrderedDict())
        here = set(batch["items"].tolist())
        others = [item for item in kept if item not in here]
        if not others:
            return {}
        numbers = torch.tensor(others, device=batch["touched"].device)
        known = torch.stack([torch.isin(numbers, touched) for touched in batch["touched"]])
        rows = torch.stack([kept[item] for item in others])
        return {"bank_vectors": rows[:, :-1], "bank_log_q": rows[:, -1], "bank_known": known}

    def put(self, batch: Batch, vectors: Tensor) -> None:
        """Keep the vectors (U, d) of a batch's `items`; those that were kept longest make room."""
        rows = torch.cat([vectors.detach(), batch["log_q"][:, None]], dim=1)
        self._keep(int(batch["domain"]), batch["items"].tolist(), rows)

    def _keep(self, domain: int, items: list[int], rows: Tensor) -> None:
        kept = self._vectors.setdefault(domain, OrderedDict())
        for item, row in zip(items, rows, strict=True):
            kept.pop(item, None)
            kept[item] = row.clone()
        while len(kept) > self.size:
            kept.popitem(last=False)

    def state(self) -> dict[str, Tensor]:
        """All that is kept, as tensors for a checkpoint; the order within a domain is its age."""
        tensors: dict[str, Tensor] = {}
        for domain, kept in self._vectors.items():
            tensors[f"{domain}.items"] = torch.tensor(list(kept))
            tensors[f"{domain}.rows"] = torch.stack(list(kept.values())).cpu()
        return tensors

    def restore(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Take what `state` gave."""
        self._vectors = {}
        for name, items in tensors.items():
            domain, _, part = name.partition(".")
            if part == "items":
                rows = tensors[f"{domain}.rows"].to(device)
                self._keep(int(domain), items.tolist(), rows)
