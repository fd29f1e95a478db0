"""From a language model to scores: what a ranker is, the rankers, a popularity prior."""

from collections.abc import Mapping

from reccocktail.backbone import Backbone
from reccocktail.errors import RecipeError
from reccocktail.ranking.base import Ranker
from reccocktail.ranking.choice import ChoiceRanker
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.generate import GenerateRanker
from reccocktail.ranking.readout import load_readout
from reccocktail.ranking.title import TitleRanker
from reccocktail.recipe import Recipe


def build(backbone: Backbone, recipe: Recipe, wording: Mapping[str, str] | None = None) -> Ranker:
    """The ranker of a recipe, for a backbone.

    Args:
        backbone: the language model.
        recipe: ranker, prompt and the ranker's settings.
        wording: of the recipe's template, from a card, for where its file is gone.

    Raises:
        RecipeError: the template or the readout is missing or wrong, or a setting of the dense
            ranker is given to another.
        BackboneError: the tokenizer cannot write the ranker's prompts.
    """
    tokenizer = backbone.tokenizer
    if recipe.ranker == "dense":
        readout = load_readout(recipe.dense.readout, backbone.fingerprint)
        return DenseRanker(tokenizer, recipe.prompt, recipe.dense, readout, wording)
    dense_only = {
        "dense.depth": recipe.dense.depth,
        "training.bank": recipe.training.bank,
        "training.hard_negatives": recipe.training.hard_negatives,
    }
    for name, asked in dense_only.items():
        if asked:
            raise RecipeError(
                f"Setting '{name}' is for the dense ranker only; "
                f"leave it out with ranker {recipe.ranker}."
            )
    if recipe.ranker == "title":
        return TitleRanker(tokenizer, recipe.prompt, recipe.title, wording)
    if recipe.training.domains_per_step > 1:
        raise RecipeError(
            "Setting 'training.domains_per_step' is for rankers that learn from packed histories; "
            f"leave it out with ranker {recipe.ranker}."
        )
    if recipe.ranker == "generate":
        return GenerateRanker(tokenizer, recipe.prompt, recipe.generate, wording)
    return ChoiceRanker(tokenizer, recipe.prompt, recipe.choice, wording)
