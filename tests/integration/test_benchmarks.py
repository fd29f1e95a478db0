"""The benchmarks run at pico size, and what they compare is what they say."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from reccocktail.backbone import Backbone, load_backbone
from reccocktail.data.domain import Domain
from reccocktail.errors import RunError
from reccocktail.evaluation.evaluate import EvaluationSettings, evaluate
from reccocktail.mixing.arithmetic import combine
from reccocktail.ranking.dense import DenseRanker
from reccocktail.recipe import Recipe
from reccocktail.training.adapter import Adapter, Card, Factors, merged
from reccocktail.training.batches import DomainWindows
from reccocktail.training.schedule import Length
from reccocktail.training.trainer import train
from tests.adapters import pico_recipe
from tests.domains import taste_domain
from tests.pico import pico_model, pico_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pico backbone in `backbone` and a prepared domain in `tastes`."""
    place = tmp_path_factory.mktemp("benchmarks")
    pico_model().save_pretrained(place / "backbone")
    pico_tokenizer().save_pretrained(place / "backbone")
    taste_domain(place)
    return place


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return load_backbone(str(folder / "backbone"), device="cpu")


@pytest.fixture
def domain(folder: Path) -> Domain:
    return Domain.load(folder / "tastes")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def flags(folder: Path, out: Path) -> list[str]:
    places = ["--data", folder / "tastes", "--backbone", folder / "backbone", "--out", out]
    return [*map(str, places), *(["--device", "cpu"])]


def saved_adapter(path: Path, backbone: Backbone, benchmark: Any) -> Adapter:
    """A cocktail (delta, rank 2r) of two random LoRAs."""
    recipe = Recipe()
    pair = [benchmark("variants").random_lora(backbone, recipe, seed) for seed in (0, 1)]
    # Larger than training makes them: a difference that an adapter makes must be seen.
    pair = [{m: Factors(a, 10 * b, s) for m, (a, b, s) in lora.items()} for lora in pair]
    card = Card(
        role="cocktail",
        backbone=backbone.fingerprint,
        recipe=recipe,
        template_sha256=DenseRanker(
            backbone.tokenizer, recipe.prompt, recipe.dense
        ).template.sha256,
        data=(),
    )
    adapter = Adapter(path.name, combine(pair, torch.tensor([0.3, 0.7])), card)
    adapter.save(path, "A cocktail.")
    return adapter


# -- training ---------------------------------------------------------------------------------


