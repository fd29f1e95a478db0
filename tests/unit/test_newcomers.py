"""New items beside known ones: one level, order kept, no label looked at."""

import numpy as np
import pytest

from reccocktail.ranking.newcomers import Levelling, Levels, levelled, measured

ROWS, CANDIDATES = 200, 30


@pytest.fixture
def drawn():
    """Scores in which new items lie lower and closer together, about means of each user."""
    random = np.random.default_rng(0)
    new = random.random((ROWS, CANDIDATES)) < 0.3
    means = random.normal(0, 5, (ROWS, 1))
    scores = means + np.where(new, -1.0, 1.0) * 0.5
    scores += random.normal(0, 1, new.shape) * np.where(new, 0.5, 2.0)
    return scores, new, random.integers(0, CANDIDATES, ROWS)


def apart(scores, new, positive):
    """Distances of candidates that are no targets from their users' known ones, by kind."""
    other = np.ones(scores.shape, dtype=bool)
    other[np.arange(ROWS), positive] = False
    means = np.array([row[k].mean() for row, k in zip(scores, other & ~new, strict=True)])
    far = scores - means[:, None]
    return far[other & ~new], far[other & new]


def test_both_kinds_lie_as_high_and_as_far_apart(drawn):
    scores, new, positive = drawn
    old, fresh = apart(scores, new, positive)
    assert fresh.std() < old.std() / 2 and fresh.mean() < -0.5
    levels = measured(scores, new, positive)
    old, fresh = apart(levelled(scores, new, levels), new, positive)
    assert fresh.std() == pytest.approx(old.std(), rel=0.1)
    assert abs(fresh.mean()) < 0.1
    # A new item is among the first as often as its share says.
    places = np.argsort(-levelled(scores, new, levels), axis=1)[:, :5]
    before = np.argsort(-scores, axis=1)[:, :5]
    share = np.take_along_axis(new, places, axis=1).mean()
    assert share == pytest.approx(new.mean(), abs=0.06)
    assert np.take_along_axis(new, before, axis=1).mean() < share - 0.1


def test_each_kind_keeps_its_order_and_known_scores_stay(drawn):
    scores, new, positive = drawn
    found = levelled(scores, new, measured(scores, new, positive))
    assert np.array_equal(found[~new], scores[~new])
    for before, after, fresh in zip(scores, found, new, strict=True):
        assert np.array_equal(np.argsort(before[fresh]), np.argsort(after[fresh]))


def test_targets_are_not_looked_at(drawn):
    scores, new, positive = drawn
    changed = scores.copy()
    changed[np.arange(ROWS), positive] += 100
    assert measured(changed, new, positive) == measured(scores, new, positive)


def test_rows_filled_up_are_read_as_far_as_they_go(drawn):
    scores, new, positive = drawn
    wide = np.concatenate([scores, np.full((ROWS, 3), -np.inf)], axis=1)
    for kind in (False, True):
        more = np.concatenate([new, np.full((ROWS, 3), kind)], axis=1)
        levels = measured(wide, more, positive)
        without = measured(scores, new, positive)
        assert (levels.spread, levels.shift) == pytest.approx((without.spread, without.shift))
        found = levelled(wide, more, levels)
        assert found[:, :CANDIDATES] == pytest.approx(levelled(scores, new, levels))
        assert np.isneginf(found[:, CANDIDATES:]).all()


@pytest.mark.parametrize("kind", [False, True])
def test_of_one_kind_alone_nothing_changes(drawn, kind):
    scores, _, positive = drawn
    alone = np.full(scores.shape, kind)
    assert measured(scores, alone, positive) == Levels()
    assert np.array_equal(levelled(scores, alone, Levels(3.0, 1.0)), scores)


def test_scores_that_say_nothing_are_left(drawn):
    _, new, positive = drawn
    assert measured(np.zeros(new.shape), new, positive) == Levels()
    # Next to nothing is not blown up.
    scores = np.random.default_rng(1).normal(0, 1, new.shape) * np.where(new, 0.001, 1.0)
    assert measured(scores, new, positive).spread == 4.0


def test_vectors_give_the_same_as_scores():
    random = np.random.default_rng(2)
    items, users = (random.normal(size=(n, 8)).astype(np.float32) for n in (50, 7))
    known = np.arange(50) % 4 > 0
    levels = Levels(2.5, -0.75)
    levelling = Levelling.of(levels, items, known)
    raised = items.copy()
    raised[~known] = levelling.raised(items[~known])
    products = users.astype(np.float64) @ raised.T.astype(np.float64)
    products[:, ~known] += levels.shift
    whole = users.astype(np.float64) @ items.T.astype(np.float64)
    wanted = levelled(whole, np.tile(~known, (7, 1)), levels)
    assert products == pytest.approx(wanted, abs=1e-4)


def test_in_a_history_a_new_item_is_what_it_is():
    random = np.random.default_rng(3)
    items, added = (random.normal(size=(n, 8)).astype(np.float32) for n in (20, 2))
    known = np.arange(20) % 3 > 0
    levelling = Levelling.of(Levels(3.0, 0.5), items, known)
    raised = items.copy()
    raised[~known] = levelling.raised(items[~known])
    every = np.concatenate([raised, levelling.raised(added)])
    numbers = np.array([0, 1, 7, 18, 20, 21])
    found = levelling.former(every[numbers], numbers)
    assert found == pytest.approx(np.concatenate([items, added])[numbers], abs=1e-5)
    assert np.array_equal(found[1:3], items[[1, 7]])
    nothing = Levelling.of(Levels(3.0, 0.5), items, np.zeros(20, dtype=bool))
    assert np.array_equal(nothing.raised(added), added)
    assert nothing.levels == Levels()
