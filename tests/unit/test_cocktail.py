"""Mixing: fixed and searched coefficients, the same scores everywhere, no labels, no surprises."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel

from reccocktail.errors import AdapterError, DataError, RecCocktailError
from reccocktail.mixing import cocktail as module
from reccocktail.mixing.arithmetic import MergeOptions, combine
from reccocktail.mixing.cocktail import _guarded, mix
from reccocktail.mixing.measure import Mixer, MixSettings
from reccocktail.mixing.objectives import MeasuredMix
from reccocktail.mixing.search import Descent
from reccocktail.mixing.sheet import agreement_with_validation, load_sheet
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.scoring import Catalogue, ItemVectors, encode
from reccocktail.recipe import DenseSettings, PromptSettings
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import check_compatible, merged
from tests.adapters import pico_recipe, random_adapter
from tests.domains import taste_domain
from tests.helpers import changed, one_sentence, other_targets
from tests.pico import pico_backbone, pico_model

SMALL = MixSettings(users=6, validation_users=8, refinements=1, descent=Descent(steps=2))
CONTRACT = {
    "format", "name", "method", "granularity", "objective", "scenario", "adapters",
    "coefficients", "curve", "adaptation", "collapse", "agreement", "backbone", "data",
}  # fmt: skip
POINT = {"coefficients", "entropy", "calibrated_entropy", "temperature", "validation"}


@pytest.fixture(scope="module")
def backbone():
    return pico_backbone()


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("domain"), users=60)


@pytest.fixture(scope="module")
def pair(backbone, domain):
    return [
        random_adapter(backbone, domain, "base_spirit", "base", seed=1),
        random_adapter(backbone, domain, "ingredient", "ingredient", seed=2),
    ]


@pytest.fixture(scope="module")
def third(backbone, domain):
    return random_adapter(backbone, domain, "third", "ingredient", seed=3)


def scores_of(backbone, domain, lora, table="test_warm", model=None):
    """Scores (rows, candidates) of a table, by a LoRA merged in or by a ready model."""
    recipe = pico_recipe()
    ranker = DenseRanker(backbone.tokenizer, recipe.prompt, recipe.dense)
    catalogue = Catalogue.of(domain, ranker)
    rows = domain.rows(table)
    with merged(backbone.model, lora) as merged_model:
        vectors = encode(
            model or merged_model, ItemVectors(catalogue), catalogue, [rows], "Scoring"
        )[0]
    return np.stack(vectors.scores(ranker, catalogue.candidates(rows)))


def sheet_of(folder):
    return json.loads((folder / "cocktail.json").read_text())


# -- fixed coefficients -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["delta", "factor"])
@pytest.mark.parametrize(("coefficients", "place"), [((1.0, 0.0), 0), ((0.0, 1.0), 1)])
def test_all_of_one_adapter_is_that_adapter(
    backbone, domain, pair, tmp_path, method, coefficients, place
):
    out = tmp_path / "all"
    settings = replace(SMALL, method=method)
    mixed = mix(pair, backbone, domain, "warm", out, settings, coefficients)
    wanted = scores_of(backbone, domain, pair[place].lora)
    assert np.array_equal(scores_of(backbone, domain, mixed.lora), wanted)
    assert np.array_equal(scores_of(backbone, domain, Adapter.load(out).lora), wanted)
    assert not np.allclose(wanted, scores_of(backbone, domain, pair[1 - place].lora))
    assert sheet_of(out)["coefficients"] == {"all": list(coefficients)}


def test_given_coefficients_take_no_users_away(backbone, domain, pair, tmp_path):
    mix(pair, backbone, domain, "cold", tmp_path / "half", SMALL, (0.5, 0.5))
    sheet = sheet_of(tmp_path / "half")
    assert sheet["objective"] == "fixed"
    assert sheet["adaptation"]["users"] == 0 and sheet["adaptation"]["user_ids"] == []
    assert len(sheet["curve"]) == 1 and sheet["curve"][0]["coefficients"] == [0.5, 0.5]


def test_a_search_says_that_it_cannot_find_what_was_trained_together(
    backbone, domain, pair, tmp_path, monkeypatch
):
    said = []
    monkeypatch.setattr(module, "say", said.append)
    card = pair[1].card.model_copy(update={"beside_sha256": pair[0].sha256})
    woven = [pair[0], replace(pair[1], card=card)]
    mix(woven, backbone, domain, "warm", tmp_path / "searched", SMALL)
    assert ["--coefficients 1" in line for line in said] == [True, False]
    assert "'ingredient'" in said[0]
    said.clear()
    mix(woven, backbone, domain, "warm", tmp_path / "given", SMALL, (1.0, 1.0))
    mix(pair, backbone, domain, "warm", tmp_path / "apart", SMALL)
    assert not any("--coefficients 1" in line for line in said)


def test_given_coefficients_may_leave_the_simplex(backbone, domain, pair, tmp_path):
    mixed = mix(pair, backbone, domain, "cold", tmp_path / "sum", SMALL, (1.0, 1.0))
    wanted = combine([a.lora for a in pair], torch.tensor([1.0, 1.0]))
    for name, factors in wanted.items():
        torch.testing.assert_close(mixed.lora[name], factors)
    assert sheet_of(tmp_path / "sum")["coefficients"] == {"all": [1.0, 1.0]}


@pytest.mark.parametrize(
    "wrong",
    [
        (1.0,),
        (0.0, 0.0),
        (-0.5, 1.5),
        (0.2, 0.3, 0.5),
        (float("nan"), 1.0),
        (1.0, float("inf")),
        (1e38, 1e38),
    ],
)
def test_wrong_coefficients_are_refused(backbone, domain, pair, tmp_path, wrong):
    with pytest.raises(AdapterError, match="Give 2 coefficients, one for each") as error:
        mix(pair, backbone, domain, "warm", tmp_path / "out", SMALL, wrong)
    one_sentence(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "grid", [(), (0.75, 0.25), (1.0, 0.0), (0.0, 0.5), (0.0, 0.5, 0.5, 1.0), (-1.0, 0.0, 1.0)]
)
def test_a_grid_between_the_adapters_is_needed(backbone, domain, pair, tmp_path, grid):
    """Without its ends the guard would have nothing to compare with."""
    with pytest.raises(AdapterError, match="must ascend from 0 to 1") as error:
        mix(pair, backbone, domain, "warm", tmp_path / "out", replace(SMALL, grid=grid))
    one_sentence(error.value)
    assert not (tmp_path / "out").exists()


# -- what is searched is what is saved --------------------------------------------------------


@pytest.fixture
def watched(monkeypatch):
    """Every mix that a search measures: (coefficients, its LoRA)."""
    seen = []
    measure = Mixer.measure

    def watching(self, lora, coefficients, label):
        seen.append((coefficients, lora))
        return measure(self, lora, coefficients, label)

    monkeypatch.setattr(Mixer, "measure", watching)
    return seen


@pytest.mark.parametrize(
    ("method", "granularity"),
    [("delta", "global"), ("factor", "global"), ("svd", "global"), ("delta", "layer"),
     ("factor", "module")],
)  # fmt: skip
def test_saved_cocktail_scores_as_the_search_saw(
    backbone, domain, pair, tmp_path, watched, method, granularity
):
    out = tmp_path / "cocktail"
    settings = replace(SMALL, method=method, granularity=granularity)
    mixed = mix(pair, backbone, domain, "warm", out, settings)
    chosen = sheet_of(out)["coefficients"].get("all")
    if granularity == "global":
        seen = next(lora for at, lora in watched if at == pytest.approx(chosen, abs=1e-6))
    else:
        seen = next(lora for at, lora in watched if at is None)
    wanted = scores_of(backbone, domain, seen)
    assert np.abs(wanted - scores_of(backbone, domain, None)).max() > 0.1
    loaded = Adapter.load(out)
    stock = PeftModel.from_pretrained(pico_model(), out).eval()
    for found in (
        scores_of(backbone, domain, mixed.lora),
        scores_of(backbone, domain, loaded.lora),
        scores_of(backbone, domain, None, model=stock.get_base_model()),
    ):
        assert np.abs(found - wanted).max() < 1e-4


# -- the sheet --------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["warm", "cold"])
def test_the_sheet_says_all(backbone, domain, pair, tmp_path, scenario):
    out = tmp_path / f"cocktail_{scenario}"
    mix(pair, backbone, domain, scenario, out, SMALL)
    sheet = sheet_of(out)
    assert set(sheet) >= CONTRACT
    assert (sheet["format"], sheet["name"], sheet["scenario"]) == (1, out.name, scenario)
    for adapter, entry in zip(pair, sheet["adapters"], strict=True):
        assert (entry["name"], entry["role"]) == (adapter.name, adapter.card.role)
        assert entry["sha256"] == adapter.sha256
    assert sheet["data"] == {"name": domain.name, "sha256": domain.sha256}
    assert sheet["backbone"] == backbone.fingerprint.model_dump()
    firsts = [point["coefficients"][0] for point in sheet["curve"]]
    assert firsts == sorted(firsts) and set(firsts) > {0.0, 0.25, 0.5, 0.75, 1.0}
    for point in sheet["curve"]:
        assert set(point) >= POINT
        assert sum(point["coefficients"]) == pytest.approx(1)
        assert 0 <= point["entropy"] <= np.log(30) + 1e-9
        assert point["validation"]["n"] == sheet["validation"]["users"]
        assert {"ndcg@1", "ndcg@3", "ndcg@10", "mrr"} <= set(point["validation"])
    best = min(sheet["curve"], key=lambda point: point["entropy"])
    assert not sheet["collapse"]["collapsed"] and sheet["collapse"]["reason"] == ""
    assert sheet["coefficients"]["all"] == pytest.approx(best["coefficients"], abs=1e-6)
    rows = domain.rows(f"test_{scenario}")
    adaptation = sheet["adaptation"]
    assert adaptation["table"] == f"test_{scenario}" and adaptation["transductive"] is False
    assert adaptation["users"] == len(adaptation["user_ids"]) == min(6, rows.height // 2)
    assert set(adaptation["user_ids"]) <= set(rows["user_id"])
    card = Adapter.load(out).card
    assert card.role == "cocktail" and card.backbone == backbone.fingerprint
    readme = (out / "README.md").read_text()
    assert "# Cocktail" in readme and sheet["agreement"] in readme and "base_spirit" in readme


def test_the_curve_is_the_truth(backbone, domain, pair, tmp_path):
    """A point of the curve, computed again from scores with plain NumPy."""
    mix(pair, backbone, domain, "warm", tmp_path / "c", SMALL)
    sheet = sheet_of(tmp_path / "c")
    point = next(p for p in sheet["curve"] if p["coefficients"] == [0.25, 0.75])
    lora = combine([a.lora for a in pair], torch.tensor([0.25, 0.75]))
    users = domain.rows("test_warm")["user_id"].to_list()
    at = [users.index(user) for user in sheet["adaptation"]["user_ids"]]
    scores = scores_of(backbone, domain, lora)[at]
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    assert point["entropy"] == pytest.approx(float(-(p * np.log(p)).sum(1).mean()), abs=1e-5)


@pytest.mark.parametrize("granularity", ["layer", "module"])
@pytest.mark.parametrize("objective", ["entropy", "calibrated", "validation"])
def test_granularities_and_objectives(backbone, domain, pair, tmp_path, granularity, objective):
    settings = replace(SMALL, granularity=granularity, objective=objective)
    out = tmp_path / "c"
    mixed = mix(pair, backbone, domain, "cold", out, settings)
    sheet = sheet_of(out)
    assert (sheet["granularity"], sheet["objective"]) == (granularity, objective)
    names = set(mixed.lora) if granularity == "module" else {"0", "1"}
    assert set(sheet["coefficients"]) == names
    for row in sheet["coefficients"].values():
        assert len(row) == 2 and sum(row) == pytest.approx(1, abs=1e-5)
        assert 0 <= min(row) and max(row) <= 1
    assert len(sheet["descent"]) == 2
    ends = [point["coefficients"] for point in sheet["curve"]]
    assert ends == [[1.0, 0.0], [0.0, 1.0], None]


@pytest.mark.parametrize("objective", ["calibrated", "validation"])
def test_objectives_of_a_pair_minimise_their_own_figure(
    backbone, domain, pair, tmp_path, objective
):
    mix(pair, backbone, domain, "warm", tmp_path / "c", replace(SMALL, objective=objective))
    sheet = sheet_of(tmp_path / "c")
    key = {"calibrated": "calibrated_entropy", "validation": "log_loss"}[objective]
    best = min(sheet["curve"], key=lambda point: point[key])
    assert sheet["coefficients"]["all"] == pytest.approx(best["coefficients"], abs=1e-6)


@pytest.mark.parametrize(("objective", "key"), [("validation", "log_loss"),
                                                ("calibrated", "calibrated_entropy")])  # fmt: skip
def test_a_diluted_cocktail_is_the_best_of_all_that_was_measured(
    backbone, domain, pair, tmp_path, objective, key
):
    out = tmp_path / "diluted"
    settings = replace(SMALL, objective=objective, dilutions=(0.5, 0.25))
    mixed = mix(pair, backbone, domain, "cold", out, settings)
    sheet = sheet_of(out)
    (chosen,) = sheet["coefficients"].values()
    sums = [round(sum(point["coefficients"]), 6) for point in sheet["curve"]]
    assert [sums.count(share) for share in (0.5, 0.25)] == 2 * [len(SMALL.grid)]
    least = min(sheet["curve"], key=lambda point: point[key])
    assert chosen == pytest.approx(least["coefficients"])
    wanted = combine([a.lora for a in pair], torch.tensor(chosen))
    assert np.array_equal(
        scores_of(backbone, domain, mixed.lora), scores_of(backbone, domain, wanted)
    )


def test_three_adapters(backbone, domain, pair, third, tmp_path):
    mixed = mix([*pair, third], backbone, domain, "warm", tmp_path / "c", SMALL)
    sheet = sheet_of(tmp_path / "c")
    (row,) = sheet["coefficients"].values()
    assert len(row) == 3 and sum(row) == pytest.approx(1, abs=1e-5) and min(row) > 0
    assert [point["coefficients"] for point in sheet["curve"]][-1] is None
    assert len(sheet["curve"]) == 4
    assert {f.a.shape[0] for f in mixed.lora.values()} == {6}
    given = mix([*pair, third], backbone, domain, "warm", tmp_path / "g", SMALL, (0.0, 0.0, 1.0))
    assert np.array_equal(
        scores_of(backbone, domain, given.lora), scores_of(backbone, domain, third.lora)
    )


# -- no labels, no chance ---------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["global", "layer"])
@pytest.mark.parametrize("objective", ["entropy", "calibrated"])
def test_test_targets_are_never_read(backbone, domain, pair, tmp_path, granularity, objective):
    tables = {f"test_{scenario}": other_targets for scenario in ("warm", "cold")}
    relabelled = changed(domain, tmp_path / "relabelled", **tables)
    settings = replace(SMALL, granularity=granularity, objective=objective)
    mix(pair, backbone, domain, "cold", tmp_path / "one", settings)
    mix(pair, backbone, relabelled, "cold", tmp_path / "two", settings)
    one, two = sheet_of(tmp_path / "one"), sheet_of(tmp_path / "two")
    for key in ("coefficients", "curve", "adaptation", "collapse", "agreement", "descent"):
        assert one[key] == two[key], key


def test_the_same_call_writes_the_same_bytes(backbone, domain, pair, tmp_path):
    settings = replace(SMALL, granularity="layer")
    for kind in (SMALL, settings):
        for place in ("one", "two"):
            shutil.rmtree(tmp_path / place, ignore_errors=True)
            mix(pair, backbone, domain, "warm", tmp_path / place / "cocktail", kind)
        files = sorted(p.name for p in (tmp_path / "one" / "cocktail").iterdir())
        assert {"cocktail.json", "adapter.json", "adapter_model.safetensors"} <= set(files)
        for name in files:
            one, two = (tmp_path / place / "cocktail" / name for place in ("one", "two"))
            assert one.read_bytes() == two.read_bytes(), name


def test_a_trained_adapter_is_not_replaced_but_a_cocktail_is(backbone, domain, pair, tmp_path):
    ingredient, cocktail = tmp_path / "ingredient", tmp_path / "cocktail"
    pair[1].save(ingredient, "")
    before = {path.name: path.read_bytes() for path in ingredient.iterdir()}
    with pytest.raises(AdapterError, match="trained adapter") as error:
        mix(pair, backbone, domain, "warm", ingredient, SMALL, (0.5, 0.5))
    one_sentence(error.value)
    assert {path.name: path.read_bytes() for path in ingredient.iterdir()} == before
    for coefficients in ((0.5, 0.5), (0.25, 0.75)):
        mix(pair, backbone, domain, "warm", cocktail, SMALL, coefficients)
    assert sheet_of(cocktail)["coefficients"] == {"all": [0.25, 0.75]}


def test_what_is_cached_does_not_change_the_cocktail(backbone, domain, pair, tmp_path, monkeypatch):
    """Item vectors left by another command (in other batches) may not move a coefficient."""
    sheets = []
    for place in ("fresh", "used"):
        monkeypatch.setenv("RECCOCKTAIL_CACHE", str(tmp_path / place))
        if place == "used":
            mix(pair, backbone, domain, "cold", tmp_path / "cold", SMALL)
        mix(pair, backbone, domain, "warm", tmp_path / "warm", SMALL)
        sheets.append(sheet_of(tmp_path / "warm"))
    one, two = sheets
    assert one["coefficients"] == two["coefficients"]
    for a, b in zip(one["curve"], two["curve"], strict=True):
        assert a["entropy"] == pytest.approx(b["entropy"], abs=1e-6)
        assert a["validation"] == b["validation"]


def test_other_seeds_draw_other_users(backbone, domain, pair):
    mixers = [
        Mixer(pair, backbone, domain, "warm", replace(SMALL, seed=seed)) for seed in (0, 0, 1)
    ]
    for table in ("unlabelled", "labelled"):
        drawn = [set(getattr(mixer, table)["user_id"]) for mixer in mixers]
        assert drawn[0] == drawn[1] != drawn[2]


def test_at_least_half_of_the_users_are_left_to_be_scored(backbone, domain, pair):
    mixer = Mixer(pair, backbone, domain, "cold", replace(SMALL, users=10_000))
    assert mixer.unlabelled.height == domain.rows("test_cold").height // 2


# -- collapse guard ---------------------------------------------------------------------------


def point(first, entropy, information=1.0, **more):
    coefficients = None if first is None else [first, 1 - first]
    return MeasuredMix(coefficients, entropy, information, 30, entropy, **more)


def test_a_sound_choice_passes_the_guard():
    curve = [point(0.0, 2.0), point(0.5, 1.5), point(1.0, 2.5)]
    assert _guarded(curve, "entropy") == (curve[1], None)


def test_a_mix_that_says_the_same_to_everybody_is_refused():
    curve = [point(0.0, 2.0), point(0.5, 0.9, information=0.1), point(1.0, 2.5, information=0.8)]
    taken, reason = _guarded(curve, "entropy")
    assert taken is curve[0]
    assert "lambda 0.50/0.50 looks collapsed" in reason and "same prediction" in reason


def test_a_mix_without_any_doubt_is_refused():
    curve = [point(0.0, 2.0), point(0.25, 0.01), point(0.5, 1.9), point(1.0, 2.5)]
    taken, reason = _guarded(curve, "entropy")
    assert taken is curve[2] and "below 2 %" in reason


def test_the_guard_judges_the_descent_too():
    ends, found = [point(1.0, 2.0), point(0.0, 2.5)], point(None, 1.0, information=0.2)
    taken, reason = _guarded([*ends, found], "entropy", prefer=found)
    assert taken is ends[0] and "of the cocktail looks collapsed" in reason
    sound = point(None, 1.0)
    assert _guarded([*ends, sound], "entropy", prefer=sound) == (sound, None)


def test_where_all_is_collapsed_it_is_said():
    curve = [point(0.0, 0.01), point(0.5, 0.005), point(1.0, 0.02)]
    taken, reason = _guarded(curve, "entropy")
    assert taken is curve[1] and reason.startswith("every mix looks collapsed")


def test_a_refused_mix_is_written_down(backbone, domain, pair, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module,
        "collapse_reason",
        lambda entropy, candidates, information, reference: None if seen(entropy) else "collapsed",
    )
    entropies = []

    def seen(entropy):  # refuses the first point that it is asked about, the best one
        entropies.append(entropy)
        return len(entropies) > 1

    mix(pair, backbone, domain, "warm", tmp_path / "c", SMALL)
    sheet = sheet_of(tmp_path / "c")
    order = sorted(sheet["curve"], key=lambda p: p["entropy"])
    assert sheet["collapse"]["collapsed"] is True and "collapsed" in sheet["collapse"]["reason"]
    assert sheet["coefficients"]["all"] == pytest.approx(order[1]["coefficients"], abs=1e-6)


# -- agreement --------------------------------------------------------------------------------


def judged(first, entropy, ndcg):
    values = np.asarray(ndcg, dtype=float)
    return point(first, entropy, validation={"n": len(values)}, per_user={"ndcg@10": values})


def test_agreement():
    worse, better = np.zeros(50), np.ones(50)
    same = [judged(0.0, 1.0, better), judged(1.0, 2.0, worse)]
    assert "choose the same lambda, 0.00/1.00" in agreement_with_validation(
        same, same[0], "entropy"
    )
    apart = [judged(0.0, 1.0, worse), judged(1.0, 2.0, better)]
    said = agreement_with_validation(apart, apart[0], "entropy")
    assert "they disagree" in said and "-1.0" in said
    noise = [judged(0.0, 1.0, [0, 1] * 25), judged(1.0, 2.0, [1, 0] * 24 + [1, 1])]
    assert "within noise" in agreement_with_validation(noise, noise[0], "entropy")
    bare = [point(0.0, 1.0), point(1.0, 2.0)]
    assert "No labelled" in agreement_with_validation(bare, bare[0], "entropy")
    # A mix by groups is judged itself, not the adapter that would have been next.
    mixed = judged(None, 0.5, worse)
    said = agreement_with_validation([*apart, mixed], mixed, "entropy")
    assert "chooses lambda of the cocktail" in said and "highest at 1.00/0.00" in said


# -- refusals ---------------------------------------------------------------------------------


def with_card(adapter, **changes):
    return replace(adapter, card=adapter.card.model_copy(update=changes))


def test_adapters_that_do_not_fit_are_refused(backbone, domain, pair, tmp_path):
    first = pair[0]
    elsewhere = random_adapter(pico_backbone("qwen2"), domain, "elsewhere")
    longer = pico_recipe().model_copy(update={"prompt": PromptSettings(max_history=9)})
    hotter = pico_recipe().model_copy(update={"dense": DenseSettings(temperature=0.1)})
    cases = {
        "was trained on backbone": elsewhere,
        "differ in their prompt template": with_card(pair[1], template_sha256="f" * 64),
        "differ in their prompt settings": with_card(pair[1], recipe=longer),
        "differ in their score temperature": with_card(pair[1], recipe=hotter),
    }
    for what, second in cases.items():
        with pytest.raises(AdapterError, match=what) as error:
            mix([first, second], backbone, domain, "warm", tmp_path / "out", SMALL)
        assert second.name in one_sentence(error.value)
    for few in ([first], []):
        with pytest.raises(AdapterError, match="needs two adapters"):
            mix(few, backbone, domain, "warm", tmp_path / "out", SMALL)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("objective", ["calibrated", "validation"])
def test_given_coefficients_need_nobody_labelled(objective, backbone, domain, pair, tmp_path):
    """Nothing is chosen by them; a pipeline's average is measured without, too."""
    settings = replace(SMALL, objective=objective, validation_users=0)
    mix(pair, backbone, domain, "warm", tmp_path / "out", settings, (0.5, 0.5))
    assert load_sheet(tmp_path / "out")["coefficients"]["all"] == [0.5, 0.5]
    with pytest.raises(AdapterError, match="reads labelled users"):
        mix(pair, backbone, domain, "warm", tmp_path / "searched", settings)


