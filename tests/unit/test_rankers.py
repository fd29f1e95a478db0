"""Every ranker goes the whole way: train, resume, mix, evaluate, recommend."""

from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from reccocktail.errors import AdapterError, DataError, RecipeError
from reccocktail.evaluation.evaluate import evaluate
from reccocktail.evaluation.settings import EvaluationSettings
from reccocktail.mixing.cocktail import mix
from reccocktail.mixing.measure import MixSettings
from reccocktail.mixing.search import Descent
from reccocktail.ranking import build
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.scoring import Catalogue, score
from reccocktail.recipe import (
    DenseSettings,
    GenerateSettings,
    LoraSettings,
    PromptSettings,
    Recipe,
    TrainingSettings,
)
from reccocktail.serving.recommend import RETRIEVED, Recommender
from reccocktail.storage import read_json
from reccocktail.training.adapter import Adapter
from reccocktail.training.batches import DomainWindows, TrainingBatches
from reccocktail.training.log import read_log
from reccocktail.training.model import base_model, merged, new_peft_model, ranker_of
from reccocktail.training.schedule import Length
from reccocktail.training.trainer import train
from tests.adapters import random_adapter
from tests.domains import taste_domain
from tests.helpers import one_sentence
from tests.pico import LETTERS, pico_backbone

PROMPTED = ("generate", "choice")
READING = ("title", *PROMPTED)
"""What ranks by reading each user's candidates."""
FEW = EvaluationSettings(users=6, validation_users=4)


@pytest.fixture(scope="module")
def backbone():
    return pico_backbone(more=LETTERS)


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("domain"), tastes=2, users=40)


def recipe_for(ranker, **training):
    values = {"prompts_per_batch": 4, "validation_users": 4, "validations": 1} | training
    return Recipe(
        backbone="pico",
        ranker=ranker,
        prompt=PromptSettings(max_history=4),
        lora=LoraSettings(rank=2, alpha=4.0),
        training=TrainingSettings.model_validate(values),
    )


def losses(out):
    rows = read_log(out.with_name(out.name + ".training"))
    return [row["loss"] for row in rows if "loss" in row]


# -- what is trained --------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROMPTED)
def test_each_target_is_one_prompt_with_negatives_of_its_own(backbone, domain, name):
    ranker = build(backbone, recipe_for(name))
    gone = frozenset(domain.train()["history"][0].to_list()[1:3])
    windows = DomainWindows.build(domain, ranker, gone)
    left = [[i for i in h if i not in gone] for h in domain.train()["history"].to_list()]
    assert len(windows.windows) == sum(max(0, len(history) - 1) for history in left)
    assert windows.pool == sorted({domain.index[i] for history in left for i in history})
    assert all(2 <= len(window) <= 5 for window in windows.windows)
    settings = TrainingSettings(prompts_per_batch=5, prompts_per_pass=2)
    batches = TrainingBatches([windows], ranker, settings, steps=3)
    assert (batches.passes, len(batches)) == (3, 9)
    ids = "ids" if name == "generate" else "prompt_ids"
    assert [len(batches[number][ids]) for number in range(3)] == [2, 2, 1]
    again = TrainingBatches([windows], ranker, settings, steps=3)
    assert all(torch.equal(again[5][key], batches[5][key]) for key in batches[5])
    other = TrainingBatches([windows], ranker, settings.model_copy(update={"seed": 1}), steps=3)
    assert any(
        other[5][k].shape != v.shape or not torch.equal(other[5][k], v)
        for k, v in batches[5].items()
    )


def test_negatives_are_items_that_the_user_never_met(backbone, domain):
    ranker = build(backbone, recipe_for("choice"))
    windows = DomainWindows.build(domain, ranker)
    cold = {domain.index[i] for i in domain.items.filter(pl.col("split") != "warm")["item_id"]}
    assert cold and not cold & set(windows.pool)
    titles = {tuple(tokens): item for item, tokens in enumerate(windows.titles)}
    rng = np.random.default_rng(0)
    for number in range(0, len(windows.windows), 7):
        window, known = windows.windows[number], windows.known[windows.owner[number]]
        example = ranker._example(window, known, windows.titles, np.array(windows.pool), rng)
        items = [titles[tuple(title)] for title in example.candidates]
        assert items[example.positive] == window[-1] and len(items) == len(set(items)) == 30
        assert not set(items[: example.positive] + items[example.positive + 1 :]) & known
        assert [titles[tuple(t)] for t in example.history] == window[:-1]


