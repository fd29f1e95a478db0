"""Faster layers: int8 stays close to float32, and everything is put back."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from reccocktail.errors import RecipeError
from reccocktail.recipe import LoraSettings, Recipe, TrainingSettings
from reccocktail.training import speed
from reccocktail.training.int8 import Int8Linear, int8_layers
from reccocktail.training.model import base_model, new_peft_model
from reccocktail.training.schedule import Length
from reccocktail.training.speed import fast_layers
from reccocktail.training.trainer import train
from tests.adapters import pico_recipe
from tests.domains import taste_domain
from tests.pico import pico_backbone

ROOT = Path(__file__).parents[2]
IDS = torch.arange(24).reshape(2, 12) % 20


def relative(found, wanted):
    return float(((found - wanted).norm() / wanted.norm()).detach())


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def random_linear(bias=False):
    torch.manual_seed(0)
    return nn.Linear(48, 80, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("bias", [False, True])
def test_a_rounded_layer_stays_close_to_its_source_forward_and_backward(bias):
    linear = random_linear(bias)
    inputs = torch.randn(3, 7, 48, requires_grad=True)
    same = inputs.detach().clone().requires_grad_()
    gradient = torch.randn(3, 7, 80)
    wanted, found = linear(inputs), Int8Linear(linear)(same)
    wanted.backward(gradient)
    found.backward(gradient)
    assert 0 < relative(found, wanted) < 0.02
    assert 0 < relative(same.grad, inputs.grad) < 0.02


def test_rows_in_bfloat16_keep_their_largest_entries():
    """127 times a bfloat16 scale may come to 128, which is -128 in int8."""
    linear = random_linear()
    inputs = torch.randn(500, 48, generator=torch.Generator().manual_seed(1)).bfloat16()
    wanted, found = linear(inputs.float()), Int8Linear(linear)(inputs)
    assert found.dtype == torch.bfloat16
    assert all(relative(found[row].float(), wanted[row]) < 0.05 for row in range(500))


def test_rows_of_very_different_size_each_keep_their_precision():
    linear = random_linear()
    inputs = torch.randn(4, 48) * torch.tensor([[1e-4], [1.0], [1e4], [0.0]])
    wanted, found = linear(inputs), Int8Linear(linear)(inputs)
    for row in range(3):
        assert relative(found[row], wanted[row]) < 0.03
    assert torch.equal(found[3], torch.zeros(80))


def lora_model():
    backbone = pico_backbone()
    recipe = Recipe(backbone="pico", lora=LoraSettings(rank=2, alpha=4.0))
    model = new_peft_model(backbone, recipe)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return model


def run(model):
    decoder = base_model(model).get_decoder()
    model.zero_grad()
    states = decoder(input_ids=IDS, use_cache=False).last_hidden_state
    # A norm ends the decoder, so a plain sum of squares would have no gradient.
    (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    return states.detach().clone(), gradients


def test_lora_gradients_point_the_same_way_and_the_layers_come_back_bit_for_bit():
    model = lora_model()
    decoder = base_model(model).get_decoder()
    before = dict(decoder.named_modules())
    states, gradients = run(model)
    with int8_layers(decoder) as number:
        rounded_states, rounded_gradients = run(model)
        frozen = [m for m in decoder.modules() if isinstance(m, Int8Linear)]
        assert len(frozen) == number > 0
        assert not any("lora" in n for n, m in decoder.named_modules() if m in frozen)
    assert not torch.equal(rounded_states, states)
    assert relative(rounded_states, states) < 0.05
    assert rounded_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert cosine(rounded_gradients[name], gradient) > 0.98, name
    assert dict(decoder.named_modules()) == before
    assert torch.equal(run(model)[0], states)


def test_the_layers_come_back_after_an_error_too():
    decoder = base_model(lora_model()).get_decoder()
    before = dict(decoder.named_modules())
    with pytest.raises(KeyboardInterrupt), int8_layers(decoder):
        raise KeyboardInterrupt
    assert dict(decoder.named_modules()) == before


@pytest.mark.parametrize(("vnni", "asked"), [(True, True), (True, False), (False, True)])
def test_int8_is_used_where_it_is_asked_for_and_fast(monkeypatch, vnni, asked):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": vnni})
    decoder = base_model(lora_model()).get_decoder()
    with fast_layers(decoder, TrainingSettings(int8=asked), torch.device("cpu")):
        used = any(isinstance(module, Int8Linear) for module in decoder.modules())
    assert used == (vnni and asked)


def test_an_older_torch_trains_without_int8(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    decoder = base_model(lora_model()).get_decoder()
    with fast_layers(decoder, TrainingSettings(int8=True), torch.device("cpu")):
        assert not any(isinstance(module, Int8Linear) for module in decoder.modules())


def test_compiling_without_a_compiler_is_one_sentence(monkeypatch):
    monkeypatch.setattr(speed.shutil, "which", lambda name: None)
    decoder = base_model(lora_model()).get_decoder()
    settings = TrainingSettings(int8=False, compile=True)
    with (
        pytest.raises(RecipeError, match=r"needs a C\+\+ compiler"),
        fast_layers(decoder, settings, torch.device("cpu")),
    ):
        pass


def compare_compiled():
    model = lora_model()
    decoder = base_model(model).get_decoder()
    states, gradients = run(model)
    with fast_layers(decoder, TrainingSettings(int8=False, compile=True), torch.device("cpu")):
        compiled_states, compiled_gradients = run(model)
    assert torch.allclose(compiled_states, states, atol=1e-5)
    for name, gradient in gradients.items():
        assert torch.allclose(compiled_gradients[name], gradient, atol=1e-4), name
    assert torch.equal(run(model)[0], states)


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_compiled_layers_give_the_same_states_and_gradients():
    in_own_process("compare_compiled()")


def count_graphs(folder):
    from torch._dynamo.utils import counters

    compiled = nn.Module.compile
    # What is compiled is the question, not into what.
    nn.Module.compile = lambda block, **settings: compiled(block, backend="eager", **settings)
    domain = taste_domain(Path(folder))
    recipe = pico_recipe(compile=True, int8=False)
    train("ingredient", [domain], pico_backbone(), recipe, Path(folder) / "a", Length(steps=3))
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_training_compiles_histories_and_titles_and_nothing_else(tmp_path):
    in_own_process(f"count_graphs({str(tmp_path)!r})")


def in_own_process(call):
    # The compiler cannot live with what other tests have imported.
    code = f"from tests.unit import test_int8; test_int8.{call}"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
