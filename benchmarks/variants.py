"""The models that `inference_cost.py` compares: on one backbone's tensors, all at once."""

from dataclasses import dataclass
from typing import Any

import torch

from costs import tensor_bytes
from reccocktail.backbone import Backbone
from reccocktail.recipe import Recipe
from reccocktail.schema import Method
from reccocktail.training.adapter import Factors, Lora
from reccocktail.training.model import attach, new_peft_model, tensors_of, twin, with_update


@dataclass(frozen=True)
class Variant:
    """A model that can rank, and the bytes that it needs beyond the bare backbone."""

    name: str
    model: Any
    rank: int
    added_bytes: int


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
        Variant("merged", with_update(backbone.model, cocktails["delta"]), 0, 0),
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
