"""The benchmarks run at pico size, and what they compare is what they say."""

import importlib
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from reccocktail.backbone import Backbone, load_backbone
from reccocktail.data.domain import Domain
from reccocktail.errors import AdapterError, RunError
from reccocktail.evaluation.evaluate import evaluate
from reccocktail.evaluation.settings import EvaluationSettings
from reccocktail.mixing.arithmetic import combine
from reccocktail.ranking.collaborative import WAY
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.readout import Readout
from reccocktail.ranking.scoring import Catalogue
from reccocktail.recipe import Recipe
from reccocktail.training.adapter import Adapter, Card, Factors
from reccocktail.training.batches import DomainWindows
from reccocktail.training.model import merged, ranker_of
from reccocktail.training.schedule import Length
from reccocktail.training.trainer import train
from reccocktail.training.validation import Validation
from tests.adapters import pico_recipe, random_adapter
from tests.domains import taste_domain
from tests.helpers import nearly
from tests.pico import pico_backbone, pico_model, pico_tokenizer
from tests.readouts import a_readout, vectors

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
    """A sum (delta, rank 2r) of two random LoRAs, which adapted to nobody."""
    recipe = Recipe()
    pair = [benchmark("variants").random_lora(backbone, recipe, seed) for seed in (0, 1)]
    # Larger than training makes them: a difference that an adapter makes must be seen.
    pair = [{m: Factors(a, 10 * b, s) for m, (a, b, s) in lora.items()} for lora in pair]
    card = Card(
        role="ingredient",
        backbone=backbone.fingerprint,
        recipe=recipe,
        template_sha256=DenseRanker(
            backbone.tokenizer, recipe.prompt, recipe.dense
        ).template.sha256,
        data=(),
    )
    adapter = Adapter(path.name, combine(pair, torch.tensor([0.3, 0.7])), card)
    adapter.save(path, "A sum.")
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


def test_inference_cost_of_a_recipe_with_a_readout(
    folder: Path, tmp_path: Path, backbone: Backbone, benchmark: Any
) -> None:
    """Vectors are as long as the readout makes them; the card of the random LoRAs says which."""
    file, out = tmp_path / "readout.safetensors", tmp_path / "result.json"
    a_readout(backbone.fingerprint.sha256).save(file)
    recipe = Recipe.model_validate({"dense": {"readout": str(file)}})
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    program = benchmark("inference_cost")
    cards, measure = [], program.measure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "measure", lambda *a: cards.append(a[3]) or measure(*a))
        sizes = "--repeats 1 --requests 1 --uncached-requests 1 --batch-users 1 --rounds 1"
        more = [*sizes.split(), "--recipe", str(tmp_path / "recipe.json")]
        program.main([*flags(folder, out), *more])
    assert cards[0].readout_sha256 == Readout.load(file).sha256
    found = json.loads(out.read_text())
    numbers = found["catalogue_items"] * 2 * backbone.fingerprint.hidden_size
    assert found["memory"]["item_vectors_bytes"] == 4 * numbers


