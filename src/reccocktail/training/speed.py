"""What makes a training step shorter on a CPU without changing what is trained."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from reccocktail.errors import RecipeError
from reccocktail.precision import cpu_has
from reccocktail.progress import say
from reccocktail.recipe import TrainingSettings
from reccocktail.training.int8 import int8_layers


@contextmanager
def fast_layers(
    decoder: nn.Module, settings: TrainingSettings, device: torch.device
) -> Iterator[None]:
    """Round and compile the decoder's layers as the settings ask, for the time of the block.

    Args:
        decoder: the stack of layers, with LoRA.
        settings: `int8` is used on CPUs with VNNI and left aside elsewhere; `compile` needs a C++
            compiler and a minute at the start.
        device: where the decoder is.

    Raises:
        RecipeError: `compile` without a C++ compiler.
    """
    with ExitStack() as stack:
        if settings.int8 and int8_is_fast(device):
            stack.enter_context(int8_layers(decoder))
        if settings.compile:
            stack.enter_context(_compiled(decoder))
        yield


def int8_is_fast(device: torch.device) -> bool:
    """Whether the device multiplies int8 faster than float32 here: CPUs with VNNI."""
    return device.type == "cpu" and cpu_has("avx512_vnni", "avx_vnni", "amx_int8")


@contextmanager
def _compiled(decoder: nn.Module) -> Iterator[None]:
    """Compile each layer for any length; layers of one kind share what was compiled.

    Compiling costs more than it brings for layers below the first that learns and for that one,
    whose input has no gradient, and where there are none at all, as in validation: these would be
    compiled on their own.
    """
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++", "cl")):
        raise RecipeError(
            "Setting 'training.compile' needs a C++ compiler; install g++ or clang, "
            "or set it to false."
        )
    stacks = [child for child in decoder.children() if isinstance(child, nn.ModuleList)]
    blocks = [block for stack in stacks for block in stack]
    learning = [b for b in blocks if any(p.requires_grad for p in b.parameters())]
    say("Compiling the layers; this takes a minute the first time ...")
    try:
        for block in learning[1:]:
            block.compile(dynamic=True)
            compiled: Any = block._compiled_call_impl
            block._compiled_call_impl = partial(_with_gradients, block, compiled)
        yield
    finally:
        for block in learning:
            block._compiled_call_impl = None


def _with_gradients(
    block: nn.Module, compiled: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """Call a layer, as it was compiled where gradients are asked for."""
    call = compiled if torch.is_grad_enabled() else block._call_impl
    return call(*args, **kwargs)
