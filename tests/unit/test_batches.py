import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from reccocktail.errors import RecipeError, RunError
from reccocktail.ranking.dense import DenseRanker
from reccocktail.recipe import DenseSettings, PromptSettings, Recipe, TrainingSettings
from reccocktail.training.batches import DomainWindows, TrainingBatches, domain_weights
from tests.domains import taste_domain
from tests.helpers import one_sentence
from tests.pico import pico_tokenizer

WIDTH = 3


@pytest.fixture(scope="module")
def ranker():
    return DenseRanker(pico_tokenizer(), PromptSettings(max_history=WIDTH), DenseSettings())


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("domains"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return taste_domain(
        tmp_path_factory.mktemp("domains"), name="small", tastes=2, users=30, cold_fraction=0.0
    )


def plain_windows(histories, ranker):
    """Windows of made-up histories over 50 one-token items, one user a history."""
    domain = DomainWindows("made", [[7]] * 50, torch.zeros(50), [], [], [])
    for user, items in enumerate(histories):
        domain.known.append(set(items))
        domain.windows.append(items)
        domain.owner.append(user)
    return domain


def test_every_target_is_in_one_window(domain, ranker):
    built = DomainWindows.build(domain, ranker)
    seen = Counter()
    for window, owner in zip(built.windows, built.owner, strict=True):
        assert 2 <= len(window) <= WIDTH + 1
        seen.update((owner, item) for item in window[1:])
    wanted = Counter(
        (user, domain.index[item])
        for user, history in enumerate(domain.train()["history"].to_list())
        for item in history[1:]
    )
    assert seen == wanted
    # The context of a target is the items right before it, as many as are read or as there are.
    for window, owner in zip(built.windows, built.owner, strict=True):
        items = [domain.index[item] for item in domain.train()["history"][owner].to_list()]
        start = items.index(window[0])
        assert items[start : start + len(window)] == window
        assert built.known[owner] == set(items)


def test_log_q_is_the_share_of_the_training_interactions(domain, ranker):
    built = DomainWindows.build(domain, ranker)
    counts = domain.train_counts()
    assert (counts == 0).any()
    shares = np.maximum(counts, 1) / np.maximum(counts, 1).sum()
    np.testing.assert_allclose(built.log_q.exp().numpy(), shares, rtol=1e-5)


def test_excluded_items_are_in_no_window(domain, ranker):
    gone = frozenset(domain.train()["history"][0].to_list()[1:3])
    built = DomainWindows.build(domain, ranker, gone)
    numbers = {domain.index[item] for item in gone}
    assert not any(numbers & set(window) for window in built.windows)
    assert not any(numbers & known for known in built.known)
    everything = frozenset(domain.item_ids)
    with pytest.raises(RunError, match="tastes"):
        DomainWindows.build(domain, ranker, everything)


def heavy_windows(ranker, heavy=60, others=80):
    """Windows of a user who chose much of half the items, and of others with two targets each."""
    mine = [[(n + place) % 25 for place in range(4)] for n in range(heavy)]
    domain = plain_windows(
        mine + [[25 + n % 20, 26 + n % 20, n % 25] for n in range(others)], ranker
    )
    domain.known = [set(range(25)), *domain.known[heavy:]]
    domain.owner = [0] * heavy + list(range(1, others + 1))
    return domain


@pytest.mark.parametrize("targets", [6, 12, 24])
def test_a_user_with_very_many_windows_has_no_batch_alone(ranker, targets, monkeypatch):
    """All items of such a batch are known to its user: without a negative it teaches nothing."""
    built = heavy_windows(ranker)
    built.batch(0, targets, seed=0)
    owners = [{built.owner[n] for n in batch} for batch in built.epochs]
    assert sorted(n for batch in built.epochs for n in batch) == list(range(len(built.windows)))
    assert all(len(users) > 1 for users in owners)
    for batch in built.epochs:
        assert not built.training_batch(ranker, batch)["known"].all(dim=1).any()
    # What had negatives is as it was, but for the batches that gave a window.
    monkeypatch.setattr(DomainWindows, "_mix_users", lambda *_: None)
    before = heavy_windows(ranker)
    before.batch(0, targets, seed=0)
    lone = sum(len({before.owner[n] for n in batch}) == 1 for batch in before.epochs)
    changed = [(a, b) for a, b in zip(before.epochs, built.epochs, strict=True) if a != b]
    assert lone > 1 and lone <= len(changed) <= 2 * lone
    assert all(abs(len(a) - len(b)) <= 1 for a, b in changed)  # a lone window gives none


def test_who_has_too_few_others_beside_them_keeps_what_there_is(ranker):
    for others in (0, 1, 2, 3):
        built = heavy_windows(ranker, others=others)
        built.batch(0, 12, seed=0)
        windows = sorted(n for batch in built.epochs for n in batch)
        assert windows == list(range(len(built.windows)))
        mixed = [b for b in built.epochs if len({built.owner[n] for n in b}) > 1]
        assert len(mixed) == others


@pytest.mark.parametrize("targets", [2, 24, 96])
def test_batches_of_several_users_stay_as_they_were(domain, ranker, targets, monkeypatch):
    mixed = DomainWindows.build(domain, ranker)
    mixed.batch(0, targets, seed=3)
    monkeypatch.setattr(DomainWindows, "_mix_users", lambda *_: None)
    plain = DomainWindows.build(domain, ranker)
    plain.batch(0, targets, seed=3)
    assert mixed.epochs == plain.epochs


def test_batches_with_negatives_of_their_own_stay_as_they_were(ranker):
    built, hard = heavy_windows(ranker), heavy_windows(ranker)
    hard.similar = SimpleNamespace()
    built.batch(0, 12, seed=0)
    hard.batch(0, 12, seed=0)
    assert hard.epochs != built.epochs
    assert any(len({hard.owner[n] for n in batch}) == 1 for batch in hard.epochs)


@pytest.mark.parametrize("targets", [2, 7, 16, 96, 10_000])
def test_an_epoch_holds_every_window_once(domain, ranker, targets):
    built = DomainWindows.build(domain, ranker)
    numbers = []
    batches = 0
    while len(numbers) < len(built.windows):
        numbers += built.batch(batches, targets, seed=3)
        batches += 1
    assert sorted(numbers) == list(range(len(built.windows)))
    # The next epoch holds them all again, in another order.
    built.batch(batches, targets, seed=3)
    again = [number for b in built.epochs[batches:] for number in b]
    assert sorted(again) == sorted(numbers)
    if batches > 1:  # within a batch the windows stand by length
        assert again != numbers


def test_a_lone_last_target_is_not_lost(ranker):
    """Five windows of one target in batches of two: the fifth must join a batch."""
    built = plain_windows([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]], ranker)
    built.batch(0, targets=2, seed=0)
    assert sorted(n for b in built.epochs for n in b) == [0, 1, 2, 3, 4]
    assert min(len(b) for b in built.epochs) >= 2