def test_of_a_cocktail_in_another_it_is_said_how_to_judge(backbone, domain, pair, tmp_path, capsys):
    """Whom it adapted to is named by its own folder alone."""
    mixed = with_card(pair[1], role="cocktail")
    mix([pair[0], mixed], backbone, domain, "warm", tmp_path / "out", SMALL, (0.5, 0.5))
    said = " ".join(capsys.readouterr().err.split())
    assert f"'{pair[1].name}' is a cocktail" in said and "evaluate what is made of it" in said


def test_a_temperature_that_is_left_open_is_the_one_that_is_named(backbone, pair):
    """The shipped base spirit's recipe names it; the default recipe of an ingredient does not."""
    named = pico_recipe().model_copy(update={"dense": DenseSettings(temperature=0.05)})
    left_open = pico_recipe().model_copy(update={"dense": DenseSettings()})
    assert left_open.dense.temperature is None
    adapters = [with_card(a, recipe=r) for a, r in zip(pair, (named, left_open), strict=True)]
    check_compatible(adapters, backbone)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"method": "soup"}, "Unknown method 'soup'"),
        ({"search": "luck"}, "Unknown search 'luck'"),
        ({"granularity": "head"}, "Unknown granularity 'head'"),
        ({"objective": "luck"}, "Unknown objective 'luck'"),
        ({"users": 0}, "adaptation user"),
        ({"validation_users": -1}, "must not be negative"),
        ({"seed": -1}, "must not be negative"),
        ({"method": "svd", "granularity": "layer"}, "no gradient search"),
        ({"method": "ties", "search": "published"}, "no gradient search"),
        ({"objective": "information", "granularity": "layer"}, "no gradient search"),
        ({"dilutions": (0.5,)}, "use one of calibrated, validation"),
        ({"dilutions": (0.5,), "objective": "validation", "granularity": "layer"}, "diluted"),
        ({"dilutions": (1.0,), "objective": "validation"}, "between 0 and 1"),
        ({"dilutions": (0.0,), "objective": "calibrated"}, "between 0 and 1"),
        ({"dilutions": (0.5,), "objective": "calibrated", "method": "ties"}, "relative"),
        ({"options": MergeOptions(density=0)}, "density"),
        ({"options": MergeOptions(rank=4)}, "'delta' has no rank"),
        ({"descent": Descent(steps=0)}, "at least one step"),
        ({"descent": Descent(learning_rate=float("nan"))}, "learning rate"),
    ],
)
def test_wrong_settings_are_refused(backbone, domain, pair, settings, what):
    with pytest.raises(RecCocktailError, match=what) as error:
        Mixer(pair, backbone, domain, "warm", replace(SMALL, **settings))
    one_sentence(error.value)


