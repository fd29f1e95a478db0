"""Titles made distinct, and walks along a trie: never invalid, never twice, always whole."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reccocktail.errors import RecipeError
from reccocktail.ranking.trie import Trie, distinct, unmistakable
from tests.helpers import one_sentence

SEPARATOR, END = [3, 3], [9]
# A small alphabet, the separator's token among it, so that duplicates and prefixes abound.
titles = st.lists(st.lists(st.integers(1, 3), max_size=5), min_size=1, max_size=12)


def mark(number):
    """A mark that tells numbers below 4 apart, as a tokenizer with few numerals would."""
    return [7, min(number, 4) + 10]


@given(titles, st.sampled_from([[END], [END, SEPARATOR], [SEPARATOR]]))
def test_any_titles_become_distinct(rows, endings):
    found = distinct(rows, endings, mark)
    assert len(found) == len(rows)
    for place, title in enumerate(found):
        for ending in endings:
            assert ending not in [title[i : i + len(ending)] for i in range(len(title))]
            for other in found[:place]:
                one, two = title + ending, other + ending
                assert one[: len(two)] != two and two[: len(one)] != one


def test_the_least_number_that_helps_is_taken():
    numbered = distinct([[1], [1], [2], [1]], [END], lambda n: [100 + n])
    assert numbered == [[1], [1, 102], [2], [1, 103]]
    assert distinct([[1], [1, 102], [1]], [END], lambda n: [100 + n])[2] == [1, 103]
    # A separator inside a title would end it; one that grows together with the real one, too.
    assert distinct([[1, *SEPARATOR, 2], [1]], [SEPARATOR], mark) == [[1, 2], [1]]
    assert distinct([[1], [1, 3]], [SEPARATOR], mark) == [[1], [1, 3, 7, 12]]
    assert distinct([[3, *SEPARATOR, 3, 2]], [SEPARATOR], mark) == [[2]]
    assert distinct([[1, 2], [1]], [END], mark) == [[1, 2], [1]]


def test_a_separator_that_cannot_be_told_from_titles_is_refused():
    with pytest.raises(RecipeError, match="answer_separator") as error:
        distinct([[1], [1, 2]], [[]], mark)
    one_sentence(error.value)


@given(titles, st.data(), st.sampled_from([[END], [END, SEPARATOR]]))
def test_variants_mean_one_title(rows, data, endings):
    known = distinct(rows, endings, mark)
    variant = st.lists(st.integers(1, 3), max_size=4)
    written = [data.draw(st.lists(variant, max_size=3)) for _ in known]
    found = unmistakable(known, written, endings)
    assert all(form in more for more, kept in zip(written, found, strict=True) for form in kept)
    for ending in endings:  # the trie takes no path that starts another
        forms = [[title, *more] for title, more in zip(known, found, strict=True)]
        Trie([form + ending for several in forms for form in several])
    # A variant that two could mean, means neither; one's own title says nothing new.
    assert unmistakable([[1], [2]], [[[5], [1], [6]], [[5], [2, 7]]], [END]) == [[[6]], [[2, 7]]]


@given(titles, st.integers(0, 3), st.randoms(use_true_random=False))
def test_greedy_walks_reach_every_leaf_once(rows, always, rng):
    paths = [title + SEPARATOR for title in distinct(rows, [SEPARATOR], mark)]
    trie = Trie(paths)
    seen = []
    for _ in paths:
        asked = []

        def scores(prefix, options, asked=asked):
            asked.append(list(prefix))
            assert all(
                paths[leaf][: len(prefix) + 1] == [*prefix, token]
                for token, leaf in options.items()
            )
            return [rng.random() for _ in options]

        path = trie.greedy(scores, always=always)
        assert path in paths
        assert [prefix for prefix in asked if len(prefix) < always] == [
            path[:n] for n in range(min(always, len(path)))
        ]
        seen.append(trie.leaf(path))
        trie.remove(seen[-1])
    assert sorted(seen) == list(range(len(paths))) and not len(trie)


def test_the_likeliest_allowed_token_is_taken():
    trie = Trie([[1, 5, 9], [2, 9], [2, 6, 9]])
    values = {1: -2.0, 2: -1.0, 9: -3.0, 6: -0.5}
    assert trie.greedy(lambda _, options: [values[t] for t in options]) == [2, 6, 9]
    assert trie.greedy(lambda _, options: [0.0 for _ in options]) == [
        1,
        5,
        9,
    ]
    assert trie.greedy(lambda _, options: [values[t] for t in options], most=1) == [2]
    assert trie.options([2]) == {6: 2, 9: 1}


@pytest.mark.parametrize("paths", [[[1], [1]], [[1, 2], [1]], [[1], [1, 2]], [[]], [[1], []]])
def test_paths_that_start_one_another_are_refused(paths):
    random.Random(0).shuffle(paths)
    with pytest.raises(ValueError, match="start one another"):
        Trie(paths)
