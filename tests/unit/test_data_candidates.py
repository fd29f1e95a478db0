from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reccocktail.data import candidates
from reccocktail.data.candidates import Touched, cold_candidates, draw_candidates
from reccocktail.errors import DataError
from tests.domains import taste_domain
from tests.helpers import one_sentence


def draw(user, target, allowed, touched, negatives, seed=0):
    return draw_candidates(
        np.array(user),
        np.array(target),
        np.array(allowed),
        touched,
        negatives,
        np.random.default_rng(seed),
    )


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 11)), min_size=1, max_size=40),
    st.sets(st.integers(0, 11), max_size=6),
    st.integers(1, 6),
    st.integers(0, 99),
    st.booleans(),
)
def test_candidates_are_distinct_untouched_allowed_and_hold_the_target(
    pairs, banned, negatives, seed, exact
):
    user, target = (np.array(column) for column in zip(*pairs, strict=True))
    touched = Touched(user, target, 12)
    allowed = np.array([i not in banned for i in range(12)])
    of = {u: {i for v, i in pairs if v == u} for u in user.tolist()}
    free = min(len(set(range(12)) - banned - items) for items in of.values())
    rounds, candidates._ROUNDS = candidates._ROUNDS, 0 if exact else candidates._ROUNDS
    try:
        if free < negatives:
            with pytest.raises(DataError, match=f"only {free} items left") as error:
                draw(user, target, allowed, touched, negatives, seed)
            # None at all is no number of negatives to advise.
            assert (f"--negatives {free} or fewer" in str(error.value)) == (free > 0)
            return
        drawn = draw(user, target, allowed, touched, negatives, seed)
        again = draw(user, target, allowed, touched, negatives, seed)
    finally:
        candidates._ROUNDS = rounds
    assert np.array_equal(drawn, again)
    for u, t, row in zip(user.tolist(), target.tolist(), drawn.tolist(), strict=True):
        assert len(set(row)) == negatives + 1
        assert row.count(t) == 1
        assert not (set(row) - {t}) & (of[u] | banned)


@pytest.mark.parametrize("rounds", [30, 0], ids=["drawn anew", "drawn exactly"])
def test_negatives_and_the_place_of_the_target_are_uniform(monkeypatch, rounds):
    monkeypatch.setattr(candidates, "_ROUNDS", rounds)
    users = 4000
    touched = Touched(np.repeat(np.arange(users), 2), np.tile([0, 5], users), 20)
    drawn = draw(
        np.arange(users), np.zeros(users, dtype=int), np.ones(20, dtype=bool), touched, 9, 7
    )
    negatives = drawn[drawn != 0]
    counts = np.bincount(negatives, minlength=20)
    assert counts[[0, 5]].sum() == 0
    assert stats.chisquare(np.delete(counts, [0, 5])).pvalue > 1e-3
    places = np.bincount(np.argmax(drawn == 0, axis=1), minlength=10)
    assert stats.chisquare(places).pvalue > 1e-3


def test_a_user_who_left_just_enough_items_gets_all_of_them():
    user = np.zeros(70, dtype=int)
    touched = Touched(user, np.arange(70), 100)
    drawn = draw([0], [3], np.ones(100, dtype=bool), touched, 30)
    assert set(drawn[0].tolist()) == {3, *range(70, 100)}


def test_exact_drawing_works_in_slices(monkeypatch):
    monkeypatch.setattr(candidates, "_ROUNDS", 0)
    touched = Touched(np.arange(50), np.arange(50), 60)
    args = (np.arange(50), np.arange(50), np.ones(60, dtype=bool), touched, 5)
    whole = draw(*args)
    monkeypatch.setattr(candidates, "_EXACT_CELLS", 130)
    assert np.array_equal(draw(*args), whole)


def test_no_rows_give_no_candidates():
    empty = np.zeros(0, dtype=np.int64)
    touched = Touched(empty, empty, 10)
    assert draw(empty, empty, np.ones(10, dtype=bool), touched, 3).shape == (0, 4)
    assert not touched.contains(np.array([1]), np.array([2])).any()


def test_touched_lists_the_pairs_of_each_user():
    touched = Touched(np.array([2, 0, 2, 2]), np.array([1, 3, 0, 1]), 4)
    place, item = touched.of(np.array([2, 1, 0, 2]))
    assert list(zip(place.tolist(), item.tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (2, 3),
        (3, 0),
        (3, 1),
    ]


# -- cold candidates of a prepared domain -----------------------------------------------------


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("cold"), cold_fraction=0.5, users=60)


@pytest.fixture(scope="module")
def raw(domain):
    return pl.read_parquet(domain.path.parent / "tastes-raw" / "interactions.parquet")


def test_cold_candidates_are_cold_untouched_and_hold_the_target(domain, raw):
    rows = domain.rows("test_cold")
    found = cold_candidates(domain, rows, negatives=20, interactions=raw)
    cold = set(domain.items.filter(pl.col("split") == "test_cold")["item_id"])
    touched = {user: set(items) for user, items in raw.group_by("user_id").agg("item_id").rows()}
    assert found.drop("candidates").equals(rows.drop("candidates"))
    for user, target, row in found.select("user_id", "target", "candidates").rows():
        assert len(set(row)) == len(row) == 21
        assert row.count(target) == 1
        assert set(row) <= cold
        assert set(row) & touched[user] == {target}
    assert len({row.index(t) for t, row in found.select("target", "candidates").rows()}) > 10
    again, other = (
        cold_candidates(domain, rows, negatives=20, interactions=raw, seed=seed) for seed in (0, 1)
    )
    assert found.equals(again) and not found.equals(other)


def test_without_interactions_only_the_folders_own_are_known(domain, raw):
    rows = domain.rows("test_cold")
    found = cold_candidates(domain, rows)
    touched = {user: set(items) for user, items in raw.group_by("user_id").agg("item_id").rows()}
    known = {user: set(items) for user, items in rows.select("user_id", "history").rows()}
    also = 0
    for user, target, row in found.select("user_id", "target", "candidates").rows():
        assert set(row) & (known[user] | {target}) == {target}
        also += len(set(row) & touched[user]) > 1
    assert also  # what the argument is for


def test_too_few_cold_items_give_all_that_are_left(tmp_path):
    small = taste_domain(tmp_path, cold_fraction=0.1, users=60)
    rows = small.rows("test_cold")
    raw = pl.read_parquet(tmp_path / "tastes-raw" / "interactions.parquet")
    cold = set(small.items.filter(pl.col("split") == "test_cold")["item_id"])
    touched = {user: set(items) for user, items in raw.group_by("user_id").agg("item_id").rows()}
    left = min(len(cold - touched[user]) for user in rows["user_id"])
    found = cold_candidates(small, rows, interactions=raw)
    assert set(found["candidates"].list.len()) == {1 + left}
    assert set(cold_candidates(small, rows, negatives=3)["candidates"].list.len()) == {4}
    with pytest.raises(DataError, match="Negatives is 0 and must be at least 1"):
        cold_candidates(small, rows, negatives=0)
    one = small.items.with_columns(
        split=pl.when(pl.col("item_id") == rows["target"][0]).then(pl.lit("test_cold"))
        .otherwise(pl.lit("warm"))
    )  # fmt: skip
    lonely = replace(small, items=one)
    with pytest.raises(DataError, match="--cold-fraction") as error:
        cold_candidates(lonely, rows[:1])
    one_sentence(error.value)
    assert cold_candidates(small, rows[:0]).is_empty()
