"""What a ranker is: how training losses, scores and entropies come out of a language model."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from reccocktail.errors import RecipeError
from reccocktail.precision import products_dtype
from reccocktail.prompting.encoding import TokenIds
from reccocktail.prompting.prefixes import Forest
from reccocktail.prompting.template import Template
from reccocktail.recipe import PromptSettings

Batch = dict[str, Tensor]

# Padded tokens of one forward pass.
LARGE_PASS, ROUNDED_PASS, SMALL_PASS = 4096, 1024, 512
GPU_NUMBERS = 2**24  # of a state of every token of a pass: small models take more tokens


class Model(Protocol):
    """A causal language model with or without adapters."""

    config: Any
    forward: Any
    """What a call runs; its signature tells the arguments."""

    def get_decoder(self) -> Any:
        """The stack of layers below the vocabulary head, called with `input_ids`."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights; they tell the device."""
        ...

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        """The whole model, with the arguments and the output of `transformers`."""
        ...


class Ranker(Protocol):
    """How scores come out of the language model; this is all that the rest knows of a ranker.

    Titles are tokenised once a domain (`titles`); batches are made of token ids and item numbers.
    """

    @property
    def prompt(self) -> PromptSettings:
        """Truncation of titles and histories."""
        ...

    @property
    def template(self) -> Template:
        """The wording."""
        ...

    @property
    def template_sha256(self) -> str:
        """Hash of the wording, which goes into every adapter's card."""
        ...

    @property
    def readout_sha256(self) -> str | None:
        """Hash of the fixed numbers beside the backbone's (see `ranking.readout`), if any."""
        ...

    @property
    def settings(self) -> dict[str, object]:
        """All that scores come from beside the model, the wording, the readout and `prompt`."""
        ...

    @property
    def packed(self) -> bool:
        """Whether every place of a window but the first is a target, or its last item alone."""
        ...

    @property
    def gradient_users(self) -> int:
        """Users in one pass with gradient (the search of coefficients), for memory's sake."""
        ...

    def titles(self, titles: Sequence[str]) -> list[TokenIds]:
        """Token ids of each title, cut."""
        ...

    def training_batch(
        self,
        windows: Sequence[Sequence[int]],
        known: Sequence[set[int]],
        titles: Sequence[TokenIds],
        log_q: Tensor,
        *,
        pool: Sequence[int] = (),
        negatives: Sequence[int] = (),
        rng: np.random.Generator | None = None,
    ) -> Batch:
        """A batch for `loss`.

        Args:
            windows: item numbers of pieces of histories in time order.
            known: all items that each window's user has touched.
            titles: token ids of every item of the domain.
            log_q: (items,) log sampling probability of each item of the domain.
            pool: items that may be drawn as negatives.
            negatives: items that are further negatives where histories are packed.
            rng: draws them.
        """
        ...

    def ranking_batch(
        self,
        histories: Sequence[Sequence[TokenIds]],
        candidates: Sequence[Sequence[int]],
        titles: Sequence[TokenIds],
    ) -> Batch:
        """A batch for `scores` and `entropy`: users with candidates (item numbers)."""
        ...

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Mean training loss of a batch in nats, a scalar with gradient."""
        ...

    def scores(self, model: Model, batch: Batch) -> Tensor:
        """Scores (users, candidates), higher is better, in units of logits."""
        ...

    def entropy(self, model: Model, batch: Batch) -> Tensor:
        """Entropy of each user's prediction (users,) in nats: the mixing objective (Eq. 8)."""
        ...

    def scores_and_entropy(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both, for the price of what they share."""
        ...


def pass_tokens(model: Model) -> int:
    """Padded tokens that one forward pass should hold.

    A CPU is fastest where the states of a pass stay in its caches (benchmarks/pass_tokens.py); in
    bfloat16 every pass rounds all weights anew, so passes are larger. A GPU wants to be full: the
    launches of a small model's kernels take longer than they do.
    """
    device = next(model.parameters()).device.type
    if device == "cuda":
        return max(LARGE_PASS, GPU_NUMBERS // int(model.config.hidden_size))
    if device != "cpu":
        return LARGE_PASS
    return SMALL_PASS if products_dtype(model) == torch.float32 else ROUNDED_PASS


def hidden_states(model: Model, input_ids: Tensor, depth: int | None = None) -> Tensor:
    """Last hidden states (sequences, tokens, width) of right-padded ids (sequences, tokens).

    No attention mask is given: padding stands to the right, where causal attention never looks.
    With a `depth`, only so many of the lowest layers are run, and the final norm after them.
    """
    decoder = first_layers(model.get_decoder(), depth)
    output: Tensor = decoder(input_ids=input_ids, use_cache=False).last_hidden_state
    return output


def tree_states(model: Model, forest: Forest, depth: int | None = None) -> Tensor:
    """Last hidden states (rows, tokens, width) of trees of tokens.

    The decoder is given positions and a mask (rows, 1, tokens, tokens). Some decoders heed neither,
    or raise TypeError, ValueError or RuntimeError.
    """
    decoder = first_layers(model.get_decoder(), depth)
    output: Tensor = decoder(
        input_ids=forest.input_ids,
        position_ids=forest.depths,
        attention_mask=forest.follows[:, None],
        use_cache=False,
    ).last_hidden_state
    return output


@contextmanager
def without_dropout(model: Model) -> Iterator[None]:
    """Let a model that is trained drop nothing for the time of the block.

    Nothing but dropout is put into evaluation mode, or compiled layers would be compiled anew.
    """
    modules = model.modules() if isinstance(model, nn.Module) else ()
    dropping = [m for m in modules if isinstance(m, nn.Dropout) and m.training and m.p > 0]
    for module in dropping:
        module.training = False
    try:
        yield
    finally:
        for module in dropping:
            module.training = True


def embeddings(model: Model, input_ids: Tensor) -> Tensor:
    """Input embeddings (sequences, tokens, width) of ids (sequences, tokens)."""
    found: Tensor = model.get_decoder().get_input_embeddings()(input_ids)
    return found


def layers_of(decoder: nn.Module) -> nn.ModuleList:
    """A decoder's layers, in their order.

    Raises:
        RecipeError: it names them otherwise than most (GPT-2 does).
    """
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise RecipeError(
            f"The layers of a {type(decoder).__name__} cannot be counted; leave dense.depth out."
        )
    return layers


def first_layers(decoder: Any, depth: int | None) -> Any:
    """The decoder without the layers above `depth`; the layers that stay are shared, not copied."""
    if depth is None:
        return decoder
    if not isinstance(decoder, nn.Module):  # tensors come from outside (mixing.search)
        return decoder.first_layers(depth)
    shallow = copy.copy(decoder)
    shallow._modules = {**decoder._modules, "layers": layers_of(decoder)[:depth]}
    return shallow


def entropy_of(scores: Tensor) -> Tensor:
    """Shannon entropy of softmax(scores) over the last axis, in nats, from 0 to log n.

    Shapes: (..., n) -> (...,).
    """
    log_p = torch.log_softmax(scores.float(), dim=-1)
    # A candidate that is masked out (-inf) has p = 0 and adds nothing; 0 * -inf would be NaN.
    return -(log_p.exp() * log_p.masked_fill(log_p == float("-inf"), 0.0)).sum(dim=-1)
