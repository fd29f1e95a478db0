"""The popularity prior: from counts alone, neutral to new items, used only where it helps."""

import math

import numpy as np
import pytest

from reccocktail.ranking.additions import Beside
from reccocktail.ranking.prior import WEIGHTS, popularity_prior


def test_prior_is_centred_log_counts():
    prior = popularity_prior(np.array([1, 4, 16]))
    assert prior == pytest.approx([-math.log(4), 0.0, math.log(4)])


def test_items_without_interactions_get_the_average():
    prior = popularity_prior(np.array([0, 1, 4, 0, 16]))
    assert prior[0] == prior[3] == 0.0
    assert prior[[1, 2, 4]] == pytest.approx([-math.log(4), 0.0, math.log(4)])
    assert prior[1:][prior[1:] != 0].mean() == pytest.approx(0.0)


def test_no_interactions_no_prior():
    assert popularity_prior(np.zeros(3, dtype=np.int64)).tolist() == [0.0, 0.0, 0.0]


def rows_where(prior_helps):
    """20 rows of 12 candidates; the target is the popular one, or the one that nobody knows."""
    rng = np.random.default_rng(0)
    prior = np.linspace(-2.0, 2.0, 12)
    scores = [rng.normal(size=12) for _ in range(20)]
    candidates = [list(range(12))] * 20
    return scores, candidates, np.full(20, 11 if prior_helps else 0), prior


def choose_weight(scores, candidates, positive, prior):
    return Beside(candidates, prior).choose(scores, positive)[0].prior


def test_the_weight_is_high_where_popularity_helps_and_zero_where_it_harms():
    assert choose_weight(*rows_where(True)) >= 1.0
    assert choose_weight(*rows_where(False)) == 0.0


def test_of_equal_weights_the_smallest_is_taken():
    scores, candidates, positive, _ = rows_where(True)
    assert choose_weight(scores, candidates, positive, np.zeros(12)) == 0.0
    # The first weight that puts every target first is enough.
    prior = np.where(np.arange(12) == 11, 100.0, 0.0)
    assert choose_weight(scores, candidates, positive, prior) == min(w for w in WEIGHTS if w > 0)


def test_without_validation_users_there_is_no_prior():
    assert choose_weight([], [], np.array([], dtype=np.int64), np.zeros(3)) == 0.0
