"""The service without HTTP: many users, many domains, changes while requests run, restarts."""

import errno
import itertools
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from fastapi.testclient import TestClient

from reccocktail.errors import AdapterError, DataError, RunError
from reccocktail.ranking.newcomers import Levels
from reccocktail.serving import answering, changing, weights
from reccocktail.serving import store as store_module
from reccocktail.serving.app import create_app
from reccocktail.serving.batching import Batcher, ClosedError, OverloadedError
from reccocktail.serving.items import NewItem
from reccocktail.serving.limits import ConflictError, TimedOutError, UnknownDomainError
from reccocktail.serving.lookup import TitleLookup
from reccocktail.serving.paths import Allowed, ForbiddenError
from reccocktail.serving.plugging import Plugging
from reccocktail.serving.query import Query
from reccocktail.serving.recommend import Recommender
from reccocktail.serving.remix import MixRequest, recent_domain
from reccocktail.serving.served import ADDED_SCHEMA
from reccocktail.serving.service import Service
from reccocktail.serving.store import ADAPTERS_KEPT, Record, StateError, Store
from reccocktail.serving.weights import Models
from reccocktail.storage import read_json, write_json
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import merged, twin, with_update
from tests.adapters import pico_recipe, random_adapter, save
from tests.helpers import one_sentence


def histories(domain, count=20):
    return domain.rows("test_warm")["history"].to_list()[:count]


def ids(answer):
    return [place.item_id for place in answer.places]


def settled(service, name="tastes"):
    """Wait for the end of a mix."""
    for _ in range(600):
        status = service.changing.mix_status(name)
        if status.status != "running":
            return status
        time.sleep(0.05)
    raise AssertionError("the mix does not end")


# -- answers ----------------------------------------------------------------------------------


def test_answers_are_those_of_the_recommender(service, here):
    recommender = Recommender(here.tastes, Adapter.load(here.adapters["one"]), here.backbone)
    for history in histories(here.tastes, 8):
        expected = recommender.recommend(history, 15)
        found = service.answering.recommend("tastes", Query(history, k=15)).places
        assert [p.item_id for p in found] == [p.item_id for p in expected]
        assert [p.rank for p in found] == [p.rank for p in expected]
        assert [p.new for p in found] == [p.new for p in expected]
        assert [p.score for p in found] == pytest.approx([p.score for p in expected], abs=1e-4)


def test_company_in_a_batch_changes_no_answer(here):
    service = here.service(linger=0.2, batch=8)
    asked = histories(here.tastes, 8)
    alone = [service.answering.recommend("tastes", Query(h[:3], k=50)) for h in asked]
    service.answering.users._vectors.clear()
    before = service.answering.batches[0]
    with ThreadPoolExecutor(8) as threads:
        together = list(
            threads.map(lambda h: service.answering.recommend("tastes", Query(h[:3], k=50)), asked)
        )
    assert service.answering.batches[0] - before <= 2  # they did share passes
    for one, other in zip(alone, together, strict=True):
        scores = {p.item_id: p.score for p in one.places}
        assert {p.item_id: p.score for p in other.places} == pytest.approx(scores, abs=1e-4)
    service.close()


