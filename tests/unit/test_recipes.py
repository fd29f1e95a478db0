"""Every shipped recipe can be used, and the default one shows every setting as it is."""

from pathlib import Path

import pytest
import yaml

from reccocktail.prompting.template import DenseTemplate, load
from reccocktail.recipe import Recipe

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.rglob("*.y*ml"))


def test_recipes_are_shipped():
    assert FOLDER / "default.yaml" in RECIPES
    assert all(path.suffix == ".yaml" for path in RECIPES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_shipped_recipe_parses(path):
    recipe = Recipe.load(path)
    assert load(recipe.prompt.template, DenseTemplate).sha256
    # A file of defaults alone would be a copy of the default recipe under another name.
    assert (recipe == Recipe()) == (path.name == "default.yaml")


def test_the_default_recipe_is_the_default():
    path = FOLDER / "default.yaml"
    assert Recipe.load(path).sha256 == Recipe().sha256
    # Nothing is left out, so the file is the list of settings, in the order of the code.
    written, known = yaml.safe_load(path.read_text()), Recipe().model_dump(mode="json")
    assert list(written) == list(known)
    for name, value in known.items():
        assert written[name] == value
        if isinstance(value, dict):
            assert list(written[name]) == list(value)
