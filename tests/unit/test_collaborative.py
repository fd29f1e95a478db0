"""Item neighbours and BPR: co-occurrence, cold items at the bottom, users nobody has seen."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from reccocktail.baselines import BASELINES
from reccocktail.baselines.bpr import BPR, BprSettings
from reccocktail.baselines.collaborative import interactions
from reccocktail.baselines.item_knn import ItemKNN, KnnSettings
from reccocktail.data.domain import Domain
from reccocktail.errors import DataError, RunError
from reccocktail.evaluation.metrics import ranks
from reccocktail.ranking.scoring import positive_columns
from tests.domains import taste_domain, taste_of

SMALL = {
    "item-knn": lambda: ItemKNN((KnnSettings("tfidf", 50, None), KnnSettings("bm25", 20, 3.0))),
    "bpr": lambda: BPR((BprSettings(16, 0.05, 0.01, 100), BprSettings(16, 0.05, 0.01, 1))),
}


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Domain:
    return taste_domain(tmp_path_factory.mktemp("domain"), users=160)


@pytest.fixture(scope="module", params=list(SMALL))
def model(request: pytest.FixtureRequest, domain: Domain):
    return SMALL[request.param]().fit(domain)


def warm_by_taste(domain: Domain) -> list[list[str]]:
    """Item ids with training interactions, of each taste."""
    found: list[list[str]] = [[], [], [], []]
    counts = domain.train_counts()
    for number, title in enumerate(domain.titles):
        if counts[number]:
            found[taste_of(title)].append(domain.item_ids[number])
    return found


def rows(histories: list[list[str]], candidates: list[list[str]]) -> pl.DataFrame:
    return pl.DataFrame({"history": histories, "candidates": candidates})


def test_they_are_found_by_name() -> None:
    assert BASELINES["item-knn"] is ItemKNN
    assert BASELINES["bpr"] is BPR


def test_what_goes_together_is_learned_without_titles(model, domain: Domain) -> None:
    """Chance has a mean rank of 14.5 among 30; few candidates share the target's taste."""
    test = domain.rows("test_warm")
    found = ranks(model.scores(test), positive_columns(test))
    assert found.mean() < 8


def test_a_new_user_gets_the_taste_of_the_history(model, domain: Domain) -> None:
    tastes = warm_by_taste(domain)
    for taste in range(4):
        history = tastes[taste][:4]
        own = [item for item in tastes[taste] if item not in history]
        other = [item for number in range(4) if number != taste for item in tastes[number]]
        found = model.scores(rows([history], [own + other]))[0]
        assert found[: len(own)].mean() > 2 * found[len(own) :].mean()


def test_unknown_items_tie_at_the_bottom(model, domain: Domain) -> None:
    unknown = domain.train_counts() == 0
    assert unknown.any()
    whole = model.catalogue_scores(domain.rows("test_cold")[:20])
    assert (whole[:, unknown] == 0).all()
    assert (whole >= 0).all()
    assert (whole[:, ~unknown].max(axis=1) > 0).all()
    cold = domain.rows("test_cold")
    found = ranks(model.scores(cold), positive_columns(cold))
    assert (found == [len(row) - 1 for row in cold["candidates"].to_list()]).all()


def test_rows_of_any_length_and_company(model, domain: Domain) -> None:
    ids = warm_by_taste(domain)[0]
    cold = domain.item_ids[int(np.flatnonzero(domain.train_counts() == 0)[0])]
    table = rows([ids[:1], [], ids, [cold], [cold, *ids[:1]]], [ids[:3], ids, ids[2:4], ids, ids])
    together = model.scores(table)
    assert [len(row) for row in together] == [3, len(ids), 2, len(ids), len(ids)]
    assert not together[1].any()
    assert not together[3].any()
    # A cold item in a history says nothing, but for the place that it takes up in time.
    assert together[4].any()
    for place in range(table.height):
        alone = model.scores(table[place : place + 1])[0]
        assert together[place] == pytest.approx(alone)
        index = [domain.index[item] for item in table["candidates"][place]]
        whole = model.catalogue_scores(table[place : place + 1])[0, index]
        assert together[place] == pytest.approx(whole)


def test_the_same_seed_gives_the_same_scores(model, domain: Domain) -> None:
    again = SMALL[model.name]().fit(domain)
    test = domain.rows("test_warm")
    assert (again.catalogue_scores(test) == model.catalogue_scores(test)).all()
    assert again.chosen == model.chosen


def test_validation_users_choose(domain: Domain) -> None:
    """Of a model that has learned and one that has not, the first is taken wherever it stands."""
    learned, lame = BprSettings(16, 0.05, 0.01, 100), BprSettings(16, 1e-6, 0.01, 1)
    for grid in ((learned, lame), (lame, learned)):
        model = BPR(grid).fit(domain)
        assert model.chosen["epochs"] == 100
        assert 0.3 < model.chosen["valid_ndcg@10"] <= 1


def test_what_they_refuse(model, domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    known = domain.item_ids[0]
    with pytest.raises(DataError, match="'nowhere' is not in the domain"):
        model.scores(rows([[known]], [["nowhere"]]))
    with pytest.raises(DataError, match="'nowhere' is not in the domain"):
        model.catalogue_scores(rows([["nowhere"]], [[known]]))
    with pytest.raises(RunError, match="fit it on a domain first"):
        SMALL[model.name]().scores(rows([[known]], [[known]]))
    monkeypatch.setitem(sys.modules, "implicit.nearest_neighbours", None)
    monkeypatch.setitem(sys.modules, "implicit.cpu.bpr", None)
    with pytest.raises(RunError, match=r"needs the package implicit .*reccocktail\[baselines\]"):
        SMALL[model.name]().fit(domain)


def test_no_training_user_is_one_sentence(tmp_path: Path) -> None:
    class Empty:
        name = "empty"
        index = {"a": 0}  # noqa: RUF012

        def train(self) -> pl.DataFrame:
            return pl.DataFrame({"history": []}, schema={"history": pl.List(pl.String)})

    with pytest.raises(DataError, match="'empty' has no training user"):
        ItemKNN().fit(Empty())  # type: ignore[arg-type]


def test_repeated_choices_count_once() -> None:
    found = interactions([np.array([2, 0, 2]), np.array([1])], 3)
    assert found.toarray().tolist() == [[1, 0, 1], [0, 1, 0]]


def test_the_folded_user_is_where_the_loss_is_least(domain: Domain) -> None:
    """An independent minimiser of the same loss finds the same factors."""
    from scipy.optimize import minimize
    from scipy.special import expit

    model = SMALL["bpr"]().fit(domain)
    factors, bias = model._items[:, :-1], model._items[:, -1]
    history = np.array([domain.index[item] for item in warm_by_taste(domain)[1][:5]])
    others = np.setdiff1d(model._negatives, history)
    regularization = model.chosen["regularization"]

    def loss(user: np.ndarray) -> float:
        ahead = factors[history] @ user + bias[history]
        behind = factors[others] @ user + bias[others]
        pairs = -np.log(expit(ahead[:, None] - behind[None]))
        return float(pairs.mean() + regularization / 2 * user @ user)

    best = minimize(loss, np.zeros(factors.shape[1]))
    folded = model._fold_in(history, factors, bias)
    assert loss(folded) <= best.fun + 0.02
    assert loss(folded) < 0.5 * loss(np.zeros_like(folded))