def test_training_throughput_counts_and_compares(
    folder: Path, tmp_path: Path, benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    sizes = ["--rounds", "2", "--seconds", "0.2", "--warmup", "0.1", "--pool", "32", "--short"]
    benchmark("training_throughput").main([*flags(folder, out), *sizes])
    result = json.loads(out.read_text())
    assert set(result["methods"]) == {"dense", "prompt", "prompt-short"}
    for found in result["methods"].values():
        assert len(found["rounds"]) == 2
        for row in found["rounds"]:
            assert row["seconds"] >= 0.2
            assert row["targets_per_second"] == pytest.approx(row["targets"] / row["seconds"])
            assert row["tokens_per_second"] == pytest.approx(
                row["tokens_per_target"] * row["targets_per_second"]
            )
            assert 0 <= row["padding"] < 0.5
            assert 0 < row["optimiser_share"] < 1
    pairs = zip(
        result["methods"]["dense"]["rounds"], result["methods"]["prompt"]["rounds"], strict=True
    )
    ratios = [ours["targets_per_second"] / theirs["targets_per_second"] for ours, theirs in pairs]
    ratio = result["ratios"]["dense/prompt"]["targets_per_second"]
    assert (ratio["min"], ratio["max"]) == pytest.approx((min(ratios), max(ratios)))
    # 30 candidates in a prompt, one item and its share of a history in `dense`
    assert result["ratios"]["dense/prompt"]["tokens_per_target"]["median"] > 10
    assert str(folder) not in out.read_text()
    assert "dense/prompt:" in capsys.readouterr().out


def test_both_methods_learn(backbone: Backbone, domain: Domain, benchmark: Any) -> None:
    training_throughput = benchmark("training_throughput")
    args = training_throughput.argparse.Namespace(short=False, prompt_tokens=2048, pool=64, seed=0)
    for method in training_throughput.methods(backbone, domain, Recipe(), args):
        losses = method.run(0.0, least_steps=40).losses
        assert len(losses) == 40
        assert sum(losses[-5:]) < 0.9 * sum(losses[:5]), method.name
        again = method.run(0.0, least_steps=1).losses  # each round starts from the same LoRA
        assert again[0] > sum(losses[-5:]) / 5


def test_a_prompt_holds_history_candidates_and_answer(
    backbone: Backbone, domain: Domain, benchmark: Any
) -> None:
    paper_prompt = benchmark("paper_prompt")
    ranker = DenseRanker(backbone.tokenizer, Recipe().prompt, Recipe().dense)
    windows = DomainWindows.build(domain, ranker)
    window, known = windows.windows[0], windows.known[windows.owner[0]]
    writer = paper_prompt.PromptWriter(backbone.tokenizer, domain, seed=3)
    candidates = writer.candidates(window[3], known)
    assert len(candidates) == len(set(candidates)) == paper_prompt.CANDIDATES
    assert [item for item in candidates if item in known] == [window[3]]
    places = {writer.candidates(window[3], known).index(window[3]) for _ in range(100)}
    assert len(places) > 20  # the target's place tells nothing
    text = writer.text(window[:3], candidates)
    for item in [*window[:3], *candidates]:
        assert domain.titles[item] in text
    prompt = writer.write(window[:3], window[3], known)
    answer = backbone.tokenizer.decode(prompt.ids[-prompt.answer :])
    assert answer == domain.titles[window[3]] + " " + backbone.tokenizer.eos_token


def test_a_long_prompt_loses_its_oldest_items(
    backbone: Backbone, domain: Domain, benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper_prompt = benchmark("paper_prompt")
    ranker = DenseRanker(backbone.tokenizer, Recipe().prompt, Recipe().dense)
    windows = DomainWindows.build(domain, ranker)
    window, known = max(windows.windows, key=len), windows.known[0]

    def write(cutoff: int) -> Any:
        monkeypatch.setattr(paper_prompt, "CUTOFF", cutoff)
        writer = paper_prompt.PromptWriter(backbone.tokenizer, domain, seed=3)
        return writer.write(window[:-1], window[-1], known)

    whole = write(10**6)
    cut = write(len(whole.ids) - 1)
    assert cut.answer == whole.answer
    assert len(cut.ids) == len(whole.ids) - 4  # a title of two words and the separator `||`


def test_prompt_loss_is_the_loss_of_stock_transformers(
    folder: Path, backbone: Backbone, benchmark: Any
) -> None:
    paper_prompt = benchmark("paper_prompt")
    prompts = [
        paper_prompt.Prompt([5, 9, 12, 30, 31, 3], 2),
        paper_prompt.Prompt([8, 40, 41, 42, 43, 44, 45, 3], 3),
    ]
    loss = paper_prompt.prompt_loss(backbone.model, prompts)
    stock = AutoModelForCausalLM.from_pretrained(folder / "backbone", dtype=torch.float32)
    total = 0.0
    for prompt in prompts:
        ids = torch.tensor([prompt.ids])
        labels = ids.clone()
        labels[:, : -prompt.answer] = -100
        total += stock(input_ids=ids, labels=labels).loss.item() * prompt.answer
    assert loss.item() == pytest.approx(total / 5, rel=1e-5)


# -- inference --------------------------------------------------------------------------------


def test_inference_cost_reports_every_variant(
    folder: Path, tmp_path: Path, benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    sizes = "--repeats 2 --requests 6 --uncached-requests 3 --batch-users 5 --rounds 2".split()
    benchmark("inference_cost").main([*flags(folder, out), *sizes])
    result = json.loads(out.read_text())
    names = ["none", "none again", "base adapter"]
    names += [f"cocktail {method}" for method in ("delta", "factor", "svd")] + ["merged"]
    for kind, requests in (("latency_cached", 6), ("latency_uncached", 3)):
        assert list(result[kind]) == names
        for found in result[kind].values():
            assert found["requests"] == requests
            assert 0 < found["p50_seconds"] <= found["p95_seconds"]
    assert list(result["batched"]) == names
    assert result["latency_cached"]["none"]["ratio_to_none"]["median"] == 1.0
    added = result["memory"]["added_bytes"]
    assert added["none"] == added["merged"] == 0
    assert added["base adapter"] == added["cocktail factor"] == added["cocktail svd"] > 0
    assert added["cocktail delta"] == 2 * added["base adapter"]
    assert result["lifecycle"]["delta"]["rank"] == 32
    assert result["lifecycle"]["svd"]["combine_seconds"]["n"] == 2
    assert str(folder) not in out.read_text()
    assert "cocktail delta" in capsys.readouterr().out


def test_variants_are_what_they_are_called(
    backbone: Backbone, domain: Domain, benchmark: Any
) -> None:
    models = benchmark("variants")
    halves = torch.tensor([0.5, 0.5])
    pair = [models.random_lora(backbone, Recipe(), seed) for seed in (0, 1)]
    loras = {method: combine(pair, halves, method) for method in ("delta", "factor", "svd")}
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    variants = models.variants(backbone, pair[0], loras)
    ids = torch.randint(7, 60, (3, 12), generator=torch.Generator().manual_seed(0))

    def states(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return model.get_decoder()(input_ids=ids).last_hidden_state

    wanted = {"none": None, "none again": None, "base adapter": pair[0], "merged": loras["delta"]}
    wanted |= {f"cocktail {method}": lora for method, lora in loras.items()}
    for variant in variants:
        with merged(backbone.model, wanted[variant.name]) as model:
            expected = states(model)
        assert torch.allclose(states(variant.model), expected, atol=1e-4), variant.name
    # Shared tensors: neither the backbone nor another variant may have been changed.
    after = backbone.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    bare = {t.data_ptr() for t in backbone.model.parameters()}
    assert {t.data_ptr() for t in variants[0].model.parameters()} == bare


def test_inference_cost_takes_trained_adapters(
    folder: Path, tmp_path: Path, backbone: Backbone, benchmark: Any
) -> None:
    saved_adapter(tmp_path / "cocktail", backbone, benchmark)
    out = tmp_path / "result.json"
    sizes = "--repeats 1 --requests 1 --uncached-requests 1 --batch-users 1 --rounds 1".split()
    adapters = ["--adapter", str(tmp_path / "cocktail")] * 2
    benchmark("inference_cost").main([*flags(folder, out), *sizes, *adapters])
    result = json.loads(out.read_text())
    assert result["lora"] == "adapters"
    assert result["ranks"]["base adapter"] == 32  # the folder's rank, not the recipe's


def test_inference_cost_refuses_one_adapter(
    folder: Path, tmp_path: Path, benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        benchmark("inference_cost").main(
            [*flags(folder, tmp_path / "result.json"), "--adapter", str(tmp_path)]
        )
    assert "--adapter twice" in capsys.readouterr().err


# -- stock PEFT -------------------------------------------------------------------------------


def test_stock_peft_gives_the_same_scores(
    folder: Path, tmp_path: Path, backbone: Backbone, benchmark: Any
) -> None:
    adapter = saved_adapter(tmp_path / "cocktail", backbone, benchmark)
    script = [sys.executable, str(ROOT / "benchmarks" / "stock_peft.py"), "--users", "4"]
    places = ["--adapter", tmp_path / "cocktail", "--data", folder / "tastes"]
    done = subprocess.run(
        [*script, *map(str, places), "--backbone", str(folder / "backbone")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "8 users, 240 scores" in done.stdout
    assert "8 of 8 users" in done.stdout
    # The check means something: without the adapter the scores are far away.
    stock_peft = benchmark("stock_peft")
    place = (folder / "tastes", str(folder / "backbone"), ["test_warm"], 4)
    with_adapter = stock_peft.project_scores(tmp_path / "cocktail", *place)
    zero = {m: Factors(a, torch.zeros_like(b), s) for m, (a, b, s) in adapter.lora.items()}
    Adapter("zero", zero, adapter.card).save(tmp_path / "zero", "None.")
    without = stock_peft.project_scores(tmp_path / "zero", *place)
    assert not stock_peft.compare(without, with_adapter)[1]
    assert stock_peft.compare(with_adapter, with_adapter)[1]


@pytest.mark.parametrize("other", [[1.0, 2.0002], [1.0, float("nan")], [float("nan"), 2.0]])
def test_a_difference_is_found(other: list[float], benchmark: Any) -> None:
    stock_peft: ModuleType = benchmark("stock_peft")
    sentence, same = stock_peft.compare({("t", "u"): [1.0, 2.0]}, {("t", "u"): other})
    assert not same
    assert "1 users" in sentence


def test_other_users_are_a_difference(benchmark: Any) -> None:
    compare = benchmark("stock_peft").compare
    assert not compare({("t", "u"): [1.0]}, {("t", "v"): [1.0]})[1]
    assert not compare({}, {})[1]


def test_a_run_with_the_project_loaded_is_no_stock_run(
    folder: Path, benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock_peft = benchmark("stock_peft")
    monkeypatch.setattr(stock_peft, "stock_scores", lambda *_: {("t", "u"): [1.0]})
    with pytest.raises(SystemExit, match="reccocktail was imported"):
        stock_peft.main(["--adapter", "a", "--data", "d", "--backbone", "b"])


# -- studies of the base spirit ---------------------------------------------------------------


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    """A base spirit of few steps, trained on another domain than the target."""
    other = taste_domain(folder, name="other", tastes=2, users=60)
    recipe = pico_recipe(str(folder / "backbone"), validations=0)
    backbone = load_backbone(recipe.backbone, device="cpu")
    train("base", [other], backbone, recipe, folder / "spirit", Length(steps=6))
    return folder / "spirit"


def study(folder: Path, base: Path, out: Path, *more: str) -> list[str]:
    places = ["--target", folder / "tastes", "--base", base, "--out", out]
    return [*map(str, places), "--device", "cpu", *more]


def test_zero_shot_compares_what_needs_no_training(
    folder: Path,
    base: Path,
    domain: Domain,
    tmp_path: Path,
    benchmark: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    zero_shot = benchmark("zero_shot")
    arguments = study(folder, base, tmp_path, "--users", "40", "--validation-users", "20")
    zero_shot.main(arguments)
    result = json.loads((tmp_path / "zero_shot.json").read_text())
    models = {"text-similarity", "popularity", "backbone", "base_spirit"}
    for scenario in ("warm", "cold"):
        cell = result["targets"]["tastes"]["scenarios"][scenario]
        assert cell["users"] == 40
        for view in ("text alone", "with prior"):
            assert set(cell["models"][view]) == models
            means = {name: found["ndcg@10"] for name, found in cell["models"][view].items()}
            for other, paired in cell["base_spirit_minus"][view].items():
                difference = means["base_spirit"] - means[other]
                assert paired["ndcg@10"]["difference"] == pytest.approx(difference)
        assert set(cell["full_catalogue"]) == models
    assert str(folder) not in (tmp_path / "zero_shot.json").read_text()
    assert "| tastes | cold (40) | base_spirit |" in capsys.readouterr().out
    # What was taken off is the prior: an evaluation without one gives the same metrics.
    settings = EvaluationSettings(users=40, prior=False, full_catalogue=False)
    loaded = Adapter.load(base)
    backbone = load_backbone(str(folder / "backbone"), device="cpu")
    plain = evaluate(domain, [(loaded, base)], backbone, tmp_path / "plain", settings=settings)
    for scenario in ("warm", "cold"):
        cell = result["targets"]["tastes"]["scenarios"][scenario]
        for ours, name in (("base_spirit", "spirit"), ("backbone", "backbone")):
            assert cell["models"]["text alone"][ours] == plain["models"][name][scenario]
    # Finished cells are taken as they are, and never under other settings.
    monkeypatch.setattr(zero_shot, "evaluate", None)
    zero_shot.main(arguments)
    with pytest.raises(RunError, match="other settings"):
        zero_shot.main([*arguments, "--seed", "1"])


def test_a_ratio_of_means_and_its_interval(benchmark: Any) -> None:
    ratio_of_means = benchmark("common").ratio_of_means
    below = np.array([1.0, 0.0] * 200)
    found = ratio_of_means(np.ones(400), below)
    assert found["ratio"] == pytest.approx(2.0)
    assert 1.7 < found["low"] < 2.0 < found["high"] < 2.4
    assert ratio_of_means(below, below) == {"ratio": 1.0, "low": 1.0, "high": 1.0}
    assert ratio_of_means(np.ones(5), np.zeros(5)) == {"ratio": None, "low": None, "high": None}
    assert ratio_of_means(np.ones(3), np.array([1.0, 0.0, 0.0]))["high"] is None
