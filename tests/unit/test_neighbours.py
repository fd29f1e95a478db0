"""Large catalogues in the service: a graph in place of the product with every item."""

import threading

import numpy as np
import pytest

from reccocktail.errors import RunError
from reccocktail.serving import query as asking
from reccocktail.serving import served as module
from reccocktail.serving.items import NewItem
from reccocktail.serving.neighbours import Neighbours
from reccocktail.serving.query import Query
from reccocktail.serving.store import Store
from tests.unit.test_index import vectors

pytest.importorskip("usearch")


@pytest.fixture
def large(monkeypatch):
    """Limits that make a small catalogue a large one; filters too are searched for."""
    monkeypatch.setattr(module, "EXACT_ITEMS", 50)
    monkeypatch.setattr(asking, "FEW", 5)
    monkeypatch.setattr(asking, "_WIDEST", 1.0)


@pytest.fixture
def exact(here):
    """A service that looks at every item."""
    service = here.service()
    yield service.answering
    service.close()


@pytest.fixture
def service(here, exact, large, tmp_path):
    """The same with a graph."""
    service = here.service(tmp_path / "state")
    yield service
    service.close()


@pytest.fixture
def searches(monkeypatch):
    """What every search in a graph was asked for, and found."""
    done, real = [], Neighbours.of

    def watching(self, user, wanted, items):
        found = real(self, user, wanted, items)
        done.append((wanted, found))
        return found

    monkeypatch.setattr(Neighbours, "of", watching)
    return done


def histories(domain, count=20):
    return domain.rows("test_warm")["history"].to_list()[:count]


def ids(answer):
    return [place.item_id for place in answer.places]


def recall(found, expected):
    pairs = zip(found, expected, strict=True)
    return np.mean([len(set(ids(a)) & set(ids(b))) / len(b.places) for a, b in pairs])


# -- the graph itself -------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 1.0, 3.0])
def test_users_find_their_best_items_popularity_included(strength):
    items, users = vectors(4000, 32), vectors(50, 32, seed=1)
    prior = strength * np.random.default_rng(2).standard_normal(4000)
    graph, scores = Neighbours(items, prior, 0.05), users @ items.T / 0.05 + prior
    hits = []
    for user, row in zip(users, scores, strict=True):
        found = graph.of(user, 10, 4000)
        assert len(found) == 10 and (np.diff(found) > 0).all()
        hits.append(len(set(found.tolist()) & set(np.argsort(-row)[:10].tolist())) / 10)
    assert np.mean(hits) > 0.95


def test_a_state_finds_its_own_items_and_no_later_ones():
    items = vectors(300, seed=3)
    graph = Neighbours(items[:200], np.zeros(200), 1.0)
    graph.extend(items[200:], np.zeros(100), 200)
    assert [graph.of(items[n], 1, 300).tolist() for n in (7, 250)] == [[7], [250]]
    before = graph.of(items[250], 10, 200)
    assert len(before) >= 10 and before.max() < 200
    expected = np.argsort(-items[:200] @ items[250], kind="stable")[:10]
    assert set(expected.tolist()) <= set(before.tolist())


def test_items_that_were_given_up_are_never_found():
    items = vectors(300, seed=4)
    graph = Neighbours(items[:200], np.zeros(200), 1.0)
    graph.extend(items[200:260], np.zeros(60), 200)  # the disk was full, say
    graph.extend(items[260:], np.zeros(40), 200)  # their numbers are others' now
    assert 200 in graph.of(items[260], 1, 240)
    found = graph.of(items[210], 5, 240)
    every = np.concatenate([items[:200], items[260:]])
    best = np.argsort(-every @ items[210], kind="stable")[:5]
    assert len(found) >= 5 and set(best.tolist()) <= set(found.tolist())


