"""Frozen layers in int8 while a LoRA is trained: a CPU with VNNI multiplies them four times faster.

The backbone's weights never change, so their rounding is a constant of the run; activations and the
gradients that flow back through the frozen layers are rounded row by row. LoRA tensors, norms,
attention, the loss and the optimiser stay in float32, and what is saved is an ordinary adapter.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

_LEVELS = 127  # of int8, symmetric about zero


@contextmanager
def int8_layers(model: nn.Module) -> Iterator[int]:
    """Run the frozen linear layers of a model with LoRA in int8 for the time of the block.

    Layers that are trained and LoRA factors stay as they are.

    Args:
        model: a decoder (without the vocabulary head) on a CPU, with or without LoRA.

    Yields:
        Number of layers that were replaced.
    """
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for parent in list(model.modules()):
            for name, layer in list(parent.named_children()):
                if _is_frozen_linear(parent, layer):
                    assert isinstance(layer, nn.Linear)
                    setattr(parent, name, Int8Linear(layer))
                    replaced.append((parent, name, layer))
        yield len(replaced)
    finally:
        for parent, name, layer in replaced:
            setattr(parent, name, layer)


def _is_frozen_linear(parent: nn.Module, layer: nn.Module) -> bool:
    # LoRA factors hang in dictionaries below their layer.
    linear = type(layer) is nn.Linear and not isinstance(parent, nn.ModuleDict)
    return linear and not any(p.requires_grad for p in layer.parameters())


class Int8Linear(nn.Module):
    """A frozen `nn.Linear` with int8 weights, for the forward and for the backward pass.

    Shapes: (..., inputs) -> (..., outputs).
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Round the weights, one scale an output (forward) and one an input (backward)."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        self._forward = _rounded_columns(weight.t())
        self._backward = _rounded_columns(weight)
        self._bias = None if linear.bias is None else linear.bias.detach()
        self._source = [linear]  # in a list: not a sub-module

    @property
    def weight(self) -> Tensor:
        """The layer's own weights; PEFT reads their dtype and device."""
        return self._source[0].weight

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's output, with a gradient for `inputs` alone."""
        found: Tensor = _Int8Product.apply(  # type: ignore[no-untyped-call]
            inputs, *self._forward, *self._backward
        )
        return found if self._bias is None else found + self._bias


class _Int8Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        inputs: Tensor,
        columns: Tensor,
        scales: Tensor,
        back_columns: Tensor,
        back_scales: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(back_columns, back_scales)
        return _product(inputs, columns, scales)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _product(gradients[0], *ctx.saved_tensors), None, None, None, None


def _product(rows: Tensor, columns: Tensor, scales: Tensor) -> Tensor:
    """Rows (..., k) times rounded columns (k, n), scales (n,) -> (..., n) in the rows' dtype."""
    # In bfloat16 a row's largest entry would come to 128 and change its sign in int8.
    flat = rows.reshape(-1, rows.shape[-1]).float()
    # Memory is the bottleneck here, so each step passes over the numbers once.
    largest = torch.linalg.vector_norm(flat, ord=torch.inf, dim=1, keepdim=True)
    row_scales = largest.clamp_min(1e-12) / _LEVELS
    rounded = (flat / row_scales).round_().to(torch.int8)
    product: Tensor = (torch._int_mm(rounded, columns) * row_scales).mul_(scales)
    return product.to(rows.dtype).view(*rows.shape[:-1], -1)


def _rounded_columns(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Int8 matrix (k, n), contiguous, and the scale of each column (n,)."""
    scales = matrix.abs().amax(dim=0).clamp_min(1e-12) / _LEVELS
    return (matrix / scales).round().to(torch.int8).contiguous(), scales
