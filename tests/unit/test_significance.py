"""Paired differences: known answers, symmetry, coverage, and Holm by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reccocktail.evaluation.metrics import METRICS, per_user
from reccocktail.evaluation.significance import Drawn, holm, paired_bootstrap


def test_a_model_against_itself() -> None:
    values = per_user(np.random.default_rng(0).integers(0, 30, 200))
    for result in paired_bootstrap(values, values, resamples=200).values():
        assert result == {"difference": 0.0, "ci95": [0.0, 0.0], "p": 1.0}


def test_swapping_the_models_flips_the_sign() -> None:
    rng = np.random.default_rng(1)
    a, b = (per_user(rng.integers(0, 30, 500)) for _ in range(2))
    forth, back = paired_bootstrap(a, b), paired_bootstrap(b, a)
    for name in METRICS:
        assert forth[name]["difference"] == -back[name]["difference"]
        low, high = back[name]["ci95"]
        # The resamples are drawn over differently sorted rows, so the ends agree as draws do.
        assert forth[name]["ci95"] == pytest.approx([-high, -low], abs=3e-3)


def test_a_clear_win_and_the_mean_difference() -> None:
    a, b = per_user(np.array([0, 0, 0, 1] * 50)), per_user(np.array([1, 1, 0, 1] * 50))
    result = paired_bootstrap(a, b, resamples=1000)["hr@1"]
    assert result["difference"] == pytest.approx(0.75 - 0.25)
    assert result["ci95"][0] > 0.4
    assert result["p"] == pytest.approx(2 / 1001)  # no resample at or below 0


def test_pairing_sees_what_separate_intervals_cannot() -> None:
    """Users differ much, models little: pairing finds the difference, shuffled users hide it."""
    rng = np.random.default_rng(2)
    hard = rng.integers(1, 29, 400)
    a, b = per_user(hard), per_user(hard + (rng.random(400) < 0.3))
    paired = paired_bootstrap(a, b, resamples=2000)["mrr"]
    shuffled = paired_bootstrap(
        a, {name: rng.permutation(column) for name, column in b.items()}, resamples=2000
    )["mrr"]
    assert paired["ci95"][0] > 0
    assert shuffled["ci95"][0] < 0 < shuffled["ci95"][1]


def test_under_no_difference_the_interval_misses_zero_about_one_time_in_twenty() -> None:
    rng = np.random.default_rng(3)
    misses = 0
    for trial in range(200):
        a, b = (per_user(rng.integers(0, 10, 150)) for _ in range(2))
        low, high = paired_bootstrap(a, b, resamples=400, seed=trial)["ndcg@10"]["ci95"]
        misses += not low <= 0 <= high
    assert 2 <= misses <= 22  # Binomial(200, .05): P(outside 2..22) < 0.001


def test_different_users_are_refused() -> None:
    a, b = per_user(np.array([0, 1])), per_user(np.array([0]))
    with pytest.raises(ValueError, match="2 users against 1"):
        paired_bootstrap(a, b)
    with pytest.raises(ValueError, match="different metrics"):
        paired_bootstrap(a, {"mrr": a["mrr"]})


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04, times 4 3 2 1, made monotone: .04 .06 .06 .06
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_corrects_upwards_and_keeps_the_order(pvalues: list[float]) -> None:
    adjusted = holm(pvalues)
    assert all(p <= q <= 1 for p, q in zip(pvalues, adjusted, strict=True))
    assert max(adjusted) <= min(1.0, len(pvalues) * max(pvalues)) + 1e-12
    by_p = [q for _, q in sorted(zip(pvalues, adjusted, strict=True))]
    assert by_p == sorted(by_p)


# -- groups of users --------------------------------------------------------------------------


def test_groups_of_one_are_users():
    rng = np.random.default_rng(0)
    a, b = {"m": rng.random(300)}, {"m": rng.random(300)}
    users = paired_bootstrap(a, b)["m"]
    alone = paired_bootstrap(a, b, groups=list(range(300)))["m"]
    assert alone["difference"] == users["difference"]
    assert alone["ci95"] == pytest.approx(users["ci95"], abs=5e-3)
    assert alone["p"] == pytest.approx(users["p"], abs=0.02)


def test_users_who_share_an_item_are_no_independent_witnesses():
    """20 items of 50 users each, all users of an item alike: the interval is that of 20 values."""
    rng = np.random.default_rng(1)
    per_item = rng.normal(0.1, 1.0, 20)
    a, b = {"m": per_item.repeat(50)}, {"m": np.zeros(1000)}
    items = np.arange(20).repeat(50).tolist()
    by_users = paired_bootstrap(a, b)["m"]["ci95"]
    by_items = paired_bootstrap(a, b, groups=items)["m"]["ci95"]
    of_items = paired_bootstrap({"m": per_item}, {"m": np.zeros(20)})["m"]["ci95"]
    assert by_items == pytest.approx(of_items, abs=0.05)
    assert np.diff(by_items) > 5 * np.diff(by_users)


def test_means_of_resamples_are_over_the_users_that_were_drawn():
    drawn = Drawn.of(["a"] * 7 + ["b"] * 2 + ["c"], resamples=50)
    assert drawn.means(np.ones((10, 1))) == pytest.approx(np.ones((50, 1)))


def test_every_user_needs_a_group():
    with pytest.raises(ValueError, match="3 users against 2 of the groups"):
        paired_bootstrap({"m": np.ones(3)}, {"m": np.zeros(3)}, groups=["a", "b"])
