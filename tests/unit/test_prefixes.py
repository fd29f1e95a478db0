import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reccocktail.errors import RecipeError
from reccocktail.prompting.prefixes import forests
from reccocktail.ranking import dense
from reccocktail.ranking.dense import DenseRanker
from reccocktail.recipe import DenseSettings, PromptSettings
from reccocktail.training.model import base_model, new_peft_model
from tests.adapters import pico_recipe
from tests.pico import FAMILIES, pico_backbone, pico_tokenizer
from tests.readouts import a_readout

CPU = torch.device("cpu")
SEQUENCES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=30)


@given(sequences=SEQUENCES, row=st.integers(1, 20), tokens=st.integers(1, 60))
def test_every_sequence_is_in_one_forest_with_its_own_tokens_before_it(sequences, row, tokens):
    found = []
    for forest in forests(sequences, row, tokens):
        rows, width = forest.input_ids.shape
        assert rows == 1 or rows * width <= tokens
        assert forest.follows.diagonal(dim1=1, dim2=2).all()
        for number, (tree, place) in zip(forest.sequences, forest.ends.tolist(), strict=True):
            way = forest.follows[tree, place].nonzero()[:, 0]
            assert forest.input_ids[tree, way].tolist() == sequences[number]
            assert forest.depths[tree, way].tolist() == list(range(len(way)))
            found.append(number)
    assert sorted(found) == list(range(len(sequences)))


def test_a_shared_beginning_is_read_once():
    (forest,) = forests([[5, 6, 7], [5, 6, 8], [5, 6], [9]], 100, 100)
    assert forest.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert forest.depths.tolist() == [[0, 1, 2, 2, 0]]
    assert forest.follows[0, 3].tolist() == [True, True, False, True, False]


def many_titles(ranker):
    """Many titles that share their first words, some of them whole."""
    words = ["red", "dark", "old"]
    texts = [f"{a} {b} {c}" for a in words for b in words for c in ["apple", "film", "book", "tea"]]
    return ranker.titles([*texts, *texts[:30], "milk", "the king", "red"])


def make_ranker(**settings):
    prompt = PromptSettings(title_tokens=4, max_history=3)
    readout = a_readout("any") if settings.get("readout") else None
    return DenseRanker(pico_tokenizer(), prompt, DenseSettings(**settings), readout)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize(
    "settings", [{}, {"pooling": "mean"}, {"depth": 1}, {"readout": "any"}], ids=str
)
def test_vectors_are_those_of_titles_read_one_by_one(family, settings, monkeypatch):
    backbone = pico_backbone(family)
    ranker = make_ranker(**settings)
    titles = many_titles(ranker)
    if family == "gpt2" and "depth" in settings:
        with pytest.raises(RecipeError, match="cannot be counted"):
            ranker.item_vectors(backbone.model, titles, CPU)
        return
    read = []
    monkeypatch.setattr(
        dense, "tree_states", lambda *args, of=dense.tree_states: read.append(args[1]) or of(*args)
    )
    found = ranker.item_vectors(backbone.model, titles, CPU)
    tokens = sum(forest.input_ids.numel() for forest in read[1:])  # the first is the trial
    assert tokens < 0.7 * sum(len(ranker.encoder.item(title)) for title in titles)
    alone = torch.cat([ranker.item_vectors(backbone.model, [title], CPU) for title in titles])
    assert torch.allclose(found, alone, atol=1e-5)


@pytest.mark.parametrize("fault", ["deaf", "raises"])
def test_a_decoder_that_takes_no_mask_reads_titles_one_by_one(fault, monkeypatch):
    model = pico_backbone().model
    decoder = model.get_decoder()
    forward = type(decoder).forward

    def other(self, input_ids, use_cache, attention_mask=None, **more):
        if attention_mask is not None and fault == "raises":
            raise TypeError("no such argument")
        return forward(self, input_ids=input_ids, use_cache=use_cache)

    titles = many_titles(make_ranker())
    expected = make_ranker().item_vectors(model, titles, CPU)
    monkeypatch.setattr(type(decoder), "forward", other)
    ticks = []
    found = make_ranker().item_vectors(model, titles, CPU, ticks.append)
    assert torch.allclose(found, expected, atol=1e-5)
    assert sum(ticks) == len(titles)


def test_the_trial_draws_nothing_and_leaves_dropout_on():
    """Else a resumed run, whose trial comes later, would not be the run that went through."""
    recipe = pico_recipe()
    dropout = recipe.lora.model_copy(update={"dropout": 0.5})
    model = new_peft_model(pico_backbone(), recipe.model_copy(update={"lora": dropout}))
    model.train()
    ranker = make_ranker()
    sequences = [ranker.encoder.item(title) for title in many_titles(ranker)]
    state = torch.get_rng_state()
    assert ranker._reads_trees(base_model(model), sequences, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    dropouts = [m for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert dropouts and all(module.training for module in dropouts)


@pytest.mark.parametrize("settings", [{}, {"pooling": "mean"}, {"readout": "any"}], ids=str)
def test_a_batch_has_the_loss_and_gradients_of_titles_read_one_by_one(settings):
    """Items of a training batch are read in trees too, and gradients reach the weights."""
    model = pico_backbone().model.requires_grad_(True)
    ranker = make_ranker(**settings)
    titles = many_titles(ranker)
    rng = torch.Generator().manual_seed(0)
    windows = torch.randint(len(titles), (12, 4), generator=rng).tolist()
    known = [set(window) for window in windows]
    batch = ranker.training_batch(windows, known, titles, torch.zeros(len(titles)))
    found = []
    for least in (0, float("inf")):
        ranker.tree_titles = least
        loss = ranker.loss(model, batch)
        (gradient,) = torch.autograd.grad(loss, [model.get_decoder().layers[0].mlp.up_proj.weight])
        found.append((loss, gradient))
    (loss, gradient), (expected, other) = found
    assert torch.allclose(loss, expected, atol=1e-5)
    assert gradient.abs().max() > 1e-3 and torch.allclose(gradient, other, atol=1e-5)
