"""The merging baselines against PEFT's own and against their published steps."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

from reccocktail.errors import AdapterError
from reccocktail.mixing.arithmetic import (
    DIFFERENTIABLE,
    METHODS,
    MergeOptions,
    combine,
    compress,
    merge,
    update_norm,
)
from reccocktail.mixing.sparse import dropped, ties, truncated_svd
from reccocktail.training.adapter import PREFIX, Factors
from tests.adapters import MODULES, RANK, random_lora
from tests.helpers import one_sentence
from tests.pico import pico_backbone, pico_model

WEIGHTS = (0.3, 0.7)


@pytest.fixture(scope="module")
def pair():
    backbone = pico_backbone()
    return [random_lora(backbone, seed) for seed in (1, 2)]


def dense(lora):
    return {m: f.scaling * f.b.double() @ f.a.double() for m, f in lora.items()}


def by_peft(pair, weights, how, **options):
    """Updates that stock PEFT merges out of the same two LoRAs."""
    config = LoraConfig(r=RANK, lora_alpha=2.0 * RANK, target_modules=list(MODULES))
    model = get_peft_model(pico_model(), config, adapter_name="0")
    model.add_adapter("1", config)
    for name, lora in enumerate(pair):
        state = {}
        for module, (a, b, _) in lora.items():
            state[f"{PREFIX}{module}.lora_A.weight"] = a
            state[f"{PREFIX}{module}.lora_B.weight"] = b
        set_peft_model_state_dict(model, state, adapter_name=str(name))
    model.add_weighted_adapter(["0", "1"], list(weights), "mix", combination_type=how, **options)
    return {
        name: module.get_delta_weight("mix").detach().double()
        for name, module in model.get_base_model().named_modules()
        if hasattr(module, "get_delta_weight")
    }


@pytest.mark.parametrize(
    ("method", "how", "weights", "options", "peft_options"),
    [
        ("delta", "cat", WEIGHTS, {}, {}),
        ("linear", "linear", WEIGHTS, {}, {}),
        ("svd", "svd", WEIGHTS, {}, {}),
        ("svd", "svd", WEIGHTS, {"rank": 1}, {"svd_rank": 1}),
        # PEFT does not divide by the coefficients: with 1 and 1 its weighted mean is ours.
        ("ties", "ties_svd", (0.5, 0.5), {"density": 0.3, "rank": 3},
         {"density": 0.3, "svd_rank": 3}),
        ("ties", "ties_svd", (0.5, 0.5), {"density": 0.8}, {"density": 0.8, "svd_rank": 4}),
    ],
)  # fmt: skip
def test_methods_are_pefts(pair, method, how, weights, options, peft_options):
    mixed = dense(combine(pair, torch.tensor(weights), method, MergeOptions(**options)))
    theirs = by_peft(pair, (1.0, 1.0) if method == "ties" else weights, how, **peft_options)
    assert set(mixed) == set(theirs)
    for module, update in mixed.items():
        assert update.abs().max() > 0.01
        torch.testing.assert_close(update, theirs[module], atol=1e-5, rtol=0)


def test_linear_is_not_equation_7(pair):
    weights = torch.tensor(WEIGHTS)
    linear, factor = combine(pair, weights, "linear"), combine(pair, weights, "factor")
    module = next(iter(linear))
    assert (dense(linear)[module] - dense(factor)[module]).abs().max() > 0.01


# -- ties -------------------------------------------------------------------------------------


def part(rows, weight):
    update = torch.tensor(rows)
    return Factors(update, torch.eye(len(update)), 1.0), torch.tensor(weight)


def test_ties_by_hand():
    # Half of the entries stays: 4, -3 | 2, -6. Signs: 4 against none; -3 and -6 agree; 2 alone.
    first, second = part([[4.0, 1.0], [-3.0, 0.5]], 0.25), part([[0.1, 2.0], [-6.0, -1.0]], 0.75)
    assert ties([first, second], 0.5).tolist() == [[4.0, 2.0], [-0.25 * 3 - 0.75 * 6, 0.0]]
    # All stay: in the first place both agree, in the last the heavier one wins.
    whole = ties([first, second], 1.0)
    expected = [[0.25 * 4 + 0.75 * 0.1, 0.25 * 1 + 0.75 * 2], [-0.25 * 3 - 0.75 * 6, -1.0]]
    torch.testing.assert_close(whole, torch.tensor(expected))


def test_ties_reports_what_the_rank_loses(pair):
    weights = torch.tensor([0.5, 0.5])
    losses = []
    for rank in (1, 4, 16, 64):
        lora, lost = merge(pair, weights, "ties", MergeOptions(density=0.3, rank=rank))
        whole = {m: ties([(x[m], w) for x, w in zip(pair, weights, strict=True)], 0.3)
                 for m in lora}  # fmt: skip
        error = sum(float((whole[m] - u).square().sum()) for m, u in dense(lora).items())
        total = sum(float(u.square().sum()) for u in whole.values())
        assert lost == pytest.approx(error / total, abs=1e-5)
        losses.append(lost)
    assert losses == sorted(losses, reverse=True) and losses[0] > 0.2
    assert losses[-1] == pytest.approx(0, abs=1e-9)
    default = merge(pair, weights, "ties", MergeOptions(density=0.3))
    assert next(iter(default.lora.values())).a.shape[0] == 2 * RANK
    assert default.lost_energy == pytest.approx(losses[1])


def test_scaling_all_coefficients_leaves_ties_as_it_is(pair):
    one = dense(combine(pair, torch.tensor([0.2, 0.3]), "ties"))
    other = dense(combine(pair, torch.tensor([0.4, 0.6]), "ties"))
    for module, update in one.items():
        torch.testing.assert_close(update, other[module], atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_truncation_is_the_svd(shape):
    update = torch.randn(shape, generator=torch.manual_seed(0))
    factors, lost, total = truncated_svd(update, 2)
    u, s, vt = torch.linalg.svd(update.double())
    best = u[:, :2] @ s[:2].diag() @ vt[:2]
    torch.testing.assert_close(factors.b.double() @ factors.a.double(), best, atol=1e-5, rtol=0)
    assert lost == pytest.approx(float(s[2:].square().sum()), rel=1e-6)
    assert total == pytest.approx(float(s.square().sum()), rel=1e-6)


# -- dare -------------------------------------------------------------------------------------


def test_dare_drops_its_share_and_rescales_the_rest(pair):
    module, factors = next(iter(pair[0].items()))
    thin = dropped(factors, module, 0.25, seed=0)
    for before, after in ((factors.a, thin.a), (factors.b, thin.b)):
        stays = after != 0
        assert 0.05 < stays.float().mean() < 0.5
        torch.testing.assert_close(after[stays], before[stays] * 4)
    everywhere = [dropped(f, m, 0.25, 0) for lora in pair for m, f in lora.items()]
    share = np.mean([float((f.a != 0).float().mean()) for f in everywhere])
    assert share == pytest.approx(0.25, abs=0.05)


def test_dare_drops_other_entries_of_another_adapter(pair):
    module = next(iter(pair[0]))
    stays = [dropped(lora[module], module, 0.5, seed=0).a != 0 for lora in pair]
    assert not torch.equal(*stays)


def test_dare_is_seeded_and_right_on_average(pair):
    weights = torch.tensor(WEIGHTS)
    module = next(iter(pair[0]))
    pair = [{module: lora[module]} for lora in pair]
    delta = dense(combine(pair, weights))
    draws = [
        dense(combine(pair, weights, "dare", MergeOptions(density=0.8, seed=seed)))[module]
        for seed in range(400)
    ]
    assert not torch.equal(draws[0], draws[1])
    again = dense(combine(pair, weights, "dare", MergeOptions(density=0.8, seed=0)))[module]
    assert torch.equal(draws[0], again)
    drawn = torch.stack(draws)
    error = (drawn.mean(dim=0) - delta[module]).abs()
    deviation = drawn.std(dim=0) / 400**0.5
    assert (error < 5 * deviation + 1e-6).all()
    whole = dense(combine(pair, weights, "dare", MergeOptions(density=1.0)))[module]
    assert torch.equal(whole, delta[module])


# -- norms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_norm_matching_gives_the_mean_of_the_norms(pair, method):
    options = MergeOptions(norm_matched=True)
    mixed = combine(pair, torch.tensor(WEIGHTS), method, options)
    norms = [update_norm(lora) for lora in pair]
    wanted = sum(w * n for w, n in zip(WEIGHTS, norms, strict=True))
    assert update_norm(mixed) == pytest.approx(wanted, rel=1e-4)
    plain = combine(pair, torch.tensor(WEIGHTS), method)
    assert update_norm(plain) != pytest.approx(wanted, rel=1e-2)
    ratio = wanted / update_norm(plain)
    for module, update in dense(plain).items():  # one factor for the whole update
        torch.testing.assert_close(dense(mixed)[module], ratio * update, atol=1e-5, rtol=1e-4)


def test_norm_matching_leaves_a_lone_adapter_alone(pair):
    mixed = combine(pair, torch.tensor([0.0, 1.0]), "delta", MergeOptions(norm_matched=True))
    for module, factors in pair[1].items():
        assert torch.equal(mixed[module].b, factors.b)


@pytest.mark.parametrize("method", DIFFERENTIABLE)
def test_gradients_flow_through_norm_matching(pair, method):
    exact = [
        {m: Factors(f.a.double(), f.b.double(), f.scaling) for m, f in list(lora.items())[:2]}
        for lora in pair
    ]

    def objective(weights):
        density = {"density": 0.9} if method == "dare" else {}
        mixed = combine(exact, weights, method, MergeOptions(**density, norm_matched=True))
        return sum((s * b @ a).tanh().square().sum() for a, b, s in mixed.values())

    weights = torch.tensor([0.4, 0.6], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(objective, (weights,))


# -- what the rest of the system may ask ------------------------------------------------------


def test_svd_tells_its_loss(pair):
    weights = torch.tensor(WEIGHTS)
    assert merge(pair, weights).lost_energy == 0.0
    lost = merge(pair, weights, "svd", MergeOptions(rank=1)).lost_energy
    assert lost == compress(combine(pair, weights), 1)[1] > 0.1


@pytest.mark.parametrize(
    "options", [{"density": 0.0}, {"density": 1.5}, {"density": float("nan")}, {"rank": 0}]
)
def test_options_out_of_range(pair, options):
    with pytest.raises(AdapterError) as error:
        combine(pair, torch.tensor(WEIGHTS), "ties", MergeOptions(**options))
    one_sentence(error.value)


@pytest.mark.parametrize(
    ("method", "options", "what"),
    [
        ("delta", {"rank": 4}, "'delta' has no rank; leave it out, or use svd or ties"),
        ("dare", {"rank": 4}, "'dare' has no rank"),
        ("svd", {"density": 0.3}, "'svd' has no density; leave it out, or use ties or dare"),
    ],
)
def test_options_of_another_method_are_refused(pair, method, options, what):
    with pytest.raises(AdapterError, match=what) as error:
        combine(pair, torch.tensor(WEIGHTS), method, MergeOptions(**options))
    one_sentence(error.value)