def test_inference_cost_refuses_one_adapter(
    folder: Path, tmp_path: Path, benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        benchmark("inference_cost").main(
            [*flags(folder, tmp_path / "result.json"), "--adapter", str(tmp_path)]
        )
    assert "--adapter twice" in capsys.readouterr().err


# -- stock PEFT -------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", [False, True])
def test_stock_peft_gives_the_same_scores(
    folder: Path, tmp_path: Path, backbone: Backbone, benchmark: Any, readout: bool
) -> None:
    adapter = saved_adapter(tmp_path / "cocktail", backbone, benchmark)
    file = tmp_path / "readout.safetensors"
    if readout:
        a_readout(backbone.fingerprint.sha256).save(file)
        dense = adapter.card.recipe.dense.model_copy(update={"readout": str(file)})
        card = adapter.card.model_copy(
            update={
                "recipe": adapter.card.recipe.model_copy(update={"dense": dense}),
                "readout_sha256": Readout.load(file).sha256,
            }
        )
        adapter = Adapter(adapter.name, adapter.lora, card)
        adapter.save(tmp_path / "cocktail", "None.")
    script = [sys.executable, str(ROOT / "benchmarks" / "stock_peft.py"), "--users", "4"]
    script += ["--out", str(tmp_path / "stock.json")]
    places = ["--adapter", tmp_path / "cocktail", "--data", folder / "tastes", "--readout", file]
    done = subprocess.run(
        [*script, *map(str, places), "--backbone", str(folder / "backbone")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "8 users, 240 scores" in done.stdout
    assert "8 of 8 users" in done.stdout
    written = json.loads((tmp_path / "stock.json").read_text())
    assert written["same"] and written["scores"] == 240
    assert written["adapter"]["sha256"] == adapter.sha256
    # The check means something: without the adapter the scores are far away.
    stock_peft = benchmark("stock_peft")
    place = (folder / "tastes", str(folder / "backbone"), ["test_warm"], 4)
    with_adapter = stock_peft.project_scores(tmp_path / "cocktail", *place)
    zero = {m: Factors(a, torch.zeros_like(b), s) for m, (a, b, s) in adapter.lora.items()}
    Adapter("zero", zero, adapter.card).save(tmp_path / "zero", "None.")
    without = stock_peft.project_scores(tmp_path / "zero", *place)
    assert not stock_peft.compare(without, with_adapter)["same"]
    assert stock_peft.compare(with_adapter, with_adapter)["same"]


@pytest.mark.parametrize("other", [[1.0, 2.0002], [1.0, float("nan")], [float("nan"), 2.0]])
def test_a_difference_is_found(other: list[float], benchmark: Any) -> None:
    stock_peft: ModuleType = benchmark("stock_peft")
    found = stock_peft.compare({("t", "u"): [1.0, 2.0]}, {("t", "u"): other})
    assert not found["same"]
    assert "1 users" in stock_peft.sentence(found)


def test_other_users_are_a_difference(benchmark: Any) -> None:
    compare = benchmark("stock_peft").compare
    assert not compare({("t", "u"): [1.0]}, {("t", "v"): [1.0]})["same"]
    assert not compare({}, {})["same"]


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
    backbone = load_backbone(str(folder / "backbone"), device="cpu")
    lines = pico_recipe(str(folder / "backbone")).model_copy(update={"ranker": "title"})
    reader = random_adapter(backbone, domain, "reader", recipe=lines)
    reader.save(tmp_path / "reader", "")
    arguments = study(folder, base, tmp_path, "--users", "40", "--validation-users", "20")
    arguments += ["--also", f"reader={tmp_path / 'reader'}"]
    zero_shot.main(arguments)
    result = json.loads((tmp_path / "zero_shot.json").read_text())
    models = {"text-similarity", "popularity", "backbone", "base_spirit"}
    models |= {zero_shot.TITLES, "reader"}
    for scenario in ("warm", "cold"):
        cell = result["targets"]["tastes"]["scenarios"][scenario]
        assert cell["users"] == 40
        for view in zero_shot.VIEWS:
            assert set(cell["models"][view]) == models
            means = {name: found["ndcg@10"] for name, found in cell["models"][view].items()}
            for other, paired in cell["base_spirit_minus"][view].items():
                difference = means["base_spirit"] - means[other]
                assert paired["ndcg@10"]["difference"] == pytest.approx(difference)
    assert str(folder) not in (tmp_path / "zero_shot.json").read_text()
    assert "| tastes | cold (40) | base_spirit |" in capsys.readouterr().out
    # The figures are those of the command.
    loaded = Adapter.load(base)
    rows = {"base_spirit": "spirit", "backbone": "backbone"}
    of_titles = {"reader": "reader", zero_shot.TITLES: "backbone"}
    for view, (prior, words) in zero_shot.VIEWS.items():
        settings = EvaluationSettings(40, 20, prior=prior, words=words, full_catalogue=False)
        for made, names in (((loaded, base), rows), ((reader, tmp_path / "reader"), of_titles)):
            found = evaluate(domain, [made], backbone, tmp_path / "e", settings=settings)
            for scenario in ("warm", "cold"):
                cell = result["targets"]["tastes"]["scenarios"][scenario]
                for ours, name in names.items():
                    assert cell["models"][view][ours] == found["models"][name][scenario]
    # What the history adds to a title's likelihood, for the same users.
    fame = benchmark("fame")
    again = ["--target", str(folder / "tastes"), "--run", str(tmp_path), "--device", "cpu"]
    again += ["--backbone", str(folder / "backbone"), "--out", str(tmp_path / "fame.json")]
    fame.main(again)
    known = json.loads((tmp_path / "fame.json").read_text())["targets"]["tastes"]["scenarios"]
    for scenario in ("warm", "cold"):
        behind = known[scenario]["models"]["behind the history"]
        cell = result["targets"]["tastes"]["scenarios"][scenario]
        assert behind == cell["models"]["model alone"][zero_shot.TITLES]
        means = [m["ndcg@10"] for m in known[scenario]["models"].values()]
        gap = known[scenario]["what the history adds"]["ndcg@10"]
        assert gap["difference"] == pytest.approx(means[0] - means[1])
    alone = fame.by_themselves(domain, range(len(domain.item_ids)), backbone)
    ranker = fame.TitleRanker(backbone.tokenizer, Recipe().prompt, Recipe().title)
    line = ranker.encoder.line(ranker.titles([domain.titles[3]])[0])
    ids = torch.tensor([[*ranker.encoder.history([])[0], *line]])
    with torch.no_grad():
        told = backbone.model(ids).logits[0].log_softmax(-1)
    wanted = told[torch.arange(-len(line) - 1, -1), torch.tensor(line)].mean() / 0.5
    assert alone[3] == pytest.approx(float(wanted), abs=1e-4)
    with pytest.raises(RunError, match=r"run zero_shot\.py on tastes first"):
        fame.main([*again[:2], "--run", str(tmp_path / "nowhere"), *again[4:]])
    # Finished cells are taken as they are, and never under other settings.
    monkeypatch.setattr(zero_shot, "Scorer", None)
    zero_shot.main(arguments)
    with pytest.raises(RunError, match="other settings"):
        zero_shot.main([*arguments, "--seed", "1"])
    with pytest.raises(SystemExit):
        zero_shot.main([*arguments, "--also", f"backbone={base}"])
    # Other weights of the same shape are another backbone, and a cocktail scored whom it read.
    pico_model("llama", 9).save_pretrained(tmp_path / "other")
    pico_tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(AdapterError, match="trained on backbone"):
        zero_shot.main([*arguments, "--backbone", str(tmp_path / "other")])
    mixed = replace(loaded, card=loaded.card.model_copy(update={"role": "cocktail"}))
    mixed.save(tmp_path / "mixed", "")
    with pytest.raises(RunError, match="is a cocktail"):
        zero_shot.main(study(folder, tmp_path / "mixed", tmp_path / "z", "--users", "40"))


@pytest.mark.parametrize(
    ("weights", "products", "facts"),
    [
        ("float32", None, {}),
        ("float32", torch.bfloat16, {"precision": "bfloat16"}),
        ("bfloat16", None, {"precision": "bfloat16", "dtype": "bfloat16"}),
    ],
)
def test_cells_of_other_numbers_are_other_cells(
    weights: str, products: torch.dtype | None, facts: dict[str, str], benchmark: Any
) -> None:
    backbone = replace(pico_backbone(), autocast=products)
    backbone.model.to(getattr(torch, weights))
    assert benchmark("cells").precision_facts(backbone) == facts


def test_source_validation_is_the_validation_of_a_training(
    folder: Path, base: Path, domain: Domain, backbone: Backbone, tmp_path: Path, benchmark: Any
) -> None:
    study = benchmark("source_validation")
    out = tmp_path / "found.json"
    data = [str(folder / name) for name in ("other", "tastes")]
    arguments = [part for name in data for part in ("--data", name)]
    arguments += ["--users", "20", "--device", "cpu", "--out", str(out)]
    study.main([*arguments, "--adapter", f"spirit={base}"])
    found = json.loads(out.read_text())
    assert str(folder) not in out.read_text()
    adapter = Adapter.load(base)
    ranker = ranker_of(adapter.card, backbone)
    with merged(backbone.model, adapter.lora) as model:
        expected = Validation([Catalogue.of(domain, ranker)], 20, 0)(model)
    of_tastes = found["domains"]["tastes"]["spirit"]
    assert of_tastes["ndcg@10"] == pytest.approx(expected["ndcg@10/tastes"])
    assert of_tastes["n"] == len(found["models"]["spirit"]["ranks"]["tastes"])
    low, high = of_tastes["ci95"]["ndcg@10"]
    assert low < of_tastes["ndcg@10"] < high
    gaps = {
        name: of["spirit"]["ndcg@10"] - of["backbone"]["ndcg@10"]
        for name, of in found["domains"].items()
    }
    assert list(gaps) == ["other", "tastes"]
    assert found["minus"]["backbone"]["difference"] == pytest.approx(sum(gaps.values()) / 2)
    for name, gap in gaps.items():
        paired = found["minus_by_domain"]["backbone"][name]
        assert paired["difference"] == pytest.approx(gap)
        assert paired["ci95"][0] <= gap <= paired["ci95"][1]
    # What stands there is taken as it is, and not for other users.
    found["models"]["spirit"]["ranks"]["tastes"] = [0] * of_tastes["n"]
    out.write_text(json.dumps(found))
    study.main([*arguments, "--adapter", f"spirit={base}"])
    assert json.loads(out.read_text())["domains"]["tastes"]["spirit"]["ndcg@10"] == 1
    # What stands there without ranks, as files once did, is measured again.
    found["models"]["spirit"] = {"sha256": found["models"]["spirit"]["sha256"], "ndcg@10": 1.0}
    out.write_text(json.dumps(found))
    study.main([*arguments, "--adapter", f"spirit={base}"])
    assert json.loads(out.read_text())["domains"]["tastes"]["spirit"] == of_tastes
    refused = {"seed": ["--seed", "1"], "precision": ["--precision", "bfloat16"]}
    for what, more in refused.items():
        with pytest.raises(RunError, match=rf"other settings or data \({what}\)"):
            study.main([*arguments, "--adapter", f"spirit={base}", *more])
    found["backbone"] = found["backbone"] | {"sha256": "of another one"}
    out.write_text(json.dumps(found))
    with pytest.raises(RunError, match=r"\(backbone\)"):
        study.main([*arguments, "--adapter", f"spirit={base}"])
    del found["backbone"]  # a file from before that was kept
    out.write_text(json.dumps(found))
    study.main([*arguments, "--adapter", f"spirit={base}"])
    with pytest.raises(RunError, match="NAME=FOLDER"):
        study.main([*arguments, "--adapter", str(base)])


def test_a_ratio_of_means_and_its_interval(benchmark: Any) -> None:
    ratio_of_means = benchmark("spreads").ratio_of_means
    below = np.array([1.0, 0.0] * 200)
    found = ratio_of_means(np.ones(400), below)
    assert found["ratio"] == pytest.approx(2.0)
    assert 1.7 < found["low"] < 2.0 < found["high"] < 2.4
    assert ratio_of_means(below, below) == {"ratio": 1.0, "low": 1.0, "high": 1.0}
    assert ratio_of_means(np.ones(5), np.zeros(5)) == {"ratio": None, "low": None, "high": None}
    assert ratio_of_means(np.ones(3), np.array([1.0, 0.0, 0.0]))["high"] is None


FEW_SHOT = (
    "--fractions 0 0.1 1 --seeds 0 1 --steps 6 --epochs 2 "
    "--users 30 --validation-users 12 --adaptation-users 10"
).split()
UNTRAINED = {"text-similarity", "backbone", "base_spirit"}
PARTNERS = {"cocktail": "ingredient", "second_cocktail": "second_round"}
TRAINED = {
    *("ingredient", "second_round", "average"),
    *(name + by for name in PARTNERS for by in ("", "_validation")),
}


@pytest.fixture(scope="module")
def few_shot_run(
    folder: Path, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A whole study of one target: two seeds, two shares, and no target data at all."""
    out = tmp_path_factory.mktemp("few-shot")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        importlib.import_module("few_shot").main(study(folder, base, out, *FEW_SHOT))
    return out, json.loads((out / "few_shot.json").read_text())["targets"]["tastes"]


@pytest.fixture
def few_shot_copy(few_shot_run: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of that study's folder, to be changed."""
    out: Path = shutil.copytree(few_shot_run[0], tmp_path / "run")
    return out


def test_few_shot_judges_every_share_alike(
    few_shot_run: tuple[Path, dict[str, Any]], folder: Path, base: Path, domain: Domain
) -> None:
    out, found = few_shot_run
    cells = {(cell["share"], cell.get("seed")): cell for cell in found["cells"]}
    assert set(cells) == {(0.0, None), (0.1, 0), (1.0, 0), (0.1, 1), (1.0, 1)}
    assert set(cells[0.0, None]["models"]) == UNTRAINED
    for (share, seed), cell in cells.items():
        if share == 0.0:
            continue
        assert set(cell["models"]) == UNTRAINED | TRAINED
        assert cell["training_users"] == round(share * domain.train().height)
        assert 1 <= cell["steps"] <= 6
        for scenario in ("warm", "cold"):
            text = {m: cell["models"][m][scenario]["text alone"] for m in cell["models"]}
            assert all(values["n"] == 30 for values in text.values())
            # What sees no target data scores the same rows the same way in every cell.
            for model in UNTRAINED:
                zero = cells[0.0, None]["models"][model][scenario]
                assert text[model] == zero["text alone"] == zero["with prior"]
            for cocktail, partner in PARTNERS.items():
                for chooser, by in (("entropy", ""), ("validation", "_validation")):
                    first, second = cell["coefficients"][cocktail][scenario][chooser]
                    assert first + second == 1 and first in (0.0, 0.25, 0.5, 0.75, 1.0)
                    alone = {0.0: partner, 1.0: "base_spirit"}.get(first)
                    if alone:
                        assert text[cocktail + by] == text[alone]
                    elif (cocktail, first) == ("cocktail", 0.5):
                        assert text[cocktail + by] == text["average"]
        place = out / "tastes" / f"seed-{seed}" / f"{share:g}"
        assert not (place / "cocktail_warm").exists()
        second = Adapter.load(place / "second_round")
        assert second.card.initial_sha256 == Adapter.load(base).sha256
        assert second.card.steps == Adapter.load(place / "ingredient").card.steps == cell["steps"]
    assert cells[0.1, 0]["steps"] < cells[1.0, 0]["steps"] == 6  # passes bound the small share
    assert str(folder) not in (out / "few_shot.json").read_text()
    for plot in ("few_shot.png", "few_shot_prior.png", "coefficients.png"):
        assert (out / plot).read_bytes().startswith(b"\x89PNG")


def test_few_shot_scores_are_those_of_evaluate(
    few_shot_run: tuple[Path, dict[str, Any]], domain: Domain, backbone: Backbone, tmp_path: Path
) -> None:
    """The kept predictions of an ingredient, against the project's own evaluation of it."""
    cell = few_shot_run[0] / "tastes" / "seed-1" / "0.1"
    kept = pl.read_parquet(cell / "predictions.parquet").filter(pl.col("model") == "ingredient")
    share = Domain.load(cell / "data")
    settings = EvaluationSettings(prior=False, words=False, full_catalogue=False)
    adapters = [(Adapter.load(cell / "ingredient"), cell / "ingredient")]
    evaluate(share, adapters, backbone, tmp_path, settings=settings)
    theirs = pl.read_parquet(tmp_path / "predictions.parquet")
    both = kept.join(theirs, on=["model", "scenario", "user_id", "target", "candidates"])
    assert both.height == kept.height == 60
    for ours, other in both.select("scores", "scores_right").iter_rows():
        assert ours == pytest.approx(other, abs=1e-5)


def test_few_shot_means_are_over_users_and_seeds(
    few_shot_run: tuple[Path, dict[str, Any]],
) -> None:
    _, found = few_shot_run
    for entry in found["means"]:
        assert entry["seeds"] == (1 if entry["share"] == 0.0 else 2)
        values = [
            cell["models"][entry["model"]][entry["scenario"]][entry["view"]]["ndcg@10"]
            for cell in found["cells"]
            if cell["share"] == entry["share"]
        ]
        assert entry["ndcg@10"] == pytest.approx(sum(values) / len(values))
        low, high = entry["ci95"]["ndcg@10"]
        assert low <= entry["ndcg@10"] <= high
    means = {
        (e["share"], e["scenario"], e["view"], e["model"]): e["ndcg@10"] for e in found["means"]
    }
    assert len(found["differences"]) == 2 * 2 * 2 * (4 * 5 + 2 * 4)
    for entry in found["differences"]:
        where = (entry["share"], entry["scenario"], entry["view"])
        difference = means[*where, entry["model"]] - means[*where, entry["against"]]
        assert entry["ndcg@10"] == pytest.approx(difference, abs=1e-12)


def test_few_shot_goes_on_from_what_is_published(
    few_shot_run: tuple[Path, dict[str, Any]],
    folder: Path,
    base: Path,
    benchmark: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """All cells but one are published: only that one is trained, and the figures are the same."""
    whole, found = few_shot_run
    run, results, out = tmp_path / "run", tmp_path / "results", tmp_path / "out"
    shutil.copytree(whole, run)
    (run / "tastes" / "seed-1" / "0.1" / "cell.json").unlink()
    benchmark("publish").main([str(run), "--command", "python it", "--out", str(results)])
    published = pl.read_parquet(results / "tastes.parquet")
    assert published.height == 4 and "user_id" not in published.columns
    few_shot = benchmark("few_shot")
    trained = []
    train = few_shot.train
    monkeypatch.setattr(few_shot, "train", lambda *a, **k: trained.append(a[4]) or train(*a, **k))
    few_shot.main(study(folder, base, out, *FEW_SHOT, "--published", str(results)))
    cell = out / "tastes" / "seed-1" / "0.1"
    assert trained == [cell / "ingredient", cell / "second_round"]
    again = json.loads((out / "few_shot.json").read_text())["targets"]["tastes"]
    assert again["means"] == found["means"] and again["differences"] == found["differences"]


def test_few_shot_reports_what_is_finished_before_it_goes_on(
    few_shot_copy: Path, folder: Path, base: Path, benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first cell of the work is missing and its training fails: the later ones are told."""
    few_shot, out = benchmark("few_shot"), few_shot_copy
    (out / "tastes" / "seed-0" / "0.1" / "cell.json").unlink()
    (out / "few_shot.json").unlink()

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(few_shot, "train", full_disk)
    with pytest.raises(OSError, match="no space"):
        few_shot.main(study(folder, base, out, *FEW_SHOT))
    found = json.loads((out / "few_shot.json").read_text())["targets"]["tastes"]
    cells = {(cell["share"], cell.get("seed")) for cell in found["cells"]}
    assert cells == {(0.0, None), (1.0, 0), (0.1, 1), (1.0, 1)}
    seeds = {entry["share"]: entry["seeds"] for entry in found["means"]}
    assert seeds == {0.0: 1, 0.1: 1, 1.0: 2}
    (out / "few_shot.json").unlink()
    (out / "tastes" / "zero" / "predictions.parquet").unlink()
    few_shot.main(study(folder, base, out, *FEW_SHOT, "--report"))
    assert json.loads((out / "few_shot.json").read_text())["targets"]["tastes"] == found


def test_few_shot_goes_on_and_takes_what_is_finished(
    few_shot_copy: Path, folder: Path, base: Path, benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_shot, out = benchmark("few_shot"), few_shot_copy
    cell = out / "tastes" / "seed-1" / "1"
    former = json.loads((cell / "cell.json").read_text())
    (cell / "cell.json").unlink()
    (cell / "cocktail_cold.json").unlink()
    mixed = []
    study_module = benchmark("study")
    mix = study_module.mix
    monkeypatch.setattr(study_module, "mix", lambda *a: mixed.append(a[3]) or mix(*a))
    few_shot.main(study(folder, base, out, *FEW_SHOT))
    assert mixed == ["cold"]  # the rest of the cell was there
    again = json.loads((cell / "cell.json").read_text())
    # Which items a batch of titles holds depends on what was kept, and the last digits of the
    # re-measured mixes on that.
    assert nearly(again["coefficients"], former["coefficients"])
    left = {"seconds": None, "coefficients": None}
    assert again | left == former | left
    monkeypatch.setattr(study_module, "mix", None)
    few_shot.main(study(folder, base, out, *FEW_SHOT))
    with pytest.raises(RunError, match="other settings"):
        few_shot.main(study(folder, base, out, *FEW_SHOT, "--users", "20"))


def test_minutes_are_turned_into_steps_once(
    folder: Path, base: Path, tmp_path: Path, benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_shot = benchmark("few_shot")
    domain = Domain.load(folder / "tastes")
    adapter = Adapter.load(base)
    backbone = load_backbone(adapter.card.recipe.backbone, device="cpu")
    sizes = few_shot.Sizes(3.0, 0.01, None, 10, 4, 4)
    target = few_shot.Target(domain, adapter, backbone, adapter.card.recipe, sizes)
    clock = tmp_path / "clock.json"
    few_shot._steps(target, domain, clock)
    assert json.loads(clock.read_text())["seconds_per_step"] > 0
    assert not (tmp_path / "clock").exists()
    monkeypatch.setattr(few_shot, "train", None)
    clock.write_text('{"seconds_per_step": 0.1}')
    assert few_shot._steps(target, domain, clock) == 6  # 0.6 seconds
    clock.write_text('{"seconds_per_step": 1e-6}')
    targets = sum(len(history) - 1 for history in domain.train()["history"])
    assert few_shot._steps(target, domain, clock) == math.ceil(3 * targets / 32)


def test_an_interval_over_users_and_seeds(benchmark: Any) -> None:
    two_way = benchmark("spreads").two_way
    rng = np.random.default_rng(0)
    users = rng.normal(size=(400, 1, 1))
    mean, low, high = two_way(np.repeat(users, 3, axis=1))  # seeds that agree add no certainty
    one = two_way(users)
    assert mean[0] == pytest.approx(users.mean())
    assert high[0] - low[0] == pytest.approx(one[2][0] - one[1][0], rel=0.1)
    assert high[0] - low[0] == pytest.approx(2 * 1.96 * users.std() / 20, rel=0.1)
    apart = np.repeat(users, 2, axis=1) + np.array([-1.0, 1.0])[None, :, None]
    _, low, high = two_way(apart)
    assert high[0] - low[0] > 1.9  # seeds that differ count, however many users there are


def test_learning_judges_trials_on_users_that_no_trial_trained_on(
    folder: Path, tmp_path: Path, benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning = benchmark("learning")
    monkeypatch.setattr(learning, "SHARE", 0.8)
    data = str(folder / "tastes")
    common = ["--data", data, "--backbone", str(folder / "backbone"), "--out", str(tmp_path)]
    trials = [
        "--trial",
        "backbone",
        "--trial",
        "short: prompt.max_history=3 training.compile=false",
        "--trial",
        "thin: prompt.max_history=3 lora.rank=1",
        "--trial",
        "other places",
    ]
    learning.main([*common, *trials, "--minutes", "0.02"])
    kept = json.loads((tmp_path / "learning.json").read_text())
    result, compared = kept["trials"], kept["against_first"]
    assert compared["first"] == "short" and list(compared["differences"]) == ["thin"]
    gap = compared["differences"]["thin"]["mrr"]["difference"]
    assert result["thin"]["mrr"] - result["short"]["mrr"] == pytest.approx(gap, abs=1e-9)
    assert result["backbone"]["minutes"] == 0 and "steps" not in result["backbone"]
    assert result["short"]["steps"] == len(result["short"]["curve"]) > 0
    for found in result.values():
        low, high = found["ci95"]["mrr"]
        assert 0 < low <= found["mrr"] <= high <= 1
        assert found["n"] == found["domains"]["tastes"]["n"] > 0
    whole, part = Domain.load(folder / "tastes"), Domain.load(tmp_path / "data" / "tastes")
    ranker = DenseRanker(pico_tokenizer(), Recipe().prompt, Recipe().dense)
    windows = learning.held_out(whole, part, ranker)
    users = whole.train()["user_id"].to_list()
    judged = {users[owner] for owner in windows.owner}
    assert judged and not judged & set(part.train()["user_id"].to_list())
    # The same command takes finished trials as they are; another one's are not its own.
    trained: list[str] = []
    again = {name: value for name, value in result["short"].items() if name != "minutes"}
    monkeypatch.setattr(learning, "run_trial", lambda *a: trained.append(a[4].name) or again)
    learning.main([*common, *trials, "--minutes", "0.02"])
    assert trained == []
    learning.main([*common, *trials, "--minutes", "0.03"])
    assert trained == ["short", "thin", "other_places"]
    kept = json.loads((tmp_path / "learning.json").read_text())
    assert kept["trials"]["short"]["minutes"] == 0.03
    with pytest.raises(RunError, match=r"other settings or data \(batches\)"):
        learning.main([*common, *trials, "--batches", "3"])
    other = taste_domain(tmp_path, users=50, seed=4)
    with pytest.raises(RunError, match=r"other settings or data \(data\)"):
        learning.main([*common, *trials, "--data", str(other.path)])
    # Nor are the users of a domain of the same name.
    part = tmp_path / "data" / "tastes"
    assert learning.part_of(whole, part).manifest["subset"]["of"] == whole.sha256
    assert learning.part_of(other, part).manifest["subset"]["of"] == other.sha256


def test_learning_joins_trials_that_several_programs_ran(
    folder: Path, tmp_path: Path, benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning = benchmark("learning")
    monkeypatch.setattr(learning, "SHARE", 0.8)
    size = ["--steps", "3", "--data", str(folder / "tastes"), "--out", str(tmp_path)]
    common = [*size, "--backbone", str(folder / "backbone")]
    thin = ["--trial", "thin: lora.rank=1"]
    learning.main([*common, *thin])
    learning.main([*common, "--trial", "plain"])
    kept = json.loads((tmp_path / "learning.json").read_text())
    assert list(kept["trials"]) == ["plain", "thin"]  # nothing is lost of what another one found
    assert {found["steps"] for found in kept["trials"].values()} == {3}
    assert all(found["seconds_a_step"] > 0 for found in kept["trials"].values())
    assert kept["against_first"]["first"] == "plain"
    # The first that is asked for is the first, and a file that says so already is left alone.
    monkeypatch.setattr(learning, "run_trial", lambda *_: pytest.fail("trained again"))
    learning.main([*common, *thin, "--trial", "plain"])
    text = (tmp_path / "learning.json").read_text()
    compared = json.loads(text)["against_first"]
    assert compared["first"] == "thin" and list(compared["differences"]) == ["plain"]
    learning.main([*common, *thin, "--trial", "plain"])
    assert (tmp_path / "learning.json").read_text() == text


def test_who_chose_what_is_worth_its_difference(
    folder: Path, backbone: Backbone, tmp_path: Path, benchmark: Any
) -> None:
    program, out = benchmark("collaborative"), tmp_path / "worth.json"
    saved_adapter(tmp_path / "mixed", backbone, benchmark)
    data = ["--data", str(folder / "tastes"), "--backbone", str(folder / "backbone")]
    model = ["--adapter", str(tmp_path / "mixed")]
    program.main([*data, *model, "--users", "12", "--validation-users", "12", "--out", str(out)])
    tables = json.loads(out.read_text())["targets"]["tastes"]["tables"]
    assert set(tables) == set(program.TABLES)
    for pair in ((program.WARM_BOTH, program.COLD_BOTH), (program.WARM_LEVEL, program.COLD_LEVEL)):
        first, second = (tables[table]["mixed"]["weights"] for table in pair)
        assert first == second
    for models in tables.values():
        assert set(models) == {"no model", "mixed"}
        for values in models.values():
            without, both = (values[view] for view in (program.WITHOUT, program.WITH))
            assert without["n"] == both["n"] == 12
            assert values["weights"][program.WITHOUT]["collaborative"] == 0
            assert all(0 <= share <= 1 for share in values["new_first"].values())
            gap = values["gain"]["ndcg@10"]["difference"]
            assert both["ndcg@10"] - without["ndcg@10"] == pytest.approx(gap, abs=1e-9)
        assert models["no model"]["over"] == {}
        for view, gap in models["mixed"]["over"]["no model"].items():
            apart = models["mixed"][view]["ndcg@10"] - models["no model"][view]["ndcg@10"]
            assert gap["ndcg@10"]["difference"] == pytest.approx(apart, abs=1e-9)


def test_ways_to_read_who_chose_what_are_compared(
    folder: Path, tmp_path: Path, benchmark: Any
) -> None:
    program, out = benchmark("collaborative_settings"), tmp_path / "settings.json"
    data = ["--data", str(folder / "tastes")]
    program.main([*data, "--users", "20", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["domains"]["tastes"]["users"] == 20 and set(found["data"]) == {"tastes"}
    together = [way["with popularity"] for way in found["means"].values()]
    assert len(together) == 73 and together == sorted(together, reverse=True)
    # The one in use is among them, and what stood there before.
    assert {program.name_of(*WAY), program.PURE} <= set(found["means"])
    with pytest.raises(RunError, match="--users"):
        program.main([*data, "--users", "2"])


def test_levelling_new_items_is_worth_its_difference(
    folder: Path, tmp_path: Path, benchmark: Any
) -> None:
    data, out = ["--data", str(folder / "tastes")], tmp_path / "levels.json"
    benchmark("newcomers").main([*data, "--users", "20", "--out", str(out)])
    found = json.loads(out.read_text())
    for scenario, means in found["means"].items():
        of = found["domains"]["tastes"][scenario]
        assert means == {view: of[view]["ndcg@10"] for view in ("as they are", "levelled")}
        gap = of["gain"]["ndcg@10"]["difference"]
        assert means["levelled"] - means["as they are"] == pytest.approx(gap, abs=1e-9)
        assert of["levelled"]["n"] == 10


def test_popularity_compares_equal_steps(folder: Path, tmp_path: Path, benchmark: Any) -> None:
    data = str(folder / "tastes")
    common = ["--data", data, "--backbone", str(folder / "backbone"), "--out", str(tmp_path)]
    benchmark("popularity").main([*common, "--steps", "3", "--users", "20"])
    cells = json.loads((tmp_path / "popularity.json").read_text())["domains"]["tastes"]["cells"]
    assert [cells[key]["steps"] for key in ("0", "1")] == [3, 3]
    for key in ("0", "1"):
        alone, together = cells[key]["text alone"], cells[key]["with prior"]
        gain = cells[key]["gain of the prior"]["ndcg@10"]["difference"]
        assert alone["n"] == together["n"] == 10
        assert together["ndcg@10"] - alone["ndcg@10"] == pytest.approx(gain)


def test_forms_of_titles_are_compared_on_the_same_users(
    folder: Path, tmp_path: Path, benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms = benchmark("surface_forms")
    common = [*flags(folder, tmp_path), "--users", "6"]
    forms.main(common)
    found = json.loads((tmp_path / "surface_forms.json").read_text())["domains"]["tastes"]
    model = found["models"]["backbone"]
    assert model["one"]["n"] == model["several"]["n"] == 6
    gap = model["several less one"]["ndcg@10"]["difference"]
    assert model["several"]["ndcg@10"] - model["one"]["ndcg@10"] == pytest.approx(gap)
    identities = set()
    for way in forms.WAYS:
        cell = json.loads((tmp_path / "tastes" / f"backbone-{way}.json").read_text())
        assert len(cell["ranks"]) == 6 and cell["seconds_a_user"] > 0
        identities.add(cell["identity"])
    assert len(identities) == 2
    # What is finished is not scored again.
    monkeypatch.setattr(forms, "score", lambda *_, **__: pytest.fail("scored again"))
    forms.main(common)


def test_step_speed_gives_every_variant_the_same_batches(
    folder: Path, tmp_path: Path, benchmark: Any
) -> None:
    out = tmp_path / "speed.json"
    data = ["--data", str(folder / "tastes"), "--backbone", str(folder / "backbone")]
    variants = ["--variant", "float32", "--variant", "int8"]
    size = ["--steps", "2", "--rounds", "2", "--warm-up", "1"]
    benchmark("step_speed").main([*data, *variants, *size, "--out", str(out)])
    found = json.loads(out.read_text())["variants"]
    assert found["float32"]["times_faster"]["median"] == 1
    assert len(found["int8"]["seconds"]) == 2 and min(found["int8"]["seconds"]) > 0
    assert found["int8"]["warm_up_seconds"] > 0
    # Rounding moves the loss a little; on a CPU without it both are the same.
    assert found["int8"]["largest_loss_difference"] < 0.1
    assert found["float32"]["largest_loss_difference"] == 0


def test_waiting_is_measured_alone_and_beside_a_neighbour(
    folder: Path, tmp_path: Path, benchmark: Any
) -> None:
    out = tmp_path / "waiting.json"
    data = ["--data", str(folder / "tastes"), "--backbone", str(folder / "backbone")]
    size = ["--steps", "1", "--rounds", "1", "--targets", "8"]
    benchmark("waiting").main([*data, *size, "--out", str(out)])
    found = json.loads(out.read_text())
    assert set(found["beside"]) == {"0", str((os.cpu_count() or 1) // 2)}
    for one in found["beside"].values():
        (active,), (passive,) = (one["tokens_per_second"][p] for p in ("active", "passive"))
        assert one["passive_times_active"]["median"] == pytest.approx(passive / active)
    assert found["targets_per_batch"] == 8 and found["data"]["name"] == "tastes"


def test_trees_and_single_titles_take_the_same_stretches_and_steps(
    folder: Path, tmp_path: Path, benchmark: Any
) -> None:
    out = tmp_path / "prefixes.json"
    data = ["--data", str(folder / "tastes"), "--backbone", str(folder / "backbone")]
    benchmark("prefixes").main([*data, "--items", "20", "--rounds", "2", "--out", str(out)])
    found = json.loads(out.read_text())["domains"]["tastes"]
    tokens = found["tokens"]
    assert all(0 < trees < tokens["one_by_one"] for trees in tokens["trees"].values())
    for part in ("time", "steps", "candidates"):
        assert all(side["n"] == 2 and side["min"] > 0 for side in found[part]["seconds"].values())
    assert found["time"]["largest_difference"] < 1e-5
    assert found["steps"]["largest_difference_of_loss"] < 1e-4
    assert found["candidates"]["largest_difference"] < 1e-4
    with pytest.raises(RunError, match="at least 1"):
        benchmark("prefixes").main([*data, "--rounds", "0"])


def test_every_size_of_a_pass_reads_the_same_histories(
    folder: Path, tmp_path: Path, benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "passes.json"
    data = ["--data", str(folder / "tastes"), "--backbone", str(folder / "backbone")]
    passes = benchmark("pass_tokens")
    read = []
    of = DenseRanker.user_vectors
    monkeypatch.setattr(
        DenseRanker,
        "user_vectors",
        lambda self, model, users, device: (
            read.append(len(users)) or of(self, model, users, device)
        ),
    )
    before = passes.dense.pass_tokens
    passes.main([*data, "--tokens", "200", "--rounds", "2", "--out", str(out)])
    assert passes.dense.pass_tokens is before
    found = json.loads(out.read_text())
    assert read[1:] == [found["users"]] * 2 * len(passes.SIZES)
    assert set(found["sizes"]) == set(map(str, passes.SIZES)) and found["ours"] == 512
    assert found["sizes"]["4096"]["speedup"]["median"] == 1 and found["tokens"] >= 200


def test_a_fitted_readout_is_judged_on_the_same_places_and_can_be_trained_with(
    folder: Path, tmp_path: Path, benchmark: Any, backbone: Backbone
) -> None:
    taste_domain(tmp_path, name="other", tastes=2, users=40, seed=1)
    data = ["--data", str(folder / "tastes"), "--data", str(tmp_path / "other")]
    file, out = tmp_path / "readout.safetensors", tmp_path / "fit.json"
    size = ["--fit", "40", "--judge", "30", "--backbone", str(folder / "backbone")]
    fit = benchmark("fit_readout")
    fit.main([*data, *size, "--weight", "0.7", "--file", str(file), "--out", str(out)])
    found = json.loads(out.read_text())
    assert len({row["n"] for row in found["rows"].values()}) == 1
    assert len(found["grid"]) == len(fit.WEIGHTS) * math.prod(map(len, fit.RIDGES.values()))
    best = max(row["mrr"] for row in found["grid"])
    assert found["rows"]["both"]["mrr"] <= best + 1e-9
    readout = Readout.load(file)
    assert readout.weight == found["chosen"]["weight"] == 0.7
    assert str(readout.temperature) in found["log_loss"]
    assert readout.sha256 == found["chosen"]["sha256"]
    assert readout.backbone_sha256 == backbone.fingerprint.sha256


def test_gains_by_hand(benchmark: Any) -> None:
    fit = benchmark("fit_readout")
    scores = torch.tensor([[0.9, 0.5, 0.7], [0.4, 0.4, 0.1]])
    known = torch.tensor([[True, False, False], [False, False, False]])
    found = fit.judge([scores], [fit.Sample({}, {}, torch.tensor([1, 0]), known)])
    assert found["mrr"].tolist() == pytest.approx([1 / 2, 1 / 2])
    assert found["ndcg@10"].tolist() == pytest.approx([1 / math.log2(3)] * 2)


def test_the_joined_cosine_is_what_a_readout_gives(benchmark: Any) -> None:
    readout = a_readout("any", weight=1.4)
    users, items = vectors(5, 8), vectors(6, 9)
    states = readout.states(users, "users") @ readout.states(items, "items").T
    words = readout.words(users, "users") @ readout.words(items, "items").T
    (mixed,) = benchmark("fit_readout").mixed([states], [words], 1.4)
    expected = readout(users, users, "users") @ readout(items, items, "items").T
    torch.testing.assert_close(mixed, expected)
