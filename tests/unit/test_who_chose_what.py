"""Who chose what: alike are items that the same people chose; a new one is as its title says."""

from types import SimpleNamespace

import numpy as np
import pytest

from reccocktail.ranking import collaborative
from reccocktail.ranking.collaborative import Collaborative, vectors_of
from tests.domains import taste_domain

CIRCLES, EACH = 3, 12


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("collaborative"))


def circles(users=60, seed=0):
    """Histories within circles of items: users of one circle choose nothing of another."""
    rng = np.random.default_rng(seed)
    return [
        (user % CIRCLES * EACH + rng.choice(EACH, size=5, replace=False)).tolist()
        for user in range(users)
    ]


def means(vectors, histories):
    """Mean score of items of the user's own circle, and of the others'."""
    own, others = [], []
    for history in histories:
        direction = vectors[history].sum(axis=0)
        scores = vectors @ (direction / np.linalg.norm(direction))
        mine = np.arange(CIRCLES * EACH) // EACH == history[0] // EACH
        own.append(scores[mine].mean())
        others.append(scores[~mine].mean())
    return np.mean(own), np.mean(others)


def test_items_that_the_same_people_chose_are_alike():
    own, others = means(vectors_of(circles(), CIRCLES * EACH), circles(seed=1))
    assert own > 0.4 and others < 0


def test_vectors_have_length_1_and_what_nobody_chose_has_none():
    found = vectors_of(circles(), CIRCLES * EACH + 2)
    assert np.linalg.norm(found[:-2], axis=1) == pytest.approx(1.0, abs=1e-5)
    assert not found[-2:].any()
    assert found.dtype == np.float32


def test_a_repeated_choice_counts_once():
    once = circles()
    twice = [history + history[:2] for history in once]
    assert np.array_equal(vectors_of(once, 36), vectors_of(twice, 36))


@pytest.mark.parametrize("histories", [[], [[0]], [[0, 0]], [[0], [0]]])
def test_of_one_user_or_one_item_nothing_can_be_learnt(histories):
    assert vectors_of(histories, 3).shape == (3, 0)


def test_width_is_bounded_by_users_and_items():
    assert vectors_of([[0, 1], [1, 2], [0, 2]], 5).shape == (5, 3)
    assert vectors_of(circles(600), CIRCLES * EACH).shape[1] <= collaborative.DIMENSIONS


def test_a_cold_item_is_where_its_title_leads(domain):
    space = Collaborative(domain, max_history=10)
    known = domain.train_counts() > 0
    cold = np.flatnonzero(~known)
    assert len(cold)
    lengths = np.linalg.norm(space.items, axis=1)
    assert lengths[known] == pytest.approx(1.0, abs=1e-5)
    assert (lengths[cold] <= 1 + 1e-5).all() and (lengths[cold] > 0).any()
    # A new item of that title is there too.
    again = space.new([domain.titles[item] for item in cold])
    assert again == pytest.approx(space.items[cold], abs=1e-5)
    # Its neighbours are of its taste: who has one noun of it has the others.
    rows = domain.rows("test_cold")
    scores = space.scores(domain.numbers(rows, "history"), domain.numbers(rows, "candidates"))
    above = [
        row[items.index(domain.index[target])] > row.mean()
        for row, items, target in zip(
            scores, domain.numbers(rows, "candidates"), rows["target"], strict=True
        )
    ]
    assert np.mean(above) > 0.9


def test_a_title_without_a_known_word_is_the_average_item(domain):
    space = Collaborative(domain, max_history=10)
    assert not space.new(["Щётка"]).any()
    assert space.extended([]) is space
    more = space.extended(["Щётка"])
    assert len(more.items) == len(space.items) + 1
    assert more.catalogue([[0]])[0, -1] == 0


def test_what_was_learnt_is_kept(domain, monkeypatch):
    first = Collaborative(domain, max_history=10)
    monkeypatch.setattr(collaborative, "vectors_of", lambda *_: pytest.fail("learnt again"))
    again = Collaborative(domain, max_history=3)
    assert np.array_equal(again.items, first.items)
    title = domain.titles[0]
    assert again.new([title]) == pytest.approx(first.new([title]), abs=1e-5)


def test_where_titles_share_nothing_a_new_item_is_the_average_one(domain, monkeypatch):
    nothing = np.zeros((len(domain.titles), 0), dtype=np.float32)
    wordless = SimpleNamespace(items=nothing, width=0, new=lambda titles: nothing[: len(titles)])
    monkeypatch.setattr(collaborative, "words_of", lambda *_: wordless)
    space = Collaborative(domain, max_history=10)
    assert space.new(["red apple"]).tolist() == [[0.0] * space.width]