def test_prompts_are_never_more_than_asked(ranker):
    """Memory is what their number is for; the last step of an epoch has fewer."""
    built = plain_windows([[n, n + 20] for n in range(11)], ranker)
    built.packed = False
    built.batch(0, targets=8, seed=0)
    assert sorted(map(len, built.epochs)) == [3, 8]


def test_a_domain_of_one_target_still_gives_batches(ranker):
    built = plain_windows([[0, 1]], ranker)
    assert built.batch(0, targets=8, seed=0) == [0]
    assert built.batch(3, targets=8, seed=0) == [0]


def test_batches_are_as_large_as_asked(domain, ranker):
    built = DomainWindows.build(domain, ranker)
    built.batch(0, targets=24, seed=0)
    sizes = [sum(len(built.windows[n]) - 1 for n in batch) for batch in built.epochs]
    assert all(24 <= size < 24 + 2 * WIDTH + 1 for size in sorted(sizes)[1:])


def test_a_batch_does_not_depend_on_the_order_of_asking(domain, small, ranker):
    settings = TrainingSettings(targets_per_batch=16, seed=5)

    def fresh():
        windows = [DomainWindows.build(d, ranker) for d in (domain, small)]
        return TrainingBatches(windows, ranker, settings, 2000)

    forward, backward = fresh(), fresh()
    steps = [0, 1, 2, 40, 300, 1999]
    draws = {step: forward.draw(step) for step in steps}
    assert {step: backward.draw(step) for step in reversed(steps)} == draws
    for step in (300, 0, 40):
        one, other = forward[step], backward[step]
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert len(forward) == 2000