def test_searches_while_items_are_added():
    items = vectors(2200, seed=5)
    graph = Neighbours(items[:200], np.zeros(200), 1.0)
    errors, stop = [], threading.Event()

    def search():
        while not stop.is_set():
            found = graph.of(items[17], 10, 200)
            if len(found) < 10 or 17 not in found or found.max() >= 200:
                errors.append(found)

    thread = threading.Thread(target=search)
    thread.start()
    for start in range(200, 2200, 400):
        graph.extend(items[start : start + 400], np.zeros(400), start)
    stop.set()
    thread.join(10)
    assert not errors
    assert graph.of(items[2199], 1, 2200).tolist() == [2199]


# -- in the service ---------------------------------------------------------------------------


def test_answers_are_those_of_the_whole_product(service, exact, here, searches):
    asked = [Query(history, k=7) for history in histories(here.tastes)]
    found = [service.answering.recommend("tastes", query) for query in asked]
    expected = [exact.recommend("tastes", query) for query in asked]
    assert len(searches) == len(asked)  # every one by the graph, none by the exact service
    assert all(len(near) < len(here.tastes.item_ids) / 2 for _, near in searches)
    assert recall(found, expected) > 0.95
    for query, one, other in zip(asked, found, expected, strict=True):
        assert len(one.places) == 7 and not set(ids(one)) & set(query.history)
        true = {place.item_id: place.score for place in other.places}
        both = {p.item_id: p.score for p in one.places if p.item_id in true}
        assert both == pytest.approx({item: true[item] for item in both}, abs=1e-4)
    seen_too = Query(asked[0].history, k=7, exclude_seen=False)
    assert ids(service.answering.recommend("tastes", seen_too)) == ids(
        exact.recommend("tastes", seen_too)
    )


@pytest.mark.parametrize(
    "filters",
    [{"categories": ["food"]}, {"categories": ["Food", "sky"]}, {"new_only": True}],
    ids=["one", "two", "new"],
)
def test_filters_hold(service, exact, here, searches, filters):
    asked = [Query(history, k=4, **filters) for history in histories(here.tastes)]
    found = [service.answering.recommend("tastes", query) for query in asked]
    expected = [exact.recommend("tastes", query) for query in asked]
    assert searches and all(wanted > 4 for wanted, _ in searches)  # more than are asked for
    assert recall(found, expected) > 0.95
    state = service.answering.domain("tastes")
    for query, answer in zip(asked, found, strict=True):
        assert len(answer.places) == 4 and not set(ids(answer)) & set(query.history)
        for place in answer.places:
            kinds = {kind.casefold() for kind in place.categories}
            assert place.new or not filters.get("new_only")
            assert not filters.get("categories") or kinds & {
                name.casefold() for name in filters["categories"]
            }
            assert place.title == state.titles[state.index[place.item_id]]


@pytest.mark.parametrize("filters", [{}, {"categories": ["food"]}, {"new_only": True}])
def test_where_too_few_are_near_every_item_is_looked_at(service, exact, here, filters, monkeypatch):
    tried = []

    def few(self, user, wanted, items):
        tried.append(wanted)
        return np.arange(3)

    monkeypatch.setattr(Neighbours, "of", few)
    for history in histories(here.tastes, 5):
        query = Query(history, k=4, **filters)
        found = service.answering.recommend("tastes", query)
        expected = exact.recommend("tastes", query)
        assert ids(found) == ids(expected) and len(found.places) == 4
    assert len(tried) == 5


def test_wide_questions_and_named_candidates_are_answered_exactly(
    service, exact, here, searches, monkeypatch
):
    history = histories(here.tastes, 1)[0]
    named = here.tastes.item_ids[::2]
    monkeypatch.setattr(asking, "_WIDEST", 0.1)
    for query in (
        Query(history, k=10**6),
        Query(history, k=None),
        Query(history, k=40),
        Query(history, k=3, candidates=named),
        Query(history, k=3, candidates=named, categories=["food"]),
    ):
        found = service.answering.recommend("tastes", query)
        assert ids(found) == ids(exact.recommend("tastes", query)) != []
    assert not searches
    monkeypatch.setattr(asking, "_WIDEST", 1.0)
    monkeypatch.setattr(asking, "FEW", 10**4)  # a filter that lets few through
    query = Query(history, k=3, categories=["food"])
    found = service.answering.recommend("tastes", query)
    assert ids(found) == ids(exact.recommend("tastes", query)) and not searches


