"""Popularity and words beside a baseline's scores: of any scale, weighed as a model's are."""

import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from reccocktail.baselines import make_baseline
from reccocktail.evaluation.evaluate import evaluate
from reccocktail.evaluation.placing import InLogits, Placing
from reccocktail.evaluation.settings import EvaluationSettings
from reccocktail.ranking.prior import popularity_prior
from reccocktail.ranking.scoring import positive_columns
from tests.domains import taste_domain
from tests.helpers import changed, popular_targets


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    """A domain whose validation users always chose the most popular candidate."""
    folder = tmp_path_factory.mktemp("d")
    plain = taste_domain(folder, users=80)
    return changed(plain, folder / "crowd", valid_warm=popular_targets(plain))


def rows_of(target):
    return pl.DataFrame(
        {"target": target, "candidates": [[f"{i}" for i in range(10)]] * len(target)}
    )


def scorer(scores):
    """A baseline that knows these scores of its rows and of the catalogue, here the same."""
    return SimpleNamespace(
        scores=lambda rows: list(scores[: rows.height]),
        catalogue_scores=lambda rows: scores[: rows.height],
    )


def test_scores_of_any_scale_become_the_same_logits():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(50, 10))
    right = rng.random(50) < 0.6
    rows = rows_of(
        [str(row.argmax()) if ok else "0" for row, ok in zip(scores, right, strict=True)]
    )
    large, small = (InLogits(scorer(scores * scale), rows) for scale in (1.0, 1 / 900))
    found = np.array(large.scores(rows))
    assert np.allclose(found, small.scores(rows), rtol=1e-3)
    assert np.allclose(found, large.catalogue_scores(rows))
    assert np.allclose(found, large.valid) and np.allclose(found, small.valid, rtol=1e-3)
    assert (found.argsort() == scores.argsort()).all()
    # The scale is the one that fits these rows best: no other has a lower log loss.
    places = positive_columns(rows)

    def loss(logits):
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return -logs[np.arange(50), places].mean()

    assert loss(found) < min(loss(found * 1.1), loss(found / 1.1))


@pytest.mark.parametrize("flat", [True, False])
def test_where_validation_says_nothing_scores_stay(flat):
    scores = np.zeros((5, 10)) if flat else np.random.default_rng(0).normal(size=(5, 10))
    rows = rows_of(["0"] * 5)
    scaled = InLogits(scorer(scores), rows if flat else rows[:0])
    assert np.array_equal(scaled.scores(rows), scores)


@pytest.mark.parametrize("prior", [True, False])
def test_a_baseline_is_given_what_validation_users_ask_for(domain, tmp_path, prior):
    """Its predictions are logits plus popularity in the weight that run.json tells."""
    settings = EvaluationSettings(validation_users=1000, prior=prior)
    evaluate(domain, [], None, tmp_path, baselines=["text-similarity"], settings=settings)
    run = json.loads((tmp_path / "run.json").read_text())
    weights = run["models"]["text-similarity"]["prior_weight"]
    assert (weights["warm"] > 0) == prior
    table = pl.read_parquet(tmp_path / "predictions.parquet")
    made = make_baseline("text-similarity", None)
    made.fit(domain)
    popularity = popularity_prior(domain.train_counts())
    for scenario in ("warm", "cold"):
        rows, valid = domain.rows(f"test_{scenario}"), domain.rows(f"valid_{scenario}")
        model = InLogits(made, valid) if prior else made
        expected = [
            row + weights[scenario] * popularity[items]
            for row, items in zip(
                model.scores(rows), domain.numbers(rows, "candidates"), strict=True
            )
        ]
        found = table.filter(pl.col("scenario") == scenario)["scores"].to_list()
        assert np.allclose(found, expected)


@pytest.mark.parametrize("asked", ["words", "collaborative"])
def test_the_whole_catalogue_holds_the_candidates_scores(domain, asked):
    rows, valid = domain.rows("test_warm"), domain.rows("valid_warm")
    placing = Placing(domain, {"warm": rows}, {"warm": valid}, 10, **{asked: True})
    made = make_baseline("text-similarity", None)
    made.fit(domain)
    scaled = InLogits(made, valid)
    placed, together = placing.placed("warm", scaled.scores(rows), scaled.scores(valid))
    assert placed.weights.prior, "nothing was added, so nothing is tested"
    every = placing.whole("warm", lambda part: scaled.catalogue_scores(rows[part]), placed)
    numbers = domain.numbers(rows, "candidates")
    of_candidates = [row[items] for row, items in zip(every(slice(None)), numbers, strict=True)]
    assert np.allclose(of_candidates, together)
