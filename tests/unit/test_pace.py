"""How fast a machine reads: the tokens of histories, by the clock."""

from itertools import count
from types import SimpleNamespace

import pytest

from reccocktail import pace
from reccocktail.data.prepare import prepare
from reccocktail.ranking import build
from reccocktail.ranking.scoring import Catalogue
from tests.adapters import pico_recipe
from tests.domains import write_raw
from tests.pico import pico_backbone


@pytest.mark.parametrize(("tick", "chunks"), [(1.0, 5), (10.0, 1), (0.01, 8)])
def test_tokens_are_read_until_the_seconds_are_over_or_the_users(
    tmp_path, monkeypatch, tick, chunks
):
    domain = prepare(*write_raw(tmp_path / "raw", users=200), "shop", tmp_path / "shop")
    backbone = pico_backbone()
    catalogue = Catalogue.of(domain, build(backbone, pico_recipe()))
    ticks = count()  # a chunk of users takes one tick, whatever the machine
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: tick * next(ticks)))
    rows = pace.sample_rows(domain.train(), 128, seed=0)
    read = [catalogue.ranker.recent(history) for history in catalogue.histories(rows)]
    tokens = sum(len(title) + 1 for history in read[: 16 * chunks] for title in history)
    found = pace.tokens_per_second(backbone, catalogue)
    assert found == pytest.approx(tokens / (chunks * tick))