def test_a_known_history_is_not_read_again(service, here, monkeypatch):
    history = histories(here.tastes, 1)[0]
    first = service.answering.recommend("tastes", Query(history))

    def never(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(service.models, "of", never)
    assert service.answering.recommend("tastes", Query(history)) == first
    # Only the last four items are read (pico_recipe): the same user vector serves both.
    longer = [here.tastes.item_ids[-1], *history]
    assert service.answering.recommend("tastes", Query(longer, exclude_seen=False)).places
    assert (service.answering.users.misses, service.answering.users.hits) == (1, 2)


def test_the_user_cache_is_bounded(here):
    service = here.service(cached_users=3)
    for history in histories(here.tastes, 10):
        service.answering.recommend("tastes", Query(history))
        assert len(service.answering.users) <= 3
    service.close()


def test_filters_candidates_and_what_was_seen(service, here):
    history = histories(here.tastes, 1)[0]
    everything = service.answering.recommend("tastes", Query(history, k=10**6))
    assert set(ids(everything)) == set(here.tastes.item_ids) - set(history)
    seen_too = service.answering.recommend("tastes", Query(history, k=10**6, exclude_seen=False))
    assert set(ids(seen_too)) == set(here.tastes.item_ids)
    kinds = dict(zip(here.tastes.item_ids, here.tastes.items["categories"], strict=True))
    food = service.answering.recommend("tastes", Query(history, k=10**6, categories=["food "]))
    assert ids(food) == [i for i in ids(everything) if "Food" in kinds[i]] != []
    either = service.answering.recommend(
        "tastes", Query(history, k=10**6, categories=["Food", "SKY"])
    )
    assert {kinds[i] for i in ids(either)} == {"All|Food", "All|Sky"}
    new = service.answering.recommend("tastes", Query(history, k=10**6, new_only=True))
    assert ids(new) == [p.item_id for p in everything.places if p.new] != []
    chosen = [*ids(everything)[5:0:-1], history[0], ids(everything)[5]]
    few = service.answering.recommend("tastes", Query(history, k=None, candidates=chosen))
    assert ids(few) == ids(everything)[1:6]
    ranked = service.answering.recommend(
        "tastes", Query(history, k=None, candidates=chosen, exclude_seen=False)
    )
    assert set(ids(ranked)) == set(chosen) and ranked.places[0].rank == 1
    both = Query(history, k=9, candidates=ids(everything), categories=["food"], new_only=True)
    assert set(ids(service.answering.recommend("tastes", both))) <= set(ids(food)) & set(ids(new))
    assert (
        service.answering.recommend("tastes", Query(history, candidates=history[:1])).places == []
    )


def test_titles_are_taken_for_items(service, here):
    answer = service.answering.recommend("tastes", Query(history_titles=["RED apple!", "blak tea"]))
    assert [match.title for match in answer.matches] == ["red apple", "black tea"]
    named = service.answering.recommend(
        "tastes", Query([match.item_id for match in answer.matches])
    )
    assert answer.places == named.places


@pytest.mark.parametrize(
    ("query", "what"),
    [
        (Query(), "one of the two"),
        (Query(["i1"], ["red apple"]), "one of the two"),
        (Query(["i1", "none\nsuch"]), "no item"),
        (Query(["i1"], k=0), "k must be at least 1"),
        (Query(["i1"], candidates=[]), "candidates are empty"),
        (Query(["i1"], candidates=["nope"]), "no item 'nope'"),
        (Query(["i1"], categories=["nope"]), "no category 'nope'"),
        (Query(history_titles=["zxqv wkjh"]), "resembles"),
    ],
)
def test_bad_questions_are_refused(service, query, what):
    with pytest.raises(DataError, match=what):
        service.answering.recommend("tastes", query)
    with pytest.raises(UnknownDomainError) as error:
        service.answering.recommend("elsewhere", query)
    one_sentence(error.value)


def test_search_finds_words_that_are_not_finished(service):
    state = service.answering.domain("tastes")
    found = [state.titles[number] for number in state.lookup.search("APP re", 5)]
    assert "red apple" in found and all("app" in t and "re" in t for t in found)
    assert state.lookup.search(" !? ", 5) == []


def test_search_puts_beginnings_of_words_first():
    titles = ["the art", "a star war", "star", "warm tea", "a very long title of a star"]
    lookup = TitleLookup("films", [str(n) for n in range(5)], titles)
    found = [titles[number] for number in lookup.search("ar", 9)]
    assert found == ["the art", "star", "warm tea", "a star war", "a very long title of a star"]
    assert [titles[number] for number in lookup.search("sta", 2)] == ["star", "a star war"]
    assert [titles[n] for n in lookup.search("war st", 9)] == ["a star war"]


# -- weights ----------------------------------------------------------------------------------


def test_a_model_of_its_own_computes_what_a_merged_one_does(here):
    model = here.backbone.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lora = Adapter.load(here.adapters["one"]).lora
    own = with_update(model, lora)
    tokens = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        bare, alone = model(tokens).logits, own(tokens).logits
        with merged(model, lora) as whole:
            expected = whole(tokens).logits
    assert torch.equal(alone, expected) and not torch.allclose(alone, bare)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    shared = {
        name for name, p in own.named_parameters() if p is dict(model.named_parameters())[name]
    }
    changed = {f"{module}.weight" for module in lora}
    assert changed.isdisjoint(shared)
    assert shared | changed == {name for name, _ in model.named_parameters()}


def test_a_search_on_a_twin_leaves_the_served_model_alone(here):
    model = here.backbone.model
    lora = Adapter.load(here.adapters["one"]).lora
    tokens = torch.arange(6)[None]
    with torch.no_grad():
        bare = model(tokens).logits
        with merged(twin(model), lora):
            assert torch.equal(model(tokens).logits, bare)


def test_models_are_kept_within_a_budget(here):
    adapters = [Adapter.load(path) for path in here.adapters.values()]
    models = Models(here.backbone, 1 << 40)
    first = models.of("0", adapters[0].lora)
    assert models.of("0", adapters[0].lora) is first
    one = models.bytes
    assert 0 < one < sum(p.numel() * 4 for p in here.backbone.model.parameters())
    tight = Models(here.backbone, 2 * one)
    held = [tight.of(str(n), adapter.lora) for n, adapter in enumerate(adapters)]
    assert tight.bytes == 2 * one
    assert tight.of("2", adapters[2].lora) is held[2]
    again = tight.of("0", adapters[0].lora)  # merged anew, and the same
    assert again is not held[0]
    tokens = torch.arange(6)[None]
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, held[0](tokens).logits)


def test_domains_never_see_each_others_weights(here):
    """Requests of three adapters at once, with a cache for one: each as if it were alone."""
    service = here.service(model_bytes=1, cached_users=1, linger=0.0)
    for name in ("two", "three"):
        service.changing.plug(name, here.tastes.path, here.adapters[name])
    asked = [(n, h) for h in histories(here.tastes, 8) for n in ("tastes", "two", "three")]
    alone = [service.answering.recommend(name, Query(h, k=5)) for name, h in asked]
    with ThreadPoolExecutor(12) as threads:
        for _ in range(4):
            found = threads.map(
                lambda ask: service.answering.recommend(ask[0], Query(ask[1], k=5)), asked
            )
            for one, other in zip(alone, found, strict=True):
                assert other.adapter == one.adapter
                scores = [place.score for place in one.places]
                assert [p.score for p in other.places] == pytest.approx(scores, abs=1e-4)
    assert len({tuple(ids(a)) for a in alone[:3]}) == 3  # the adapters do differ
    service.close()


# -- queue ------------------------------------------------------------------------------------


def test_a_full_queue_turns_requests_away(here, monkeypatch):
    service = here.service(queue=4, batch=1, linger=0.0)
    history = histories(here.tastes, 1)[0]
    held = threading.Event()
    real = answering.rank

    def slow(*arguments):
        held.wait(10)
        return real(*arguments)

    monkeypatch.setattr(answering, "rank", slow)
    with ThreadPoolExecutor(12) as threads:
        asked = [
            threads.submit(service.answering.recommend, "tastes", Query(history)) for _ in range(12)
        ]
        while sum(one.done() for one in asked) < 8:
            time.sleep(0.01)
        held.set()
        errors = [one.exception() for one in asked]
    turned_away = [error for error in errors if error is not None]
    assert len(turned_away) == 8 and errors.count(None) == 4
    for error in turned_away:
        assert isinstance(error, OverloadedError) and 1 <= error.retry_after <= 60
    assert service.answering.recommend("tastes", Query(history)).places  # and all is well again
    service.close()


def test_a_request_that_takes_too_long_is_given_up(here, monkeypatch):
    service = here.service(timeout=0.2)
    history = histories(here.tastes, 1)[0]
    held = threading.Event()
    real = answering.rank
    monkeypatch.setattr(answering, "rank", lambda *a: (held.wait(5), real(*a))[1])
    with pytest.raises(TimedOutError) as error:
        service.answering.recommend("tastes", Query(history))
    one_sentence(error.value)
    held.set()
    time.sleep(0.1)
    assert service.answering.recommend("tastes", Query(history)).places
    service.close()


