"""The k best items: exactly, and in the graph nearly so, without those that are excluded."""

import builtins

import numpy as np
import pytest

from reccocktail.errors import RunError
from reccocktail.serving import index as module
from reccocktail.serving.index import Index, ScoreIndex
from tests.helpers import one_sentence


def vectors(items, width=16, seed=0):
    """Unit vectors around a few centres, as titles of one catalogue have them."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, width))
    found = centres[rng.integers(20, size=items)] + 0.7 * rng.standard_normal((items, width))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def by_hand(items, queries, k, exclude):
    found = []
    for query, without in zip(queries, exclude, strict=True):
        products = items @ query
        order = [i for i in np.argsort(-products, kind="stable") if i not in set(without)]
        found.append(order[:k])
    return np.array(found)


@pytest.mark.parametrize("block", [1, 10**9])
def test_exact_is_the_sorted_product(block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", block)
    items, queries = vectors(300), vectors(7, seed=1)
    exclude = [list(range(row * 10)) for row in range(7)]
    ids, scores = Index(items, exact=True).search(queries, 5, exclude)
    assert (ids == by_hand(items, queries, 5, exclude)).all()
    assert ids.dtype == np.int64 and scores.dtype == np.float32
    expected = np.take_along_axis(queries @ items.T, ids, axis=1)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("exact", [True, False])
def test_of_equals_the_lower_number_comes_first(exact):
    if not exact:
        pytest.importorskip("usearch")
    items = np.ones((12, 4), dtype=np.float32)
    ids, _ = Index(items, exact).search(items[:2], 4, [[0, 2], []])
    assert ids[0].tolist() == [1, 3, 4, 5] or not exact
    assert ids[1].tolist() == sorted(ids[1])


@pytest.mark.parametrize("exact", [True, False])
def test_too_few_items_leave_empty_places(exact):
    if not exact:
        pytest.importorskip("usearch")
    items = vectors(4)
    ids, scores = Index(items, exact).search(items[:1], 6, [[2]])
    assert sorted(ids[0][:3]) == [0, 1, 3] and ids[0][3:].tolist() == [-1, -1, -1]
    assert np.isfinite(scores[0][:3]).all() and (scores[0][3:] == -np.inf).all()


def test_the_graph_finds_nearly_all_and_scores_them_exactly():
    pytest.importorskip("usearch")
    items, queries = vectors(4000, 32), vectors(50, 32, seed=1)
    exclude = [np.argsort(-items @ query)[:3].tolist() for query in queries]
    exact, products = Index(items, exact=True).search(queries, 10, exclude)
    graph = Index(items, exact=False)
    assert not graph.exact and len(graph) == 4000
    ids, scores = graph.search(queries, 10, exclude)
    hits = [len(set(a) & set(b)) / 10 for a, b in zip(ids, exact, strict=True)]
    assert np.mean(hits) > 0.95
    same = ids == exact
    np.testing.assert_allclose(scores[same], products[same], rtol=1e-5)
    assert not any(set(row) & set(without) for row, without in zip(ids, exclude, strict=True))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_whole_scores_are_searched_popularity_included(exact, temperature):
    """A prior that sways the ranking as strongly as the text must not mislead the graph."""
    if not exact:
        pytest.importorskip("usearch")
    items, users = vectors(4000, 32), vectors(50, 32, seed=1)
    prior = np.random.default_rng(2).standard_normal(4000) / (20 * temperature)
    exclude = [[row, row + 1] for row in range(50)]
    index = ScoreIndex(items[:3000], prior[:3000], temperature, exact)
    index.add(items[3000:], prior[3000:])
    ids, scores = index.search(users, 10, exclude)
    every = users @ items.T / temperature + prior
    for row, without in zip(every, exclude, strict=True):
        row[without] = -np.inf
    best = np.argsort(-every, axis=1, kind="stable")[:, :10]
    hits = [len(set(a) & set(b)) / 10 for a, b in zip(ids, best, strict=True)]
    assert np.mean(hits) > 0.95
    np.testing.assert_allclose(scores, np.take_along_axis(every, ids, axis=1), rtol=1e-4)
    assert not exact or (ids == best).all()


@pytest.mark.parametrize("exact", [True, False])
def test_added_items_are_found_at_once(exact):
    if not exact:
        pytest.importorskip("usearch")
    items = vectors(200)
    index = Index(items[:150], exact)
    index.add(items[150:])
    assert len(index) == 200 and index.exact == exact
    ids, _ = index.search(items[[160, 3]], 1)
    assert ids[:, 0].tolist() == [160, 3]


@pytest.mark.parametrize("seed", range(5))
def test_twins_that_are_added_together_are_all_found(seed):
    """Put in by several threads, up to a quarter of them linked to no other and got lost."""
    pytest.importorskip("usearch")
    items = vectors(2000, seed=seed)
    index = Index(items, exact=False)
    index.add(items[:1].repeat(60, axis=0))
    ids, _ = index.search(items[:1], 61)
    assert set(range(2000, 2060)) <= set(ids[0].tolist())


def test_what_a_query_finds_does_not_depend_on_those_before_it():
    pytest.importorskip("usearch")
    items, queries = vectors(4000, 32), vectors(2, 32, seed=1)
    graph = Index(items, exact=False)
    graph.search(queries[:1], 10)
    narrow = graph._graph.expansion_search
    graph.search(queries[1:], 500, [list(range(500))])
    assert graph._graph.expansion_search > narrow
    graph.search(queries[:1], 10)
    assert graph._graph.expansion_search == narrow


def test_the_number_of_items_decides(monkeypatch):
    pytest.importorskip("usearch")
    monkeypatch.setattr(module, "EXACT_ITEMS", 100)
    items = vectors(150)
    for count, exact in ((100, True), (101, False)):
        index = ScoreIndex(items[:count], np.zeros(count), 1.0)
        assert index._index.exact == exact and len(index) == count
        ids, _ = index.search(items[[5, 99]], 1)
        assert ids[:, 0].tolist() == [5, 99]


def test_a_missing_package_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **named):
        if name.startswith("usearch"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RunError, match="usearch") as error:
        Index(vectors(10), exact=False)
    one_sentence(error.value)


def test_wrong_calls_are_refused():
    index = Index(vectors(10), exact=True)
    with pytest.raises(ValueError, match="at least 1"):
        index.search(vectors(2), 0)
    with pytest.raises(ValueError, match="2 queries and 1 lists"):
        index.search(vectors(2), 1, [[]])