def test_draws_number_the_batches_of_each_domain(domain, small, ranker):
    windows = [DomainWindows.build(d, ranker) for d in (domain, small)]
    batches = TrainingBatches(windows, ranker, TrainingSettings(), 3000)
    for number in range(2):
        own = [b for d, b in (batches.draw(step) for step in range(3000)) if d == number]
        assert own == list(range(len(own)))


def test_domains_share_a_step_and_its_targets(domain, small, ranker):
    windows = [DomainWindows.build(d, ranker) for d in (domain, small)]
    alone = TrainingSettings(targets_per_batch=16, domain_temperature=0.0)
    settings = alone.model_copy(update={"domains_per_step": 4, "targets_per_batch": 64})
    together = TrainingBatches(windows, ranker, settings, 20)
    apart = TrainingBatches(windows, ranker, alone, 80)
    assert (together.passes, together.rounds, len(together)) == (4, 4, 80)
    domains = []
    for number in range(80):
        one, other = together[number], apart[number]
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
        domains.append(int(one["domain"]))
    steps = [set(domains[start : start + 4]) for start in range(0, 80, 4)]
    assert {0, 1} in steps


def test_a_step_of_one_domain_leaves_a_recipe_what_it_was():
    assert "domains_per_step" not in Recipe().relevant()["training"]
    changed = Recipe(training=TrainingSettings(domains_per_step=2))
    assert changed.relevant()["training"]["domains_per_step"] == 2
    assert (
        Recipe(ranker="choice", training=changed.training).sha256 == Recipe(ranker="choice").sha256
    )


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_domains_are_drawn_by_temperature(domain, small, ranker, temperature):
    windows = [DomainWindows.build(d, ranker) for d in (domain, small)]
    settings = TrainingSettings(domain_temperature=temperature)
    batches = TrainingBatches(windows, ranker, settings, 4000)
    sizes = [len(w.windows) for w in windows]
    by_hand = sizes[0] ** temperature / sum(size**temperature for size in sizes)
    assert batches.weights.tolist() == pytest.approx([by_hand, 1 - by_hand])
    share = np.mean([batches.draw(step)[0] == 0 for step in range(4000)])
    assert share == pytest.approx(by_hand, abs=0.03)  # nearly four standard errors


def test_a_domain_has_its_share_and_the_others_the_rest():
    domains = ["a", "b", "c"], [100, 400, 7]
    settings = TrainingSettings(domain_shares={"c": 0.4})
    assert domain_weights(*domains, settings).tolist() == pytest.approx([0.2, 0.4, 0.4])
    settings = TrainingSettings(domain_shares={"c": 0.5, "a": 0.3, "b": 0.2})
    assert domain_weights(*domains, settings).tolist() == pytest.approx([0.3, 0.2, 0.5])


def test_domains_of_one_name_are_drawn_each_by_its_size():
    settings = TrainingSettings(domain_shares={"c": 0.4})
    found = domain_weights(["a", "c", "a"], [100, 7, 400], settings)
    assert found.tolist() == pytest.approx([0.2, 0.4, 0.4])


def test_shares_are_part_of_a_recipe_and_their_absence_is_not():
    assert "domain_shares" not in Recipe().relevant()["training"]
    shared = Recipe(training=TrainingSettings(domain_shares={"c": 0.4}))
    assert shared.relevant()["training"]["domain_shares"] == {"c": 0.4}
    assert shared.sha256 != Recipe().sha256