def test_a_batch_in_parts_is_the_batch(backbone, domain, tmp_path):
    """Gradients of the parts are averaged: the same steps as in one pass, within float error."""
    found = []
    for per_pass in (4, 2):
        recipe = recipe_for("choice", prompts_per_pass=per_pass, seed=3, validations=0)
        out = tmp_path / f"p{per_pass}"
        ranker = build(backbone, recipe)
        whole = DomainWindows.build(domain, ranker)
        batches = TrainingBatches([whole], ranker, recipe.training, 1)
        found.append([len(batches[n]["positives"]) for n in range(len(batches))])
        train("ingredient", [domain], backbone, recipe, out, Length(steps=1))
    assert found == [[4], [2, 2]]
    # Negatives differ between the two, so only the size of the loss can be compared.
    one, two = (losses(tmp_path / name)[0] for name in ("p4", "p2"))
    assert one == pytest.approx(two, rel=0.5) and one > 1.0


def test_examples_count_alike_however_they_are_parted(backbone, domain):
    """Each pass takes the mean of its examples, and the passes of a step are averaged evenly."""
    ranker = build(backbone, recipe_for("choice"))
    windows = DomainWindows.build(domain, ranker)

    def step(per_batch, per_pass, numbers=slice(None)):
        settings = TrainingSettings(prompts_per_batch=per_batch, prompts_per_pass=per_pass)
        some = {"windows": windows.windows[numbers], "owner": windows.owner[numbers]}
        return TrainingBatches([replace(windows, **some, epochs=[])], ranker, settings, steps=1)

    for per_pass, sizes in ((2, [2, 2, 1]), (4, [3, 2]), (5, [5])):
        batches = step(5, per_pass)
        found = [batches[number] for number in range(len(batches))]
        assert [len(batch["positives"]) for batch in found] == sizes
        weights = [float(batch.get("weight", 1.0)) for batch in found]
        each = [w / n / len(found) for w, n in zip(weights, sizes, strict=True)]
        assert each == pytest.approx([1 / 5] * len(found))
    # Even parts need no weights, and a domain of fewer windows has some of them twice.
    assert "weight" not in step(4, 2)[0]
    few = step(3, 1, slice(2))
    assert not any("weight" in few[number] for number in range(3))