def test_too_few_users_are_refused(backbone, domain, pair, tmp_path):
    lonely = changed(domain, tmp_path / "lonely", test_cold=lambda rows: rows.head(1))
    unlabelled = changed(domain, tmp_path / "unlabelled", valid_cold=lambda rows: rows.head(0))
    with pytest.raises(DataError, match="no test_cold users to adapt to") as error:
        Mixer(pair, backbone, lonely, "cold", SMALL)
    one_sentence(error.value)
    for objective in ("validation", "calibrated"):
        with pytest.raises(AdapterError, match="raise --validation-users") as error:
            nobody = replace(SMALL, objective=objective, validation_users=0)
            mix(pair, backbone, domain, "cold", tmp_path / "out", nobody)
        one_sentence(error.value)
        with pytest.raises(DataError, match="no valid_cold users") as error:
            Mixer(pair, backbone, unlabelled, "cold", replace(SMALL, objective=objective))
        one_sentence(error.value)
    mix(pair, backbone, unlabelled, "cold", tmp_path / "c", SMALL)  # entropy needs no labels
    sheet = sheet_of(tmp_path / "c")
    assert {p["validation"] for p in sheet["curve"]} == {None}
    assert sheet["agreement"].startswith("No labelled validation users")


def test_the_backbone_comes_back_as_it_was(backbone, domain, pair, tmp_path):
    before = {n: t.clone() for n, t in backbone.model.state_dict().items()}
    for granularity in ("global", "layer"):
        settings = replace(SMALL, granularity=granularity)
        mix(pair, backbone, domain, "warm", tmp_path / granularity, settings)
    after = backbone.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[n], t) for n, t in before.items())