@pytest.mark.parametrize(
    ("names", "shares", "says"),
    [
        (["a", "b"], {"d": 0.5}, "the name of none of the domains (a, b)"),
        (["a", "a"], {"a": 0.5}, "the name of 2 of the domains (a, a)"),
        (["a", "b"], {"a": 0.6, "b": 0.4 - 1e-3}, "leaves 0.001 to no domain"),
        (["b"], {"b": 0.5}, "leaves 0.5 to no domain"),
        (["a", "b", "c"], {"a": 0.5, "b": 0.5}, "leaves nothing to 'c'"),
    ],
)
def test_shares_that_do_not_fit_the_domains_are_refused(names, shares, says):
    settings = TrainingSettings(domain_shares=shares)
    with pytest.raises(RecipeError, match=re.escape(says)) as error:
        domain_weights(names, [9] * len(names), settings)
    one_sentence(error.value)


@pytest.mark.parametrize("shares", [{"a": 0.7, "b": 0.4}, {"a": 1.0}, {"a": 0.0}])
def test_shares_are_between_nothing_and_all(tmp_path, shares):
    file = tmp_path / "recipe.yaml"
    file.write_text(f"training: {{domain_shares: {shares}}}")
    with pytest.raises(RecipeError, match="domain_shares") as error:
        Recipe.load(file)
    one_sentence(error.value)


def test_seeds_change_the_order(domain, ranker):
    windows = [DomainWindows.build(domain, ranker)]
    again = [DomainWindows.build(domain, ranker)]
    first = TrainingBatches(windows, ranker, TrainingSettings(seed=0), 10)[0]
    second = TrainingBatches(again, ranker, TrainingSettings(seed=1), 10)[0]
    assert first["history_ids"].shape != second["history_ids"].shape or not torch.equal(
        first["history_ids"], second["history_ids"]
    )


def test_a_batch_knows_what_its_users_touched(domain, ranker):
    built = DomainWindows.build(domain, ranker)
    batches = TrainingBatches([built], ranker, TrainingSettings(targets_per_batch=16), 5)
    batch = batches[2]
    windows = built.batch(2, 16, 0)
    unique = sorted({item for n in windows for item in built.windows[n][1:]})
    histories = domain.train().select(pl.col("history"))["history"].to_list()
    for row, number in enumerate(windows):
        touched = {domain.index[item] for item in histories[built.owner[number]]}
        assert batch["known"][row].tolist() == [item in touched for item in unique]


def drawing(ranker, **settings):
    """Batches of two domains that tell what chance gave each of them."""
    domains = [plain_windows([[0, 1], [2, 3], [4, 5]], ranker) for _ in range(2)]
    telling = SimpleNamespace(
        packed=True,
        training_batch=lambda *_, rng, **__: {"drawn": torch.tensor(rng.integers(2**62))},
    )
    return TrainingBatches(domains, telling, TrainingSettings(**settings), 2000)


def test_every_batch_draws_for_itself(ranker):
    drawn = {
        seed: [int(batches[n]["drawn"]) for n in range(40)]
        for seed, batches in ((s, drawing(ranker, seed=s, domains_per_step=2)) for s in (0, 1))
    }
    again = drawing(ranker, seed=0, domains_per_step=2)
    assert [int(again[n]["drawn"]) for n in range(40)] == drawn[0]
    assert len(set(drawn[0] + drawn[1])) == 80


def test_domains_come_in_another_order_by_the_seed_and_as_a_run_goes_on(ranker):
    orders = [
        [batches.draw(number)[0] for number in range(2048)]
        for batches in (drawing(ranker, seed=seed) for seed in (0, 0, 1))
    ]
    assert orders[0] == orders[1]
    assert orders[0][:1024] != orders[2][:1024]
    assert orders[0][:1024] != orders[0][1024:]
