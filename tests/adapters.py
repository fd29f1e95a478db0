"""Adapters on a pico backbone that belong together: random updates with cards that fit."""

from pathlib import Path

import torch

from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain
from reccocktail.ranking import build
from reccocktail.recipe import LoraSettings, PromptSettings, Recipe, TrainingSettings
from reccocktail.training.adapter import Adapter, Card, DataCard, Factors, Role
from reccocktail.training.card import adapter_readme

MODULES = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
RANK = 2


def pico_recipe(backbone: str = "pico", **training: object) -> Recipe:
    """Small settings, quick to train."""
    values = {"targets_per_batch": 32, "validation_users": 4, "validations": 1} | training
    return Recipe(
        backbone=backbone,
        prompt=PromptSettings(max_history=4),
        lora=LoraSettings(rank=RANK, alpha=4.0),
        training=TrainingSettings.model_validate(values),
    )


def random_lora(backbone: Backbone, seed: int = 0, scale: float = 0.15) -> dict[str, Factors]:
    """Random factors on some modules of every layer; `scale` 0 changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    lora = {}
    for name, module in backbone.model.named_modules():
        if name.endswith(MODULES):
            outputs, inputs = module.weight.shape
            a = torch.randn(RANK, inputs, generator=generator) * scale
            b = torch.randn(outputs, RANK, generator=generator) * scale
            lora[name] = Factors(a, b, 2.0)
    return lora


def random_adapter(
    backbone: Backbone,
    domain: Domain,
    name: str,
    role: Role = "ingredient",
    *,
    seed: int = 0,
    scale: float = 0.15,
    recipe: Recipe | None = None,
) -> Adapter:
    """An adapter with `random_lora` and a card that says it was made on `domain`."""
    recipe = recipe or pico_recipe(backbone.name)
    card = Card(
        role=role,
        backbone=backbone.fingerprint,
        recipe=recipe,
        template_sha256=build(backbone, recipe).template_sha256,
        data=(DataCard(name=domain.name, sha256=domain.sha256, users=1, items=1),),
    )
    return Adapter(name, random_lora(backbone, seed, scale), card)


def save(adapter: Adapter, folder: Path) -> Path:
    """Write the adapter to `folder` / its name, and give the folder."""
    path = folder / adapter.name
    adapter.save(path, adapter_readme(adapter.name, adapter.card))
    return path
