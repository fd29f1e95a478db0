"""What a ranker is: how training losses, scores and entropies come out of a language model."""

import copy
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]


class Model(Protocol):
    """A causal language model with or without adapters: anything that can name its decoder."""

    def get_decoder(self) -> Any:
        """The stack of layers below the vocabulary head, called with `input_ids`."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights; they tell the device."""
        ...


class Ranker(Protocol):
    """How scores come out of the language model; these three functions are all the rest needs."""

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Mean training loss of a batch in nats, a scalar with gradient."""
        ...

    def scores(self, model: Model, batch: Batch) -> Tensor:
        """Scores (users, candidates), higher is better, in units of logits."""
        ...

    def entropy(self, model: Model, batch: Batch) -> Tensor:
        """Entropy of each user's prediction (users,) in nats: the mixing objective (Eq. 8)."""
        ...


def hidden_states(model: Model, input_ids: Tensor, depth: int | None = None) -> Tensor:
    """Last hidden states (sequences, tokens, width) of right-padded ids (sequences, tokens).

    No attention mask is given: padding stands to the right, where causal attention never looks.
    With a `depth`, only so many of the lowest layers are run, and the final norm after them.
    """
    decoder = first_layers(model.get_decoder(), depth)
    output: Tensor = decoder(input_ids=input_ids, use_cache=False).last_hidden_state
    return output


def first_layers(decoder: Any, depth: int | None) -> Any:
    """The decoder without the layers above `depth`; the layers that stay are shared, not copied."""
    if depth is None:
        return decoder
    if not isinstance(decoder, nn.Module):  # tensors come from outside (mixing.search)
        return decoder.first_layers(depth)
    layers = decoder.layers
    assert isinstance(layers, nn.ModuleList)
    shallow = copy.copy(decoder)
    shallow._modules = {**decoder._modules, "layers": layers[:depth]}
    return shallow


def entropy_of(scores: Tensor) -> Tensor:
    """Shannon entropy of softmax(scores) over the last axis, in nats, from 0 to log n.

    Shapes: (..., n) -> (...,).
    """
    log_p = torch.log_softmax(scores.float(), dim=-1)
    # A candidate that is masked out (-inf) has p = 0 and adds nothing; 0 * -inf would be NaN.
    return -(log_p.exp() * log_p.masked_fill(log_p == float("-inf"), 0.0)).sum(dim=-1)