def test_titles_are_compared_no_longer_than_a_request_may_take(here, monkeypatch):
    """Each takes a while in a large catalogue, and a request may hold many."""
    service = here.service(timeout=0.2)
    lookup, compared = service.answering.domain("tastes").lookup, []
    real = lookup._nearest
    monkeypatch.setattr(
        lookup, "_nearest", lambda title: (compared.append(title), time.sleep(0.15), real(title))[2]
    )
    titles = [f"{title}s" for title in here.tastes.titles[:10]]
    with pytest.raises(TimedOutError) as error:
        service.answering.recommend("tastes", Query([], titles))
    one_sentence(error.value)
    assert 0 < len(compared) < 5
    compared.clear()
    with TestClient(create_app(service)) as client:
        body = {"history_titles": titles}
        assert client.post("/v1/domains/tastes/recommend", json=body).status_code == 504
    assert 0 < len(compared) < 5
    service.close()


def test_an_error_in_a_batch_reaches_its_requests_and_no_others():
    def run(key, jobs):
        if key == "bad":
            raise ZeroDivisionError
        return [job + 1 for job in jobs]

    batcher = Batcher(run, limit=10, batch=4, linger=0.0)
    soon = time.monotonic() + 5
    with pytest.raises(ZeroDivisionError):
        batcher.submit("bad", 1, soon).result(5)
    assert batcher.submit("good", 1, soon).result(5) == 2
    batcher.close()
    with pytest.raises(ClosedError):
        batcher.submit("good", 1, soon)


def test_who_waits_in_vain_is_told_why():
    """Never cancelled: that would pass through every `except Exception` of who waits."""
    gate, begun = threading.Event(), threading.Event()

    def run(key, jobs):
        begun.set()
        gate.wait(10)
        return list(jobs)

    batcher = Batcher(run, limit=10, batch=1, linger=0)
    batcher.submit("a", 0, time.monotonic() + 5)
    assert begun.wait(5)
    late = batcher.submit("a", 1, time.monotonic())
    running = batcher.submit("a", 2, time.monotonic() + 20)
    begun.clear()
    gate.set()
    with pytest.raises(TimeoutError):
        late.result(5)
    assert running.result(5) == 2
    gate.clear()
    begun.clear()
    batcher.submit("a", 3, time.monotonic() + 5)
    assert begun.wait(5)
    left = batcher.submit("a", 4, time.monotonic() + 20)
    given_up = batcher.submit("a", 5, time.monotonic() + 20)
    assert given_up.cancel()
    batcher.close(0.01)
    with pytest.raises(ClosedError):
        left.result(5)
    assert given_up.cancelled()
    gate.set()


def test_keys_take_turns():
    order = []
    gate = threading.Event()

    def run(key, jobs):
        gate.wait(5)
        order.extend([key] * len(jobs))
        return list(jobs)

    batcher = Batcher(run, limit=100, batch=2, linger=0.0)
    soon = time.monotonic() + 5
    first = batcher.submit("warmup", 0, soon)
    time.sleep(0.05)
    busy = [batcher.submit("busy", n, soon) for n in range(8)]
    quiet = batcher.submit("quiet", 0, soon)
    gate.set()
    for future in [first, *busy, quiet]:
        future.result(5)
    assert order.index("quiet") <= 3  # behind one batch of the busy one, not behind all
    batcher.close()


def test_who_could_not_be_answered_in_time_is_turned_away_at_once():
    batcher = Batcher(lambda key, jobs: (time.sleep(0.1 * len(jobs)), list(jobs))[1],
                      limit=1000, batch=4, linger=0, pace=0.1)  # fmt: skip
    taken, refused = [], 0
    for n in range(100):
        try:
            taken.append(batcher.submit("a", n, time.monotonic() + 1.0))
        except OverloadedError as error:
            refused += 1
            assert error.retry_after == 1
    assert len(taken) + refused == 100 and 3 <= len(taken) <= 7  # half a second at 0.1 s a job
    assert sorted(future.result(1.0) for future in taken) == list(range(len(taken)))
    time.sleep(0.05)
    # When nothing waits, one is taken even if its time is short for the pace that was measured.
    assert batcher.submit("a", -1, time.monotonic() + 0.15).result(1.0) == -1
    batcher.close()


def test_what_waits_is_reckoned_by_its_cost():
    gate = threading.Event()
    batcher = Batcher(lambda key, jobs: (gate.wait(5), list(jobs))[1],
                      limit=1000, batch=1, linger=0, pace=0.01)  # fmt: skip
    soon = time.monotonic() + 5
    first = batcher.submit("a", 0, soon, cost=1)
    cheap = [batcher.submit("a", n, soon, cost=1) for n in range(1, 20)]  # 0.2 s
    dear = batcher.submit("a", 20, soon, cost=400)  # 4 s behind them, and more than half of 5
    with pytest.raises(OverloadedError) as refused:
        batcher.submit("a", 21, soon, cost=1)
    assert refused.value.retry_after == 5
    gate.set()
    assert [one.result(5) for one in (first, *cheap, dear)] == list(range(21))
    batcher.close()


def test_a_history_costs_its_tokens_until_its_vector_is_at_hand(service, here):
    state = service.answering.domain("tastes")
    history = tuple(state.index[item] for item in histories(here.tastes, 1)[0])
    recent = history[-state.ranker.prompt.max_history :]
    tokens = sum(len(state.tokens[item]) for item in recent)
    users = service.answering.users
    assert users.cost(state, history) == 1 + tokens > 2
    users.of(state, [history])
    assert users.cost(state, history) == 1


def test_abandoned_requests_make_room():
    gate = threading.Event()
    batcher = Batcher(lambda key, jobs: (gate.wait(5), list(jobs))[1], limit=2, batch=1, linger=0)
    soon = time.monotonic() + 5
    running = batcher.submit("a", 0, soon)
    time.sleep(0.05)
    waiting = [batcher.submit("a", n, soon) for n in (1, 2)]
    with pytest.raises(OverloadedError):
        batcher.submit("b", 3, soon)
    assert waiting[0].cancel()
    late = batcher.submit("b", 3, soon)
    gate.set()
    assert [running.result(5), waiting[1].result(5), late.result(5)] == [0, 2, 3]
    batcher.close()


