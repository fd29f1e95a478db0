"""Scores in bfloat16: near those in float32, never mixed with them, and only where asked for."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from reccocktail import cli
from reccocktail.backbone import load_backbone
from reccocktail.errors import BackboneError, RunError
from reccocktail.evaluation.evaluate import evaluate
from reccocktail.evaluation.settings import EvaluationSettings
from reccocktail.mixing.cocktail import mix
from reccocktail.mixing.measure import MixSettings
from reccocktail.pipeline import Plan, _State
from reccocktail.precision import (
    PRECISIONS,
    choose_precision,
    in_precision,
    products_dtype,
    training_precision,
)
from reccocktail.ranking import build
from reccocktail.ranking.base import hidden_states
from reccocktail.ranking.scoring import Catalogue, score
from reccocktail.recipe import Recipe
from reccocktail.serving import run as serving
from reccocktail.serving.batch import Job, batch
from reccocktail.serving.served import build as build_served
from reccocktail.serving.weights import Models
from reccocktail.storage import read_json, sha256_json, write_json
from reccocktail.training.adapter import lora_sha256
from reccocktail.training.model import merged, model_sha256, scoring
from reccocktail.training.schedule import Length
from reccocktail.training.trainer import train
from tests.adapters import pico_recipe, random_adapter, random_lora, save
from tests.domains import taste_domain
from tests.helpers import one_sentence
from tests.pico import FAMILIES, LETTERS, pico_backbone, pico_model, pico_tokenizer

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
IDS = torch.tensor([[9, 30, 31, 40, 12, 50], [8, 33, 35, 41, 42, 43]])


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("domain"), users=60)


@pytest.fixture(scope="module")
def exact():
    return pico_backbone()


@pytest.fixture(scope="module")
def rounded(exact):
    """The same backbone, scoring in bfloat16."""
    return replace(exact, autocast=BF16)


@pytest.fixture(scope="module")
def pair(exact, domain):
    """A base spirit and an ingredient."""
    return [
        random_adapter(exact, domain, "base_spirit", "base", seed=1),
        random_adapter(exact, domain, "ingredient", "ingredient", seed=2),
    ]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RECCOCKTAIL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def hardware(monkeypatch, **found):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)


def states(model, depth=None):
    with torch.no_grad():
        return hidden_states(model, IDS, depth)


# -- what is chosen ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "bf16"])
def test_auto_follows_the_hardware(monkeypatch, name):
    hardware(monkeypatch, **{name: True})
    assert choose_precision("auto", CPU, F32) == BF16
    hardware(monkeypatch, **{name: False}, avx512_f=True)
    assert choose_precision("auto", CPU, F32) is None


def test_an_older_torch_knows_no_hardware(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose_precision("auto", CPU, F32) is None


def cuda(monkeypatch, *, bfloat16):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)


def test_auto_follows_the_gpu(monkeypatch):
    hardware(monkeypatch, avx512_bf16=False)
    cuda(monkeypatch, bfloat16=True)
    assert choose_precision("auto", CUDA, F32) == BF16
    assert choose_precision("auto", CPU, F32) is None
    cuda(monkeypatch, bfloat16=False)
    assert choose_precision("auto", CUDA, F32) is None


def test_trainings_multiply_in_bfloat16_on_a_gpu_alone():
    assert training_precision(CPU, F32, BF16) is None
    assert training_precision(CPU, BF16, None) is None
    assert training_precision(CUDA, BF16, None) == BF16
    assert training_precision(CUDA, F32, BF16) == BF16
    assert training_precision(CUDA, F32, None) is None


def test_only_float32_weights_have_a_choice(monkeypatch):
    hardware(monkeypatch, avx512_bf16=True)
    cuda(monkeypatch, bfloat16=True)
    for asked in PRECISIONS:
        assert choose_precision(asked, CPU, BF16) is None
        assert choose_precision(asked, CUDA, BF16) is None
    for device, weights in ((CPU, F16), (CUDA, F16), (torch.device("mps"), F32)):
        assert choose_precision("auto", device, weights) is None
        assert choose_precision("float32", device, weights) is None
        with pytest.raises(BackboneError, match="set the dtype to bfloat16") as refused:
            choose_precision("bfloat16", device, weights)
        one_sentence(refused.value)
    assert choose_precision("float32", CPU, F32) is None
    assert choose_precision("float32", CUDA, F32) is None
    assert choose_precision("bfloat16", CPU, F32) == BF16
    assert choose_precision("bfloat16", CUDA, F32) == BF16
    with pytest.raises(BackboneError, match="float32, bfloat16, auto") as refused:
        choose_precision("int8", CPU, F32)
    one_sentence(refused.value)


def test_loading_says_what_scores_are_made_in(monkeypatch, tmp_path, capsys):
    pico_model().save_pretrained(tmp_path / "pico")
    pico_tokenizer().save_pretrained(tmp_path / "pico")

    def load(**options):
        loaded = load_backbone(str(tmp_path / "pico"), device="cpu", **options)
        return loaded.precision, " ".join(capsys.readouterr().err.split())

    hardware(monkeypatch, avx512_bf16=False)
    assert load()[0] == load(precision="auto")[0] == "float32"
    precision, said = load(precision="bfloat16")
    assert precision == "bfloat16" and "scoring in bfloat16" in said
    assert "does not multiply bfloat16 in hardware" in said
    hardware(monkeypatch, avx512_bf16=True)
    precision, said = load(precision="auto")
    assert precision == "bfloat16" and "scoring in bfloat16" in said and "hardware" not in said
    precision, said = load(precision="auto", dtype="bfloat16")
    assert precision == "bfloat16" and "scoring" not in said
    with pytest.raises(BackboneError, match="float16 on cpu"):
        load(precision="bfloat16", dtype="float16")


# -- what is computed -------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("depth", [None, 1])
def test_states_are_near_and_float32(family, depth):
    if family == "gpt2":  # whose layers cannot be counted
        depth = None
    model = pico_backbone(family).model
    before, kind = states(model, depth), type(model.get_decoder())
    with in_precision(model, BF16):
        found = states(model, depth)
        inside = states(model)
        logits = model(input_ids=IDS).logits
        head = model.get_output_embeddings()(inside)
    assert found.dtype == logits.dtype == F32
    cosine = torch.nn.functional.cosine_similarity(found, before, dim=-1)
    assert not torch.equal(found, before) and cosine.min() > 0.999
    assert torch.equal(logits, head)  # the head multiplies in float32
    assert type(model.get_decoder()) is kind
    assert torch.equal(states(model, depth), before)


def test_a_decoder_that_ends_in_a_product_gives_float32_too():
    config = OPTConfig(
        vocab_size=60,
        hidden_size=32,
        word_embed_proj_dim=16,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    torch.manual_seed(0)
    model = OPTForCausalLM(config).eval()
    before = states(model)
    with in_precision(model, BF16), torch.no_grad():
        found, logits = states(model), model(input_ids=IDS).logits
    assert found.dtype == logits.dtype == F32
    assert not torch.equal(found, before) and torch.allclose(found, before, atol=0.05)


def test_rounded_weights_get_what_their_head_multiplies():
    """As trainings on a GPU do: float32 LoRA tensors beside weights in bfloat16."""
    model = pico_model().to(BF16)
    with in_precision(model, BF16), torch.no_grad():
        found, logits = states(model), model(input_ids=IDS).logits
    assert found.dtype == logits.dtype == BF16


def test_the_decoder_comes_back_after_an_error_too(exact):
    model = exact.model
    kind = type(model.get_decoder())
    with pytest.raises(KeyboardInterrupt), in_precision(model, BF16):
        assert type(model.get_decoder()) is not kind
        raise KeyboardInterrupt
    assert type(model.get_decoder()) is kind


def test_the_default_is_what_it_was_bit_for_bit(exact):
    lora = random_lora(exact, seed=3)
    with merged(exact.model, lora) as model:
        before = states(model)
    with scoring(exact, lora) as model:
        assert torch.equal(states(model), before)
    # Caches that are there keep their names.
    facts = [exact.fingerprint.sha256, lora_sha256(lora), "cpu", "torch.float32"]
    assert model_sha256(exact, lora) == sha256_json(facts)


@pytest.mark.parametrize("name", ["dense", "title", "choice", "generate"])
def test_every_rankers_scores_are_near(domain, name):
    exact = pico_backbone(more=LETTERS)
    recipe = pico_recipe().model_copy(update={"ranker": name})
    lora = random_lora(exact, seed=3)
    rows = domain.rows("test_warm")[:4]
    found = []
    for backbone in (exact, replace(exact, autocast=BF16)):
        catalogue = Catalogue.of(domain, build(backbone, recipe))
        with scoring(backbone, lora) as model:
            (scored,) = score(model, catalogue, [rows], "Scoring")
        found.append((np.stack(scored.scores), scored.entropy.numpy()))
    (one, nats), (other, other_nats) = found
    assert not np.array_equal(one, other)
    assert np.abs(one - other).max() < 0.1 * one.std()
    assert np.abs(nats - other_nats).max() < 0.05 * nats.mean()


def test_trainings_take_no_notice(exact, rounded, domain, tmp_path):
    recipe = pico_recipe(validations=0)
    made = [
        train("ingredient", [domain], backbone, recipe, tmp_path / name, Length(steps=2))
        for name, backbone in (("exact", exact), ("rounded", rounded))
    ]
    assert made[0].sha256 == made[1].sha256


# -- never mixed ------------------------------------------------------------------------------


def test_vectors_are_kept_apart(exact, rounded, domain, cache):
    lora = random_lora(exact, seed=3)
    rows = domain.rows("test_warm")[:6]

    def scores(backbone):
        catalogue = Catalogue.of(domain, build(backbone, pico_recipe()))
        with scoring(backbone, lora) as model:
            identity = model_sha256(backbone, lora)
            (scored,) = score(model, catalogue, [rows], "Scoring", model_sha256=identity)
        return np.stack(scored.scores)

    alone = scores(rounded)
    before = scores(exact)
    assert len(list((cache / "vectors").iterdir())) == 2
    assert np.array_equal(scores(rounded), alone) and not np.array_equal(before, alone)


def test_what_is_served_is_computed_in_the_backbones_precision(
    exact, rounded, pair, domain, tmp_path
):
    folder = save(pair[0], tmp_path)
    vectors = {}
    for backbone in (rounded, exact, rounded):  # each finds the vectors of its own precision
        model = Models(backbone, 10**9)
        served = build_served("tastes", domain.path, folder, backbone, model)
        with scoring(backbone, pair[0].lora) as plain:
            ranker = served.ranker
            expected = ranker.item_vectors(plain, served.tokens, backbone.device).numpy()
        known = ~served.new  # those of new items are brought to another level
        found = served.vectors[known, : expected.shape[1]]
        assert found == pytest.approx(expected[known], abs=1e-6)
        vectors.setdefault(backbone.precision, []).append(found)
        of_users = model.of(served.update_sha256, served.lora)
        assert products_dtype(of_users) == (backbone.autocast or F32)
        assert products_dtype(backbone.model) == F32  # the backbone itself stays as it is
    ours, again = vectors["bfloat16"]
    assert np.array_equal(ours, again)
    (theirs,) = vectors["float32"]
    assert 1e-5 < np.abs(ours - theirs).max() < 0.05


def test_a_cocktail_says_its_precision(exact, rounded, pair, domain, tmp_path):
    settings = MixSettings(users=6, validation_users=6, refinements=0)
    layers = replace(settings, granularity="layer")
    found = {}
    for backbone in (exact, rounded):
        for kind in (settings, layers):
            out = tmp_path / f"{backbone.precision}-{kind.granularity}"
            mix(pair, backbone, domain, "warm", out, kind)
            found[backbone.precision, kind.granularity] = read_json(out / "cocktail.json")
    for (precision, _), sheet in found.items():
        assert sheet["precision"] == precision
    for granularity in ("global", "layer"):
        one, other = (found[name, granularity] for name in ("float32", "bfloat16"))
        entropies = [[point["entropy"] for point in sheet["curve"]] for sheet in (one, other)]
        assert entropies[0] != entropies[1]
        assert entropies[0] == pytest.approx(entropies[1], rel=0.02)
    one, other = (found[name, "layer"]["descent"] for name in ("float32", "bfloat16"))
    assert one != other and one == pytest.approx(other, rel=0.02)


def test_an_evaluation_says_its_precision(exact, rounded, pair, domain, tmp_path):
    folders = [save(adapter, tmp_path) for adapter in pair]
    settings = EvaluationSettings(users=20, validation_users=6)
    metrics = {}
    for backbone in (exact, rounded):
        out = tmp_path / backbone.precision
        evaluate(domain, list(zip(pair, folders, strict=True)), backbone, out, settings=settings)
        assert read_json(out / "run.json")["settings"]["precision"] == backbone.precision
        metrics[backbone.precision] = read_json(out / "metrics.json")
    one, other = (metrics[name]["entropy"]["ingredient"]["warm"] for name in metrics)
    assert one != other and one == pytest.approx(other, rel=0.02)


def test_a_pipeline_of_another_precision_is_refused(exact, rounded, domain, tmp_path):
    plan = Plan(base={}, ingredient={"steps": 1})
    _State.open(tmp_path / "run", [], domain, exact, Recipe(), plan)
    _State.open(tmp_path / "run", [], domain, exact, Recipe(), plan)
    with pytest.raises(RunError, match="other data or settings"):
        _State.open(tmp_path / "run", [], domain, rounded, Recipe(), plan)


# -- batch ------------------------------------------------------------------------------------


@pytest.fixture
def job(domain, tmp_path):
    pico_model().save_pretrained(tmp_path / "backbone")
    pico_tokenizer().save_pretrained(tmp_path / "backbone")
    backbone = load_backbone(str(tmp_path / "backbone"), device="cpu")
    adapter = save(random_adapter(backbone, domain, "adapter"), tmp_path)
    users = tmp_path / "users.parquet"
    domain.rows("test_warm").select("user_id").write_parquet(users)
    return Job(domain.path, adapter, users, tmp_path / "out", k=5, chunk=20, device="cpu")


def test_a_batch_keeps_to_its_precision(job, monkeypatch, tmp_path):
    exact = batch(job)
    assert exact["settings"]["precision"] == "float32"
    hardware(monkeypatch, avx512_bf16=True)
    with pytest.raises(RunError, match="another precision") as refused:
        batch(replace(job, precision="auto"))
    one_sentence(refused.value)
    auto = batch(replace(job, out=tmp_path / "auto", precision="auto"))
    assert auto["settings"]["precision"] == "bfloat16"
    assert auto["outputs"] != exact["outputs"]
    # What `auto` chose is kept: it goes on as such, and on no other machine as something else.
    assert batch(replace(job, out=tmp_path / "auto", precision="bfloat16")) == auto
    hardware(monkeypatch)
    with pytest.raises(RunError, match="another precision"):
        batch(replace(job, out=tmp_path / "auto", precision="auto"))


def test_a_batch_from_before_there_was_a_choice_goes_on(job, tmp_path):
    done = batch(job)
    del done["settings"]["precision"]
    write_json(job.out / "manifest.json", done)
    assert batch(job)["outputs"] == done["outputs"]
    with pytest.raises(RunError, match="another precision"):
        batch(replace(job, precision="bfloat16"))
    with pytest.raises(BackboneError, match="float16 on cpu"):
        batch(replace(job, out=tmp_path / "new", precision="bfloat16", dtype="float16"))
    assert not (tmp_path / "new").exists()


# -- commands ---------------------------------------------------------------------------------


def test_commands_pass_it_on(job, domain, tmp_path, monkeypatch, capsys):
    def run(*arguments):
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            return end.code or 0
        return 0

    places = ("--data", domain.path, "--adapter", job.adapter, "--device", "cpu")
    code = run("evaluate", *places, "--out", tmp_path / "e", "--users", 5, "--validation-users",
               0, "--scenario", "warm", "--precision", "bfloat16")  # fmt: skip
    assert code == 0
    assert json.loads((tmp_path / "e" / "run.json").read_text())["settings"]["precision"] == (
        "bfloat16"
    )
    code = run("mix", *places, "--adapter", job.adapter, "--scenario", "warm", "--out",
               tmp_path / "m", "--coefficients", 1, "--coefficients", 1, "--precision",
               "bfloat16")  # fmt: skip
    assert code == 0 and read_json(tmp_path / "m" / "cocktail.json")["precision"] == "bfloat16"
    code = run("batch", *places, "--users", job.users, "--out", tmp_path / "b", "--precision",
               "bfloat16")  # fmt: skip
    assert code == 0
    assert read_json(tmp_path / "b" / "manifest.json")["settings"]["precision"] == "bfloat16"
    served = []
    monkeypatch.setattr(serving, "serve", lambda backbone, *_: served.append(backbone.precision))
    for precision in PRECISIONS[:2]:
        place = f"tastes={domain.path}:{job.adapter}"
        assert run("serve", "--domain", place, "--device", "cpu", "--precision", precision) == 0
    assert served == ["float32", "bfloat16"]
    user = domain.rows("test_warm")["user_id"][0]
    scores = []
    for precision in PRECISIONS[:2]:
        capsys.readouterr()
        assert run("recommend", *places, "--user", user, "--json", "--precision", precision) == 0
        found = json.loads(capsys.readouterr().out)["recommendations"]
        scores.append([item["score"] for item in found])
    assert scores[0] != scores[1] and scores[0] == pytest.approx(scores[1], abs=0.5)
    capsys.readouterr()
    code = run("evaluate", *places, "--out", tmp_path / "n", "--dtype", "float16", "--precision",
               "bfloat16")  # fmt: skip
    said = capsys.readouterr().err
    assert code == 2 and "Traceback" not in said and not (tmp_path / "n").exists()
