"""Metrics against fractions computed by hand, against ranx, and by property."""

from fractions import Fraction
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reccocktail.evaluation import metrics as module
from reccocktail.evaluation.metrics import METRICS, RANK_CUTOFFS, per_user, ranks, summarise

# Whole numbers below 2**20: adding one to another is exact, so ties neither appear nor vanish.
BLOCKS = arrays(
    np.float64, st.tuples(st.integers(1, 8), st.integers(1, 12)), elements=st.integers(-9, 9)
)


def test_ranks_by_hand() -> None:
    scores = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    assert ranks(scores, [0, 1, 2]).tolist() == [0, 2, 1]


def test_ties_are_broken_against_the_positive() -> None:
    scores = np.array([[0.0, 0.0, 0.0, 0.0], [5.0, 5.0, 1.0, 0.0]])
    assert ranks(scores, [0, 1]).tolist() == [3, 1]


def test_ragged_rows_give_the_ranks_of_each_row_alone() -> None:
    rows = [np.array([1.0, 2.0]), np.array([0.5]), np.array([3.0, 3.0, 9.0, 1.0])]
    assert ranks(rows, [0, 0, 1]).tolist() == [1, 0, 2]
    assert ranks([row.tolist() for row in rows], [0, 0, 1]).tolist() == [1, 0, 2]


def test_no_rows() -> None:
    assert ranks(np.zeros((0, 30)), []).tolist() == []


@pytest.mark.parametrize(
    ("scores", "positive", "message"),
    [
        (np.array([[1.0, 2.0], [np.nan, 0.0]]), [0, 1], "row 1 has a score that is NaN"),
        ([[1.0], [2.0, np.nan]], [0, 0], "row 1 has a score that is NaN"),
        (np.array([[1.0, 2.0]]), [2], "positive 2 is outside its 2 candidates"),
        (np.array([[1.0, 2.0]]), [-1], "positive -1 is outside"),
        (np.array([[1.0, 2.0]]), [0.0], "integer"),
        (np.array([[1.0, 2.0]]), [0, 1], "as many positives"),
    ],
)
def test_bad_scores_are_refused(scores: object, positive: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranks(scores, positive)  # type: ignore[arg-type]


@given(BLOCKS, st.data())
def test_permuting_the_candidates_changes_no_rank(block: np.ndarray, data: st.DataObject) -> None:
    users, candidates = block.shape
    positive = data.draw(arrays(np.int64, users, elements=st.integers(0, candidates - 1)))
    order = np.array(data.draw(st.permutations(range(candidates))))
    moved = np.argsort(order)[positive]  # where each positive stands in the new order
    assert ranks(block[:, order], moved).tolist() == ranks(block, positive).tolist()


@given(BLOCKS, st.integers(-(2**20), 2**20), st.data())
def test_adding_a_constant_changes_no_rank(
    block: np.ndarray, constant: int, data: st.DataObject
) -> None:
    users, candidates = block.shape
    positive = data.draw(arrays(np.int64, users, elements=st.integers(0, candidates - 1)))
    assert ranks(block + constant, positive).tolist() == ranks(block, positive).tolist()


@given(BLOCKS, st.data())
def test_raising_the_positive_never_worsens_its_rank(
    block: np.ndarray, data: st.DataObject
) -> None:
    users, candidates = block.shape
    positive = data.draw(arrays(np.int64, users, elements=st.integers(0, candidates - 1)))
    raised = block.copy()
    raised[np.arange(users), positive] += 1
    before, after = ranks(block, positive), ranks(raised, positive)
    assert (after <= before).all()
    assert ((before >= 0) & (before < candidates)).all()


def test_metrics_by_hand() -> None:
    """Ranks 0, 2, 3 and 9: HR and MRR as fractions, NDCG by its formula."""
    summary = summarise(per_user(np.array([0, 2, 3, 9])), resamples=10)
    expected = {
        "hr@1": Fraction(1, 4),
        "hr@3": Fraction(2, 4),
        "hr@5": Fraction(3, 4),
        "hr@10": Fraction(4, 4),
        "mrr": (1 + Fraction(1, 3) + Fraction(1, 4) + Fraction(1, 10)) / 4,
        "ndcg@1": 1 / 4,
        "ndcg@3": (1 + 1 / 2) / 4,  # 1 / log2(4) = 1 / 2
        "ndcg@5": (1 + 1 / 2 + 1 / log2(5)) / 4,
        "ndcg@10": (1 + 1 / 2 + 1 / log2(5) + 1 / log2(11)) / 4,
    }
    assert summary["n"] == 4
    assert {name: summary[name] for name in METRICS} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, abs=1e-12
    )


