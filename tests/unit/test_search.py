"""Coefficients: line search finds minima, descent goes down, the functional model is exact."""

import math

import pytest
import torch

from reccocktail.mixing.arithmetic import combine
from reccocktail.mixing.functional import FunctionalModel
from reccocktail.mixing.search import (
    Descent,
    Groups,
    gradient_search,
    line_search,
)
from reccocktail.ranking.base import hidden_states
from reccocktail.training.model import attach, merged
from tests.adapters import random_lora
from tests.pico import pico_backbone

GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
IDS = torch.arange(7, 27).reshape(2, 10)


@pytest.fixture(scope="module")
def backbone():
    return pico_backbone()


@pytest.fixture(scope="module")
def loras(backbone):
    return [random_lora(backbone, seed) for seed in (1, 2, 3)]


class Counted:
    """A function that remembers where it was evaluated."""

    def __init__(self, function):
        self.function, self.points = function, []

    def __call__(self, point):
        assert 0.0 <= point <= 1.0
        self.points.append(point)
        return self.function(point)


# -- line search ------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0.1, 0.31, 0.5, 0.62, 0.9])
def test_line_search_finds_the_minimum_of_a_quadratic(at):
    objective = Counted(lambda x: (x - at) ** 2)
    best, seen = line_search(objective, GRID, 12)
    assert best == pytest.approx(at, abs=0.01)
    assert seen[best] == min(seen.values())


@pytest.mark.parametrize(("slope", "end"), [(1.0, 0.0), (-1.0, 1.0)])
def test_line_search_takes_an_end(slope, end):
    assert line_search(lambda x: slope * x, GRID, 6)[0] == end


def test_line_search_takes_the_deeper_of_two_basins():
    def two(x):
        return -math.exp(-(((x - 0.2) / 0.1) ** 2)) - 2 * math.exp(-(((x - 0.8) / 0.1) ** 2))

    assert line_search(two, GRID, 12)[0] == pytest.approx(0.8, abs=0.01)
    assert line_search(lambda x: two(1 - x), GRID, 12)[0] == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("refinements", [0, 1, 2, 5])
def test_line_search_evaluates_each_point_once_and_no_more_than_asked(refinements):
    objective = Counted(lambda x: abs(x - 0.4))
    _, seen = line_search(objective, GRID, refinements)
    assert len(objective.points) == len(set(objective.points)) == len(seen)
    assert set(GRID) <= set(seen)
    assert len(seen) <= len(GRID) + refinements
    assert (len(seen) > len(GRID)) == (refinements > 0)


def test_refining_never_makes_it_worse():
    def bumpy(x):  # a grid point lower than all around it
        return 0.0 if x == 0.5 else 1.0 + math.sin(20 * x)

    assert line_search(bumpy, GRID, 5)[0] == 0.5


def test_of_equal_values_the_smallest_coefficient_is_taken():
    assert line_search(lambda x: 1.0, GRID, 3)[0] == 0.0


# -- groups -----------------------------------------------------------------------------------


def test_groups(backbone, loras):
    modules = set(loras[0])
    one = Groups.build(loras, "global")
    assert (
        one.names == ("all",) and set(one.group_of.values()) == {0} and set(one.group_of) == modules
    )
    layers = Groups.build(loras, "layer")
    assert layers.names == ("0", "1")
    for module in modules:
        assert f".{layers.names[layers.group_of[module]]}." in module
    each = Groups.build(loras, "module")
    assert set(each.names) == modules
    assert all(each.names[group] == module for module, group in each.group_of.items())


def test_layers_are_in_the_order_of_their_numbers(loras):
    factors = next(iter(loras[0].values()))
    lora = {f"model.layers.{n}.self_attn.q_proj": factors for n in (10, 2, 0, 11, 1)}
    assert Groups.build([lora], "layer").names == ("0", "1", "2", "10", "11")


def test_groups_hold_the_modules_of_all_adapters(loras):
    names = sorted(loras[0])
    parts = [{n: loras[0][n] for n in names[:2]}, {n: loras[1][n] for n in names[1:]}]
    assert sorted(Groups.build(parts, "module").group_of) == names


