"""Studies in bfloat16 keep to it, and the benchmark of precisions compares what it says."""

import json
from dataclasses import replace
from importlib import import_module as bench

import numpy as np
import polars as pl
import pytest

from reccocktail.backbone import load_backbone
from reccocktail.data.domain import Domain
from reccocktail.errors import RunError
from reccocktail.evaluation.evaluate import evaluate
from reccocktail.evaluation.settings import EvaluationSettings
from reccocktail.recipe import DenseSettings
from reccocktail.training.schedule import Length
from reccocktail.training.trainer import train
from tests.adapters import pico_recipe, random_adapter, save
from tests.benches import benchmark_modules
from tests.byte_level import byte_backbone, byte_tokenizer
from tests.domains import taste_domain
from tests.helpers import one_sentence
from tests.pico import pico_model, pico_tokenizer

BFLOAT16 = ["--precision", "bfloat16"]


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    """The benchmarks' modules, found and forgotten again."""
    with benchmark_modules():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("precision")
    pico_model().save_pretrained(place / "backbone")
    pico_tokenizer().save_pretrained(place / "backbone")
    domain = taste_domain(place, users=80)
    backbone = load_backbone(str(place / "backbone"), device="cpu")
    # A rate at which few steps make adapters that differ.
    recipe = pico_recipe(str(place / "backbone"), validations=0, learning_rate=0.03)
    for name, role, steps in (("spirit", "base", 4), ("own", "ingredient", 8)):
        train(role, [domain], backbone, recipe, place / name, Length(steps=steps))
    return place


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RECCOCKTAIL_CACHE", str(tmp_path / "cache"))


def places(folder, out, target="--target", base="--base"):
    return [target, str(folder / "tastes"), base, str(folder / "spirit"), "--out", str(out)]


def test_both_precisions_score_the_same_users(folder, tmp_path, capsys):
    out = tmp_path / "result.json"
    arguments = places(folder, out, "--data", "--adapter")
    arguments += ["--users", "20", "--rounds", "3", "--full-catalogue"]
    bench("scoring_precision").main(arguments)
    result = json.loads(out.read_text())
    exact, rounded = result["precisions"]["float32"], result["precisions"]["bfloat16"]
    assert result["users"] == 20 and len(exact["seconds"]) == len(rounded["seconds"]) == 3
    assert exact["users_per_second"] == pytest.approx(20 / sum(exact["seconds"]))
    apart = result["score_difference"]
    assert 0 < apart["mean"] < apart["largest"] < apart["mean_spread_of_a_user"]
    assert 0.8 < result["top_10"]["shared"] <= 1
    assert 0.8 < result["top_10_of_the_catalogue"]["shared"] <= 1
    gap = result["bfloat16_minus_float32"]
    assert gap["difference"] == pytest.approx(rounded["ndcg@10"] - exact["ndcg@10"])
    assert "20" in capsys.readouterr().out and str(folder) not in out.read_text()
    # The figures are those of the commands.
    domain, users = Domain.load(folder / "tastes"), EvaluationSettings(20, prior=False, words=False)
    for name, found in (("float32", exact), ("bfloat16", rounded)):
        backbone = load_backbone(str(folder / "backbone"), device="cpu", precision=name)
        adapter = bench("scoring_precision").Adapter.load(folder / "spirit")
        metrics = evaluate(domain, [(adapter, folder / "spirit")], backbone, tmp_path / name,
                           scenarios=["warm"], settings=users)  # fmt: skip
        assert metrics["models"]["spirit"]["warm"]["ndcg@10"] == pytest.approx(found["ndcg@10"])


def test_agreement_by_hand():
    agreement = bench("agreement").agreement
    one = [np.arange(12.0), np.arange(12.0)]
    swapped = np.arange(12.0)
    swapped[[10, 11]] = swapped[[11, 10]]
    out = np.arange(12.0)
    out[0] = 20.0  # the last comes first and pushes the tenth out
    found = agreement(one, [swapped, out])
    assert found == {"shared": pytest.approx(0.95), "same_order": 0.0, "same_first": 0.0}
    assert agreement(one, one) == {"shared": 1.0, "same_order": 1.0, "same_first": 1.0}


