"""What a search minimises, and the published search, against re-derivations of a few lines."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.func import functional_call

from reccocktail.mixing.arithmetic import MergeOptions, update_norm
from reccocktail.mixing.cocktail import mix
from reccocktail.mixing.entropy import distillation, jensen_shannon
from reccocktail.mixing.measure import Mixer, MixSettings, default_descent
from reccocktail.mixing.objectives import OBJECTIVES, distance_from_adapters
from reccocktail.mixing.search import Descent
from tests.adapters import pico_recipe, random_adapter
from tests.domains import taste_domain
from tests.pico import pico_backbone

SMALL = MixSettings(users=6, validation_users=8, refinements=0)


@pytest.fixture(scope="module")
def backbone():
    return pico_backbone()


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("domain"), users=60)


def make_pair(backbone, domain, ranker="dense"):
    recipe = pico_recipe(backbone.name).model_copy(update={"ranker": ranker})
    return [
        random_adapter(backbone, domain, name, role, seed=seed, recipe=recipe)
        for seed, (name, role) in enumerate((("spirit", "base"), ("own", "ingredient")), start=1)
    ]


@pytest.fixture(scope="module")
def pair(backbone, domain):
    return make_pair(backbone, domain)


def sheet_of(folder):
    return json.loads((folder / "cocktail.json").read_text())


# -- objectives -------------------------------------------------------------------------------


def softmax(scores):
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def entropy(p):
    return -(p * np.log(p)).sum(axis=-1)


def test_divergence_is_jensen_and_shannons():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 7, 5)) * 3
    p, q = softmax(one), softmax(other)
    by_hand = (entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2).mean()
    tensors = torch.from_numpy(one), torch.from_numpy(other)
    assert float(jensen_shannon(*tensors)) == pytest.approx(by_hand, abs=1e-12)
    assert float(jensen_shannon(tensors[0], tensors[0])) == pytest.approx(0, abs=1e-12)
    far = torch.tensor([[1000.0, 0.0]]), torch.tensor([[0.0, 1000.0]])
    assert float(jensen_shannon(*far)) == pytest.approx(math.log(2))


def test_distillation_is_what_a_mix_lacks_of_its_teacher():
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(2, 7, 5)) * 3
    p, q = softmax(one), softmax(other)
    by_hand = (q * np.log(q / p)).sum(axis=-1).mean()
    tensors = torch.from_numpy(one), torch.from_numpy(other)
    assert float(distillation(*tensors)) == pytest.approx(by_hand, abs=1e-12)
    assert float(distillation(tensors[1], tensors[0])) != pytest.approx(by_hand, abs=1e-3)
    assert float(distillation(tensors[0], tensors[0])) == pytest.approx(0, abs=1e-12)


def test_two_teachers_are_distilled_into_their_average():
    """Of all predictions the average of both adapters' lacks least of them."""
    rng = np.random.default_rng(2)
    teachers = torch.from_numpy(rng.normal(size=(2, 6, 5)))
    average = torch.softmax(teachers, dim=-1).mean(dim=0).log()
    least = float(distance_from_adapters("distillation", average, list(teachers)))
    for other in (*teachers, teachers.mean(dim=0), average * 1.2, average * 0.8):
        assert float(distance_from_adapters("distillation", other, list(teachers))) > least + 1e-4


def test_points_hold_every_objective(backbone, domain, pair):
    mixer = Mixer(pair, backbone, domain, "warm", replace(SMALL, objective="divergence"))
    first, middle, last = (mixer.measure_pair(value) for value in (1.0, 0.4, 0.0))
    p, own = softmax(middle.scores.numpy()), [softmax(x.scores.numpy()) for x in (first, last)]
    assert middle.value("entropy") == pytest.approx(entropy(p).mean(), rel=1e-5)
    shared = [(entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2).mean() for q in own]
    assert middle.value("divergence") == pytest.approx(np.mean(shared), rel=1e-6)
    lacking = [(q * np.log(q / p)).sum(axis=-1).mean() for q in own]
    assert middle.value("distillation") == pytest.approx(np.mean(lacking), rel=1e-6)
    assert middle.value("information") == -middle.mutual_information
    assert middle.value("validation") == middle.log_loss
    between = first.temperature**0.4 * last.temperature**0.6
    wanted = entropy(softmax(middle.scores.numpy() / between)).mean()
    assert middle.value("adapter-calibrated") == pytest.approx(wanted, rel=1e-6)
    # A diluted mix has the temperature of its proportions.
    thin = mixer.measure_pair(0.4, dilution=0.5)
    wanted = entropy(softmax(thin.scores.numpy() / between)).mean()
    assert thin.value("adapter-calibrated") == pytest.approx(wanted, rel=1e-6)
    # Alone, each is its own calibration.
    assert first.value("adapter-calibrated") == pytest.approx(first.value("calibrated"))


