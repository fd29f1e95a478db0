"""The choice ranker: letters of one token each, their logits, orders, and what is refused."""

import numpy as np
import pytest
import torch

from reccocktail.errors import RecipeError
from reccocktail.mixing.functional import FunctionalModel
from reccocktail.ranking.base import entropy_of
from reccocktail.ranking.choice import ChoiceRanker
from reccocktail.recipe import ChoiceSettings, PromptSettings
from reccocktail.training.model import attach, merged
from tests.adapters import random_lora
from tests.helpers import one_sentence
from tests.pico import LETTERS, pico_backbone, pico_tokenizer

TITLES = ["red apple", "green tea", "old lamp", "red apple", "sun", "moon", "king"]
HISTORIES = [["black coffee", "white milk"], ["moon"], ["war night", "king", "blue star"]]
ROWS = [[0, 1, 2, 3, 4], [5, 1], [3, 2, 6, 0]]


@pytest.fixture(scope="module")
def backbone():
    return pico_backbone(more=LETTERS)


def ranker_for(backbone, **choice):
    return ChoiceRanker(backbone.tokenizer, PromptSettings(max_history=4), ChoiceSettings(**choice))


def batch_of(ranker, rows=ROWS, histories=HISTORIES):
    return ranker.ranking_batch([ranker.titles(h) for h in histories], rows, ranker.titles(TITLES))


@torch.no_grad()
def slow_scores(backbone, template, history, titles):
    """Logits of the letters behind the prompt written as text, by a plain forward pass."""
    tokenizer = backbone.tokenizer
    lines = [f"{letter}{template.after_label}{t}" for letter, t in zip("ABCDEFG", titles)]  # noqa: B905
    question = (
        template.before_history
        + template.separator.join(history)
        + template.before_candidates
        + template.separator.join(lines)
        + template.after_candidates
    )
    text = tokenizer.apply_chat_template(
        [{"role": "system", "content": template.system}, {"role": "user", "content": question}],
        tokenize=False,
        add_generation_prompt=True,
    )
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    logits = backbone.model(input_ids=ids).logits[0, -1]
    letters = [tokenizer.convert_tokens_to_ids(letter.lower()) for letter in "ABCDEFG"]
    return logits[torch.tensor(letters[: len(titles)])]


def test_letters_are_distinct_single_tokens(backbone):
    ranker = ranker_for(backbone)
    assert len(ranker.labels) == len(set(ranker.labels)) == 36  # letters without case, and digits
    assert backbone.tokenizer.unk_token_id not in ranker.labels
    words = backbone.tokenizer.convert_ids_to_tokens(ranker.labels)
    assert words == [*"abcdefghijklmnopqrstuvwxyz", *"0123456789"]


@torch.no_grad()
def test_scores_are_the_letters_logits(backbone):
    ranker = ranker_for(backbone)
    scores = ranker.scores(backbone.model, batch_of(ranker))
    for row, items in enumerate(ROWS):
        titles = [TITLES[item] for item in items]
        slow = slow_scores(backbone, ranker.template, HISTORIES[row], titles)
        torch.testing.assert_close(scores[row, : len(items)], slow, atol=1e-4, rtol=0)
        assert (scores[row, len(items) :] == float("-inf")).all()


@torch.no_grad()
def test_orders_are_averaged(backbone):
    ranker = ranker_for(backbone, orders=3)
    batch = batch_of(ranker)
    found = ranker.scores(backbone.model, batch)
    for row, items in enumerate(ROWS):
        total = torch.zeros(len(items))
        for places in batch["places"][row]:
            order = np.argsort(places[: len(items)].numpy())
            shown = [TITLES[items[candidate]] for candidate in order]
            slow = slow_scores(backbone, ranker.template, HISTORIES[row], shown)
            total[torch.from_numpy(order)] += slow
        torch.testing.assert_close(found[row, : len(items)], total / 3, atol=1e-4, rtol=0)
    first = batch["places"][0]
    assert first[0].tolist() == [0, 1, 2, 3, 4]  # the order that was given comes first
    assert len({tuple(order) for order in first.tolist()}) == 3
    assert torch.equal(batch_of(ranker)["places"], batch["places"])


@torch.no_grad()
def test_loss_is_the_cross_entropy_over_the_letters_of_the_example(backbone):
    ranker = ranker_for(backbone)
    batch = ranker.training_batch(
        [[5, 6, 1], [2, 4]],
        [{5, 6, 1}, {2, 4}],
        ranker.titles(TITLES),
        torch.zeros(len(TITLES)),
        pool=range(6),
        rng=np.random.default_rng(3),
    )
    assert batch["places"].shape == (2, 1, 5)  # 0, 2, 3, 4 and 1; 0, 1, 3, 5 and 4
    scores = ranker.scores(backbone.model, batch)
    wanted = -scores.log_softmax(-1)[torch.arange(2), batch["positives"]].mean()
    torch.testing.assert_close(ranker.loss(backbone.model, batch), wanted)
    # Another draw, other candidates.
    positives = {
        int(
            ranker.training_batch(
                [[5, 6, 1]],
                [{5, 6, 1}],
                ranker.titles(TITLES),
                torch.zeros(len(TITLES)),
                pool=range(6),
                rng=np.random.default_rng(seed),
            )["positives"]
        )
        for seed in range(20)
    }
    assert positives == {0, 1, 2, 3, 4}


@torch.no_grad()
def test_entropy_is_over_the_candidates(backbone):
    ranker = ranker_for(backbone)
    batch = batch_of(ranker)
    entropy = ranker.entropy(backbone.model, batch)
    for row, items in enumerate(ROWS):
        scores = ranker.scores(backbone.model, batch)[row, : len(items)]
        assert float(entropy[row]) == pytest.approx(float(entropy_of(scores)), abs=1e-5)
        assert 0 < float(entropy[row]) <= np.log(len(items)) + 1e-6


def test_too_many_candidates_are_refused():
    few = ChoiceRanker(pico_tokenizer(), PromptSettings(), ChoiceSettings())  # "a" and ten digits
    assert len(few.labels) == 11
    tokens = few.titles(TITLES)
    assert few.ranking_batch([tokens[:1]], [list(range(7))], tokens)["places"].shape == (1, 1, 7)
    with pytest.raises(RecipeError, match="11 letters of one token, too few for 12") as error:
        few.ranking_batch([tokens[:1]], [[0] * 12], tokens)
    one_sentence(error.value)


def test_the_functional_model_gives_the_same_and_gradients(backbone):
    ranker = ranker_for(backbone, orders=2)
    batch = batch_of(ranker)
    lora = random_lora(backbone, 3)
    with merged(backbone.model, lora) as model, torch.no_grad():
        wanted = ranker.scores(model, batch)
    peft_model = attach(backbone.model, random_lora(backbone, 5))
    try:
        scale = torch.ones((), requires_grad=True)
        scaled = {name: f._replace(b=f.b * scale) for name, f in lora.items()}
        model = FunctionalModel(peft_model, scaled)
        torch.testing.assert_close(ranker.scores(model, batch), wanted, atol=1e-4, rtol=0)
        (slope,) = torch.autograd.grad(ranker.entropy(model, batch).mean(), scale)
        assert abs(float(slope)) > 1e-6
    finally:
        peft_model.unload()
        backbone.model.requires_grad_(False)
