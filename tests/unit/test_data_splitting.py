"""The splits against a plain reading of their rules, user by user."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reccocktail.data.filtering import Log, densify, first_of_each_pair, k_core
from reccocktail.data.splitting import (
    TEST_COLD,
    VALID_COLD,
    WARM,
    choose_cold,
    global_time,
    leave_one_out,
)
from reccocktail.errors import DataError

EVENTS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 12)), min_size=1, max_size=80
)


def log_of(events):
    user, item, time = (np.array(column, dtype=np.int64) for column in zip(*events, strict=True))
    log = Log(user, item, time)
    log = log.take(log.in_order())
    return log.take(first_of_each_pair(log))


def rows_of(split, rows):
    return {
        int(u): ([int(i) for i in split.warm_item[split.offset[u] : split.offset[u] + n]], int(t))
        for u, n, t in zip(rows.user, rows.length, rows.target, strict=True)
    }


def sequences(log):
    result = {}
    for user, item, time in zip(log.user, log.item, log.time, strict=True):
        result.setdefault(int(user), []).append((int(item), int(time)))
    return result


def drop_unseen(expected):
    seen = {i for h, _ in expected["train"].values() for i in h}
    for name in ("valid_warm", "valid_cold"):
        seen |= {i for h, _ in expected[name].values() for i in h}
    seen |= {t for _, t in expected["valid_warm"].values()}
    expected["test_warm"] = {u: r for u, r in expected["test_warm"].items() if r[1] in seen}


@given(
    EVENTS, st.lists(st.sampled_from([WARM, WARM, VALID_COLD, TEST_COLD]), min_size=10, max_size=10)
)
def test_leave_one_out_is_what_its_rule_says(events, kinds):
    log, kind = log_of(events), np.array(kinds)
    split = leave_one_out(log, 6, kind)
    expected = {name: {} for name in ("train", *split.tables)}
    for user, sequence in sequences(log).items():
        items = [item for item, _ in sequence]
        warm = [i for i in items if kind[i] == WARM]
        if len(warm) >= 4:
            expected["train"][user] = (warm[:-2], 0)
        if len(warm) >= 3:
            expected["valid_warm"][user] = (warm[:-2], warm[-2])
        if len(warm) >= 2:
            expected["test_warm"][user] = (warm[:-1], warm[-1])
        for name, cold in (("valid_cold", VALID_COLD), ("test_cold", TEST_COLD)):
            places = [p for p, i in enumerate(items) if kind[i] == cold]
            if places:
                history = [i for i in items[: places[-1]] if kind[i] == WARM]
                if name == "valid_cold":
                    history = [i for i in history if i != warm[-1]]
                if history:
                    expected[name][user] = (history, items[places[-1]])
    drop_unseen(expected)
    assert rows_of(split, split.train) == expected["train"]
    assert {name: rows_of(split, rows) for name, rows in split.tables.items()} == {
        name: expected[name] for name in split.tables
    }
    for name, rows in split.tables.items():
        assert len(set(rows.user.tolist())) == len(rows), name


@given(EVENTS, st.sampled_from([(0.5, 0.75), (0.8, 0.9), (0.3, 0.6)]))
def test_global_time_is_what_its_rule_says(events, cuts):
    log = log_of(events)
    ordered = sorted(log.time.tolist())
    t1, t2 = (ordered[int(len(ordered) * share)] for share in cuts)
    if not ordered[0] < t1 < t2:
        with pytest.raises(DataError, match="leave-one-out"):
            global_time(log, 6, 10, *cuts)
        return
    split = global_time(log, 6, 10, *cuts)
    first = {}
    for item, time in zip(log.item, log.time, strict=True):
        first[int(item)] = min(int(time), first.get(int(item), 10**9))
    kind = {i: WARM if t < t1 else VALID_COLD if t < t2 else TEST_COLD for i, t in first.items()}
    assert all(split.kind[i] == k for i, k in kind.items())
    windows = {"valid": lambda t: t1 <= t < t2, "test": lambda t: t >= t2}
    wanted = {
        "valid_warm": WARM,
        "valid_cold": VALID_COLD,
        "test_warm": WARM,
        "test_cold": TEST_COLD,
    }
    expected = {name: {} for name in ("train", *split.tables)}
    for user, sequence in sequences(log).items():
        early = [i for i, t in sequence if kind[i] == WARM and t < t1]
        if len(early) >= 2:
            expected["train"][user] = (early, 0)
        for name, cold in wanted.items():
            inside = windows[name.partition("_")[0]]
            places = [p for p, (i, t) in enumerate(sequence) if kind[i] == cold and inside(t)]
            if places:
                history = [i for i, _ in sequence[: places[-1]] if kind[i] == WARM]
                if history:
                    expected[name][user] = (history, sequence[places[-1]][0])
    drop_unseen(expected)
    assert rows_of(split, split.train) == expected["train"]
    for name, rows in split.tables.items():
        assert rows_of(split, rows) == expected[name], name


def test_a_validation_target_is_known_to_the_test():
    items = ([1, 2, 3, 9, 4], [1, 2, 3, 4, 9])
    events = [(user, item, time) for user in (0, 1) for time, item in enumerate(items[user])]
    split = leave_one_out(log_of(events), 2, np.full(10, WARM))
    assert rows_of(split, split.tables["test_warm"]) == {
        0: ([1, 2, 3, 9], 4), 1: ([1, 2, 3, 4], 9)
    }  # fmt: skip


@given(EVENTS)
def test_skipped_rows_and_kept_rows_add_up(events):
    log = log_of(events)
    kind = choose_cold(10, 0.4, np.random.default_rng(3))
    split = leave_one_out(log, 6, kind)
    cold_users = len(set(log.user[kind[log.item] == TEST_COLD].tolist()))
    assert len(split.tables["test_cold"]) + split.skipped["test_cold: empty history"] == cold_users
    assert len(split.train) + split.skipped["train: fewer than 2 items"] == 6


def test_cold_items_are_the_share_asked_for_and_seeded():
    kind = choose_cold(1001, 0.1, np.random.default_rng(0))
    assert [int(np.sum(kind == k)) for k in (WARM, VALID_COLD, TEST_COLD)] == [901, 50, 50]
    assert np.array_equal(kind, choose_cold(1001, 0.1, np.random.default_rng(0)))
    assert not np.array_equal(kind, choose_cold(1001, 0.1, np.random.default_rng(1)))
    assert not choose_cold(10, 0.0, np.random.default_rng(0)).any()
    with pytest.raises(DataError, match=r"1 item\(s\) cold and two are needed"):
        choose_cold(10, 0.1, np.random.default_rng(0))


def test_global_time_needs_times():
    log = Log(np.repeat([0, 1, 2], 3), np.arange(9), None)
    with pytest.raises(DataError, match="needs timestamps"):
        global_time(log, 3, 9, 0.8, 0.9)


@given(EVENTS, st.integers(1, 4))
def test_k_core_is_the_largest_set_that_keeps_its_promise(events, least):
    log = log_of(events)
    keep, rounds = k_core(log, least)
    pairs = set(zip(log.user.tolist(), log.item.tolist(), strict=True))
    while True:  # the plain definition
        users = [u for u, _ in pairs]
        items = [i for _, i in pairs]
        fewer = {(u, i) for u, i in pairs if users.count(u) >= least and items.count(i) >= least}
        if fewer == pairs:
            break
        pairs = fewer
    kept = log.take(keep)
    assert set(zip(kept.user.tolist(), kept.item.tolist(), strict=True)) == pairs
    assert (rounds[-1]["interactions"] if rounds else len(log)) == len(pairs)


@given(EVENTS)
def test_order_is_stable_and_the_first_of_a_repeated_pair_stays(events):
    user, item, time = (np.array(column, dtype=np.int64) for column in zip(*events, strict=True))
    log = Log(user, item, time)
    order = log.in_order()
    assert order.tolist() == sorted(
        range(len(events)), key=lambda n: (events[n][0], events[n][2], n)
    )
    assert Log(user, item, None).in_order().tolist() == sorted(
        range(len(events)), key=lambda n: events[n][0]
    )
    firsts = [n for n in range(len(events)) if events[n][:2] not in [e[:2] for e in events[:n]]]
    assert first_of_each_pair(log).tolist() == firsts


@given(st.lists(st.integers(0, 20), max_size=30))
@settings(max_examples=50)
def test_densify_keeps_order_and_can_be_undone(codes):
    codes = np.array(codes, dtype=np.int64)
    dense, old = densify(codes)
    assert np.array_equal(old[dense] if len(codes) else dense, codes)
    assert sorted(set(dense.tolist())) == list(range(len(old)))
    assert old.tolist() == sorted(set(codes.tolist()))
