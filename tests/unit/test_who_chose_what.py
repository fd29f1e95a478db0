"""Who chose what: what people choose after what; a new item is as its title says."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from reccocktail.ranking import collaborative
from reccocktail.ranking.collaborative import Collaborative, followers, vectors_of
from reccocktail.ranking.space import of_histories
from tests.domains import taste_domain
from tests.helpers import changed

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
    chosen, before = vectors
    own, others = [], []
    for history, user in zip(histories, of_histories(before, histories), strict=True):
        scores = chosen @ user
        mine = np.arange(CIRCLES * EACH) // EACH == history[0] // EACH
        own.append(scores[mine].mean())
        others.append(scores[~mine].mean())
    return np.mean(own), np.mean(others)


def test_items_that_the_same_people_chose_are_alike():
    own, others = means(vectors_of(circles(), CIRCLES * EACH), circles(seed=1))
    assert own > 0.3 and others < 0


def test_vectors_have_length_1_and_what_nobody_chose_has_none():
    for found in vectors_of(circles(), CIRCLES * EACH + 2):
        assert np.linalg.norm(found[:-2], axis=1) == pytest.approx(1.0, abs=1e-5)
        assert not found[-2:].any()
        assert found.dtype == np.float32


def test_pairs_count_by_their_distance_within_a_window():
    found = followers([[0, 1, 2, 3], [3, 0]], items=5, window=2).toarray()
    expected = np.zeros((5, 5))
    expected[[0, 1, 2, 3], [1, 2, 3, 0]] = 1  # next to one another, and never across users
    expected[[0, 1], [2, 3]] = 0.5
    assert found.tolist() == expected.tolist()


def test_nothing_follows_itself():
    assert not followers([[0, 0, 0], [1, 1]], items=2).nnz
    assert followers([[0, 0, 1]], items=2, window=1).toarray().tolist() == [[0, 1], [0, 0]]


def test_the_order_of_choices_counts():
    rng = np.random.default_rng(0)
    # Whoever chose an even item chooses the odd one behind it next, and then anything.
    pairs = [[2 * n, 2 * n + 1] for n in range(20)]
    histories = [[i for n in rng.permutation(20) for i in pairs[n]] for _ in range(50)]
    chosen, before = vectors_of(histories, 40, window=1, backward=0)
    scores = before @ chosen.T
    assert all(scores[2 * n].argmax() == 2 * n + 1 for n in range(20))
    assert not any(scores[2 * n + 1].argmax() == 2 * n for n in range(20))
    both = vectors_of(histories, 40, window=1, backward=1)
    assert np.mean([(both[1] @ both[0].T)[2 * n + 1].argmax() == 2 * n for n in range(20)]) > 0.9


def test_recent_choices_count_more():
    vectors = np.eye(3, dtype=np.float32)
    (found,) = of_histories(vectors, [[0, 1, 2]], half_life=1)
    assert found == pytest.approx(np.array([1, 2, 4]) / np.sqrt(21), abs=1e-6)
    (alike,) = of_histories(vectors, [[0, 1, 2]])
    assert alike == pytest.approx(np.ones(3) / np.sqrt(3), abs=1e-6)


@pytest.mark.parametrize("histories", [[], [[0]], [[0, 0]], [[0], [0]], [[0], [1]]])
def test_where_nothing_follows_anything_nothing_can_be_learnt(histories):
    assert [half.shape for half in vectors_of(histories, 3)] == [(3, 0), (3, 0)]


def test_width_is_bounded_by_items():
    assert vectors_of([[0, 1], [1, 2], [0, 2]], 5)[0].shape == (5, 3)
    assert vectors_of(circles(600), CIRCLES * EACH)[1].shape[1] <= collaborative.DIMENSIONS


def test_of_very_many_choices_some_users_are_drawn(monkeypatch, domain, capsys):
    monkeypatch.setattr(collaborative, "CHOICES", 100)
    monkeypatch.setattr(collaborative, "_MANY", 50)
    drawn = collaborative._drawn(circles())
    assert sum(map(len, drawn)) == 100 and [h for h in circles() if h in drawn] == list(drawn)
    learnt = []
    monkeypatch.setattr(
        collaborative, "vectors_of", lambda h, n: learnt.append(h) or vectors_of(h, n)
    )
    Collaborative(domain, max_history=10)
    assert 50 < sum(map(len, learnt[0])) <= 100
    assert "learning who chose what" in capsys.readouterr().err


def test_a_cold_item_is_where_its_title_leads(domain):
    space = Collaborative(domain, max_history=10)
    known = domain.train_counts() > 0
    cold = np.flatnonzero(~known)
    assert len(cold)
    for half in np.split(space.items, 2, axis=1):
        lengths = np.linalg.norm(half, axis=1)
        assert lengths[known] == pytest.approx(1.0, abs=1e-5)
        assert (lengths[cold] <= 1 + 1e-5).all() and (lengths[cold] > 0).any()
    users = space.users([cold[:3].tolist()])  # as a history, too
    assert np.linalg.norm(users) == pytest.approx(1.0, abs=1e-5)
    assert not np.split(users, 2, axis=1)[1].any()
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


@pytest.mark.parametrize("setting", ["WAY", "CHOICES"])
def test_what_was_learnt_in_another_way_is_not_taken(domain, monkeypatch, setting):
    Collaborative(domain, max_history=10)
    value = getattr(collaborative, setting)
    other = (*value[:-1], value[-1] + 1) if setting == "WAY" else value + 1
    monkeypatch.setattr(collaborative, setting, other)
    monkeypatch.setattr(collaborative, "vectors_of", lambda *_: pytest.fail("learnt again"))
    with pytest.raises(pytest.fail.Exception, match="learnt again"):
        Collaborative(domain, max_history=10)


def test_what_other_users_taught_is_not_taken(domain, tmp_path):
    def turned(rows):
        return rows.with_columns(pl.col("history").list.reverse())

    first = Collaborative(domain, max_history=10)
    other = Collaborative(changed(domain, tmp_path / "turned", train=turned), max_history=10)
    assert not np.allclose(other.items, first.items)


def test_only_training_histories_teach(domain, monkeypatch):
    learnt = []
    monkeypatch.setattr(
        collaborative, "vectors_of", lambda h, n: learnt.append(h) or vectors_of(h, n)
    )
    Collaborative(domain, max_history=10)
    assert learnt == [domain.numbers(domain.train(), "history")]


def test_expected_vectors_are_cut_to_length_1_and_never_stretched():
    two = SimpleNamespace(_map=np.array([[0.3, 0.4, 3.0, 4.0]], dtype=np.float32))
    found = Collaborative._expected(two, np.ones((1, 1), dtype=np.float32))
    assert found[0] == pytest.approx([0.3, 0.4, 0.6, 0.8])


def test_where_titles_share_nothing_a_new_item_is_the_average_one(domain, monkeypatch):
    nothing = np.zeros((len(domain.titles), 0), dtype=np.float32)
    wordless = SimpleNamespace(items=nothing, width=0, new=lambda titles: nothing[: len(titles)])
    monkeypatch.setattr(collaborative, "words_of", lambda *_: wordless)
    space = Collaborative(domain, max_history=10)
    assert space.new(["red apple"]).tolist() == [[0.0] * space.width]