def test_what_waits_is_answered_before_the_end(here):
    service = here.service(linger=0.3, batch=64)
    history = histories(here.tastes, 1)[0]
    with ThreadPoolExecutor(4) as threads:
        asked = [
            threads.submit(service.answering.recommend, "tastes", Query(history)) for _ in range(4)
        ]
        while service.answering.waiting < 4:
            time.sleep(0.005)
        service.close()
        assert all(one.result().places for one in asked)
    with pytest.raises(ClosedError):
        service.answering.recommend("tastes", Query(history))
    assert not service.answering.ready


# -- items ------------------------------------------------------------------------------------


def test_a_new_item_is_recommended_at_once(service, here):
    history = histories(here.tastes, 1)[0]
    best = service.answering.recommend("tastes", Query(history, k=1, new_only=True)).places[0]
    twin = NewItem("twin", best.title.upper(), "Fresh|Food")
    assert service.changing.add_items("tastes", [twin]) == 1
    found = service.answering.recommend("tastes", Query(history, k=2, new_only=True)).places
    assert {p.item_id for p in found} == {"twin", best.item_id}
    assert found[0].score == pytest.approx(found[1].score, abs=1e-4)  # the same words
    assert all(place.new for place in found)
    assert ids(service.answering.recommend("tastes", Query(history, categories=["fresh"]))) == [
        "twin"
    ]
    assert "twin" in ids(
        service.answering.recommend("tastes", Query(history, k=500, categories=["food"]))
    )
    # It is an item like any other: in a history, as a candidate, by its title.
    assert service.answering.recommend("tastes", Query(["twin"])).places
    assert ids(service.answering.recommend("tastes", Query(history, candidates=["twin"]))) == [
        "twin"
    ]
    assert service.changing.add_items("tastes", [twin]) == 0  # again: nothing happens
    assert service.answering.domain("tastes").added.height == 1


def test_a_new_item_has_the_level_of_new_ones(service):
    state = service.answering.domain("tastes")
    levelling = replace(state.behind.levelling, levels=Levels(spread=1.0, shift=0.75))
    state = replace(state, behind=replace(state.behind, levelling=levelling))
    items = pl.DataFrame([["n1", "red moon", None]], schema=ADDED_SCHEMA, orient="row")
    more = state.with_items(items, service.models)
    assert more.prior.tolist() == [*state.prior.tolist(), 0.75]


@pytest.mark.parametrize(
    "title",
    ["red<script>alert(1)</script> apple", "red apple\nINFO all is well", "<s> red", "\u202ered"],
)
def test_titles_are_one_line_of_text(service, here, title):
    service.changing.add_items("tastes", [NewItem("odd", title)])
    stored = service.answering.domain("tastes").titles[-1]
    assert "\n" not in stored and "<" not in stored and "\u202e" not in stored
    assert "odd" in ids(service.answering.recommend("tastes", Query(["i1"], k=500)))


def test_items_that_do_not_fit_are_refused_whole(service, here):
    known, title = here.tastes.item_ids[0], here.tastes.titles[0]
    good = NewItem("good", "red moon")
    cases = [
        ([good, NewItem("bad", "<br>\u200b")], DataError, "nothing readable"),
        ([good, good], DataError, "given twice"),
        ([good, NewItem(known, "quite another")], ConflictError, "another title"),
    ]
    for items, kind, what in cases:
        with pytest.raises(kind, match=what) as error:
            service.changing.add_items("tastes", items)
        one_sentence(error.value)
    assert "good" not in service.answering.domain("tastes").index
    assert service.changing.add_items("tastes", [NewItem(known, title)]) == 0
    with pytest.raises(UnknownDomainError):
        service.changing.add_items("elsewhere", [good])


def test_added_items_are_bounded(here, tmp_path):
    service = here.service(tmp_path / "state", added_items=3)
    items = [NewItem(f"n{n}", f"red moon {n}") for n in range(4)]
    assert service.changing.add_items("tastes", items[:3]) == 3
    with pytest.raises(ConflictError, match="3 added items at most"):
        service.changing.add_items("tastes", items[3:])
    service.close()


def test_without_a_state_folder_nothing_is_promised(here):
    service = here.service()
    for change in (
        lambda: service.changing.add_items("tastes", [NewItem("n", "red moon")]),
        lambda: service.changing.remove("tastes"),
        lambda: service.changing.revert("tastes"),
        lambda: service.changing.start_mix("tastes", MixRequest((here.adapters["one"],) * 2)),
        lambda: Plugging(service.changing).start("b", here.small.path, here.adapters["one"]),
    ):
        with pytest.raises(ConflictError, match="--state") as error:
            change()
        one_sentence(error.value)
    service.close()


def test_a_removal_that_cannot_be_written_removes_nothing(service, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, "replace", refuse)
        with pytest.raises(StateError, match="Read-only") as error:
            service.changing.remove("tastes")
    one_sentence(error.value)
    assert service.answering.recommend("tastes", Query(["i1"])).places


def test_histories_of_another_catalogue_are_forgotten(service, here):
    service.answering.recommend("tastes", Query(["i1"]))
    assert service.answering.recent("tastes") == [("i1",)]
    service.changing.plug("tastes", here.tastes.path, here.adapters["two"])
    assert service.answering.recent("tastes") == [("i1",)]
    service.changing.plug("tastes", here.small.path, here.adapters["one"])
    assert service.answering.recent("tastes") == []


def test_an_upload_that_cannot_be_written_leaves_no_trace(service, here, monkeypatch):
    before = service.answering.recommend("tastes", Query(["i1"], k=500))

    def full(*_):
        raise RunError("Cannot write: the disk is full; free space.")

    with monkeypatch.context() as patch:
        patch.setattr(service.changing._store, "write_items", full)
        with pytest.raises(RunError, match="full"):
            service.changing.add_items("tastes", [NewItem("lost", "red moon")])
    assert service.answering.recommend("tastes", Query(["i1"], k=500)) == before
    service.changing.add_items("tastes", [NewItem("kept", "green star")])
    after = service.answering.domain("tastes")
    assert "lost" not in after.index and after.titles[-1] == "green star"
    # The vector in the last row is the kept item's.
    own = after.ranker.item_vectors(
        service.models.of(after.update_sha256, after.lora), [after.tokens[-1]], torch.device("cpu")
    )
    (expected,) = after.behind.items(own.numpy(), ["green star"])
    np.testing.assert_allclose(after.vectors[-1], expected, atol=1e-5)


