"""RecCocktail: recommend with a cocktail of two LoRA adapters on one frozen language model.

The names below are the way in; each is loaded when it is first asked for, so that `import
reccocktail` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Adapter": "training.adapter",
    "Domain": "data.domain",
    "EvaluationSettings": "evaluation.settings",
    "Length": "training.schedule",
    "MixSettings": "mixing.measure",
    "Recipe": "recipe",
    "Recommender": "serving.recommend",
    "combine": "mixing.arithmetic",
    "evaluate": "evaluation.evaluate",
    "load_backbone": "backbone",
    "mix": "mixing.cocktail",
    "prepare": "data.prepare",
    "train": "training.trainer",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
