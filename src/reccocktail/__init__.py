"""RecCocktail: recommend with a cocktail of two LoRA adapters on one frozen language model."""

__version__ = "0.1.0"
