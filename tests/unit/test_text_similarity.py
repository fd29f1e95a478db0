"""Text similarity: cosines that can be worked out by hand, warm and cold, sparse all the way."""

import math
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from reccocktail.baselines import BASELINES
from reccocktail.baselines.text_similarity import TextSimilarity
from reccocktail.errors import DataError, RunError

# One-letter words: a title of k words has k words and k - 1 pairs, and letters " x " of each word.
TITLES = {"ab": "a b", "ac": "a c", "d": "d", "d again": "D!", "nothing": "?"}


def domain(titles: dict[str, str], valid: pl.DataFrame | None = None) -> SimpleNamespace:
    index = {item: row for row, item in enumerate(titles)}
    tables = {"valid_warm": pl.DataFrame() if valid is None else valid}
    return SimpleNamespace(
        name="letters", titles=list(titles.values()), index=index, rows=tables.__getitem__
    )


def fitted(titles: dict[str, str] = TITLES, **settings: tuple[float, ...]) -> TextSimilarity:
    return TextSimilarity(**settings).fit(domain(titles))  # type: ignore[arg-type]


def rows(history: list[str], candidates: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"history": [history], "candidates": [candidates]})


def test_it_is_found_by_name() -> None:
    model = BASELINES["text-similarity"]()
    model.fit(domain(TITLES))  # type: ignore[arg-type]
    scores = model.scores(rows(["ab"], ["ab", "d", "ac"]))[0]
    assert scores[0] == pytest.approx(1.0)
    assert scores[1] == 0.0
    assert 0 < scores[2] < 1


def test_a_cosine_worked_out_by_hand() -> None:
    """Titles "a b" and "a c" share the word "a" and the letters " a "; idf = ln((1+n)/(1+df)) + 1.

    Both halves are unit vectors before they stand side by side, so the cosine is their mean.
    """
    titles = {"ab": "a b", "ac": "a c"}
    shared, own = 1.0, math.log(3 / 2) + 1  # n = 2; df = 2 and df = 1
    words = shared**2 / (shared**2 + 2 * own**2)  # "a" | "b", "a b"
    letters = shared**2 / (shared**2 + own**2)  # " a " | " b "
    found = fitted(titles).scores(rows(["ab"], ["ac"]))[0]
    assert found[0] == pytest.approx((words + letters) / 2)


def test_case_and_signs_do_not_matter_to_words() -> None:
    words_alone = fitted().scores(rows(["d"], ["d again"]))[0][0]
    assert words_alone >= 0.5


def test_a_history_is_the_mean_of_its_items() -> None:
    """Two items without a feature in common: each is at 45 degrees from their mean."""
    found = fitted().scores(rows(["ab", "d"], ["ab", "d"]))[0]
    assert found == pytest.approx([math.sqrt(0.5), math.sqrt(0.5)])
    recent = fitted(half_lives=(1.0,)).scores(rows(["ab", "d"], ["ab", "d"]))[0]
    assert recent == pytest.approx(np.array([0.5, 1.0]) / math.sqrt(1.25))


@pytest.mark.parametrize(("target", "chosen"), [("d again", 1.0), ("ac", None)])
def test_validation_users_choose_how_fast_a_history_fades(target, chosen) -> None:
    """The last item is "d": who next takes one alike is read best by what is recent."""
    other = {"d again": "ac", "ac": "d again"}[target]
    columns = {"user_id": ["u"], "history": [["ab", "ab", "d"]], "target": [target]}
    valid = pl.DataFrame(columns | {"candidates": [[target, other]]})
    model = TextSimilarity(half_lives=(None, 1.0)).fit(domain(TITLES, valid))  # type: ignore[arg-type]
    assert model.chosen == {"half_life": chosen, "valid_ndcg@10": 1.0}
    assert TextSimilarity(half_lives=(1.0, 2.0)).fit(domain(TITLES)).chosen == {}  # type: ignore[arg-type]


def test_rows_of_any_length_and_order() -> None:
    table = pl.DataFrame(
        {
            "history": [["ab"], ["d"], ["ac", "ac"]],
            "candidates": [["d", "ab"], ["ac", "d", "ab"], ["ac"]],
        }
    )
    model = fitted()
    together = model.scores(table)
    assert [len(row) for row in together] == [2, 3, 1]
    for place in range(table.height):
        alone = model.scores(table[place : place + 1])[0]
        assert together[place] == pytest.approx(alone)
    assert together[0] == pytest.approx([0.0, 1.0])
    assert together[2] == pytest.approx([1.0])


def test_the_catalogue_has_the_candidates_scores() -> None:
    model = fitted()
    table = rows(["ab", "d again"], list(TITLES))
    whole = model.catalogue_scores(table)
    assert whole.shape == (1, len(TITLES))
    assert whole[0] == pytest.approx(model.scores(table)[0])


def test_more_users_than_a_block_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted()
    table = pl.concat([rows(["ab"], ["ac", "d"]), rows(["d"], ["ab", "d"])] * 3)
    whole = model.scores(table)
    monkeypatch.setattr("reccocktail.baselines.base.ROWS", 2)
    for one, other in zip(whole, model.scores(table), strict=True):
        assert one == pytest.approx(other)


def test_what_it_refuses() -> None:
    with pytest.raises(RunError, match="fit it"):
        TextSimilarity().scores(rows(["ab"], ["d"]))
    with pytest.raises(DataError, match="'nowhere' is not in the domain"):
        fitted().scores(rows(["ab"], ["nowhere"]))
    with pytest.raises(DataError, match="'letters' holds a word"):
        fitted({"x": "?", "y": "!"})
    for wrong in ((), (None, 0.0)):
        with pytest.raises(ValueError, match="half_lives"):
            TextSimilarity(half_lives=wrong)
