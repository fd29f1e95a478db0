"""The package's own names: what a library user imports, and what importing costs."""

import subprocess
import sys

import pytest

import reccocktail
from reccocktail import (
    EvaluationSettings,
    Length,
    MixSettings,
    Recommender,
    combine,
    evaluate,
    mix,
    train,
)
from reccocktail.training.adapter import Adapter
from tests.adapters import pico_recipe
from tests.domains import taste_domain
from tests.pico import pico_backbone


def test_every_name_is_there_and_listed():
    for name in reccocktail.__all__:
        assert getattr(reccocktail, name) is not None
        assert name in dir(reccocktail)
    assert reccocktail.Adapter is Adapter
    with pytest.raises(AttributeError, match="has no attribute 'cocktails'"):
        reccocktail.cocktails  # noqa: B018


def test_importing_it_loads_no_torch():
    code = "import reccocktail, sys; reccocktail.__all__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_way_from_a_domain_to_recommendations(tmp_path):
    """What `docs/api.md` shows, on a model of two layers."""
    domain, backbone = taste_domain(tmp_path), pico_backbone()
    recipe = pico_recipe(backbone.name, validations=0)
    folders = [tmp_path / "base", tmp_path / "ingredient"]
    pair = [
        train(role, [domain], backbone, recipe, folder, Length(steps=2))
        for role, folder in zip(("base", "ingredient"), folders, strict=True)
    ]
    assert set(combine([adapter.lora for adapter in pair], (0.5, 0.5))) == set(pair[0].lora)
    settings = MixSettings(users=10, validation_users=10, objective="calibrated")
    out = tmp_path / "cocktail"
    cocktail = mix(pair, backbone, domain, "warm", out, settings)
    judged = [*zip(pair, folders, strict=True), (cocktail, out)]
    sizes = EvaluationSettings(validation_users=10, full_catalogue=False)
    found = evaluate(domain, judged, backbone, tmp_path / "evaluation", settings=sizes)
    assert {"base", "ingredient", "cocktail"} <= set(found["models"])
    ranked = Recommender(domain, cocktail, backbone).recommend(domain.item_ids[:2], k=3)
    assert len(ranked) == 3
