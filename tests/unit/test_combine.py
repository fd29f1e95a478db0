"""The algebra of `combine`: what mixing must and must not change, for LoRAs of any shape."""

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reccocktail.errors import AdapterError
from reccocktail.mixing.arithmetic import (
    METHODS,
    combine,
    compress,
    update_cosine,
    update_norm,
)
from reccocktail.training.adapter import Factors, lora_sha256
from tests.helpers import one_sentence

SHAPES = {"q": (6, 5), "v": (4, 5), "up": (7, 3)}  # module -> outputs, inputs

ranks = st.integers(1, 4)
alphas = st.sampled_from([1.0, 4.0, 16.0, 32.0])


def make_lora(seed, rank_of, alpha, modules=tuple(SHAPES), rslora=False, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    lora = {}
    for module in modules:
        outputs, inputs = SHAPES[module]
        rank = rank_of[module] if isinstance(rank_of, dict) else rank_of
        a = torch.randn(rank, inputs, generator=generator, dtype=torch.float64) * 0.4
        b = torch.randn(outputs, rank, generator=generator, dtype=torch.float64) * 0.4
        scaling = alpha / rank**0.5 if rslora else alpha / rank
        lora[module] = Factors(a.to(dtype), b.to(dtype), scaling / 8)
    return lora


@st.composite
def loras(draw, **fixed):
    """One LoRA: any rank per module, alpha, plain or rank-stabilised scaling, some modules."""
    modules = fixed.get("modules") or tuple(
        sorted(draw(st.sets(st.sampled_from(sorted(SHAPES)), min_size=1)))
    )
    rank = fixed.get("rank") or {module: draw(ranks) for module in modules}
    alpha = fixed.get("alpha") or draw(alphas)
    seed, rslora = draw(st.integers(0, 10**6)), draw(st.booleans())
    return make_lora(seed, rank, alpha, modules, rslora)


@st.composite
def mixes(draw, least=2, **fixed):
    """Two to four LoRAs with coefficients on the simplex, zeros included."""
    adapters = draw(st.lists(loras(**fixed), min_size=least, max_size=4))
    parts = draw(st.lists(st.integers(0, 8), min_size=len(adapters), max_size=len(adapters)))
    parts[draw(st.integers(0, len(adapters) - 1))] += 1
    return adapters, torch.tensor(parts, dtype=torch.float32) / sum(parts)


def update(lora, module):
    """The change of a weight, in float64; zero where the LoRA lacks the module."""
    if module not in lora:
        return torch.zeros(SHAPES[module], dtype=torch.float64)
    a, b, scaling = lora[module]
    return scaling * b.double() @ a.double()


def assert_same_function(one, other, tolerance=1e-6):
    for module in SHAPES:
        first, second = update(one, module), update(other, module)
        scale = max(1.0, float(first.abs().max()))
        torch.testing.assert_close(first, second, atol=tolerance * scale, rtol=0)


# -- exact properties -------------------------------------------------------------------------


@given(
    st.lists(loras(), min_size=1, max_size=4),
    st.data(),
    st.sampled_from([m for m in METHODS if m != "svd"]),
)
def test_a_lone_adapter_comes_back_bit_for_bit(adapters, data, method):
    chosen = data.draw(st.integers(0, len(adapters) - 1))
    weights = torch.zeros(len(adapters))
    weights[chosen] = 1.0
    mixed = combine(adapters, weights, method)
    for module, factors in adapters[chosen].items():
        assert torch.equal(mixed[module].a, factors.a)
        assert torch.equal(mixed[module].b, factors.b)
        assert mixed[module].scaling == factors.scaling
    for module in set(mixed) - set(adapters[chosen]):
        assert not update(mixed, module).any()


@given(mixes(), st.sampled_from(METHODS))
def test_permuting_adapters_with_their_coefficients_changes_nothing(mix, method):
    adapters, weights = mix
    mixed = combine(adapters, weights, method)
    for order in list(permutations(range(len(adapters))))[1:4]:
        again = combine([adapters[i] for i in order], weights[list(order)], method)
        assert_same_function(again, mixed)


@given(loras(), st.integers(1, 4), st.sampled_from(["delta", "factor", "svd"]), st.data())
def test_mixing_an_adapter_with_itself_changes_nothing(lora, copies, method, data):
    parts = data.draw(st.lists(st.integers(1, 9), min_size=copies, max_size=copies))
    weights = torch.tensor(parts, dtype=torch.float32) / sum(parts)
    assert_same_function(combine([lora] * copies, weights, method), lora, 3e-6)


@given(mixes(least=1))
def test_delta_is_the_weighted_sum_of_updates(mix):
    adapters, weights = mix
    mixed = combine(adapters, weights, "delta")
    for module in SHAPES:
        by_hand = sum(w * update(lora, module) for w, lora in zip(weights, adapters, strict=True))
        torch.testing.assert_close(
            update(mixed, module),
            by_hand,
            atol=1e-6 * max(1.0, float(by_hand.abs().max())),
            rtol=0,
        )


@given(mixes())
def test_delta_keeps_to_the_sum_of_the_ranks(mix):
    adapters, weights = mix
    for module, (a, b, _) in combine(adapters, weights).items():
        used = [
            lora[module].a.shape[0]
            for lora, w in zip(adapters, weights, strict=True)
            if module in lora and w != 0
        ]
        assert a.shape[0] == b.shape[1]
        assert a.shape[0] == sum(used) if used else not update({module: (a, b, 1.0)}, module).any()


@given(mixes(rank=3, alpha=16.0, modules=tuple(SHAPES)))
def test_factor_is_equation_7(mix):
    adapters, weights = mix
    adapters = [  # one scaling for all, as in the paper
        {m: Factors(f.a, f.b, 2.0) for m, f in lora.items()} for lora in adapters
    ]
    mixed = combine(adapters, weights, "factor")
    for module in SHAPES:
        a = sum(w * lora[module].a for w, lora in zip(weights, adapters, strict=True))
        b = sum(w * lora[module].b for w, lora in zip(weights, adapters, strict=True))
        torch.testing.assert_close(mixed[module].a, a, atol=1e-6, rtol=0)
        torch.testing.assert_close(mixed[module].b, b, atol=1e-6, rtol=0)
        assert mixed[module].scaling == 2.0
        assert mixed[module].a.shape[0] == 3


def test_factor_of_two_has_the_cross_terms():
    first, second = make_lora(0, 2, 16.0), make_lora(1, 2, 16.0)
    mixed = combine([first, second], torch.tensor([0.3, 0.7]), "factor")
    (a1, b1, s), (a2, b2, _) = first["q"], second["q"]
    cross = 0.3 * 0.7 * (b1 @ a2 + b2 @ a1)
    by_hand = s * (0.09 * b1 @ a1 + 0.49 * b2 @ a2 + cross)
    torch.testing.assert_close(update(mixed, "q").float(), by_hand, atol=1e-6, rtol=0)
    assert cross.abs().max() > 0.05  # and they are no rounding error


@given(mixes())
def test_factor_with_differing_scalings_averages_the_scaled_factors(mix):
    """Each factor carries the root of its own scaling; smaller ranks are filled up with zeros."""
    adapters, weights = mix
    mixed = combine(adapters, weights, "factor")
    for module in mixed:
        outputs, inputs = SHAPES[module]
        a, b = torch.zeros(4, inputs).double(), torch.zeros(outputs, 4).double()
        for lora, w in zip(adapters, weights.double(), strict=True):
            if module in lora:
                fa, fb, scaling = lora[module]
                a[: fa.shape[0]] += w * scaling**0.5 * fa
                b[:, : fb.shape[1]] += w * scaling**0.5 * fb
        scale = max(1.0, float((b @ a).abs().max()))
        torch.testing.assert_close(update(mixed, module), b @ a, atol=2e-6 * scale, rtol=0)


# -- coefficients by module, and gradients ----------------------------------------------------


@given(loras(), loras(), st.data(), st.sampled_from(["delta", "factor"]))
def test_each_module_can_have_its_own_coefficients(first, second, data, method):
    modules = sorted(set(first) | set(second))
    weights = {
        module: torch.tensor([w, 1 - w])
        for module, w in ((m, data.draw(st.floats(0, 1, width=32))) for m in modules)
    }
    mixed = combine([first, second], weights, method)
    assert sorted(mixed) == modules
    for module in modules:
        whole = combine([first, second], weights[module], method)
        assert torch.equal(mixed[module].a, whole[module].a)
        assert torch.equal(mixed[module].b, whole[module].b)


@pytest.mark.parametrize("method", ["delta", "factor"])
@pytest.mark.parametrize("count", [2, 3])
def test_gradients_equal_finite_differences(method, count):
    adapters = [
        make_lora(0, 2, 16.0, dtype=torch.float64),
        make_lora(1, 3, 8.0, ("q", "v"), dtype=torch.float64),
        make_lora(2, 1, 4.0, ("v", "up"), rslora=True, dtype=torch.float64),
    ][:count]
    probe = {m: torch.randn(s, generator=torch.manual_seed(3)).double() for m, s in SHAPES.items()}

    def objective(weights):
        mixed = combine(adapters, weights, method)
        return sum(
            ((s * b @ a).tanh() * probe[module]).sum() for module, (a, b, s) in mixed.items()
        )

    # Zeros included: the search starts at corners too, and a corner must have its true slope.
    for start in ([0.2, 0.8, 0.0], [1.0, 0.0, 0.0], [0.4, 0.35, 0.25]):
        weights = torch.tensor(start[:count], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(objective, (weights,))


def test_per_module_coefficients_get_gradients():
    adapters = [make_lora(0, 2, 16.0), make_lora(1, 2, 16.0)]
    weights = torch.full((3, 2), 0.5, requires_grad=True)
    mixed = combine(adapters, dict(zip(SHAPES, weights, strict=True)), "delta")
    (mixed["q"].b.sum() + mixed["up"].b.sum()).backward()
    assert (weights.grad != 0).all(dim=1).tolist() == [True, False, True]


def test_what_is_searched_is_what_is_saved():
    """With or without gradients the same coefficients give the same update."""
    adapters = [make_lora(0, 2, 16.0), make_lora(1, 3, 8.0, ("q",))]
    for start in ([0.3, 0.7], [1.0, 0.0], [0.0, 1.0]):
        for method in ("delta", "factor"):
            weights = torch.tensor(start)
            searched = combine(adapters, weights.clone().requires_grad_(True), method)
            detached = {
                m: Factors(f.a.detach(), f.b.detach(), f.scaling) for m, f in searched.items()
            }
            saved = combine(adapters, weights, method)
            assert_same_function(detached, saved)


def test_inputs_are_left_as_they_were():
    adapters = [make_lora(0, 2, 16.0), make_lora(1, 3, 8.0)]
    copies = [
        {m: Factors(f.a.clone(), f.b.clone(), f.scaling) for m, f in x.items()} for x in adapters
    ]
    for method in METHODS:
        combine(adapters, torch.tensor([0.4, 0.6]), method)
    for lora, copy in zip(adapters, copies, strict=True):
        for module in lora:
            assert torch.equal(lora[module].a, copy[module].a)
            assert torch.equal(lora[module].b, copy[module].b)


# -- compression and norms --------------------------------------------------------------------


@given(mixes())
def test_svd_equals_delta_where_the_rank_suffices(mix):
    adapters, weights = mix
    delta = combine(adapters, weights, "delta")
    small, lost = compress(delta, 7)  # no update has a higher rank
    assert_same_function(small, delta, 3e-6)
    assert lost == 0.0


@given(mixes(), st.integers(1, 4))
def test_compression_is_the_best_there_is_and_tells_its_loss(mix, rank):
    """Against the dense SVD (Eckart-Young)."""
    adapters, weights = mix
    delta = combine(adapters, weights, "delta")
    small, lost = compress(delta, rank)
    error = total = best = 0.0
    for module in delta:
        dense = update(delta, module)
        values = torch.linalg.svdvals(dense)
        error += float((dense - update(small, module)).square().sum())
        best += float(values[rank:].square().sum())
        total += float(dense.square().sum())
        assert small[module].a.shape[0] <= rank
    assert error == pytest.approx(best, abs=1e-5 * max(total, 1.0))
    assert lost == pytest.approx(best / total if total else 0.0, abs=1e-6)
    assert 0.0 <= lost <= 1.0


def test_svd_goes_back_to_the_largest_rank():
    adapters = [make_lora(0, 2, 16.0, ("q",)), make_lora(1, 3, 8.0, ("q",))]
    mixed = combine(adapters, torch.tensor([0.5, 0.5]), "svd")
    assert mixed["q"].a.shape[0] == 3
    assert_same_function(mixed, compress(combine(adapters, torch.tensor([0.5, 0.5])), 3)[0])


def test_an_update_of_zero_compresses_to_zero():
    zero = {"q": Factors(torch.zeros(2, 5), torch.zeros(6, 2), 1.0)}
    small, lost = compress(zero, 1)
    assert lost == 0.0
    assert not update(small, "q").any()
    assert torch.isfinite(small["q"].a).all() and torch.isfinite(small["q"].b).all()
    assert update_norm(zero) == 0.0


@given(mixes(least=1))
def test_update_norm_is_the_dense_norm(mix):
    mixed = combine(*mix)
    dense = sum(float(update(mixed, module).square().sum()) for module in mixed) ** 0.5
    assert update_norm(mixed) == pytest.approx(dense, rel=1e-4, abs=1e-4)


@given(loras(), st.floats(0.01, 10.0))
def test_update_norm_is_homogeneous(lora, factor):
    scaled = combine([lora], torch.tensor([factor]))
    assert update_norm(scaled) == pytest.approx(factor * update_norm(lora), rel=1e-4)


@given(loras(), loras())
def test_update_cosine_is_the_dense_cosine(one, other):
    flat = [
        torch.cat([(update(x, m) if m in x else torch.zeros(SHAPES[m])).ravel() for m in SHAPES])
        for x in (one, other)
    ]
    dense = float(torch.nn.functional.cosine_similarity(*(v.double() for v in flat), dim=0))
    assert update_cosine(one, other) == pytest.approx(dense, abs=1e-4)
    assert update_cosine(one, one) == pytest.approx(1.0, abs=1e-4)


def test_update_cosine_with_nothing_is_0():
    zero = {"q": Factors(torch.zeros(2, 5), torch.zeros(6, 2), 1.0)}
    assert update_cosine(zero, zero) == 0.0


# -- errors -----------------------------------------------------------------------------------


def test_nothing_to_mix():
    with pytest.raises(AdapterError, match="Nothing to mix"):
        combine([], torch.tensor([]))


@pytest.mark.parametrize(
    "weights", [torch.tensor([1.0]), torch.tensor([0.2, 0.3, 0.5]), torch.tensor(1.0)]
)
def test_coefficients_of_the_wrong_number(weights):
    adapters = [make_lora(0, 2, 16.0), make_lora(1, 2, 16.0)]
    with pytest.raises(AdapterError, match="2 adapters need 2 coefficients"):
        combine(adapters, weights)
    with pytest.raises(AdapterError, match="2 adapters need 2 coefficients"):
        combine(adapters, dict.fromkeys(SHAPES, weights))


def test_negative_coefficients_go_where_they_mean_something():
    adapters = [make_lora(0, 2, 16.0), make_lora(1, 2, 16.0)]
    for method in METHODS:
        if method in ("linear", "ties"):
            with pytest.raises(AdapterError, match="takes no negative coefficients") as error:
                combine(adapters, (-0.3, 0.7), method)
            one_sentence(error.value)
        else:
            found = combine(adapters, (-0.3, 0.7), method)
            assert all(
                torch.isfinite(f.a).all() and torch.isfinite(f.b).all() for f in found.values()
            )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_coefficients_that_are_no_numbers(bad):
    adapters = [make_lora(0, 2, 16.0), make_lora(1, 2, 16.0)]
    with pytest.raises(AdapterError, match="must be finite"):
        combine(adapters, torch.tensor([0.5, bad]))


@pytest.mark.parametrize("method", ["delta", "factor"])
def test_coefficients_may_be_plain_numbers(method):
    adapters = [make_lora(0, 2, 16.0), make_lora(1, 2, 16.0)]
    wanted = lora_sha256(combine(adapters, torch.tensor([0.3, 0.7]), method))
    for weights in ([0.3, 0.7], (0.3, 0.7), dict.fromkeys(SHAPES, (0.3, 0.7))):
        assert lora_sha256(combine(adapters, weights, method)) == wanted


def test_an_unknown_method():
    with pytest.raises(AdapterError, match="'soup'"):
        combine([make_lora(0, 2, 16.0)], torch.tensor([1.0]), "soup")


def test_a_module_without_coefficients():
    adapters = [make_lora(0, 2, 16.0), make_lora(1, 2, 16.0)]
    with pytest.raises(AdapterError, match="'v'"):
        combine(adapters, {"q": torch.tensor([0.5, 0.5]), "up": torch.tensor([0.5, 0.5])})


def test_adapters_of_different_backbones():
    other = {"q": Factors(torch.zeros(2, 9), torch.zeros(6, 2), 1.0)}
    for weights in ([0.5, 0.5], [1.0, 0.0]):
        with pytest.raises(AdapterError, match="'q' in different shapes"):
            combine([make_lora(0, 2, 16.0), other], torch.tensor(weights))