def test_the_cutoff_is_exclusive_of_rank_k() -> None:
    for k in RANK_CUTOFFS:
        values = per_user(np.array([k - 1, k]))
        assert values[f"hr@{k}"].tolist() == [1.0, 0.0]
        assert values[f"ndcg@{k}"].tolist() == [1 / log2(k + 1), 0.0]


@pytest.mark.parametrize("bad", [[-1, 0], [0.5, 1.0]])
def test_impossible_ranks_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="non-negative integers"):
        per_user(np.array(bad))


def test_agreement_with_ranx() -> None:
    """The reference library on the same scores, without ties (ranx leaves their order open)."""
    ranx = pytest.importorskip("ranx")
    rng = np.random.default_rng(7)
    users, candidates = 60, 30
    scores = rng.permuted(np.tile(np.arange(candidates) / 7.0, (users, 1)), axis=1)
    positive = rng.integers(0, candidates, users)
    qrels = ranx.Qrels({f"q{u}": {f"d{positive[u]}": 1} for u in range(users)})
    run = ranx.Run(
        {f"q{u}": {f"d{j}": float(scores[u, j]) for j in range(candidates)} for u in range(users)}
    )
    names = {f"hr@{k}": f"hit_rate@{k}" for k in RANK_CUTOFFS}
    names |= {f"ndcg@{k}": f"ndcg@{k}" for k in RANK_CUTOFFS} | {"mrr": "mrr"}
    theirs = ranx.evaluate(qrels, run, list(names.values()), make_comparable=True)
    ours = summarise(per_user(ranks(scores, positive)), resamples=10)
    for our_name, their_name in names.items():
        assert ours[our_name] == pytest.approx(theirs[their_name], abs=1e-9), our_name


def test_the_interval_is_the_binomial_one_for_a_hit_rate() -> None:
    """For a hit rate the bootstrap distribution is exactly Binomial(n, p) / n."""
    scipy_stats = pytest.importorskip("scipy.stats")
    places = np.array([0] * 120 + [1] * 280)
    low, high = summarise(per_user(places), resamples=20_000)["ci95"]["hr@1"]
    exact = scipy_stats.binom(400, 0.3).ppf([0.025, 0.975]) / 400
    assert [low, high] == pytest.approx(exact, abs=2 / 400)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 29), min_size=1, max_size=60), st.randoms())
def test_the_order_of_users_changes_nothing(places: list[int], random: object) -> None:
    shuffled = list(places)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first = summarise(per_user(np.array(places)), resamples=20)
    assert first == summarise(per_user(np.array(shuffled)), resamples=20)
    for name in METRICS:
        low, high = first["ci95"][name]
        assert 0 <= low <= high <= 1


def test_chunks_and_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks bound the memory and change no draw; another seed changes the interval."""
    values = per_user(np.random.default_rng(0).integers(0, 30, 300))
    whole = summarise(values, resamples=100, seed=1)
    monkeypatch.setattr(module, "_CHUNK_CELLS", 64)
    assert summarise(values, resamples=100, seed=1) == whole
    assert summarise(values, resamples=100, seed=2)["ci95"] != whole["ci95"]


def test_one_user_has_an_interval_of_no_width() -> None:
    summary = summarise(per_user(np.array([2])), resamples=50)
    assert summary["ci95"]["ndcg@3"] == [0.5, 0.5]


def test_no_users_is_an_error() -> None:
    with pytest.raises(ValueError, match="no users"):
        summarise(per_user(np.zeros(0, dtype=np.int64)))