@pytest.mark.parametrize("more", [["--rounds", "0"], ["--users", "2", "--rounds", "3"]])
def test_rounds_without_users_are_refused(folder, tmp_path, more):
    arguments = [*places(folder, tmp_path / "o.json", "--data", "--adapter"), *more]
    with pytest.raises(RunError, match="rounds") as refused:
        bench("scoring_precision").main(arguments)
    one_sentence(refused.value)


def test_zero_shot_keeps_to_its_precision(folder, tmp_path):
    zero_shot = bench("zero_shot").main
    arguments = [*places(folder, tmp_path / "z"), "--users", "12", "--validation-users", "6",
                 "--device", "cpu"]  # fmt: skip
    zero_shot([*arguments, *BFLOAT16])
    result = json.loads((tmp_path / "z" / "zero_shot.json").read_text())
    assert result["backbone"]["precision"] == "bfloat16"
    cell = json.loads((tmp_path / "z" / "tastes" / "warm" / "cell.json").read_text())
    assert cell["precision"] == "bfloat16"
    with pytest.raises(RunError, match="other settings"):
        zero_shot(arguments)
    zero_shot([*arguments, *BFLOAT16])  # taken as it is


def test_few_shot_keeps_to_its_precision(folder, tmp_path):
    few_shot = bench("few_shot").main
    out = tmp_path / "f"
    arguments = [*places(folder, out), "--fractions", "0", "1", "--seeds", "0", "--steps", "1",
                 "--users", "12", "--validation-users", "6", "--adaptation-users", "6",
                 "--device", "cpu"]  # fmt: skip
    few_shot([*arguments, *BFLOAT16])
    place = out / "tastes" / "seed-0" / "1"
    assert json.loads((place / "cell.json").read_text())["precision"] == "bfloat16"
    assert json.loads((place / "cocktail_warm.json").read_text())["precision"] == "bfloat16"
    with pytest.raises(RunError, match="other settings"):
        few_shot(arguments)
    few_shot([*arguments, "--any-precision"])  # taken as they are
    assert json.loads((place / "cell.json").read_text())["precision"] == "bfloat16"
    # Nor is a mix of the stopped cell taken over.
    for cell in (place, out / "tastes" / "zero"):
        (cell / "cell.json").unlink()
    with pytest.raises(
        RunError, match=r"cocktail_warm.json was made with .*\(precision\)"
    ) as refused:
        few_shot(arguments)
    one_sentence(refused.value)


def test_a_few_shot_study_goes_on_in_another_precision_if_asked(folder, tmp_path):
    """Published cells of bfloat16, and one more of float32: told side by side, each as it was."""
    few_shot, published = bench("few_shot").main, tmp_path / "results"

    def run(out, *more):
        few_shot([*places(folder, out), "--fractions", "0", "1", "--steps", "1", "--users", "12",
                  "--validation-users", "6", "--adaptation-users", "6", "--device", "cpu",
                  *more])  # fmt: skip
        return json.loads((out / "few_shot.json").read_text())["targets"]["tastes"]

    first = run(tmp_path / "f", "--seeds", "0", *BFLOAT16)
    bench("publish").main([str(tmp_path / "f"), "--command", "it", "--out", str(published)])
    of_published = ["--seeds", "0", "1", "--published", str(published)]
    assert run(tmp_path / "none", *of_published, "--report")["cells"] == []
    out = tmp_path / "on"
    found = run(out, *of_published, "--any-precision")
    assert found["cells"][:2] == first["cells"]
    precisions = [(cell["share"], cell.get("seed"), cell["precision"]) for cell in found["cells"]]
    assert precisions == [(0, None, "bfloat16"), (1, 0, "bfloat16"), (1, 1, "float32")]
    # The new cell's models that see no target data were scored in its own precision.
    own = pl.read_parquet(out / "beside" / "tastes" / "ranks.parquet")
    kept = pl.read_parquet(out / "tastes" / "seed-1" / "1" / "ranks.parquet")
    bare = pl.col("model") == "backbone"
    assert kept.filter(bare)["rank"].equals(own.filter(bare)["rank"])
    # And such a run publishes each cell once.
    bench("publish").main([str(out), "--command", "it", "--out", str(tmp_path / "again")])
    assert pl.read_parquet(tmp_path / "again" / "tastes.parquet").height == 3


