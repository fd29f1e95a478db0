import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from reccocktail.mixing.entropy import (
    as_matrix,
    collapse_reason,
    fit_temperature,
    log_loss,
    mean_entropy,
    mutual_information,
)

tables = arrays.arrays(
    np.float64,
    arrays.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=8),
    elements=st.floats(-30, 30),
).map(torch.from_numpy)


@given(tables, st.floats(0.05, 20))
def test_mean_entropy_within_its_bounds(scores, temperature):
    found = mean_entropy(scores, temperature)
    assert 0.0 <= found <= math.log(scores.shape[1]) + 1e-5


def test_mean_entropy_by_hand():
    scores = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]]).log()
    assert mean_entropy(scores) == pytest.approx((1.5 * math.log(2) + math.log(3)) / 2)
    assert mean_entropy(scores * 4, 4.0) == pytest.approx(mean_entropy(scores))


@given(tables)
def test_larger_scores_are_surer(scores):
    """Why plain entropy rewards the size of an update, right or wrong."""
    assert mean_entropy(scores * 2) <= mean_entropy(scores) + 1e-5


def test_log_loss_by_hand():
    scores = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]).log()
    found = log_loss(scores, torch.tensor([1, 1]))
    assert found == pytest.approx(-(math.log(0.25) + math.log(0.8)) / 2)
    assert log_loss(scores * 3, torch.tensor([1, 1]), 3.0) == pytest.approx(found)


@pytest.mark.parametrize("true", [0.2, 1.0, 3.0])
def test_the_temperature_that_made_the_data_is_found(true):
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.normal(size=(4000, 10)) * 2 * true)
    p = torch.softmax(scores / true, dim=1).numpy()
    positive = torch.tensor([rng.choice(10, p=row / row.sum()) for row in p])
    assert fit_temperature(scores, positive) == pytest.approx(true, rel=0.1)


def test_the_fitted_temperature_is_the_best():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(300, 6, generator=generator) * 3
    positive = torch.randint(0, 6, (300,), generator=generator)
    positive[:150] = scores[:150].argmax(1)
    fitted = fit_temperature(scores, positive)
    least = log_loss(scores, positive, fitted)
    assert all(
        least <= log_loss(scores, positive, float(t)) + 1e-6 for t in np.geomspace(0.05, 20, 60)
    )


def test_a_perfect_model_may_be_as_sure_as_the_bounds_allow():
    scores = torch.eye(5)
    assert fit_temperature(scores, torch.arange(5)) == pytest.approx(0.05, rel=0.01)
    assert fit_temperature(scores, (torch.arange(5) + 1) % 5) == pytest.approx(20.0, rel=0.01)


@given(tables)
def test_mutual_information_within_its_bounds(scores):
    found = mutual_information(scores)
    assert -1e-5 <= found <= math.log(min(scores.shape)) + 1e-5


def test_mutual_information_by_hand():
    same = torch.tensor([[3.0, 0.0, -1.0]] * 4)
    assert mutual_information(same) == pytest.approx(0.0, abs=1e-6)
    apart = torch.eye(4) * 100
    assert mutual_information(apart) == pytest.approx(math.log(4), abs=1e-6)
    pairs = torch.eye(4)[[0, 0, 1, 1]] * 100
    assert mutual_information(pairs) == pytest.approx(math.log(2), abs=1e-6)


def test_collapse():
    assert collapse_reason(1.5, 30, 0.8, 0.9) is None
    assert "entropy 0.010" in collapse_reason(0.01, 30, 0.8, 0.9)
    assert "nearly the same" in collapse_reason(1.5, 30, 0.3, 0.9)
    assert collapse_reason(0.02 * math.log(30), 30, 0.45, 0.9) is None  # at the bounds, not below


def test_as_matrix():
    found = as_matrix([np.array([1.0, 2.0]), np.array([3.0, 4.0])])
    assert found.dtype == torch.float64
    assert found.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(ValueError):
        as_matrix([np.array([1.0]), np.array([3.0, 4.0])])
