"""Sequential models: order is learned, seeds repeat, cold items tie, the clock stops a run."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from reccocktail.baselines import BASELINES
from reccocktail.baselines.sequence_models import AttentionModel, RecurrentModel
from reccocktail.baselines.sequence_training import SequenceSettings, pad, windows
from reccocktail.baselines.sequential import GRU4Rec, SASRec, SearchSettings
from reccocktail.data.domain import Domain
from reccocktail.data.prepare import prepare
from reccocktail.errors import DataError
from reccocktail.evaluation.metrics import ranks
from reccocktail.ranking.scoring import positive_columns

ITEMS = 24
POINT = SequenceSettings(16, 0.0, 0.01, layers=1, max_history=6, batch_targets=128)
FAST = SearchSettings(grid=(POINT,), check_steps=60, patience=2, max_steps=360)


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Domain:
    """Users walk a ring of items, five steps at a time: only the order tells what comes next."""
    folder = tmp_path_factory.mktemp("ring")
    rng = np.random.default_rng(0)
    steps = [
        (f"u{user}", f"i{(start + 5 * time) % ITEMS}", time)
        for user, start in enumerate(rng.integers(ITEMS, size=150).tolist())
        for time in range(8)
    ]
    names = ["user_id", "item_id", "timestamp"]
    pl.DataFrame(steps, schema=names, orient="row").write_parquet(folder / "x.parquet")
    ids = [f"i{item}" for item in range(ITEMS)]
    # The titles say nothing.
    titles = [f"thing {rng.integers(9)}" for _ in ids]
    pl.DataFrame({"item_id": ids, "title": titles}).write_parquet(folder / "y.parquet")
    return prepare(
        folder / "x.parquet", folder / "y.parquet", "ring", folder / "ring",
        min_count=2, cold_fraction=0.1, negatives=10,
    )  # fmt: skip


@pytest.fixture(scope="module", params=[SASRec, GRU4Rec])
def model(request: pytest.FixtureRequest, domain: Domain):
    return request.param(FAST).fit(domain)


def rows(histories: list[list[str]], candidates: list[list[str]]) -> pl.DataFrame:
    return pl.DataFrame({"history": histories, "candidates": candidates})


def test_they_are_found_by_name() -> None:
    assert BASELINES["sasrec"] is SASRec
    assert BASELINES["gru4rec"] is GRU4Rec


def test_the_order_is_learned(model, domain: Domain) -> None:
    """The same items in another order have another next item."""
    test = domain.rows("test_warm")
    found = ranks(model.scores(test), positive_columns(test))
    assert (found == 0).mean() > 0.8
    backwards = test.with_columns(pl.col("history").list.reverse())
    lost = ranks(model.scores(backwards), positive_columns(test))
    assert (lost == 0).mean() < 0.5


def test_the_same_seed_gives_the_same_scores(model, domain: Domain) -> None:
    before = torch.get_rng_state()
    again = type(model)(FAST).fit(domain)
    assert torch.equal(torch.get_rng_state(), before)
    test = domain.rows("test_warm")
    assert (again.catalogue_scores(test) == model.catalogue_scores(test)).all()
    assert again.chosen == model.chosen
    other = type(model)(replace(FAST, max_steps=60), seed=1).fit(domain)
    assert (other.catalogue_scores(test) != model.catalogue_scores(test)).any()


def test_unknown_items_tie_at_the_bottom(model, domain: Domain) -> None:
    unknown = domain.train_counts() == 0
    assert unknown.any()
    whole = model.catalogue_scores(domain.rows("test_warm"))
    assert (whole[:, unknown] == 0).all()
    assert (whole >= 0).all()


def test_rows_of_any_length_and_company(model, domain: Domain) -> None:
    known = [domain.item_ids[i] for i in np.flatnonzero(domain.train_counts())]
    cold = domain.item_ids[int(np.flatnonzero(domain.train_counts() == 0)[0])]
    histories = [known[:1], [], known * 2, [cold], [cold, *known[:1]], known[:3]]
    table = rows(histories, [known[:3], known, known[2:4], known, known[:3], known])
    together = model.scores(table)
    assert not together[1].any()
    assert not together[3].any()
    assert together[4] == pytest.approx(together[0], abs=1e-5)
    for place in range(table.height):
        alone = model.scores(table[place : place + 1])[0]
        assert together[place] == pytest.approx(alone, abs=1e-5)
    # What is older than `max_history` items is not read.
    short = rows([(known * 2)[-6:]], [known])
    assert model.scores(rows([known * 2], [known]))[0] == pytest.approx(model.scores(short)[0])


def test_an_unknown_id_is_named(model) -> None:
    with pytest.raises(DataError, match="'nowhere' is not in the domain"):
        model.scores(rows([["nowhere"]], [["i0"]]))


def test_validation_users_choose_and_the_choice_is_kept(domain: Domain) -> None:
    lame = replace(POINT, learning_rate=1e-6)
    search = replace(FAST, grid=(lame, POINT), screening_steps=60)
    model = SASRec(search).fit(domain)
    assert model.chosen["learning_rate"] == POINT.learning_rate
    assert 0 < model.chosen["steps"] <= FAST.max_steps
    test = domain.rows("valid_warm")
    found = ranks(model.scores(test), positive_columns(test))
    gains = np.where(found < 10, 1 / np.log2(found + 2), 0)
    assert gains.mean() == pytest.approx(model.chosen["valid_ndcg@10"])


def test_the_clock_stops_it(domain: Domain, capsys: pytest.CaptureFixture[str]) -> None:
    model = SASRec(replace(FAST, minutes=0.0)).fit(domain)
    assert model.chosen["steps"] == 0
    assert "stopped by its limit of 0 minutes" in capsys.readouterr().err
    assert np.isfinite(model.catalogue_scores(domain.rows("test_warm"))).all()


def test_an_empty_grid_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="grid of sasrec is empty"):
        SASRec(replace(FAST, grid=()))


@pytest.mark.parametrize("network", [AttentionModel, RecurrentModel])
def test_no_state_looks_ahead(network) -> None:
    torch.manual_seed(0)
    model = network(10, 8, 0.0, 2, 6).eval()
    one = torch.tensor([[1, 2, 3, 4]])
    other = torch.tensor([[1, 2, 9, 10]])
    with torch.no_grad():
        first, second = model(one), model(other)
    assert torch.allclose(first[:, :2], second[:, :2], atol=1e-6)
    assert not torch.allclose(first[:, 2:], second[:, 2:], atol=1e-3)


def test_every_next_item_is_met_once() -> None:
    for length in range(12):
        sequence = np.arange(length)
        pieces = windows([sequence], 4)
        assert all(2 <= len(piece) <= 5 for piece in pieces)
        targets = sorted(item for piece in pieces for item in piece[1:].tolist())
        assert targets == list(range(1, length))


def test_padding_stands_to_the_right() -> None:
    found = pad([np.array([4, 5, 6]), np.array([7])], 9)
    assert found.tolist() == [[4, 5, 6], [7, 9, 9]]