def test_states_before_an_upload_stay_as_they_were(service):
    before = service.answering.domain("tastes")
    vectors, size = before.vectors.copy(), len(before.ids)
    for n in range(40):
        service.changing.add_items("tastes", [NewItem(f"n{n}", f"red moon {n % 10}")])
    assert len(before.ids) == len(before.prior) == size and len(before.vectors) == size
    np.testing.assert_array_equal(before.vectors, vectors)
    now = service.answering.domain("tastes")
    assert len(now.vectors) == len(now.ids) == len(now.prior) == len(now.new) == size + 40
    np.testing.assert_array_equal(now.vectors[:size], vectors)


# -- domains come and go, under load ----------------------------------------------------------


def test_changes_under_load_harm_no_request(service, here):
    """Uploads, plug-ins, replacements and removals while users ask: every answer is whole."""
    stop = threading.Event()
    asked = histories(here.tastes, 20)
    whole = set(here.tastes.item_ids)
    errors, answers = [], []

    def user(number):
        while not stop.is_set():
            history = asked[number % len(asked)]
            number += 7
            try:
                answer = service.answering.recommend("tastes", Query(history, k=1000))
            except Exception as error:
                errors.append(error)
                return
            found = {place.item_id for place in answer.places}
            if not whole - set(history) <= found or answer.adapter not in ("one", "two"):
                errors.append(answer)
            answers.append(answer.adapter)

    threads = [threading.Thread(target=user, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for n in range(6):
        items = [NewItem(f"n{n}-{i}", f"red moon {i % 10}") for i in range(50)]
        assert service.changing.add_items("tastes", items) == 50
        newest = service.answering.recommend("tastes", Query(["i1"], candidates=[f"n{n}-49"]))
        assert ids(newest) == [f"n{n}-49"]
        service.changing.plug("small", here.small.path, here.adapters["one"])
        assert service.answering.recommend("small", Query([here.small.item_ids[0]])).places
        service.changing.plug("tastes", here.tastes.path, here.adapters[("two", "one")[n % 2]])
        service.changing.remove("small")
    stop.set()
    for thread in threads:
        thread.join(10)
    assert not errors, errors[0]
    assert len(answers) > 20 and set(answers) == {"one", "two"}
    assert service.answering.domain("tastes").added.height == 300


def test_a_request_under_way_finishes_with_the_domain_it_began_with(here, tmp_path, monkeypatch):
    service = here.service(tmp_path / "state", linger=0.0)
    history = histories(here.tastes, 1)[0]
    before = service.answering.recommend("tastes", Query(history))
    held, started = threading.Event(), threading.Event()
    real = answering.rank

    def slow(*arguments):
        started.set()
        held.wait(10)
        return real(*arguments)

    monkeypatch.setattr(answering, "rank", slow)
    with ThreadPoolExecutor(2) as threads:
        under_way = threads.submit(service.answering.recommend, "tastes", Query(history))
        started.wait(5)
        service.changing.plug("tastes", here.tastes.path, here.adapters["two"])
        removed = threads.submit(service.answering.recommend, "tastes", Query(history))
        while service.answering.waiting < 1:
            time.sleep(0.005)
        service.changing.remove("tastes")
        held.set()
        assert under_way.result() == before
        assert removed.result().adapter == "two"
    with pytest.raises(UnknownDomainError):
        service.answering.recommend("tastes", Query(history))
    service.close()


def test_domains_that_do_not_fit_are_refused_and_the_old_one_stays(service, here, tmp_path):
    other = random_adapter(here.backbone, here.tastes, "choosy")
    card = other.card.model_copy(
        update={"recipe": pico_recipe("pico").model_copy(update={"ranker": "choice"})}
    )
    fingerprint = here.backbone.fingerprint.model_copy(update={"sha256": "0" * 64})
    foreign = other.card.model_copy(update={"backbone": fingerprint})
    for name, changed in (("choosy", card), ("foreign", foreign)):
        path = save(Adapter(name, other.lora, changed), tmp_path)
        with pytest.raises(AdapterError) as error:
            service.changing.plug("tastes", here.tastes.path, path)
        one_sentence(error.value)
    with pytest.raises(DataError):
        service.changing.plug("tastes", tmp_path, here.adapters["one"])
    assert service.answering.domain("tastes").adapter.name == "one"


def test_domains_are_listed_while_one_is_removed(service, here, monkeypatch):
    service.changing.plug("second", here.small.path, here.adapters["two"])
    room = service.answering

    class Known(dict):
        def copy(self):
            found = dict(self)
            room.withdraw("second")
            return found

    monkeypatch.setattr(room, "_domains", Known(room._domains))
    assert [state.name for state in room.domains()] == ["second", "tastes"]
    assert [state.name for state in room.domains()] == ["tastes"]
    assert room.recent("second") == []


def test_held_weights_are_counted_while_they_change(here, monkeypatch):
    monkeypatch.setattr(weights, "with_update", lambda model, lora: model)
    monkeypatch.setattr(weights, "round_products", lambda *_: None)
    monkeypatch.setattr(weights, "_copied_bytes", lambda *_: 1)
    models, end = Models(here.backbone, budget=200), threading.Event()

    def change():
        for number in itertools.count():
            models.of(str(number), {})
            if end.is_set():
                return

    thread = threading.Thread(target=change)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(1000):
            assert models.bytes <= 200
    finally:
        end.set()
        thread.join()
        sys.setswitchinterval(switch)


def test_domains_are_bounded(here, tmp_path):
    service = here.service(tmp_path / "state", domains=1)
    with pytest.raises(ConflictError, match="the most allowed"):
        service.changing.plug("small", here.small.path, here.adapters["one"])
    service.changing.plug(
        "tastes", here.tastes.path, here.adapters["two"]
    )  # a replacement is no more
    service.close()


# -- restarts ---------------------------------------------------------------------------------


def test_a_restart_finds_everything_again(here, tmp_path):
    state = tmp_path / "state"
    service = here.service(state)
    service.changing.add_items("tastes", [NewItem("n1", "red moon", "Sky")])
    service.changing.plug("small", here.small.path, here.adapters["two"])
    service.changing.plug("gone", here.small.path, here.adapters["two"])
    service.changing.remove("gone")
    before = service.answering.recommend("tastes", Query(["n1"], k=500))
    service.close()
    again = here.service(state)
    again.changing.restore(lambda name, error: pytest.fail(f"{name}: {error}"))
    assert [d.name for d in again.answering.domains()] == ["small", "tastes"]
    assert again.answering.domain("small").adapter.name == "two"
    assert again.answering.recommend("tastes", Query(["n1"], k=500)) == before
    again.close()


def test_many_mixes_outlive_a_restart(here, tmp_path):
    """The adapter that was plugged in stays: a start that gives it takes up the mixes."""
    state = tmp_path / "state"
    here.service(state).close()
    store = Store(state)
    for _ in range(ADAPTERS_KEPT + 1):
        folder = shutil.copytree(here.adapters["two"], store.next_mix("tastes"))
        former = store.record("tastes")
        store.write_record("tastes", Record(former.data, (*former.adapters, folder)))
        store.mix_ended(folder)
    kept = [f"mix-{n:04d}" for n in range(3, ADAPTERS_KEPT + 2)]
    assert [path.name for path in store.record("tastes").adapters] == ["one", *kept]
    store.close()
    again = here.service(state)
    assert again.answering.domain("tastes").adapter.name == kept[-1]
    mixes = state / "domains" / "tastes" / "mixes"
    assert sorted(path.name for path in mixes.iterdir()) == kept
    found = [again.changing.revert("tastes").adapter.name for _ in kept]
    assert found == [*kept[-2::-1], "one"]
    again.close()


def test_mixes_stay_where_their_folder_is(here, tmp_path):
    """However the state folder is spelled, and when it was moved."""
    state = tmp_path / "state"
    with_a_mix(here, state, here.small.path, here.adapters["one"])
    (tmp_path / "link").symlink_to(state)
    moved = tmp_path / "elsewhere" / "state"
    for place in (tmp_path / "sub" / ".." / "state", tmp_path / "link", moved):
        if place == moved:
            moved.parent.mkdir()
            state.rename(moved)
        (tmp_path / "sub").mkdir(exist_ok=True)
        service = Service(here.backbone, state=place)
        service.changing.restore(lambda name, error: pytest.fail(str(error)))
        assert service.answering.domain("shop").adapter.name == "mix-0001"
        service.changing.plug("shop", here.small.path / ".." / "small", here.adapters["one"])
        assert service.answering.domain("shop").adapter.name == "mix-0001"
        service.close()
    service = Service(here.backbone, state=moved)
    service.changing.restore(lambda name, error: pytest.fail(str(error)))
    assert service.changing.revert("shop").adapter.name == "one"
    service.close()


def test_mixes_of_another_adapter_are_dropped_with_a_word(here, tmp_path, caplog):
    with_a_mix(here, tmp_path / "state", here.small.path, here.adapters["one"])
    service = Service(here.backbone, state=tmp_path / "state")
    service.changing.plug("shop", here.small.path, here.adapters["three"])
    assert service.answering.domain("shop").adapter.name == "three"
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "its mixes (1) are dropped" in one_sentence(said)
    service.close()


def test_what_is_built_when_the_service_closes_leaves_no_trace(here, tmp_path, monkeypatch):
    service = here.service(tmp_path / "state")
    build = changing.build

    def closing(*arguments):
        service.close()
        return build(*arguments)

    monkeypatch.setattr(changing, "build", closing)
    with pytest.raises(ClosedError):
        service.changing.plug("late", here.small.path, here.adapters["two"])
    assert not (tmp_path / "state" / "domains" / "late").exists()


def with_a_mix(here, state, data, adapter):
    """The state folder of a service that added an item to `shop` and mixed it once."""
    service = Service(here.backbone, state=state)
    service.changing.plug("shop", data, adapter)
    service.changing.add_items("shop", [NewItem("n1", "red moon")])
    service.close()
    store = Store(state)
    former = store.record("shop")
    mix = shutil.copytree(here.adapters["two"], store.next_mix("shop"))
    store.write_record("shop", replace(former, adapters=(*former.adapters, mix)))
    store.close()


@pytest.mark.parametrize("again", ["restore", "plug"])
@pytest.mark.parametrize("other", ["adapter", "prepared folder"])
def test_mixes_end_where_others_took_the_place_of_what_was_plugged_in(
    here, tmp_path, caplog, other, again
):
    """A training or a preparation in place reaches the users, and added items stay."""
    data = shutil.copytree(here.small.path, tmp_path / "data")
    adapter = shutil.copytree(here.adapters["one"], tmp_path / "adapter")
    with_a_mix(here, tmp_path / "state", data, adapter)
    service = Service(here.backbone, state=tmp_path / "state")
    service.changing.restore(lambda name, error: pytest.fail(str(error)))
    assert service.answering.domain("shop").adapter.name == "mix-0001"
    if again == "restore":
        service.close()
    source, place = (
        (here.adapters["three"], adapter) if other == "adapter" else (here.tastes.path, data)
    )
    shutil.rmtree(place)
    shutil.copytree(source, place)
    if again == "restore":
        service = Service(here.backbone, state=tmp_path / "state")
        service.changing.restore(lambda name, error: pytest.fail(str(error)))
    else:
        service.changing.plug("shop", data, adapter)
    state = service.answering.domain("shop")
    assert state.adapter_folder == adapter and "n1" in state.index
    assert state.update_sha256 == Adapter.load(adapter).sha256
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"{other} {place} changed" in one_sentence(said) and "its mixes (1) are dropped" in said
    service.close()
    caplog.clear()
    service = Service(here.backbone, state=tmp_path / "state")  # and it is said once
    service.changing.restore(lambda name, error: pytest.fail(str(error)))
    assert service.answering.domain("shop").adapter.name == "adapter" and not caplog.records
    service.close()


def test_mixes_of_a_state_folder_without_hashes_are_kept_once(here, tmp_path):
    """As an earlier version left it; from then on a change is seen."""
    data = here.small.path
    adapter = shutil.copytree(here.adapters["one"], tmp_path / "adapter")
    with_a_mix(here, tmp_path / "state", data, adapter)
    file = tmp_path / "state" / "domains" / "shop" / "domain.json"
    written = read_json(file)
    assert written.pop("adapter_sha256") == Adapter.load(adapter).sha256
    assert written.pop("data_sha256") == here.small.sha256
    write_json(file, written)
    for kept in ("mix-0001", "adapter"):
        service = Service(here.backbone, state=tmp_path / "state")
        service.changing.restore(lambda name, error: pytest.fail(str(error)))
        assert service.answering.domain("shop").adapter.name == kept
        service.close()
        shutil.rmtree(adapter)
        shutil.copytree(here.adapters["three"], adapter)


def test_mixes_outlive_the_adapter_that_was_plugged_in(here, tmp_path):
    adapter = shutil.copytree(here.adapters["one"], tmp_path / "adapter")
    with_a_mix(here, tmp_path / "state", here.small.path, adapter)
    shutil.rmtree(adapter)
    for _ in range(2):
        service = Service(here.backbone, state=tmp_path / "state")
        service.changing.restore(lambda name, error: pytest.fail(str(error)))
        assert service.answering.domain("shop").adapter.name == "mix-0001"
        service.close()


def test_a_domain_that_is_gone_does_not_keep_the_others(here, tmp_path):
    state = tmp_path / "state"
    service = here.service(state)
    service.changing.plug("small", here.small.path, here.adapters["two"])
    service.close()
    file = state / "domains" / "small" / "domain.json"
    write_json(file, read_json(file) | {"data": str(tmp_path / "moved")})
    again = here.service(state)
    failed = {}
    again.changing.restore(failed.__setitem__)
    assert list(failed) == ["small"] and [d.name for d in again.answering.domains()] == ["tastes"]
    one_sentence(failed["small"])
    again.close()


def test_items_that_the_catalogue_has_by_now_give_way(here, tmp_path):
    service = here.service(tmp_path / "state")
    service.changing.plug("shop", here.small.path, here.adapters["one"])
    item = next(i for i in here.tastes.item_ids if i not in here.small.index)
    service.changing.add_items("shop", [NewItem(item, "blue apple"), NewItem("n2", "red moon")])
    service.changing.plug("shop", here.tastes.path, here.adapters["one"])
    found = service.answering.domain("shop")
    assert found.ids.count(item) == 1 and found.added["item_id"].to_list() == ["n2"]
    assert found.titles[found.index[item]] == here.tastes.titles[here.tastes.index[item]]
    service.close()


def test_two_services_do_not_share_a_state_folder(here, tmp_path):
    first = Store(tmp_path / "state")
    with pytest.raises(RunError, match="Another service") as error:
        Service(here.backbone, state=tmp_path / "state")
    one_sentence(error.value)
    first.close()
    Store(tmp_path / "state").close()


def test_damaged_state_is_named(here, tmp_path):
    store = Store(tmp_path / "state")
    folder = tmp_path / "state" / "domains" / "tastes"
    folder.mkdir()
    for file, ask in (("items.parquet", store.items), ("domain.json", store.record)):
        (folder / file).write_text("{}")
        with pytest.raises(RunError, match=file) as error:
            ask("tastes")
        one_sentence(error.value)
    store.close()


# -- mixing -----------------------------------------------------------------------------------


def test_a_mix_takes_its_place_and_can_be_undone(here, tmp_path):
    state = tmp_path / "state"
    service = here.service(state)
    for history in histories(here.tastes, 30):
        service.answering.recommend("tastes", Query(history))
    bare = {name: t.clone() for name, t in here.backbone.model.state_dict().items()}
    first = service.answering.recommend("tastes", Query(["i1"]))
    service.changing.add_items("tastes", [NewItem("n1", "red moon")])
    request = MixRequest((here.adapters["two"], here.adapters["three"]), coefficients=(0.5, 0.5))
    assert service.changing.start_mix("tastes", request).status == "running"
    status = settled(service)
    assert (status.status, status.adapter, status.message) == ("done", "mix-0001", "")
    mixed = service.answering.recommend("tastes", Query(["i1"]))
    assert mixed.adapter == "mix-0001" and mixed.places != first.places
    assert service.answering.recommend("tastes", Query(["n1"])).places  # added items came along
    assert service.answering.domain("tastes").cocktail["adapters"][0]["name"] == "two"
    after = here.backbone.model.state_dict()
    assert all(torch.equal(t, after[name]) for name, t in bare.items())
    service.close()
    again = here.service(state)  # started with the old adapter, it takes up the mix
    assert again.answering.recommend("tastes", Query(["i1"])) == mixed
    assert again.changing.revert("tastes").adapter.name == "one"
    assert again.answering.recommend("tastes", Query(["i1"], candidates=ids(first))).places[
        0
    ].item_id == (first.places[0].item_id)
    with pytest.raises(ConflictError, match="nothing to go back to"):
        again.changing.revert("tastes")
    again.close()
    third = here.service(state)
    assert third.answering.domain("tastes").adapter.name == "one"
    third.close()


def test_a_mix_searches_with_the_users_who_asked(service, here, monkeypatch):
    seen = {}
    real = changing.remix

    def watching(state, request, recent, *rest):
        seen["recent"] = recent
        return real(state, request, recent, *rest)

    monkeypatch.setattr(changing, "remix", watching)
    asked = histories(here.tastes, 30)
    for history in asked:
        service.answering.recommend("tastes", Query(history))
    service.changing.start_mix("tastes", MixRequest((here.adapters["one"], here.adapters["two"])))
    assert settled(service).status == "done"
    assert seen["recent"] == [tuple(history) for history in asked]
    sheet = service.answering.domain("tastes").cocktail
    assert sheet["objective"] == "entropy" and len(sheet["curve"]) >= 5
    users = sheet["adaptation"]["user_ids"]
    assert users and all(user.startswith("recent") for user in users)


def test_a_mix_looks_at_the_latest_users_and_at_items_new_to_them(service, here):
    long = here.tastes.item_ids[:90]
    asked = [*histories(here.tastes, 30), long, ["gone"]]
    domain = recent_domain(service.answering.domain("tastes"), asked, users=12, seed=0)
    rows = domain.rows("test_warm")
    assert rows["history"].to_list() == asked[-2:6:-1]
    for history, candidates in rows.select("history", "candidates").iter_rows():
        assert len(set(candidates)) == 30 and not set(candidates) & set(history)


def test_who_asked_a_mix_by_hand_or_a_domain_that_is_gone_is_not_remembered(
    service, here, monkeypatch
):
    state = service.answering.domain("tastes")
    monkeypatch.setattr(service.answering.positions, "at", lambda state, _: state)
    service.answering.recommend("tastes", Query(["i1"]))
    service.answering.recommend("tastes", Query(["i2"], coefficients=(0.5, 0.5)))
    assert service.answering.recent("tastes") == [("i1",)]
    service.answering.withdraw("tastes")
    service.answering.publish(state)
    assert service.answering.recent("tastes") == []


def test_too_few_users_or_a_wrong_adapter_fail_and_change_nothing(service, here, tmp_path):
    request = MixRequest((here.adapters["one"], here.adapters["two"]))
    service.changing.start_mix("tastes", request)
    status = settled(service)
    assert status.status == "failed" and "needs 20" in status.message
    for history in histories(here.tastes, 30):
        service.answering.recommend("tastes", Query(history))
    service.changing.start_mix("tastes", MixRequest((here.adapters["one"], tmp_path)))
    status = settled(service)
    assert status.status == "failed" and "adapter.json" in status.message
    assert service.answering.domain("tastes").adapter.name == "one"
    assert service.changing.start_mix("tastes", request).status == "running"  # the next one may
    assert settled(service).status == "done"


def test_items_and_replacements_during_a_mix(service, here, monkeypatch):
    real, gate, reached = changing.remix, threading.Event(), threading.Event()

    def slow(*arguments):
        cocktail = real(*arguments)
        reached.set()
        gate.wait(10)
        return cocktail

    monkeypatch.setattr(changing, "remix", slow)
    for history in histories(here.tastes, 30):
        service.answering.recommend("tastes", Query(history))
    request = MixRequest((here.adapters["one"], here.adapters["two"]), coefficients=(0.5, 0.5))
    service.changing.start_mix("tastes", request)
    with pytest.raises(ConflictError, match="A mix is running"):
        service.changing.start_mix("tastes", request)
    reached.wait(10)
    service.changing.add_items("tastes", [NewItem("during", "red moon")])
    gate.set()
    assert settled(service).status == "done"
    assert service.answering.recommend("tastes", Query(["during"])).adapter == "mix-0001"
    gate.clear()
    reached.clear()
    service.changing.start_mix("tastes", request)
    reached.wait(10)
    service.changing.plug("tastes", here.tastes.path, here.adapters["three"])
    gate.set()
    assert settled(service).status == "dropped"
    assert service.answering.domain("tastes").adapter.name == "three"


def started_amid(monkeypatch, happens):
    """Let something happen just before a mix's thread starts."""
    real = threading.Thread.start

    def start(thread):
        if thread.name == "mix":
            happens()
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)


def test_a_domain_removed_as_its_mix_starts_does_not_stop_the_next_mix(service, here, monkeypatch):
    request = MixRequest((here.adapters["one"], here.adapters["two"]))
    with monkeypatch.context() as patch:
        started_amid(patch, lambda: service.changing.remove("tastes"))
        service.changing.start_mix("tastes", request)
    service.changing.plug("tastes", here.tastes.path, here.adapters["one"])
    for _ in range(200):
        try:
            assert service.changing.start_mix("tastes", request).status == "running"
            break
        except ConflictError:  # the first one has not noticed yet
            time.sleep(0.05)
    else:
        raise AssertionError("no mix starts any more")
    assert settled(service).status == "failed"  # nobody asked


def test_a_mix_that_cannot_start_does_not_stop_the_next_one(service, here, monkeypatch):
    def none_left():
        raise RuntimeError("can't start new thread")

    request = MixRequest((here.adapters["one"], here.adapters["two"]))
    with monkeypatch.context() as patch:
        started_amid(patch, none_left)
        with pytest.raises(ConflictError, match="can't start new thread") as error:
            service.changing.start_mix("tastes", request)
    one_sentence(error.value)
    assert service.changing.mix_status("tastes").status == "failed"
    assert service.changing.start_mix("tastes", request).status == "running"
    assert "needs 20" in settled(service).message


# -- paths ------------------------------------------------------------------------------------


def test_folders_are_confined(here, tmp_path):
    root = tmp_path / "root"
    (root / "inside").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "holds").mkdir()
    (root / "holds" / "items.parquet").symlink_to(tmp_path / "outside")
    allowed = Allowed(root, {"base_spirit": here.adapters["one"]})
    assert allowed.folder("inside") == root / "inside"
    assert allowed.adapter("base_spirit") == here.adapters["one"]
    for path in ("../outside", "inside/../../outside", str(tmp_path / "outside"), "link", "holds"):
        with pytest.raises(ForbiddenError):
            allowed.folder(path)
    for path in ("nowhere", "a\0b", "x" * 5000):
        with pytest.raises(DataError):
            allowed.folder(path)


def test_a_link_that_leads_on_later_is_followed(here, tmp_path):
    """Its target is not what a service remembers: a new folder is put in place by its link."""
    root = tmp_path / "root"
    for folder in ("may", "june"):
        (root / folder).mkdir(parents=True)
    (root / "current").symlink_to("may")
    found = Allowed(root).folder("current")
    assert found == root / "current" == Allowed(root).folder("./june/../current")
    (root / "current").unlink()
    (root / "current").symlink_to("june")
    assert found.resolve() == root / "june"


@pytest.mark.parametrize(("group", "setting"), [("prompt", "template"), ("dense", "readout")])
def test_files_named_in_a_card_are_not_read(here, tmp_path, group, setting):
    """A card could name any file of the machine as its prompt template or its readout."""
    path = save(random_adapter(here.backbone, here.tastes, "sly"), tmp_path)
    assert Allowed(tmp_path).adapter("sly") == path
    card = read_json(path / "adapter.json")
    card["recipe"][group][setting] = "/etc/passwd"
    write_json(path / "adapter.json", card)
    with pytest.raises(ForbiddenError, match=setting) as error:
        Allowed(tmp_path).adapter("sly")
    one_sentence(error.value)
