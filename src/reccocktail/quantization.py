"""Four-bit backbones: NF4 weights by bitsandbytes, for training (QLoRA) and as plain weights again.

While a LoRA is trained, the frozen layers stay packed in four bits (Dettmers et al., 2023; double
quantisation, no paging). For everything else the packed weights are written out again as ordinary
ones, the very numbers that the LoRA was trained on: an update can then be added to them exactly.
"""

import importlib.util
from typing import Any

import torch
from torch import nn

from reccocktail.errors import BackboneError

EXTRA = "reccocktail[cuda]"


def require_quantizable(device: torch.device) -> None:
    """Refuse four bits where they cannot be had, before anything is loaded.

    Raises:
        BackboneError: the device is not CUDA, or bitsandbytes is not installed.
    """
    if device.type != "cuda":
        raise BackboneError(
            f"Four-bit backbones need CUDA, and this would run on {device.type}; "
            "leave --load-in and the recipe's quantization out, or use a machine with a GPU."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BackboneError(
            f"Four-bit backbones need the package bitsandbytes; install it with "
            f"`pip install '{EXTRA}'`."
        )


def quantise(model: Any) -> int:
    """Replace the decoder's linear layers by NF4 ones, in place.

    The weights are packed when the model moves to a device with `to`. Embeddings, norms and the
    vocabulary's head stay as they are.

    Args:
        model: a causal LM with weights of any floating dtype, in which is also computed.

    Returns:
        Number of layers that were replaced.
    """
    import bitsandbytes as bnb

    decoder = model.get_decoder()
    layers = [(n, m) for n, m in decoder.named_modules() if type(m) is nn.Linear]
    for name, layer in layers:
        weight = layer.weight.detach()
        packed = bnb.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=weight.dtype,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        packed.weight = bnb.nn.Params4bit(
            weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=packed
        )
        packed.bias = layer.bias
        packed.support_avx512bf16_for_cpu = False  # its kernel repacks weights and rounds inputs
        _replace(decoder, name, packed)
    model.is_loaded_in_4bit = True  # PEFT looks here
    return len(layers)


def dequantise(model: Any) -> int:
    """Replace packed layers by ordinary ones with the weights that they stand for, in place.

    Returns:
        Number of layers that were replaced.
    """
    import bitsandbytes as bnb

    decoder = model.get_decoder()
    layers = [(n, m) for n, m in decoder.named_modules() if isinstance(m, bnb.nn.Linear4bit)]
    for name, layer in layers:
        state = layer.weight.quant_state
        weight = bnb.functional.dequantize_4bit(layer.weight.data, state).to(state.dtype)
        plain = nn.Linear(
            layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta"
        )
        plain.weight = nn.Parameter(weight, requires_grad=False)
        plain.bias = layer.bias
        _replace(decoder, name, plain)
    model.is_loaded_in_4bit = False
    return len(layers)


def is_packed(layer: nn.Module) -> bool:
    """Whether a layer's weight is packed, so that nothing can be added to it."""
    weight = getattr(layer, "weight", None)
    return isinstance(weight, torch.Tensor) and not weight.is_floating_point()


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer.train(model.training))
