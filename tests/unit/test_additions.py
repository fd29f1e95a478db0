"""What stands beside the model: each part counts only where validation users say so."""

import numpy as np
import pytest

from reccocktail.ranking.additions import (
    COLLABORATIVE_WEIGHTS,
    WORDS_WEIGHTS,
    Beside,
    Weights,
)
from reccocktail.ranking.prior import WEIGHTS

ITEMS, USERS = 12, 40


def add(scores, candidates, prior, words, weights, collaborative=None):
    return Beside(candidates, prior, words, collaborative).add(scores, weights)


def choose(scores, candidates, positive, prior, words, collaborative=None):
    return Beside(candidates, prior, words, collaborative).choose(scores, positive)[0]


def rows(prior_tells=False, words_tell=False, seed=0):
    """Noise of a model; popularity or words that know the target, or know nothing."""
    rng = np.random.default_rng(seed)
    positive = rng.integers(ITEMS, size=USERS)
    if prior_tells:
        positive[: USERS // 2] = ITEMS - 1
    scores = [rng.normal(size=ITEMS) for _ in range(USERS)]
    words = [rng.uniform(0, 0.3, size=ITEMS) for _ in range(USERS)]
    if words_tell:
        for row, target in zip(words, positive, strict=True):
            row[target] += 0.3
    candidates = [list(range(ITEMS))] * USERS
    return scores, candidates, positive, np.linspace(-2, 2, ITEMS), words


def test_each_is_added_in_its_weight():
    scores, words = [np.array([1.0, 2.0])], [np.array([0.5, -0.5])]
    prior = np.array([0.0, 10.0, 20.0])
    assert add(scores, [[2, 0]], prior, words, Weights(0.5, 4.0))[0].tolist() == [13.0, 0.0]
    assert add(scores, [[2, 0]], prior, words, Weights())[0].tolist() == [1.0, 2.0]
    assert add(scores, [[2, 0]], prior, None, Weights(0.5, 4.0))[0].tolist() == [11.0, 2.0]
    assert scores[0].tolist() == [1.0, 2.0]
    both = add(scores, [[2, 0]], prior, words, Weights(0.5, 4.0, 2.0), [np.array([1.0, -1.0])])
    assert both[0].tolist() == [15.0, -2.0]
    ragged = add([*scores, np.array([1.0])], [[2, 0], [1]], prior, None, Weights(0.5))
    assert [row.tolist() for row in ragged] == [[11.0, 2.0], [6.0]]


def test_words_count_where_they_tell():
    found = choose(*rows(words_tell=True))
    assert found.words >= 5.0
    assert choose(*rows(words_tell=True)[:4], None).words == 0.0


def test_both_can_count():
    found = choose(*rows(prior_tells=True, words_tell=True))
    assert found.prior > 0 and found.words > 0


def test_what_adds_nothing_gets_no_weight():
    scores, candidates, positive, _, words = rows()
    constant = [np.full(ITEMS, 0.3)] * USERS
    assert choose(scores, candidates, positive, np.zeros(ITEMS), constant) == Weights()
    found = choose(scores, candidates, positive, np.zeros(ITEMS), words)
    assert found.prior == 0.0 and found.words in WORDS_WEIGHTS


def test_without_words_the_prior_is_chosen_as_before():
    found = choose(*rows(prior_tells=True)[:4], None)
    assert found.prior in WEIGHTS and found.prior > 0


def test_without_validation_users_nothing_counts():
    assert choose([], [], np.array([], dtype=np.int64), np.zeros(3), []) == Weights()


def test_who_chose_what_counts_where_it_tells():
    scores, candidates, positive, prior, tells = rows(words_tell=True)
    nothing = rows(seed=1)[-1]
    found = choose(scores, candidates, positive, prior, nothing, tells)
    assert found.collaborative >= 5.0 and found.words == 0.0


def test_rows_of_other_lengths_are_weighed_alike():
    scores, candidates, positive, prior, words = rows(prior_tells=True, words_tell=True)
    more = np.full(3, -1e9)  # candidates that nobody would take
    scores[0] = np.append(scores[0], more)
    candidates = [[*range(ITEMS), 0, 0, 0], *candidates[1:]]
    words = [np.append(words[0], [0.0, 0.0, 0.0]), *words[1:]]
    assert choose(scores, candidates, positive, prior, words) == choose(
        *rows(prior_tells=True, words_tell=True)
    )


@pytest.mark.parametrize("weights", [WORDS_WEIGHTS, WEIGHTS, COLLABORATIVE_WEIGHTS])
def test_nothing_is_among_the_choices(weights):
    assert weights[0] == 0.0 and list(weights) == sorted(set(weights))