@pytest.mark.parametrize("name", READING)
def test_a_batch_can_be_learned(backbone, domain, name):
    recipe = recipe_for(name)
    ranker = build(backbone, recipe)
    batch = TrainingBatches([DomainWindows.build(domain, ranker)], ranker, recipe.training, 1)[0]
    peft_model = new_peft_model(backbone, recipe)
    try:
        model = base_model(peft_model)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimiser = torch.optim.AdamW(weights, lr=0.03)
        found = []
        for _ in range(40):
            loss = ranker.loss(model, batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            found.append(float(loss.detach()))
    finally:
        peft_model.unload()
        backbone.model.requires_grad_(False)
    # All tokens of whole histories are more to learn than one answer a prompt.
    assert found[-1] < (0.3 if name == "title" else 0.2) * found[0]


@pytest.mark.parametrize("name", READING)
def test_training_goes_on_where_it_stopped(backbone, domain, name, tmp_path, monkeypatch):
    recipe = recipe_for(name, learning_rate=1e-2, checkpoint_minutes=1e-9, validations=0)
    steps = Length(steps=5)
    whole = train("ingredient", [domain], backbone, recipe, tmp_path / "mine", steps)
    found = losses(tmp_path / "mine")
    kind = type(build(backbone, recipe))
    real, left = kind.loss, [3]

    def stopping(self, model, batch):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(self, model, batch)

    again = tmp_path / "again" / "mine"
    monkeypatch.setattr(kind, "loss", stopping)
    with pytest.raises(KeyboardInterrupt):
        train("ingredient", [domain], backbone, recipe, again, Length(steps=5))
    monkeypatch.setattr(kind, "loss", real)
    resumed = train("ingredient", [domain], backbone, recipe, again, Length(steps=5), resume=True)
    assert resumed.sha256 == whole.sha256
    assert losses(again) == pytest.approx(found)


# -- the whole way ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", READING)
def test_train_mix_evaluate_recommend(backbone, domain, name, tmp_path):
    recipe = recipe_for(name)
    first = train("base", [domain], backbone, recipe, tmp_path / "spirit", Length(steps=2))
    second = random_adapter(backbone, domain, "ingredient", seed=2, recipe=recipe)
    settings = MixSettings(
        users=4, validation_users=3, grid=(0.0, 1.0), refinements=0, descent=Descent(steps=2)
    )
    cocktail = mix([first, second], backbone, domain, "warm", tmp_path / "cocktail", settings)
    curve = read_json(tmp_path / "cocktail" / "cocktail.json")["curve"]
    assert all(point["entropy"] > 0 and point["validation"]["n"] == 3 for point in curve)
    layered = replace(settings, granularity="layer", objective="calibrated")
    mix([first, second], backbone, domain, "warm", tmp_path / "layered", layered)
    assert len(read_json(tmp_path / "layered" / "cocktail.json")["descent"]) == 2

    adapters = [(a, tmp_path / a.name) for a in (first, cocktail)]
    metrics = evaluate(domain, adapters, backbone, tmp_path / "e", settings=FEW)
    assert metrics["full_catalogue"] == {}  # a prompt holds no catalogue
    predictions = pl.read_parquet(tmp_path / "e" / "predictions.parquet")
    assert set(predictions["model"]) == {"backbone", "spirit", "cocktail"}
    for model in ("backbone", "spirit", "cocktail"):
        assert 0 < metrics["entropy"][model]["warm"] < np.log(len(backbone.tokenizer))
        assert metrics["models"][model]["cold"]["n"] == 6

    recommender = Recommender(domain, cocktail, backbone, ["red apple tea"])
    history = domain.rows("test_warm")["history"][0].to_list()
    places = recommender.recommend(history, 5)
    assert len({place.item_id for place in places}) == 5
    assert not {place.item_id for place in places} & set(history)
    everything = recommender.recommend(history, RETRIEVED)
    assert everything[:5] == places and len(everything) == RETRIEVED
    with pytest.raises(DataError, match="lower -k from 31") as error:
        recommender.recommend(history, 31)
    one_sentence(error.value)


def test_the_retriever_decides_what_is_ranked(backbone, domain):
    adapter = random_adapter(backbone, domain, "chooser", recipe=recipe_for("choice"))
    dense = random_adapter(backbone, domain, "finder", seed=5, recipe=recipe_for("dense"))
    history = domain.rows("test_warm")["history"][0].to_list()
    found = {p.item_id for p in Recommender(domain, dense, backbone).recommend(history, RETRIEVED)}
    staged = Recommender(domain, adapter, backbone, retriever=dense)
    assert {place.item_id for place in staged.recommend(history, RETRIEVED)} == found
    bare = Recommender(domain, adapter, backbone)
    assert {place.item_id for place in bare.recommend(history, RETRIEVED)} != found
    # The order is that of the prompt ranker: shown the same items in any order, it says the same.
    shown = [domain.index[item] for item in sorted(found)]
    seen = [domain.index[item] for item in history]
    scores = dict(zip(shown, staged._reranking.scores(seen, shown), strict=True))
    turned = dict(zip(shown[::-1], staged._reranking.scores(seen, shown[::-1]), strict=True))
    assert scores == pytest.approx(turned, abs=1e-4)
    order = [domain.index[p.item_id] for p in staged.recommend(history, RETRIEVED)]
    assert order == sorted(scores, key=lambda item: -scores[item])
    with pytest.raises(AdapterError, match="cannot retrieve") as error:
        Recommender(domain, adapter, backbone, retriever=adapter)
    one_sentence(error.value)
    with pytest.raises(AdapterError, match="leave --retriever out") as error:
        Recommender(domain, dense, backbone, retriever=dense)
    one_sentence(error.value)


@pytest.mark.parametrize("name", PROMPTED)
def test_scores_of_a_table_do_not_depend_on_its_batches(backbone, domain, name, monkeypatch):
    ranker = build(backbone, recipe_for(name))
    catalogue = Catalogue.of(domain, ranker)
    rows = domain.rows("test_warm").head(5)
    (together,) = score(backbone.model, catalogue, [rows], "Test")
    assert together.catalogue is None and together.common().shape == (5, 30)
    monkeypatch.setattr("reccocktail.ranking.scoring.pass_tokens", lambda model: 1)
    (alone,) = score(backbone.model, catalogue, [rows], "Test")
    for one, two in zip(together.scores, alone.scores, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)
    torch.testing.assert_close(together.entropy, alone.entropy, atol=1e-4, rtol=0)
    (empty,) = score(backbone.model, catalogue, [rows.head(0)], "Test")
    assert empty.scores == [] and empty.entropy.shape == (0,)


# -- settings ---------------------------------------------------------------------------------


def test_each_name_gives_its_ranker(backbone):
    assert isinstance(build(backbone, Recipe()), DenseRanker)
    for name in READING:
        ranker = build(backbone, recipe_for(name))
        assert type(ranker).__name__.lower() == f"{name}ranker"
        assert ranker.packed == (name == "title")


def test_settings_of_the_dense_ranker_are_refused(backbone):
    deep = recipe_for("choice").model_copy(update={"dense": DenseSettings(depth=1)})
    asked = {"dense.depth": deep}
    for ranker in ("title", "generate"):
        for name, value in {"bank": 8, "hard_negatives": 1}.items():
            asked[f"training.{name}"] = recipe_for(ranker, **{name: value})
        for what, recipe in asked.items():
            with pytest.raises(RecipeError, match=f"'{what}' is for the dense ranker only") as e:
                build(backbone, recipe)
            one_sentence(e.value)


def test_several_domains_a_step_are_for_packed_histories(backbone):
    assert build(backbone, recipe_for("title", domains_per_step=2)).packed
    for name in PROMPTED:
        with pytest.raises(RecipeError, match="learn from packed histories") as error:
            build(backbone, recipe_for(name, domains_per_step=2))
        one_sentence(error.value)


def test_the_hash_of_a_recipe_holds_what_its_ranker_reads():
    dense = Recipe()
    titles = GenerateSettings(titles=3)
    assert dense.model_copy(update={"generate": titles}).sha256 == dense.sha256
    written = recipe_for("generate")
    assert written.model_copy(update={"generate": titles}).sha256 != written.sha256
    other = written.model_copy(update={"dense": DenseSettings(temperature=1.0)})
    assert other.sha256 == written.sha256
    longer = PromptSettings(max_history=4, cutoff=99)
    assert written.model_copy(update={"prompt": longer}).sha256 != written.sha256
    # Runs and folders from before the other rankers came stay valid.
    assert not set(READING) & set(dense.relevant())
    assert set(dense.relevant()["prompt"]) == {"template", "title_tokens", "max_history"}


@pytest.mark.parametrize("ranker", ["dense", "choice"])
def test_a_template_of_ones_own_may_go_but_not_change(
    ranker, backbone, domain, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    recipe = recipe_for(ranker)
    shipped = resources.files("reccocktail.prompting") / "templates" / f"{recipe.template}.yaml"
    own = Path("own.yaml")
    own.write_text(shipped.read_text())
    part = "prompt" if ranker == "dense" else ranker
    settings = getattr(recipe, part).model_copy(update={"template": "own.yaml"})
    recipe = recipe.model_copy(update={part: settings})
    train("ingredient", [domain], backbone, recipe, tmp_path / "mine", Length(steps=1))
    card = Adapter.load(tmp_path / "mine").card
    own.unlink()
    assert ranker_of(card, backbone).template_sha256 == card.template_sha256
    own.write_text(shipped.read_text().replace(': "', ': "x', 1))
    with pytest.raises(AdapterError, match="former wording"):
        ranker_of(card, backbone)


def test_another_wording_is_refused(backbone, domain, tmp_path):
    adapter = random_adapter(backbone, domain, "one", recipe=recipe_for("choice"))
    stale = replace(adapter, card=adapter.card.model_copy(update={"template_sha256": "f" * 64}))
    with pytest.raises(
        AdapterError, match="not the one that the adapter was trained with"
    ) as error:
        Recommender(domain, stale, backbone)
    one_sentence(error.value)
    dense = random_adapter(backbone, domain, "two", recipe=recipe_for("dense"))
    with pytest.raises(AdapterError, match="differ in their ranker") as error:
        mix([adapter, dense], backbone, domain, "warm", tmp_path / "out")
    one_sentence(error.value)
    published = recipe_for("generate").model_copy(
        update={"generate": GenerateSettings(answer="published")}
    )
    pair = [
        random_adapter(backbone, domain, name, recipe=recipe)
        for name, recipe in (("three", recipe_for("generate")), ("four", published))
    ]
    with pytest.raises(AdapterError, match="differ in their settings of generate") as error:
        mix(pair, backbone, domain, "warm", tmp_path / "out")
    one_sentence(error.value)


def test_only_what_the_ranker_reads_must_be_shared(backbone, domain):
    def reading(ranker, **changes):
        recipe = recipe_for(ranker)
        for part, values in changes.items():
            settings = getattr(recipe, part).model_copy(update=values)
            recipe = recipe.model_copy(update={part: settings})
        return random_adapter(backbone, domain, "one", recipe=recipe).card.reading()

    assert reading("dense", prompt={"cutoff": 7}) == reading("dense")
    assert reading("choice", generate={"answer": "published"}) == reading("choice")
    assert reading("generate", generate={"length": "mean"}) != reading("generate")
    assert reading("choice", choice={"orders": 3}) != reading("choice")


def test_a_saved_adapter_knows_its_ranker(backbone, domain, tmp_path):
    adapter = random_adapter(backbone, domain, "mine", recipe=recipe_for("generate"))
    adapter.save(tmp_path / "mine", "readme")
    loaded = Adapter.load(tmp_path / "mine")
    assert loaded.card.recipe == adapter.card.recipe
    catalogue = Catalogue.of(domain, build(backbone, loaded.card.recipe))
    rows = domain.rows("test_warm").head(2)
    with merged(backbone.model, loaded.lora) as model:
        (found,) = score(model, catalogue, [rows], "Test")
    assert all(np.isfinite(row).all() for row in found.scores)
