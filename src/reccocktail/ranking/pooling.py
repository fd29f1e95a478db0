"""From the states of a text's tokens to one vector: the last one's, or their mean."""

from torch import Tensor
from torch.nn.functional import normalize

from reccocktail.prompting.prefixes import Forest


def pool(hidden: Tensor, positions: Tensor, start: int, pooling: str) -> Tensor:
    """Unit states (sequences, states, d): of the last token, or the mean from `start` up to it."""
    index = positions.clamp(min=0)[:, :, None].expand(-1, -1, hidden.shape[-1])
    if pooling == "mean":
        # A sum over the tokens needs float32. The division by their number falls to normalize.
        hidden = normalize(hidden.float(), dim=-1)[:, start:].cumsum(dim=1)
        index = (index - start).clamp(min=0)
    return normalize(hidden.gather(1, index).float(), dim=-1)


def pool_tree(hidden: Tensor, forest: Forest, start: int, pooling: str) -> Tensor:
    """`pool` for the sequences that end in a forest: (sequences, d), in the order of its `ends`."""
    rows, places = forest.ends.T
    if pooling == "last":
        return normalize(hidden[rows, places].float(), dim=-1)
    counted = forest.follows & (forest.depths >= start)[:, None]
    sums = counted.float() @ normalize(hidden.float(), dim=-1)
    return normalize(sums[rows, places], dim=-1)
