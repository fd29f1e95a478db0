"""Popularity scores: counts by item id, cold items at the bottom, ties against us."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from reccocktail.baselines import BASELINES
from reccocktail.baselines.popularity import Popularity
from reccocktail.errors import DataError, RunError
from reccocktail.evaluation.metrics import ranks

IDS = ["b", "a", "cold", "d"]
COUNTS = np.array([3, 0, 0, 7])
ROWS = pl.DataFrame({"candidates": [["d", "cold", "b"], ["a", "cold"]]})


def domain() -> SimpleNamespace:
    return SimpleNamespace(index={x: i for i, x in enumerate(IDS)}, train_counts=lambda: COUNTS)


def test_scores_are_log_counts_by_item_id() -> None:
    model = BASELINES["popularity"]()
    model.fit(domain())  # type: ignore[arg-type]
    first, second = model.scores(ROWS)
    assert first == pytest.approx([np.log(8), 0.0, np.log(4)])
    assert second.tolist() == [0.0, 0.0]


def test_an_item_nobody_chose_loses_its_ties() -> None:
    scores = Popularity(COUNTS, domain().index).scores(ROWS)
    assert ranks(scores, [1, 1]).tolist() == [2, 1]


def test_the_catalogue_is_in_item_order_for_every_row() -> None:
    scores = Popularity(COUNTS, domain().index).catalogue_scores(ROWS)
    assert scores.shape == (2, 4)
    assert scores[0].tolist() == scores[1].tolist() == np.log1p(COUNTS).tolist()


def test_errors_say_what_to_do() -> None:
    with pytest.raises(RunError, match="fit it on a domain first"):
        Popularity().scores(ROWS)
    with pytest.raises(DataError, match="'unknown' is not in the domain"):
        Popularity(COUNTS, domain().index).item_scores(["b", "unknown"])
