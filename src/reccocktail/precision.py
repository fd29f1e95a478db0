"""What a decoder multiplies in while scores are made: its weights' own dtype, or bfloat16.

Rounded are the factors of the products in the decoder alone. Weights, the states between the
layers and all that is made of the last ones (vectors, cosines, softmax, entropy) stay float32.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import torch
from torch import nn

from reccocktail.errors import BackboneError
from reccocktail.schema import Precision

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# As `torch.cpu.get_capabilities` names them: AVX-512 and AMX of x86, and Arm's.
_FAST = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")

_CHOOSING = ("cpu", "cuda")
_PRODUCTS = "_products_dtype"  # attribute of a decoder's class that rounds


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether a CPU or a CUDA device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return cpu_has(*_FAST)


def cpu_has(*capabilities: str) -> bool:
    """Whether the CPU has any of these, as `torch.cpu.get_capabilities` names them.

    torch 2.6 cannot tell, which counts as no.
    """
    known: Callable[[], Any] = getattr(torch.cpu, "get_capabilities", dict)
    found = known()
    return any(found.get(name) for name in capabilities)


def choose_precision(asked: str, device: torch.device, weights: torch.dtype) -> torch.dtype | None:
    """What products are made in, where that is not the dtype of the weights; None where it is.

    Only float32 weights on a CPU or a CUDA device have a choice. Elsewhere the dtype of the weights
    has decided, and `float32` and `auto` change nothing.

    Args:
        asked: `float32`, `bfloat16`, or `auto`: bfloat16 where the device multiplies it in
            hardware.
        device: where the weights are.
        weights: their dtype.

    Raises:
        BackboneError: unknown precision, or bfloat16 where the weights are neither that nor float32
            on a CPU or a CUDA device.
    """
    if asked not in PRECISIONS:
        raise BackboneError(f"Unknown precision '{asked}'; choose one of {', '.join(PRECISIONS)}.")
    chooses = device.type in _CHOOSING and weights == torch.float32
    if asked == "bfloat16" and not chooses and weights != torch.bfloat16:
        raise BackboneError(
            f"Precision bfloat16 is for float32 weights on a CPU or with CUDA, not for "
            f"{str(weights).removeprefix('torch.')} on {device.type}; "
            "leave it out, or set the dtype to bfloat16."
        )
    wanted = asked == "bfloat16" or (asked == "auto" and chooses and bfloat16_is_fast(device))
    return torch.bfloat16 if chooses and wanted else None


def training_precision(
    device: torch.device, weights: torch.dtype, scoring: torch.dtype | None
) -> torch.dtype | None:
    """What a training's products are made in; None where its tensors' own dtypes decide.

    A CPU trains in float32. With CUDA a training multiplies as scores do, and the LoRA, whose
    tensors are float32 beside weights in bfloat16 too, is multiplied like its backbone.

    Args:
        device: where the weights are.
        weights: dtype of the frozen ones.
        scoring: what `choose_precision` gave for scores.
    """
    if device.type != "cuda":
        return None
    return torch.bfloat16 if weights == torch.bfloat16 else scoring


@contextmanager
def in_precision(model: Any, dtype: torch.dtype | None) -> Iterator[None]:
    """Run the decoder of a model under autocast for the time of the block; see `round_products`.

    Args:
        model: causal language model; it is changed in place and given back as it was.
        dtype: of the products; None changes nothing.
    """
    exact: type[nn.Module] = type(model.get_decoder())
    round_products(model, dtype)
    try:
        yield
    finally:
        model.get_decoder().__class__ = exact


def round_products(model: Any, dtype: torch.dtype | None) -> None:
    """Run the decoder of a model under autocast from now on.

    Whoever calls the decoder or the whole model gets states and logits in the dtype of the weights.

    Args:
        model: causal language model, changed in place; a copy of it rounds too.
        dtype: of the products; None changes nothing.
    """
    if dtype is not None:
        decoder = model.get_decoder()
        # The class, because shallow copies of the decoder (`first_layers`) must have it too.
        decoder.__class__ = _autocast(type(decoder), dtype)


def products_dtype(model: Any) -> torch.dtype:
    """What a decoder multiplies in: see `in_precision`; else the dtype of its weights."""
    rounded: torch.dtype | None = getattr(model.get_decoder(), _PRODUCTS, None)
    return rounded or next(iter(model.parameters())).dtype


def _autocast(exact: type[nn.Module], dtype: torch.dtype) -> type[nn.Module]:
    """A decoder's class whose `forward` multiplies in `dtype`."""

    def forward(self: nn.Module, *args: Any, **inputs: Any) -> Any:
        weights = self.get_input_embeddings().weight  # type: ignore[operator]
        with torch.autocast(weights.device.type, dtype):
            output = exact.forward(self, *args, **inputs)
        # As the head multiplies what it is given.
        output.last_hidden_state = output.last_hidden_state.to(weights.dtype)
        return output

    names = {"forward": forward, "__module__": exact.__module__, _PRODUCTS: dtype}
    return type(exact.__name__, (exact,), names)
