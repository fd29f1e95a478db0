"""Reasons: grounded by construction, checked in form, and exact about what a score rests on."""

import re
import unicodedata

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reccocktail.data.domain import Domain
from reccocktail.errors import RecipeError
from reccocktail.prompting.template import ExplanationTemplate, load
from reccocktail.ranking import explanation
from reccocktail.ranking.explanation import Explainer
from reccocktail.ranking.faithful import QUOTES, Titles, faults_of, one_line
from reccocktail.recipe import ChoiceSettings, PromptSettings, Recipe
from reccocktail.serving.explain import leave_one_out
from reccocktail.serving.recommend import Recommender
from reccocktail.training.model import merged
from tests.adapters import random_adapter, random_lora
from tests.domains import taste_domain
from tests.pico import FAMILIES, LETTERS, pico_backbone

# A quotation mark, a title within another, the same one twice, a control character.
HISTORY = ["red apple", "red", 'old "lamp" shoe', "red apple", "green\u202etea", "sun"]


@pytest.fixture(scope="module")
def backbone():
    return pico_backbone(more=LETTERS)


def explainer_for(backbone, **prompt):
    return Explainer(backbone.tokenizer, PromptSettings(**prompt), Titles(["moon night", "sun"]))


# -- the sentence -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_only_titles_of_the_history_are_cited(family, seed):
    backbone = pico_backbone(family)
    explainer = explainer_for(backbone, max_history=4)
    with merged(backbone.model, random_lora(backbone, seed, 0.4)) as model:
        reason = explainer.reason(model, HISTORY, 'blue "star"')
    assert reason.cited >= len(HISTORY) - 4  # what is not read is not cited
    cited = one_line(HISTORY[reason.cited], 100)
    quoted = re.findall(r'"([^"]*)"', reason.text)
    assert quoted == [cited, "blue 'star'"]  # and nothing else stands in quotation marks
    assert not any(unicodedata.category(c).startswith("C") for c in reason.text)
    assert len(reason.continuation) <= explanation.FREE_CHARACTERS
    assert reason.continuation in reason.text or reason.faults
    if reason.faults:
        assert reason.text.endswith('".')


@torch.no_grad()
def test_the_citation_and_the_free_words_are_greedy(backbone):
    """Against plain forward passes over everything."""
    explainer = explainer_for(backbone)
    history = ["red apple", "green tea", "old lamp shoe"]
    reason = explainer.reason(backbone.model, history, "sun")
    tokens = explainer.instruction.titles([*history, "sun"])

    def following(ids):
        return backbone.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]

    prompt = explainer.instruction.prompt(tokens[:3], tokens[3:], 0) + explainer.opening
    firsts = [title[0] for title in tokens[:3]]
    assert reason.cited == int(following(prompt)[torch.tensor(firsts)].argmax())
    ids = prompt + tokens[reason.cited] + explainer._middle + tokens[3] + explainer._closing
    written = []
    while len(written) < explanation.FREE_TOKENS:
        logits = following(ids + written).masked_fill(~explainer._allowed, float("-inf"))
        if int(logits.argmax()) == backbone.tokenizer.eos_token_id:
            break
        written.append(int(logits.argmax()))
        if backbone.tokenizer.decode(written).endswith((".", "!", "?")):
            break
    assert reason.continuation == one_line(backbone.tokenizer.decode(written), 240)
    assert len(written) > 1


def test_free_words_are_bounded_and_never_quote(backbone, monkeypatch):
    explainer = explainer_for(backbone)
    tokenizer = backbone.tokenizer
    for sign in ['"', "<user>", "<pad>", "<unk>"]:
        assert not explainer._allowed[tokenizer.convert_tokens_to_ids(sign)], sign
    for sign in ["tea", "'", tokenizer.eos_token]:
        assert explainer._allowed[tokenizer.convert_tokens_to_ids(sign)], sign
    long = explainer.reason(backbone.model, HISTORY, "sun").continuation
    monkeypatch.setattr(explanation, "FREE_TOKENS", 2)
    short = explainer.reason(backbone.model, HISTORY, "sun").continuation
    assert len(tokenizer(short)["input_ids"]) <= 2 and long.startswith(short)


def test_settings_of_generation_in_the_model_are_not_read(backbone, monkeypatch):
    before = explainer_for(backbone).reason(backbone.model, HISTORY, "sun")
    monkeypatch.setattr(backbone.model.generation_config, "do_sample", True)
    monkeypatch.setattr(backbone.model.generation_config, "max_new_tokens", 1)
    assert explainer_for(backbone).reason(backbone.model, HISTORY, "sun") == before


def test_words_with_a_fault_are_left_out(backbone, monkeypatch):
    explainer = explainer_for(backbone)
    monkeypatch.setattr(Explainer, "_free", lambda *_: "about the moon night and more.")
    bad = explainer.reason(backbone.model, ["red apple"], "sun")
    assert bad.faults == ("titles",) and bad.continuation.startswith("about")
    assert bad.text == 'Because you chose "red apple", you may like "sun".'
    monkeypatch.setattr(Explainer, "_free", lambda *_: " bright\nand  old.")
    good = explainer.reason(backbone.model, ["red apple"], "sun")
    assert good.text == (
        'Because you chose "red apple", you may like "sun": both are bright and old.'
    )


