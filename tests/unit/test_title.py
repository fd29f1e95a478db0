"""The title ranker against slow re-computations: likelihoods, loss, and what is refused."""

from itertools import chain

import pytest
import torch
import yaml

from reccocktail.errors import AdapterError, RecipeError
from reccocktail.mixing.functional import FunctionalModel
from reccocktail.ranking.base import entropy_of
from reccocktail.ranking.title import TitleRanker
from reccocktail.recipe import PromptSettings, Recipe, TitleSettings
from reccocktail.training.model import attach, check_compatible, merged
from tests.adapters import random_adapter, random_lora
from tests.domains import taste_domain
from tests.helpers import one_sentence
from tests.pico import FAMILIES, pico_backbone

# Duplicates, prefixes of one another, one word and more.
TITLES = ["red apple", "red", "green tea", "red apple", "old lamp shoe", "sun", "moon"]
HISTORIES = [["black coffee", "white milk"], ["moon"], ["war night", "king", "blue star", "sun"]]
ROWS = [[0, 1, 2, 3, 4], [5, 1, 6], [3, 2, 6, 0]]
WINDOWS = [[0, 4, 2], [5, 1], [6, 2, 1, 3]]


@pytest.fixture(scope="module")
def backbone():
    return pico_backbone()


def ranker_for(backbone, **title):
    prompt = PromptSettings(max_history=3)
    return TitleRanker(backbone.tokenizer, prompt, TitleSettings(**title))


def batch_of(ranker, rows=ROWS, histories=HISTORIES):
    tokens = ranker.titles(TITLES)
    return ranker.ranking_batch([ranker.titles(h) for h in histories], rows, tokens)


def training_batch(ranker, windows=WINDOWS):
    known = [set(window) for window in windows]
    return ranker.training_batch(windows, known, ranker.titles(TITLES), torch.zeros(len(TITLES)))


def tokens_of(backbone, *texts):
    """Each piece by itself, as the ranker reads titles."""
    found = [backbone.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return [token for ids in found for token in ids]


@torch.no_grad()
def slow_log_probs(model, before, line):
    """Log-probability of each token of a line, each by a plain forward pass of its own."""
    found = []
    for place, token in enumerate(line):
        ids = torch.tensor([[*before, *line[:place]]])
        found.append(model(input_ids=ids, use_cache=False).logits[0, -1].log_softmax(-1)[token])
    return torch.stack(found)


def lines(backbone, titles, template):
    return [tokens_of(backbone, title, template.separator) for title in titles]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_scores_are_mean_log_likelihoods_of_the_next_line(family):
    backbone = pico_backbone(family)
    ranker = ranker_for(backbone, temperature=0.5)
    scores = ranker.scores(backbone.model, batch_of(ranker))
    for row, (history, items) in enumerate(zip(HISTORIES, ROWS, strict=True)):
        read = lines(backbone, history[-3:], ranker.template)  # max_history
        before = [*tokens_of(backbone, ranker.template.history_prefix), *chain.from_iterable(read)]
        shown = lines(backbone, [TITLES[item] for item in items], ranker.template)
        slow = [slow_log_probs(backbone.model, before, line).mean() / 0.5 for line in shown]
        torch.testing.assert_close(scores[row, : len(items)], torch.stack(slow), atol=1e-4, rtol=0)
        assert (scores[row, len(items) :] == float("-inf")).all()
    assert scores[0, 0] == scores[0, 3]  # items of one title tie


@torch.no_grad()
def test_every_title_but_the_first_is_taught_with_the_end_of_its_line(backbone):
    ranker = ranker_for(backbone)
    found = float(ranker.loss(backbone.model, training_batch(ranker)))
    slow = []
    for window in WINDOWS:
        before = tokens_of(backbone, ranker.template.history_prefix)
        for place, line in enumerate(
            lines(backbone, [TITLES[item] for item in window], ranker.template)
        ):
            if place:
                slow.append(-slow_log_probs(backbone.model, before, line))
            before = [*before, *line]
    assert found == pytest.approx(float(torch.cat(slow).mean()), abs=1e-4)


@torch.no_grad()
def test_padding_changes_nothing(backbone):
    ranker = ranker_for(backbone)
    together = ranker.scores(backbone.model, batch_of(ranker))
    for row, items in enumerate(ROWS):
        alone = ranker.scores(backbone.model, batch_of(ranker, [items], [HISTORIES[row]]))
        torch.testing.assert_close(together[row, : len(items)], alone[0], atol=1e-5, rtol=0)
    nats = ranker.entropy(backbone.model, batch_of(ranker))
    torch.testing.assert_close(nats, entropy_of(together))


def test_gradients_reach_coefficients(backbone):
    """Through the mixed model, as the gradient search descends."""
    ranker, lora = ranker_for(backbone), random_lora(backbone, 1)
    peft_model = attach(backbone.model, lora)
    try:
        weight = torch.tensor(0.7, requires_grad=True)
        scaled = {name: f._replace(b=f.b * weight) for name, f in lora.items()}
        found = ranker.entropy(FunctionalModel(peft_model, scaled), batch_of(ranker)).mean()
        torch.autograd.backward(found)
    finally:
        peft_model.unload()
    with merged(backbone.model, {n: f._replace(b=f.b * 0.7) for n, f in lora.items()}) as model:
        assert float(found.detach()) == pytest.approx(
            float(ranker.entropy(model, batch_of(ranker)).mean()), abs=1e-4
        )
    assert weight.grad is not None and weight.grad != 0


def test_titles_need_an_end(backbone, tmp_path):
    file = tmp_path / "endless.yaml"
    wording = {"history_prefix": "", "separator": "", "item_prefix": "", "item_suffix": ""}
    file.write_text(yaml.safe_dump(wording))
    with pytest.raises(RecipeError, match="an end for each title") as error:
        TitleRanker(backbone.tokenizer, PromptSettings(template=str(file)), TitleSettings())
    one_sentence(error.value)


def test_adapters_of_other_temperatures_do_not_mix(backbone, tmp_path):
    domain = taste_domain(tmp_path, tastes=2, users=40)
    pair = [
        random_adapter(backbone, domain, f"at {t}", recipe=Recipe(
            backbone="pico", ranker="title", title=TitleSettings(temperature=t)))
        for t in (0.1, 0.2)
    ]  # fmt: skip
    with pytest.raises(AdapterError, match="differ in their settings of title"):
        check_compatible(pair, backbone)


def test_the_recipe_holds_what_is_read():
    recipe = Recipe(ranker="title")
    found = recipe.relevant()
    assert found["title"] == {"temperature": 0.5} and recipe.template == "titles"
    assert set(found["prompt"]) == {"template", "title_tokens", "max_history"}
    assert "targets_per_batch" in found["training"]
    assert not {"prompts_per_batch", "bank", "hard_negatives"} & set(found["training"])