def test_mixes_that_hardly_differ_are_measured_apart(backbone, domain, pair):
    mixer = Mixer(pair, backbone, domain, "warm", SMALL)
    one, other = (mixer.measure_pair(first) for first in (0.4, 0.4001))
    assert other.coefficients == [0.4001, 0.5999] and one.entropy != other.entropy


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_the_line_search_minimises_what_is_asked(backbone, domain, pair, tmp_path, objective):
    mix(pair, backbone, domain, "warm", tmp_path / "out", replace(SMALL, objective=objective))
    sheet = sheet_of(tmp_path / "out")
    key, sign = OBJECTIVES[objective].curve_key, OBJECTIVES[objective].sign
    best = min(sheet["curve"], key=lambda point: sign * point[key])
    assert len({point[key] for point in sheet["curve"]}) > 3
    if not sheet["collapse"]["collapsed"]:
        assert sheet["coefficients"]["all"] == best["coefficients"]


@pytest.mark.parametrize("objective", ["divergence", "distillation"])
def test_what_compares_with_the_adapters_descends_by_layer(
    backbone, domain, pair, tmp_path, objective
):
    settings = replace(SMALL, objective=objective, granularity="layer", descent=Descent(8, 0.3))
    mix(pair, backbone, domain, "warm", tmp_path / "out", settings)
    sheet = sheet_of(tmp_path / "out")
    assert set(sheet["coefficients"]) == {"0", "1"} and len(sheet["descent"]) == 8
    assert min(sheet["descent"]) < sheet["descent"][0]


def test_norm_matching_is_searched_and_saved(backbone, domain, pair, tmp_path):
    options = MergeOptions(norm_matched=True)
    mixed = mix(pair, backbone, domain, "warm", tmp_path / "out",
                replace(SMALL, options=options), (0.5, 0.5))  # fmt: skip
    wanted = sum(update_norm(a.lora) for a in pair) / 2
    sheet = sheet_of(tmp_path / "out")
    assert update_norm(mixed.lora) == pytest.approx(wanted, rel=1e-4)
    assert sheet["update_norm"] == pytest.approx(wanted, rel=1e-4)
    assert sheet["options"] == {"norm_matched": True}


@pytest.mark.parametrize(("method", "lossy"), [("ties", True), ("dare", False), ("linear", False)])
def test_baselines_of_merging_are_mixed(backbone, domain, pair, tmp_path, method, lossy):
    options = MergeOptions(density=0.5 if method == "linear" else 0.4, seed=3)
    settings = replace(SMALL, method=method, options=options)
    mix(pair, backbone, domain, "warm", tmp_path / "out", settings, (0.5, 0.5))
    sheet = sheet_of(tmp_path / "out")
    assert sheet["method"] == method and (sheet["lost_energy"] > 0.01) == lossy
    wanted = {"dare": {"density": 0.4, "seed": 3}, "ties": {"density": 0.4, "rank": None}}
    assert sheet["options"] == {"norm_matched": False, **wanted.get(method, {})}


# -- the published search ---------------------------------------------------------------------


def merged_weights(backbone, pair, coefficients, method):
    """The backbone's weights with the update of Eq. 6 or Eq. 7 added; gradients flow."""
    weights = dict(backbone.model.named_parameters())
    for row, module in enumerate(sorted(pair[0].lora)):
        one, two = (adapter.lora[module] for adapter in pair)
        x, y = coefficients[row]
        if method == "delta":
            update = x * one.scaling * one.b @ one.a + y * two.scaling * two.b @ two.a
        else:
            update = one.scaling * (x * one.b + y * two.b) @ (x * one.a + y * two.a)
        weights[f"{module}.weight"] = weights[f"{module}.weight"] + update
    return weights