def test_the_wording_is_a_file_with_a_hash(backbone, tmp_path):
    shipped = load("explanation", ExplanationTemplate)
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(shipped.model_dump() | {"closing": '"; they are'}))
    mine = Explainer(backbone.tokenizer, PromptSettings(), Titles([]), str(file))
    assert mine.template_sha256 != explainer_for(backbone).template_sha256 == shipped.sha256
    with pytest.raises(RecipeError, match="'explanation' or a YAML file"):
        load("nowhere", ExplanationTemplate)


# -- checks of form ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("stories of robots and children.", ()),
        ("films by I and you with Toy parts of 1995!", ()),
        ("", ("empty", "unfinished")),
        ("great films with", ("unfinished",)),
        ("very very good.", ("repeats",)),
        ("a film of the king and a film of the queen.", ("repeats",)),
        ("iconic and iconic.", ("repeats",)),
        ("up and up and on and on.", ()),
        ("films by Disney.", ("names",)),
        ("from the 1990s.", ("names",)),
        ("like the iron giant (1999), in short.", ("names", "titles")),
        ("like the iron giant 1995.", ()),  # not its whole title
        ("like toy story 1995.", ()),
    ],
)
def test_faults(text, faults):
    known = ["Toy Story (1995)", "A Bug's Life (1995)"]
    titles = Titles([*known, "The Iron Giant (1999)", "Robots"])
    assert faults_of(text, known, titles) == faults


@given(st.text(), st.integers(2, 30))
def test_one_line_is_one_short_line(text, characters):
    found = one_line(text, characters)
    assert len(found) <= characters and not set(found) & set(QUOTES)
    assert not any(unicodedata.category(c).startswith("C") for c in found)
    assert found == " ".join(found.split())


# -- what a score rests on --------------------------------------------------------------------


@pytest.fixture(scope="module")
def domain(tmp_path_factory) -> Domain:
    return taste_domain(tmp_path_factory.mktemp("explained"))


def recommender_for(backbone, domain, ranker):
    recipe = Recipe(
        backbone=backbone.name,
        ranker=ranker,
        prompt=PromptSettings(max_history=4),
        choice=ChoiceSettings(orders=1),
    )
    return Recommender(domain, random_adapter(backbone, domain, "own", recipe=recipe), backbone)


@pytest.mark.parametrize("ranker", ["dense", "generate", "choice"])
def test_influences_are_differences_of_scores(backbone, domain, ranker, monkeypatch):
    recommender = recommender_for(backbone, domain, ranker)
    history = recommender.history_of("u1")
    assert len(history) > 4  # more than is read
    places = recommender.recommend(history, 3)
    found = recommender.explain(history, places)
    read = history[-4:]
    # The same candidates for every history: those of the whole one.
    seen = [domain.index[item] for item in history]
    scores = recommender._retrieval.scores(seen)
    scores[seen] = -np.inf
    shown = np.argsort(-scores, kind="stable")[:30].tolist()

    def score(part, item):
        numbers = [domain.index[i] for i in part]
        if ranker == "dense":
            return recommender._retrieval.scores(numbers)[domain.index[item]]
        values = recommender._reranking.scores(numbers, shown)
        return values[shown.index(domain.index[item])]

    for place, explained in zip(places, found, strict=True):
        assert score(read, place.item_id) == pytest.approx(place.score, abs=1e-3)
        assert {i.item_id for i in explained.influences} == set(read)
        changes = [i.change for i in explained.influences]
        assert changes == sorted(changes, reverse=True) and len(set(changes)) > 1
        for influence in explained.influences:
            rest = [item for item in read if item != influence.item_id]
            wanted = place.score - score(rest, place.item_id)
            assert influence.change == pytest.approx(wanted, abs=1e-3)
            assert domain.titles[domain.index[influence.item_id]] == influence.title
        assert (explained.reason is not None) == (ranker == "generate")
        if explained.reason:
            cited = history[explained.reason.cited]
            assert cited in read
            assert f'"{domain.titles[domain.index[cited]]}"' in explained.reason.text


def test_one_item_cannot_be_left_out():
    def never(histories, items):
        raise AssertionError

    assert leave_one_out([7, 7], [1], never, 5)[0] == []
    kinds, changes = leave_one_out(
        [9, 7, 8, 7], [1], lambda hs, items: np.array([[float(sum(h))] for h in hs]), 3
    )
    assert kinds == [7, 8] and changes.tolist() == [[14.0], [8.0]]


def test_new_items_are_explained_too(backbone, domain):
    recommender = recommender_for(backbone, domain, "generate")
    history = recommender.history_of("u1")
    twin = recommender.recommend(history, 1)[0].title  # so that it is retrieved
    with_new = Recommender(domain, recommender._adapter, backbone, [twin])
    (place,) = [p for p in with_new.recommend(history, 30) if p.new and p.item_id == "new:1"]
    (explained,) = with_new.explain(history, [place])
    assert explained.reason is not None and f'"{twin}"' in explained.reason.text
    assert len(explained.influences) == 4
