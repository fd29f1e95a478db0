"""The fixed readout: whitening, files, who gets it, and what refuses to mix without it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from reccocktail.errors import AdapterError, RecipeError
from reccocktail.ranking import build
from reccocktail.ranking import readout as readouts
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.readout import PLAIN_TEMPERATURE, Readout, Whitening
from reccocktail.recipe import Recipe
from reccocktail.training.adapter import Adapter, Card
from reccocktail.training.model import attach, check_compatible, ranker_of
from tests.adapters import random_adapter
from tests.domains import taste_domain
from tests.pico import HIDDEN, pico_backbone
from tests.readouts import a_readout, vectors


@pytest.fixture
def backbone():
    return pico_backbone()


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("domain"), users=60)


@pytest.fixture
def file(backbone, tmp_path):
    path = tmp_path / "readout.safetensors"
    a_readout(backbone.fingerprint.sha256).save(path)
    return path


def recipe(readout: object, **dense: object) -> Recipe:
    setting = None if readout is None else str(readout)
    return Recipe.model_validate({"dense": {"readout": setting, **dense}})


def test_whitening_gives_the_items_the_identity_as_covariance():
    items = vectors(2000)
    white = Whitening.of(items, items, 0.0)
    found = torch.cov(((items - white.items) @ white.matrix).T)
    found = found / found.diagonal().mean()
    # The centred unit vectors have one direction less than coordinates, but for curvature.
    error = (found - torch.eye(HIDDEN)).abs()
    assert error.median() < 1e-3
    assert torch.cov(items.T).diagonal().max() / torch.cov(items.T).diagonal().min() > 100


def test_each_side_is_centred_by_its_own_mean():
    users, items = vectors(300, 1), normalize(vectors(300, 2).flip(1), dim=-1)
    white = Whitening.of(users, items, 0.3)
    torch.testing.assert_close(white.users, users.mean(0))
    torch.testing.assert_close(white.items, items.mean(0))
    assert not torch.allclose(white(items, "users"), white(items, "items"))
    torch.testing.assert_close(white(items, "items").norm(dim=-1), torch.ones(300))


def test_vectors_that_are_all_the_same_stay_finite():
    same = vectors(1).expand(50, -1)
    white = Whitening.of(same, same, 0.3)
    assert torch.isfinite(white(same, "items")).all()


def test_the_cosine_is_the_weighted_mean_of_both_cosines():
    readout = a_readout("x", weight=0.7)
    users, items = vectors(5, 8), vectors(5, 9)
    both = readout(users, users, "users") @ readout(items, items, "items").T
    share = 0.7**2 / (1 + 0.7**2)
    states = readout.states(users, "users") @ readout.states(items, "items").T
    words = readout.words(users, "users") @ readout.words(items, "items").T
    torch.testing.assert_close(both, (1 - share) * states + share * words)


def test_saved_and_loaded_it_keeps_its_hash_and_its_vectors(file, backbone):
    first = Readout.load(file)
    first.save(file.with_name("again.safetensors"))
    second = Readout.load(file.with_name("again.safetensors"))
    assert first.sha256 == second.sha256
    assert file.read_bytes() == file.with_name("again.safetensors").read_bytes()
    assert second.backbone_sha256 == backbone.fingerprint.sha256
    assert (second.weight, second.temperature, second.width) == (0.7, 0.12, HIDDEN)
    assert replace(first, weight=0.8).sha256 != first.sha256


@pytest.mark.parametrize("content", [b"", b"not a readout", None])
def test_a_damaged_or_missing_file_is_one_sentence(content, tmp_path, backbone):
    path = tmp_path / "broken.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match="is not a readout of the dense ranker"):
        build(backbone, recipe(path))


def test_a_readout_of_other_weights_is_refused(tmp_path, backbone):
    path = tmp_path / "other.safetensors"
    a_readout("of another backbone").save(path)
    with pytest.raises(RecipeError, match="made with other weights"):
        build(backbone, recipe(path))


def test_auto_takes_the_one_that_ships_for_these_weights(file, backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(readouts, "FOLDER", tmp_path / "none")
    plain = build(backbone, Recipe())
    assert isinstance(plain, DenseRanker)
    assert plain.readout is None and plain.readout_sha256 is None
    assert plain.temperature == PLAIN_TEMPERATURE
    monkeypatch.setattr(readouts, "FOLDER", file.parent)
    ranker = build(backbone, Recipe())
    assert isinstance(ranker, DenseRanker)
    assert ranker.readout_sha256 == Readout.load(file).sha256
    assert ranker.temperature == 0.12
    assert build(backbone, recipe(None)).readout_sha256 is None
    given = build(backbone, recipe("auto", temperature=0.3))
    assert isinstance(given, DenseRanker) and given.temperature == 0.3


def test_vectors_follow_the_readout_by_hand(file, backbone):
    """States and mean embeddings, read without the ranker, then centred, whitened and joined."""
    ranker = build(backbone, recipe(file))
    assert isinstance(ranker, DenseRanker)
    titles = ranker.titles(["red book", "small green lamp"])
    found = ranker.item_vectors(backbone.model, titles, torch.device("cpu"))
    readout = Readout.load(file)
    for row, title in enumerate(titles):
        ids = torch.tensor([ranker.encoder.item(title)])
        hidden = backbone.model.get_decoder()(input_ids=ids).last_hidden_state[0, -1]
        tokens = backbone.model.get_input_embeddings()(ids)[0, ranker.encoder.item_start :]
        parts = []
        for vector, white in (
            (hidden, readout.states),
            (normalize(tokens, dim=-1).mean(0), readout.words),
        ):
            white_vector = (normalize(vector, dim=0) - white.items) @ white.matrix
            parts.append(white_vector / white_vector.norm())
        by_hand = torch.cat([parts[0], readout.weight * parts[1]])
        torch.testing.assert_close(found[row], by_hand / by_hand.norm(), atol=1e-5, rtol=1e-4)


def test_gradients_reach_the_adapter_through_the_readout_and_the_search(file, backbone, domain):
    from reccocktail.mixing.functional import FunctionalModel

    ranker = build(backbone, recipe(file))
    adapter = random_adapter(backbone, domain, "one", seed=1)
    scale = torch.ones((), requires_grad=True)
    model = attach(backbone.model, adapter.lora)
    try:
        lora = {
            name: factors._replace(b=factors.b * scale) for name, factors in adapter.lora.items()
        }
        titles = ranker.titles(["red book", "small lamp", "green tea"])
        batch = ranker.ranking_batch([[titles[0]]], [[1, 2]], titles)
        scores = ranker.scores(FunctionalModel(model, lora), batch)
        scores.diff().sum().backward()
    finally:
        model.unload()
    assert scale.grad is not None and scale.grad.abs() > 0


def test_adapters_of_different_readouts_do_not_mix(file, backbone, domain):
    one = random_adapter(backbone, domain, "one", seed=1)
    assert one.card.readout_sha256 is None
    sha = Readout.load(file).sha256
    other = Adapter("other", one.lora, one.card.model_copy(update={"readout_sha256": sha}))
    with pytest.raises(AdapterError, match="differ in their readout"):
        check_compatible([one, other], backbone)
    with pytest.raises(AdapterError, match="not the one that the adapter was trained with"):
        ranker_of(other.card, backbone)


def test_a_card_from_before_readouts_reads_states_as_they_are(backbone, domain, file, monkeypatch):
    card = random_adapter(backbone, domain, "old", seed=1).card.model_dump(mode="json")
    del card["readout_sha256"], card["recipe"]["dense"]["readout"]
    card["recipe"]["dense"]["temperature"] = 0.05
    monkeypatch.setattr(readouts, "FOLDER", file.parent)
    ranker = ranker_of(Card.model_validate(card), backbone)
    assert isinstance(ranker, DenseRanker)
    assert ranker.readout is None
    np.testing.assert_equal(ranker.temperature, 0.05)
