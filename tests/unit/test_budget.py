"""What minutes pay for: more of them never give less, and costs agree with a hand count."""

from dataclasses import replace

import pytest

from reccocktail import budget
from reccocktail.budget import LEVELS, Texts, sizes


def test_more_tokens_buy_a_more_thorough_level_and_more_users():
    found = [sizes(budget, Texts(3000, 14.0, 110.0)) for budget in (0, 2e5, 4e5, 1e6, 4e6)]
    grids = [len(mixing.grid) for mixing, _ in found]
    assert grids == sorted(grids) and (grids[0], grids[-1]) == (3, 5)
    assert all(mixing.objective == "calibrated" for mixing, _ in found)
    whole = [evaluation.full_catalogue for _, evaluation in found]
    assert whole == sorted(whole) and whole[-1] and not whole[0]
    assert found[0][1].users == LEVELS[-1].least  # somebody is always scored
    assert found[-1][1].users > found[-2][1].users >= LEVELS[0].least
    large = sizes(1e6, Texts(100_000, 14.0, 110.0))[1]
    assert not large.full_catalogue and large.users < found[3][1].users


def test_the_cost_counts_every_text_once_for_each_model():
    """Against a hand count: so many candidates that all items are drawn."""
    level = replace(LEVELS[0], grid=(0.0, 0.5, 1.0), users=300, validation_users=200)
    item, user = 8 + 4, 5 * (8 + 1)
    mixing = 3 * (10 * item + 2 * 500 * user)
    judging = 10 * item + 4 * 2 * (40 + 200) * user  # items again for the backbone alone
    assert budget._cost(40, level, Texts(10, item, user)) == pytest.approx(mixing + judging)
