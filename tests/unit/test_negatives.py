"""Hard negatives: alike a target, none of the targets, and only items that training knows."""

import numpy as np
import pytest
import torch

from reccocktail.ranking.dense import DenseRanker
from reccocktail.recipe import DenseSettings, PromptSettings, Recipe, TrainingSettings
from reccocktail.training.batches import DomainWindows, TrainingBatches
from reccocktail.training.negatives import SimilarItems
from tests.domains import taste_domain
from tests.pico import pico_tokenizer


@pytest.fixture(scope="module")
def ranker():
    return DenseRanker(pico_tokenizer(), PromptSettings(max_history=3), DenseSettings())


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("domains"))


DIFFERENT = [[number] for number in range(120)]


def clustered(clusters=4, each=30):
    """Unit vectors (clusters * each, clusters) near the axes, cluster by cluster."""
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(clusters), each, axis=0)
    found = centres + rng.uniform(0, 0.1, size=centres.shape)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_the_nearest_are_drawn_and_no_target():
    similar = SimilarItems(clustered(), range(120), DIFFERENT)
    targets = [0, 1, 2, 95]
    found = similar.draw(targets, 3, np.random.default_rng(0))
    assert found == sorted(set(found)) and not set(found) & set(targets)
    assert {item // 30 for item in found} == {0, 3}
    assert 6 <= len(found) <= 12
    assert found == similar.draw(targets, 3, np.random.default_rng(0))
    others = [similar.draw(targets, 3, np.random.default_rng(seed)) for seed in range(5)]
    assert any(other != found for other in others)


def test_they_are_of_the_twenty_nearest():
    vectors = clustered()
    similar = SimilarItems(vectors, range(120), DIFFERENT)
    nearest = set(np.argsort(-(vectors @ vectors[40]))[1:21].tolist())
    drawn = {i for seed in range(60) for i in similar.draw([40], 2, np.random.default_rng(seed))}
    assert drawn == nearest


def test_none_but_the_pool_is_drawn_and_a_small_one_is_no_error():
    similar = SimilarItems(clustered(), [0, 5, 7, 64], DIFFERENT)
    assert similar.draw([5], 2, np.random.default_rng(1)) != []
    assert similar.draw([5], 9, np.random.default_rng(1)) == [0, 7, 64]
    assert similar.draw([0, 5, 7, 64], 2, np.random.default_rng(1)) == []
    assert similar.draw([9], 9, np.random.default_rng(1)) == [0, 5, 7, 64]


def test_a_title_that_a_target_has_too_is_no_negative():
    titles = [[number // 2] for number in range(120)]
    similar = SimilarItems(clustered(), range(120), titles)
    drawn = {i for seed in range(40) for i in similar.draw([0, 7], 3, np.random.default_rng(seed))}
    assert drawn and not drawn & {0, 1, 6, 7}


def test_what_has_nothing_in_common_is_no_negative():
    vectors = np.zeros((60, 3), dtype=np.float32)
    vectors[:20, 0] = vectors[20:22, 1] = 1
    similar = SimilarItems(vectors, range(60), DIFFERENT[:60])
    assert similar.draw([40], 5, np.random.default_rng(0)) == []
    assert similar.draw([20, 50], 5, np.random.default_rng(0)) == [21]
    empty = SimilarItems(np.zeros((60, 0), dtype=np.float32), range(60), DIFFERENT[:60])
    assert empty.draw([3], 5, np.random.default_rng(0)) == []


def test_a_batch_has_them_beside_its_targets(domain, ranker):
    plain = DomainWindows.build(domain, ranker)
    hard = DomainWindows.build(domain, ranker, hard_negatives=1)
    numbers = list(range(4))
    bare, batch = (d.training_batch(ranker, numbers) for d in (plain, hard))
    targets, items = set(bare["items"].tolist()), set(batch["items"].tolist())
    assert targets < items and len(items) <= 2 * len(targets)
    assert items - targets <= set(hard.pool)  # nothing cold, which nobody may know of
    wanted = [
        windows["items"][windows["targets"][windows["targets"] >= 0]] for windows in (bare, batch)
    ]
    assert torch.equal(*wanted)
    words = [set(domain.titles[item].split()) for item in targets]
    assert all(any(set(domain.titles[i].split()) & w for w in words) for i in items - targets)
    # What a user touched is no negative, however alike.
    touched = [plain.known[plain.owner[number]] for number in numbers]
    for row, known in zip(batch["known"].tolist(), touched, strict=True):
        assert [item in known for item in batch["items"].tolist()] == row


def test_a_run_draws_the_same_again(domain, ranker):
    settings = TrainingSettings(targets_per_batch=12, hard_negatives=2)

    def items(order):
        windows = [DomainWindows.build(domain, ranker, hard_negatives=2)]
        batches = TrainingBatches(windows, ranker, settings, steps=4)
        return {number: batches[number]["items"].tolist() for number in order}

    assert items([0, 1, 2, 3]) == items([3, 1, 0, 2])


def test_they_go_with_no_correction_of_sampling():
    with pytest.raises(ValueError, match="sampling_correction"):
        Recipe.model_validate(
            {"dense": {"sampling_correction": 1}, "training": {"hard_negatives": 1}}
        )


def test_without_them_a_recipe_is_what_it_was():
    recipe = Recipe()
    assert "hard_negatives" not in recipe.relevant()["training"]
    more = recipe.training.model_copy(update={"hard_negatives": 1})
    hard = recipe.model_copy(update={"training": more})
    assert hard.sha256 != recipe.sha256
    written = [r.model_copy(update={"ranker": "generate"}) for r in (recipe, hard)]
    assert written[0].sha256 == written[1].sha256
