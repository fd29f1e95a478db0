"""The generate ranker against slow re-computations: likelihood, loss, decoding, Eq. 8."""

import itertools

import numpy as np
import pytest
import torch

from reccocktail.mixing.functional import FunctionalModel
from reccocktail.ranking import continuation
from reccocktail.ranking.base import entropy_of
from reccocktail.ranking.continuation import Context
from reccocktail.ranking.generate import GenerateRanker
from reccocktail.recipe import GenerateSettings, PromptSettings, Recipe
from reccocktail.training.model import attach, merged
from tests.adapters import random_lora
from tests.pico import FAMILIES, pico_backbone

# Duplicates, prefixes of one another, one word and more.
TITLES = ["red apple", "red", "green tea", "red apple", "old lamp shoe", "sun", "red apple"]
HISTORIES = [["black coffee", "white milk"], ["moon"], ["war night", "king", "blue star"]]
ROWS = [[0, 1, 2, 3, 4], [5, 1, 6], [3, 2, 6, 0]]


@pytest.fixture(scope="module")
def backbone():
    return pico_backbone()


def ranker_for(backbone, **generate):
    return GenerateRanker(
        backbone.tokenizer, PromptSettings(max_history=4), GenerateSettings(**generate)
    )


def batch_of(ranker, rows=ROWS, histories=HISTORIES):
    tokens = ranker.titles(TITLES)
    return ranker.ranking_batch([ranker.titles(h) for h in histories], rows, tokens)


def ids_of(batch, row):
    """One row's prompt, and its answers as lists."""
    prompt = [token for token in batch["prompt_ids"][row].tolist() if token >= 0]
    answers = [[t for t in path if t >= 0] for path in batch["answers"][row].tolist()]
    return prompt, [path for path in answers if path]