def test_a_grid_of_mixes_keeps_to_its_precision(folder, tmp_path):
    remedies = bench("remedies").main
    arguments = [*places(folder, tmp_path / "r", "--data"), "--ingredient", str(folder / "own"),
                 "--backbone", str(folder / "backbone"), "--scenario", "warm", "--unlabelled", "6",
                 "--valid", "6", "--test", "12", "--grid", "0", "0.5", "1",
                 "--scales", "2"]  # fmt: skip
    remedies([*arguments, *BFLOAT16])
    result = json.loads((tmp_path / "r" / "remedies.json").read_text())
    assert result["backbone"]["precision"] == "bfloat16"
    with pytest.raises(RunError, match="other settings"):
        remedies(arguments)


def test_the_papers_tables_keep_to_their_precision(folder, tmp_path):
    paper_table = bench("paper_table").main
    out = tmp_path / "p"
    arguments = [*places(folder, out), "--steps", "1", "--seeds", "1", "--users", "12",
                 "--validation-users", "6", "--adaptation-users", "6", "--cold-negatives", "all",
                 "--device", "cpu", "--rows"]  # fmt: skip
    paper_table([*arguments, "backbone", "base_spirit", *BFLOAT16])
    cell = json.loads((out / "tastes/base_spirit/every-seed/warm/cell.json").read_text())
    assert cell["identity"]["precision"] == cell["precision"] == "bfloat16"
    result = json.loads((out / "paper_table.json").read_text())
    assert result["backbone"]["precision"] == "bfloat16"
    with pytest.raises(RunError, match=r"other settings or data \(precision\)"):
        paper_table([*arguments, "base_spirit"])
    # Rows of the other precision stand in tables of their own.
    paper_table([*arguments, "popularity"])
    result = json.loads((out / "paper_table.json").read_text())
    views = result["targets"]["tastes"]["tables"]["warm"]["views"].values()
    assert all(set(view["rows"]) == {"popularity"} for view in views)
    cell = json.loads((out / "tastes/popularity/every-seed/warm/cell.json").read_text())
    assert "precision" not in cell["identity"] and cell["precision"] == "float32"


def test_llama_cpp_gives_the_scores_of_an_export(tmp_path, monkeypatch):
    pytest.importorskip("xllamacpp")
    byte_backbone().model.save_pretrained(tmp_path / "backbone")
    byte_tokenizer().save_pretrained(tmp_path / "backbone")
    backbone = load_backbone(str(tmp_path / "backbone"), device="cpu", dtype="float32")
    domain = taste_domain(tmp_path, users=60)
    adapter = random_adapter(backbone, domain, "cocktail", recipe=pico_recipe(backbone.name))
    save(adapter, tmp_path)
    out = tmp_path / "found.json"
    words = ["--adapter", str(tmp_path / "cocktail"), "--data", str(domain.path), "--users", "6"]
    assert bench("gguf_scores").main([*words, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["users"] == 6 and found["agree"]
    types = found["types"]
    gaps = {name: of["score_difference"] for name, of in types.items()}
    assert 0 < gaps["float32"]["largest"] < gaps["float16"]["largest"] < gaps["q8_0"]["largest"]
    assert gaps["float32"]["mean_spread_of_a_user"] > 100 * gaps["float32"]["largest"]
    assert types["float32"]["top_10"]["shared"] == 1
    assert types["float16"]["bytes"] < types["float32"]["bytes"]
    # Scores of other weights are no success.
    study = bench("gguf_scores")
    right = study.export_gguf

    def bare(adapter, backbone, folder, dtype):
        right(replace(adapter, lora={}), backbone, folder, dtype)

    monkeypatch.setattr(study, "export_gguf", bare)
    assert study.main(words) == 1
    mean = adapter.card.recipe.model_copy(update={"dense": DenseSettings(pooling="mean")})
    other = replace(adapter, name="mean", card=adapter.card.model_copy(update={"recipe": mean}))
    save(other, tmp_path)
    with pytest.raises(RunError, match="reads the last token's state") as error:
        study.main(["--adapter", str(tmp_path / "mean"), *words[2:]])
    one_sentence(error.value)
