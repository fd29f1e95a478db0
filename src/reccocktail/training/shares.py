"""One process's share of a packed batch, such that all shares together are the batch.

The negatives of a target are the items of the whole batch, whoever encodes them, so losses and
gradients are those of one process but for the order in which numbers are added up.
"""

import torch
from torch import Tensor

from reccocktail.ranking.base import Batch

_OF_WINDOWS = ("history_ids", "positions", "ids", "targets", "known", "touched")
_OF_ITEMS = ("item_ids", "item_positions")


def share_of(batch: Batch, number: int, processes: int) -> Batch:
    """The share of process `number`: every so many-th window, every so many-th item.

    Args:
        batch: of a ranker that is `packed`.
        number: of the process, from 0.
        processes: how many there are.

    Returns:
        The batch with the share's windows, and its items' tokens alone: ceil(U / processes) of
        them in every process, because vectors are gathered in equal numbers. A process for which
        nothing is left repeats a window or an item. And `shared` (): the items are encoded by all
        processes; `weight` (): factor on the share's mean loss that makes the mean over the
        processes the mean over the batch's targets, 0 for a repeated window.
    """
    windows = len(batch["targets"])
    mine = torch.arange(number, windows, processes)
    places = batch["targets"] >= 0
    weight = processes * places[mine].sum() / places.sum()
    if not len(mine):
        mine = torch.tensor([number % windows])
    share: dict[str, Tensor] = dict(batch) | {"weight": weight.float()}
    share |= {name: batch[name][mine] for name in _OF_WINDOWS if name in batch}
    if "items" not in batch:
        return share
    items = len(batch["items"])
    encoded = (number + torch.arange(-(-items // processes)) * processes) % items
    share |= {name: batch[name][encoded] for name in _OF_ITEMS}
    return share | {"shared": torch.tensor(True)}
