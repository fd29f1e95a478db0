"""The models that `inference_cost.py` compares: on one backbone's tensors, all at once."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from costs import module_tensors, tensor_bytes
from reccocktail.backbone import Backbone
from reccocktail.mixing.arithmetic import Method
from reccocktail.recipe import Recipe
from reccocktail.training.adapter import Factors, Lora
from reccocktail.training.model import add_update, attach, new_peft_model, tensors_of


@dataclass(frozen=True)
class Variant:
    """A model that can rank, and the bytes that it needs beyond the bare backbone."""

    name: str
    model: Any
    rank: int
    added_bytes: int


def twin(model: nn.Module) -> Any:
    """A model of its own modules on the same tensors."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in module_tensors(model)})


def merged_twin(model: nn.Module, lora: Lora) -> Any:
    """A twin with the update inside its weights; the adapted weights are its own tensors."""
    found = twin(model)
    for name, factors in lora.items():
        add_update(found.get_submodule(name), factors)
    return found


def variants(backbone: Backbone, base: Lora, cocktails: dict[Method, Lora]) -> list[Variant]:
    """All that is compared; the bare backbone first and once more as a control."""

    def adapted(name: str, lora: Lora) -> Variant:
        model = attach(twin(backbone.model), lora)
        own = [tensor for key, tensor in model.named_parameters() if "lora_" in key]
        # Hooks and wrappers of PEFT stay: this is what a stock PEFT model costs.
        return Variant(name, model.get_base_model(), rank_of(lora), tensor_bytes(own))

    return [
        Variant("none", twin(backbone.model), 0, 0),
        Variant("none again", twin(backbone.model), 0, 0),
        adapted("base adapter", base),
        *(adapted(f"cocktail {method}", lora) for method, lora in cocktails.items()),
        # In place of the former weights, so nothing is added.
        Variant("merged", merged_twin(backbone.model, cocktails["delta"]), 0, 0),
    ]


def rank_of(lora: Lora) -> int:
    return max(factors.a.shape[0] for factors in lora.values())


def random_lora(backbone: Backbone, recipe: Recipe, seed: int) -> Lora:
    """A LoRA of the recipe's shape with random A and B, updates of the size that training makes."""
    peft_model = new_peft_model(backbone, recipe)
    lora = tensors_of(peft_model)
    peft_model.unload()
    generator = torch.Generator().manual_seed(seed)
    return {
        name: Factors(
            torch.randn(a.shape, generator=generator) * a.std(),
            torch.randn(b.shape, generator=generator) * 0.01,
            scaling,
        )
        for name, (a, b, scaling) in lora.items()
    }