@torch.no_grad()
def next_log_probs(model, ids):
    """Of the token after `ids`, by a plain forward pass of everything."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)


def slow_log_probs(model, prompt, path):
    """Log-probability of each token of a path, each by a forward pass of its own."""
    return torch.stack(
        [next_log_probs(model, prompt + path[:n])[path[n]] for n in range(len(path))]
    )


# -- likelihood -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_scores_are_the_titles_log_likelihoods(family):
    backbone = pico_backbone(family)
    ranker = ranker_for(backbone)
    batch = batch_of(ranker)
    scores = ranker.scores(backbone.model, batch)
    for row, items in enumerate(ROWS):
        prompt, answers = ids_of(batch, row)
        assert len(answers) == len(items) == len({tuple(path) for path in answers})
        slow = [slow_log_probs(backbone.model, prompt, path).sum() for path in answers]
        torch.testing.assert_close(scores[row, : len(items)], torch.stack(slow), atol=1e-4, rtol=0)
        assert (scores[row, len(items) :] == float("-inf")).all()


@torch.no_grad()
def test_the_mean_over_tokens_is_a_setting(backbone):
    batch = batch_of(ranker_for(backbone))
    total = ranker_for(backbone).scores(backbone.model, batch)
    mean = ranker_for(backbone, length="mean").scores(backbone.model, batch)
    for row, items in enumerate(ROWS):
        sizes = torch.tensor([len(path) for path in ids_of(batch, row)[1]])
        torch.testing.assert_close(mean[row, : len(items)] * sizes, total[row, : len(items)])


@torch.no_grad()
def test_the_path_of_memory_changes_nothing(backbone, monkeypatch):
    """Few candidates at a time, no trees, or a model whose state cannot be copied: all the same."""
    ranker = ranker_for(backbone, answer="published", titles=3, ranking="constrained")
    batch = batch_of(ranker)
    scores, entropy = ranker.scores_and_entropy(backbone.model, batch)
    with monkeypatch.context() as patch:
        patch.setattr(continuation, "CACHED_TOKENS", 1)
        patch.setattr(ranker.read, "trees", False)
        torch.testing.assert_close(ranker.scores(backbone.model, batch), scores)
    monkeypatch.setattr(backbone.model.config, "layer_types", ["linear_attention"], raising=False)
    assert not Context(backbone.model, batch["prompt_ids"][0].clamp(min=0))._cached
    again = ranker.scores_and_entropy(backbone.model, batch)
    torch.testing.assert_close(again[0], scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(again[1], entropy, atol=1e-4, rtol=0)


@torch.no_grad()
def test_settings_of_generation_in_the_model_are_not_read(backbone, monkeypatch):
    ranker = ranker_for(backbone, ranking="constrained")
    batch = batch_of(ranker)
    before = ranker.scores_and_entropy(backbone.model, batch)
    monkeypatch.setattr(backbone.model.generation_config, "do_sample", True)
    monkeypatch.setattr(backbone.model.generation_config, "temperature", 9.0)
    monkeypatch.setattr(backbone.model.generation_config, "max_new_tokens", 1)
    for one, two in zip(before, ranker.scores_and_entropy(backbone.model, batch), strict=True):
        assert torch.equal(one, two)


def test_duplicates_are_marked_in_prompt_and_answer(backbone):
    ranker = ranker_for(backbone)
    batch = batch_of(ranker)
    prompt, answers = ids_of(batch, 0)
    second = [*ranker.titles(["red apple (2)"])[0], *ranker.instruction.end]
    assert answers[3] == second
    inside = second[:-1]
    assert sum(prompt[i : i + len(inside)] == inside for i in range(len(prompt))) == 1


# -- training ---------------------------------------------------------------------------------


def training_batch(ranker, seed=0):
    tokens = ranker.titles(TITLES)
    return ranker.training_batch(
        [[4, 5, 2], [0, 1]],
        [{4, 5, 2}, {0, 1}],
        tokens,
        torch.zeros(len(TITLES)),
        pool=range(len(TITLES)),
        rng=np.random.default_rng(seed),
    )


def test_the_answer_is_the_positive_and_the_end(backbone):
    ranker = ranker_for(backbone)
    batch = training_batch(ranker)
    for row, wanted in enumerate(["green tea", "red"]):
        ids = [token for token in batch["ids"][row].tolist() if token >= 0]
        size = int(batch["answer_tokens"][row])
        answer = [*ranker.titles([wanted])[0], *ranker.instruction.end]
        assert ids[-size:] == answer or row == 1  # "red" may stand beside another "red"
        title = ranker.titles([wanted])[0]
        assert any(ids[i : i + len(title)] == title for i in range(len(ids) - size))


def test_the_published_answer_lists_random_negatives_too(backbone):
    ranker = ranker_for(backbone, answer="published", titles=3)
    batch = training_batch(ranker)
    ids = [token for token in batch["ids"][0].tolist() if token >= 0]
    answer = ids[-int(batch["answer_tokens"][0]) :]
    separator = ranker.instruction.separator
    text = " ".join(map(str, answer[:-1])).split(" " + " ".join(map(str, separator)) + " ")
    written = [[int(token) for token in title.split()] for title in text]
    assert written[0] == ranker.titles(["green tea"])[0] and len(written) == 3
    # Negatives are items that the user never touched, each once.
    free = {tuple(t) for t in ranker.titles(["red apple", "red", "red apple (2)", "red apple (3)"])}
    assert set(map(tuple, written[1:])) <= free and written[1] != written[2]
    assert answer[-1:] == ranker.instruction.end


@torch.no_grad()
def test_loss_is_on_the_answer_alone(backbone):
    ranker = ranker_for(backbone)
    batch = training_batch(ranker)
    slow = []
    for row, size in zip(batch["ids"].tolist(), batch["answer_tokens"].tolist(), strict=True):
        ids = [token for token in row if token >= 0]
        slow += (-slow_log_probs(backbone.model, ids[:-size], ids[-size:])).tolist()
    loss = ranker.loss(backbone.model, batch)
    assert float(loss) == pytest.approx(sum(slow) / len(slow), abs=1e-4)


def test_negatives_are_drawn_anew_and_never_known(backbone):
    ranker = ranker_for(backbone)
    one, same, other = (training_batch(ranker, seed) for seed in (1, 1, 2))
    assert torch.equal(one["ids"], same["ids"])
    assert one["ids"].shape != other["ids"].shape or not torch.equal(one["ids"], other["ids"])


# -- constrained decoding ---------------------------------------------------------------------


def slow_decoding(model, prompt, answers, titles, published):
    """Greedy, token by token, every allowed continuation looked at by a forward pass of all."""
    left, chosen, written = list(range(len(answers))), [], []
    while left and len(chosen) < titles:
        path, open_ = [], list(left)
        while len(open_) > 1 or path != answers[open_[0]]:
            log_probs = next_log_probs(model, prompt + written + path)
            allowed = {answers[c][len(path)] for c in open_}
            path.append(max(allowed, key=lambda token: (float(log_probs[token]), -token)))
            open_ = [c for c in open_ if answers[c][: len(path)] == path]
        chosen.append(open_[0])
        left.remove(open_[0])
        written += path if published else []
    return chosen


@pytest.mark.parametrize(
    ("answer", "titles"), [("positive", 9), ("published", 9), ("published", 2)]
)
@torch.no_grad()
def test_decoding_is_greedy_valid_and_never_repeats(backbone, answer, titles):
    ranker = ranker_for(backbone, answer=answer, titles=titles, ranking="constrained")
    batch = batch_of(ranker)
    likelihood = ranker_for(backbone, answer=answer, titles=titles).scores(backbone.model, batch)
    scores = ranker.scores(backbone.model, batch)
    for row, items in enumerate(ROWS):
        prompt, answers = ids_of(batch, row)
        chosen = slow_decoding(backbone.model, prompt, answers, titles, answer == "published")
        order = scores[row].argsort(descending=True)[: len(items)].tolist()
        assert order[: len(chosen)] == chosen and sorted(order) == list(range(len(items)))
        rest = likelihood[row].argsort(descending=True)[: len(items)].tolist()
        assert order[len(chosen) :] == [c for c in rest if c not in chosen]
        torch.testing.assert_close(scores[row].sort().values, likelihood[row].sort().values)


# -- several forms of a title -------------------------------------------------------------------

FILMS = ["war (199)", "king (1995)", "king (1996)", "red lamp (1995)", "sun"]
"""Without their years two are one and the same, and one has none that a title ends with."""


def film_batch(ranker):
    rows = [[0, 1, 2, 3, 4], [4, 3, 1]]
    tokens = ranker.titles(FILMS)
    return rows, ranker.ranking_batch([ranker.titles(["moon"])] * 2, rows, tokens)


@torch.no_grad()
def test_the_likelihood_of_an_item_is_that_of_all_its_forms(backbone):
    ranker = ranker_for(backbone, forms="several")
    rows, batch = film_batch(ranker)
    quoted = {item: f'"{title}"' for item, title in enumerate(FILMS)}
    # King has two years in the first row, so that it means neither there.
    bare = [{3: "red lamp"}, {3: "red lamp", 1: "king"}]
    scores = ranker.scores(backbone.model, batch)
    means = ranker_for(backbone, forms="several", length="mean").scores(backbone.model, batch)
    for row, items in enumerate(rows):
        prompt, answers = ids_of(batch, row)
        written = 0
        for place, item in enumerate(items):
            texts = [FILMS[item], quoted[item], *[bare[row][i] for i in (item,) if i in bare[row]]]
            forms = [[*ids, *ranker.instruction.end] for ids in ranker.titles(texts)]
            assert all(form in answers for form in forms)
            each = [slow_log_probs(backbone.model, prompt, form) for form in forms]
            total = torch.stack([one.sum() for one in each]).logsumexp(0)
            assert float(scores[row, place]) == pytest.approx(float(total), abs=1e-4)
            best = max(float(one.mean()) for one in each)
            assert float(means[row, place]) == pytest.approx(best, abs=1e-4)
            written += len(forms)
        assert len(answers) == written
        assert (scores[row, len(items) :] == float("-inf")).all()


@pytest.mark.parametrize("answer", ["positive", "published"])
@torch.no_grad()
def test_an_item_of_several_forms_is_written_once(backbone, answer):
    ranker = ranker_for(backbone, forms="several", answer=answer, titles=9, ranking="constrained")
    rows, batch = film_batch(ranker)
    scores, entropy = ranker.scores_and_entropy(backbone.model, batch)
    one = ranker_for(backbone, answer=answer, titles=9, ranking="constrained")
    prompt = film_batch(one)[1]["prompt_ids"]
    assert torch.equal(prompt, batch["prompt_ids"])
    for row, items in enumerate(rows):
        found = scores[row, : len(items)]
        assert found.isfinite().all() and len(found.unique()) == len(items)
    assert (entropy > 0).all()
    # The first that is written is the item of the likeliest walk over all forms.
    ids, answers = ids_of(batch, 1)
    walk = slow_decoding(backbone.model, ids, answers, 1, False)[0]
    assert int(scores[1].argmax()) == int(batch["items"][1][walk])


def test_a_recipe_that_knows_no_forms_stays_what_it_was():
    plain = Recipe(ranker="generate")
    assert "forms" not in plain.relevant()["generate"]
    several = Recipe(ranker="generate", generate=GenerateSettings(forms="several"))
    assert several.relevant()["generate"]["forms"] == "several" and several.sha256 != plain.sha256


# -- entropy ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "tokens"), list(itertools.product(["positive", "published"], [1, 2, 3]))
)
@torch.no_grad()
def test_entropy_is_that_of_the_first_tokens_of_each_title(backbone, answer, tokens):
    ranker = ranker_for(backbone, answer=answer, titles=3, entropy_tokens=tokens)
    batch = batch_of(ranker)
    found = ranker.entropy(backbone.model, batch)
    behind = ranker.instruction.separator if answer == "published" else ranker.instruction.end
    for row in range(len(ROWS)):
        prompt, answers = ids_of(batch, row)
        titles = 3 if answer == "published" else 1
        written, entropies = list(prompt), []
        for leaf in slow_decoding(backbone.model, prompt, answers, titles, True):
            title = answers[leaf][: -len(behind)]
            for place in range(min(tokens, len(title))):
                p = next_log_probs(backbone.model, written + title[:place]).exp().double()
                entropies.append(float(-(p * p.log()).sum()))
            written += answers[leaf]  # the separator behind it, where the count starts anew
        assert float(found[row]) == pytest.approx(sum(entropies) / len(entropies), abs=1e-4)
    assert torch.equal(ranker.scores_and_entropy(backbone.model, batch)[1], found)


@torch.no_grad()
def test_entropy_over_candidates(backbone):
    ranker = ranker_for(backbone, entropy="candidates")
    batch = batch_of(ranker)
    scores, entropy = ranker.scores_and_entropy(backbone.model, batch)
    torch.testing.assert_close(entropy, entropy_of(scores))
    torch.testing.assert_close(ranker.entropy(backbone.model, batch), entropy)
    assert (entropy > 0).all()


@pytest.mark.parametrize("entropy", ["tokens", "candidates"])
def test_the_functional_model_gives_the_same_and_gradients(backbone, entropy):
    ranker = ranker_for(backbone, entropy=entropy, answer="published", titles=2)
    batch = batch_of(ranker)
    lora = random_lora(backbone, 3)
    with merged(backbone.model, lora) as model, torch.no_grad():
        wanted = ranker.scores_and_entropy(model, batch)
    peft_model = attach(backbone.model, random_lora(backbone, 5))
    try:
        scale = torch.ones((), requires_grad=True)
        scaled = {name: f._replace(b=f.b * scale) for name, f in lora.items()}
        model = FunctionalModel(peft_model, scaled)
        found = ranker.scores_and_entropy(model, batch)
        for one, two in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, two, atol=1e-4, rtol=0)
        value = ranker.entropy(model, batch).mean()
        (slope,) = torch.autograd.grad(value, scale)
        with torch.no_grad():
            ahead, behind = (
                ranker.entropy(
                    FunctionalModel(
                        peft_model, {n: f._replace(b=f.b * s) for n, f in lora.items()}
                    ),
                    batch,
                ).mean()
                for s in (1.005, 0.995)
            )
        assert float(slope) == pytest.approx(float(ahead - behind) / 0.01, rel=0.05, abs=1e-3)
    finally:
        peft_model.unload()
        backbone.model.requires_grad_(False)