def test_spread_gives_each_module_the_row_of_its_group(loras):
    groups = Groups.build(loras, "layer")
    coefficients = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    for module, row in groups.spread(coefficients).items():
        assert torch.equal(row, coefficients[0 if ".0." in module else 1])


# -- the functional model ---------------------------------------------------------------------


@pytest.mark.parametrize("method", ["delta", "factor"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_functional_model_is_the_merged_model(method, family):
    backbone = pico_backbone(family)
    loras = [random_lora(backbone, seed) for seed in (1, 2)]
    start = combine(loras, torch.tensor([0.5, 0.5]), method)
    lora = combine(loras, torch.tensor([0.3, 0.7]), method)
    with torch.no_grad():
        bare = hidden_states(backbone.model, IDS)
        with merged(backbone.model, lora) as model:
            expected = hidden_states(model, IDS)
        peft_model = attach(backbone.model, start)
        found = hidden_states(FunctionalModel(peft_model, lora), IDS)
        peft_model.unload()
    assert (expected - bare).abs().max() > 0.01  # the update is seen at all
    assert (found - expected).abs().max() < 1e-5


def test_functional_model_honours_scalings_that_differ_from_the_start(backbone, loras):
    doubled = {m: f._replace(scaling=2 * f.scaling) for m, f in loras[0].items()}
    with torch.no_grad():
        with merged(backbone.model, doubled) as model:
            expected = hidden_states(model, IDS)
        peft_model = attach(backbone.model, loras[0])
        found = hidden_states(FunctionalModel(peft_model, doubled), IDS)
        peft_model.unload()
    assert (found - expected).abs().max() < 1e-5


# -- gradient search --------------------------------------------------------------------------


def pull_towards(backbone, lora):
    """Loss: squared distance to the hidden states of the model with `lora`, least at that lora."""
    with torch.no_grad(), merged(backbone.model, lora) as model:
        wanted = hidden_states(model, IDS)
    return lambda model, step: (hidden_states(model, IDS) - wanted).square().mean()


@pytest.mark.parametrize("granularity", ["global", "layer", "module"])
@pytest.mark.parametrize("method", ["delta", "factor"])
def test_gradient_search_descends_on_the_simplex(backbone, loras, granularity, method):
    groups = Groups.build(loras, granularity)
    coefficients, losses = gradient_search(
        backbone.model, loras, groups, method, pull_towards(backbone, loras[1]), Descent(12, 0.5)
    )
    assert coefficients.shape == (len(groups.names), 3)
    assert not coefficients.requires_grad
    assert (coefficients >= 0).all()
    assert coefficients.sum(-1) == pytest.approx(torch.ones(len(groups.names)), abs=1e-6)
    assert len(losses) == 12
    assert losses[-1] < 0.5 * losses[0]
    assert (coefficients.argmax(-1) == 1).all()  # every group found the adapter it was pulled to


def test_gradient_search_leaves_the_backbone_as_it_was(backbone, loras):
    before = {n: t.clone() for n, t in backbone.model.state_dict().items()}

    def broken(model, step):
        raise ZeroDivisionError

    groups = Groups.build(loras, "global")
    for loss in (pull_towards(backbone, loras[0]), broken):
        try:
            gradient_search(backbone.model, loras, groups, "delta", loss, Descent(1))
        except ZeroDivisionError:
            assert loss is broken
        after = backbone.model.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[n], t) for n, t in before.items())
        assert not any(p.requires_grad for p in backbone.model.parameters())


def test_the_first_step_measures_equal_coefficients(backbone, loras):
    loss = pull_towards(backbone, loras[0])
    groups = Groups.build(loras, "module")
    _, losses = gradient_search(backbone.model, loras, groups, "delta", loss, Descent(1))
    with torch.no_grad(), merged(backbone.model, combine(loras, torch.full((3,), 1 / 3))) as model:
        assert losses[0] == pytest.approx(float(loss(model, 0)), rel=1e-4)