def first_token_entropy(backbone, weights, prompt, paths, first=3, behind=1):
    """Greedy decoding of one title out of `paths`: mean full-vocabulary entropy of its start."""
    written, entropies, allowed = [], [], paths
    while len(entropies) < first:
        ids = torch.tensor([[*prompt, *written]])
        logits = functional_call(backbone.model, weights, (), {"input_ids": ids}).logits[0, -1]
        log_p = torch.log_softmax(logits, -1)
        entropies.append(-(log_p.exp() * log_p).sum())
        token = max((path[len(written)] for path in allowed), key=lambda t: float(logits[t]))
        written.append(token)
        allowed = [path for path in allowed if path[: len(written)] == written]
        if len(allowed) == 1 and len(allowed[0]) - behind <= len(written):
            break
    return torch.stack(entropies).mean()


@pytest.mark.parametrize("method", ["delta", "factor"])
@pytest.mark.parametrize("scenario", ["warm", "cold"])
def test_published_search_is_the_published_one(backbone, domain, tmp_path, method, scenario):
    pair = make_pair(backbone, domain, "generate")
    temperature, rate, steps = 0.7, 0.4, 3
    settings = MixSettings(
        method=method, search="published", users=4, validation_users=0,
        descent=Descent(steps, rate, temperature),
    )  # fmt: skip
    mix(pair, backbone, domain, scenario, tmp_path / "out", settings)
    sheet = sheet_of(tmp_path / "out")
    mixer = Mixer(pair, backbone, domain, scenario, settings)
    rows, catalogue = mixer.unlabelled, mixer.catalogue
    batch = mixer.ranker.ranking_batch(
        catalogue.histories(rows), catalogue.candidates(rows), catalogue.tokens
    )

    def unpadded(row):
        return [token for token in row.tolist() if token >= 0]

    users = [
        (unpadded(prompt), [unpadded(path) for path in paths])
        for prompt, paths in zip(batch["prompt_ids"], batch["answers"], strict=True)
    ]
    assert len(users) == 4
    w = torch.zeros(len(pair[0].lora), 2, requires_grad=True)
    adam = torch.optim.Adam([w], lr=rate)
    losses = []
    for _ in range(steps):
        weights = merged_weights(backbone, pair, torch.softmax(w / temperature, -1), method)
        loss = torch.stack(
            [
                first_token_entropy(backbone, weights, *user, behind=len(mixer.ranker._behind))
                for user in users
            ]
        ).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss))
    wanted = torch.softmax(w.detach() / temperature, -1)
    assert (wanted - 0.5).abs().max() > 0.1
    assert sheet["descent"] == pytest.approx(losses, abs=1e-4)
    assert list(sheet["coefficients"]) == sorted(pair[0].lora, key=lambda name: (len(name), name))
    for row, module in enumerate(sorted(pair[0].lora)):
        assert sheet["coefficients"][module] == pytest.approx(wanted[row].tolist(), abs=2e-3)


def test_published_search_over_candidates(backbone, domain, pair, tmp_path):
    """The dense ranker has no written tokens: its entropy is over the candidates."""
    settings = replace(SMALL, search="published", descent=Descent(2, 0.5))
    mix(pair, backbone, domain, "warm", tmp_path / "out", settings)
    sheet = sheet_of(tmp_path / "out")
    assert (sheet["search"], sheet["granularity"]) == ("published", "module")
    assert set(sheet["coefficients"]) == set(pair[0].lora)
    half = Mixer(pair, backbone, domain, "warm", SMALL).measure_pair(0.5)
    assert sheet["descent"][0] == pytest.approx(half.entropy, abs=1e-4)
    assert sheet["descent_settings"]["passes"] == 1


def test_learning_rates_lie_in_the_published_ranges():
    assert 0.5 <= default_descent("published", "warm").learning_rate <= 5
    assert 0.01 <= default_descent("published", "cold").learning_rate <= 0.09
