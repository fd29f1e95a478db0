"""Four-bit backbones: refused where there is no CUDA; exact where bitsandbytes is installed."""

import importlib.util

import pytest
import torch

from reccocktail import backbone as backbones
from reccocktail import quantization
from reccocktail.backbone import Backbone, load_backbone
from reccocktail.cli import main
from reccocktail.errors import AdapterError, BackboneError, RecipeError
from reccocktail.mixing.cocktail import mix
from reccocktail.mixing.measure import MixSettings
from reccocktail.quantization import dequantise, quantise, require_quantizable
from reccocktail.recipe import Recipe
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import (
    attach,
    base_model,
    merged,
    model_sha256,
    note_quantization,
)
from reccocktail.training.schedule import Length
from reccocktail.training.trainer import train
from tests import pico
from tests.adapters import pico_recipe, random_adapter, random_lora, save
from tests.domains import taste_domain
from tests.helpers import one_sentence
from tests.pico import pico_backbone

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
IDS = torch.tensor([[9, 12, 15, 20, 33, 40]])


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("quantised"), users=40)


def rounded(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"quantization": "nf4"})


def wide() -> Backbone:
    """A pico backbone whose layers have rows of 64: bitsandbytes misreads shorter ones on CPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pico.SHAPE, "hidden_size", 64)
        patch.setitem(pico.SHAPE, "intermediate_size", 128)
        return pico_backbone()


def packed() -> Backbone:
    """A backbone as `load_backbone(quantization="nf4", packed=True)` makes it on CUDA."""
    backbone = wide()
    quantise(backbone.model)
    backbone.model.to("cpu")
    backbone.quantization = "nf4"
    return backbone


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


# -- refusals and records ---------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
@pytest.mark.parametrize(
    "command",
    [
        "train --role ingredient --data {data} --out o --backbone {pico} --steps 1",
        "mix --adapter {own} --adapter {own} --data {data} --scenario warm --out o",
        "evaluate --data {data} --adapter {own} --out o",
        "recommend --adapter {own} --data {data} --user u1",
        "export --adapter {own} --format merged --out o",
    ],
)
def test_without_cuda_every_command_says_so(command, domain, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    memory = pico_backbone()
    memory.model.save_pretrained(tmp_path / "pico")
    memory.tokenizer.save_pretrained(tmp_path / "pico")
    loaded = load_backbone("pico", device="cpu")
    own = save(random_adapter(loaded, domain, "own", recipe=pico_recipe("pico")), tmp_path)
    words = command.format(data=domain.path, pico="pico", own=own).split()
    with pytest.raises(SystemExit) as stop:
        main([*words, "--load-in", "4bit"])
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and "need CUDA" in one_sentence(said)
    assert not (tmp_path / "o").exists()


def test_a_recipe_can_ask_for_it_too(domain, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(backbones, "choose_device", lambda device: torch.device("mps"))
    rounded(pico_recipe("pico")).save(tmp_path / "recipe.yaml")
    command = ["train", "--role", "ingredient", "--data", str(domain.path), "--steps", "1"]
    with pytest.raises(SystemExit):
        main([*command, "--recipe", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "o")])
    assert "on mps" in capsys.readouterr().err


def test_without_bitsandbytes_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match=r"pip install 'reccocktail\[cuda\]'") as error:
        require_quantizable(torch.device("cuda"))
    one_sentence(error.value)
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: object())
    require_quantizable(torch.device("cuda"))


def test_full_precision_is_recorded_as_it_ever_was():
    plain = Recipe()
    assert "quantization" not in plain.relevant()
    assert rounded(plain).relevant()["quantization"] == "nf4"
    assert plain.sha256 != rounded(plain).sha256
    former = plain.model_dump(mode="json")
    del former["quantization"]  # a card from before there was a choice
    assert Recipe.model_validate(former) == plain


def test_vectors_of_rounded_weights_are_kept_apart():
    backbone = pico_backbone()
    plain = model_sha256(backbone, None)
    backbone.quantization = "nf4"
    assert model_sha256(backbone, None) != plain


def test_training_wants_the_recipes_weights(domain, tmp_path):
    backbone = pico_backbone()
    recipe = rounded(pico_recipe(backbone.name))
    with pytest.raises(RecipeError, match="quantization is nf4") as error:
        train("ingredient", [domain], backbone, recipe, tmp_path / "o", Length(steps=1))
    one_sentence(error.value)
    other = random_adapter(backbone, domain, "base")
    backbone.quantization = "nf4"
    with pytest.raises(RecipeError, match="--beside") as error:
        train(
            "ingredient", [domain], backbone, recipe, tmp_path / "o", Length(steps=1), beside=other
        )
    one_sentence(error.value)
    assert not (tmp_path / "o").exists()


def test_adapters_of_both_kinds_mix_and_the_difference_is_said(domain, tmp_path, capsys):
    backbone = pico_backbone()
    plain = random_adapter(backbone, domain, "plain", seed=1)
    recipe = rounded(plain.card.recipe)
    qlora = random_adapter(backbone, domain, "qlora", seed=2, recipe=recipe)
    note_quantization([plain], backbone)
    assert not capsys.readouterr().err
    note_quantization([plain, qlora], backbone)
    said = " ".join(capsys.readouterr().err.split())
    assert "'qlora' was trained on weights in nf4" in said and "'plain'" not in said
    settings = MixSettings(users=4, validation_users=0)
    cocktail = mix([qlora, plain], backbone, domain, "warm", tmp_path / "c", settings, [0.5, 0.5])
    assert cocktail.card.recipe.quantization is None  # the weights that it was measured on
    assert Adapter.load(tmp_path / "c").card.recipe == plain.card.recipe


# -- the arithmetic ---------------------------------------------------------------------------


@needs_bitsandbytes
def test_packed_weights_are_rounded_and_come_back():
    before = {n: m.weight.clone() for n, m in wide().model.named_modules()
              if type(m) is torch.nn.Linear}  # fmt: skip
    backbone = packed()
    on_packed = logits(backbone.model)
    kinds = {type(backbone.model.get_submodule(name)).__name__ for name in before}
    assert kinds == {"Linear4bit", "Linear"}  # the head is left alone
    assert dequantise(backbone.model) == len(before) - 1
    torch.testing.assert_close(logits(backbone.model), on_packed, atol=1e-4, rtol=0)
    for name, weight in before.items():
        found = backbone.model.get_submodule(name).weight
        gap = (found - weight).abs()
        if name == "lm_head":
            assert torch.equal(found, weight)
            continue
        # NF4 has 16 levels for each 64 numbers; half its widest step is 0.15 of the largest of
        # them, and the largest is itself rounded to 8 bits.
        largest = weight.reshape(-1, 64).abs().amax(1, keepdim=True)
        assert (gap.reshape(-1, 64) / largest).max() < 0.17 and gap.max() > 0
        scaled = found.reshape(-1, 64) / found.reshape(-1, 64).abs().amax(1, keepdim=True)
        assert len({round(x, 3) for x in scaled.flatten().tolist()}) <= 16
    assert not torch.allclose(logits(backbone.model), logits(wide().model), atol=1e-2)


@needs_bitsandbytes
def test_merged_scores_are_those_of_the_live_adapter():
    backbone = packed()
    lora = random_lora(wide(), 3)  # packed weights do not show their shapes
    with pytest.raises(AdapterError, match="packed"), merged(backbone.model, lora):
        pass
    live = attach(backbone.model, lora)
    wanted = logits(base_model(live))
    live.unload()
    dequantise(backbone.model)
    assert not torch.allclose(logits(backbone.model), wanted, atol=1e-2)
    with merged(backbone.model, lora) as model:
        torch.testing.assert_close(logits(model), wanted, atol=1e-4, rtol=0)


@needs_bitsandbytes
def test_a_lora_is_trained_on_packed_weights(domain, tmp_path):
    backbone = packed()
    bare = logits(backbone.model)
    recipe = rounded(pico_recipe(backbone.name))
    adapter = train("ingredient", [domain], backbone, recipe, tmp_path / "o", Length(steps=2))
    assert torch.equal(logits(backbone.model), bare)  # the backbone is as it was
    assert all(factors.b.abs().sum() > 0 for factors in adapter.lora.values())
    card = Adapter.load(tmp_path / "o").card
    assert card.recipe.quantization == "nf4" and card.backbone == backbone.fingerprint