def test_a_new_item_is_found_at_once_and_by_no_earlier_state(service, here, searches):
    history = histories(here.tastes, 1)[0]
    new_only = Query(history, k=1, new_only=True)
    best = service.answering.recommend("tastes", new_only).places[0]
    before = service.answering.domain("tastes")
    twins = [NewItem(f"twin{n}", best.title.upper()) for n in range(70)]  # more than at once
    assert service.changing.add_items("tastes", twins) == 70
    searches.clear()
    whole = Query(history, k=100)
    found = ids(service.answering.recommend("tastes", whole))
    assert len(searches) == 1 and {twin.item_id for twin in twins} <= set(found)
    first = service.answering.recommend("tastes", Query(history, k=1, new_only=True)).places[0]
    assert first.score == pytest.approx(best.score, abs=1e-4)
    user = service.answering.users.of(before, [tuple(before.index[i] for i in history)])
    ask = asking.resolve(before, whole)
    (old,) = asking.rank(before, [ask], user)
    assert not any(item.startswith("twin") for item in ids(old)) and len(old.places) == 100


def test_an_upload_that_cannot_be_written_is_not_found(service, here, monkeypatch, searches):
    history = histories(here.tastes, 1)[0]
    before = service.answering.recommend("tastes", Query(history, k=60))

    def full(*_):
        raise RunError("Cannot write: the disk is full; free space.")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_items", full)
        with pytest.raises(RunError, match="full"):
            service.changing.add_items("tastes", [NewItem("lost", "red moon")])
    after = service.answering.recommend("tastes", Query(history, k=60))
    assert ids(after) == ids(before)
    # The graph may propose another number of items, and sums are rounded otherwise.
    scores = [[place.score for place in answer.places] for answer in (before, after)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    service.changing.add_items("tastes", [NewItem("kept", "green star")])
    found = service.answering.recommend("tastes", Query(history, k=100))
    titles = {place.item_id: place.title for place in found.places}
    assert titles.get("kept", "green star") == "green star" and "lost" not in titles
    user = np.asarray(service.answering.domain("tastes").vectors[-1])
    state = service.answering.domain("tastes")
    near = state.neighbours.of(user, 20, len(state.ids))
    assert len(state.ids) - 1 in near and len(near) >= 20


def test_a_restart_searches_items_added_before_it(service, here, tmp_path):
    service.changing.add_items("tastes", [NewItem("n1", "red moon")])
    service.close()
    again = here.service(tmp_path / "state")
    state = again.answering.domain("tastes")
    assert state.ids[-1] == "n1"
    near = state.neighbours.of(state.vectors[-1], 15, len(state.ids))
    assert len(state.ids) - 1 in near
    again.close()


def test_small_catalogues_have_no_graph(exact):
    assert exact.domain("tastes").neighbours is None


def test_an_upload_builds_no_graph(here, tmp_path, monkeypatch):
    """It would have to wait: what decides is the number of items when a domain is plugged in."""
    monkeypatch.setattr(module, "EXACT_ITEMS", len(here.tastes.item_ids))
    service = here.service(tmp_path / "state")
    service.changing.add_items("tastes", [NewItem("n1", "red moon")])
    assert service.answering.domain("tastes").neighbours is None
    service.changing.plug("tastes", here.tastes.path, here.adapters["one"])
    assert service.answering.domain("tastes").neighbours is not None
    service.close()


def test_without_usearch_every_item_is_looked_at(here, exact, large, monkeypatch, caplog):
    def missing(*_):
        raise RunError("A graph needs usearch; install it.")

    monkeypatch.setattr("reccocktail.serving.index._empty_graph", missing)
    with caplog.at_level("WARNING", logger="reccocktail.serving"):
        service = here.service()
    (record,) = [r for r in caplog.records if "every item is looked at" in r.getMessage()]
    assert "usearch" in record.getMessage()
    history = histories(here.tastes, 1)[0]
    assert service.answering.recommend("tastes", Query(history)) == exact.recommend(
        "tastes", Query(history)
    )
    service.close()
