"""What may follow a prompt: the same numbers one by one, along trees, and read whole."""

import pytest
import torch

from reccocktail.ranking import continuation
from reccocktail.ranking.continuation import Context, PathReader
from tests.pico import FAMILIES, pico_backbone

PROMPT = list(range(10, 40))
# Shared beginnings, one token, one within another, the same but for the last, one apart.
PATHS = [[7, 8, 9], [7, 8, 9, 11], [12], [7, 8, 20], [30, 31, 32, 33, 34], [12, 13], [7]]


class Deaf:
    """A model that does not listen to masks and positions, or refuses them."""

    def __init__(self, model, error=None):
        self.model, self.error = model, error
        self.config, self.forward = model.config, model.forward

    def __call__(self, **inputs):
        if self.error and "attention_mask" in inputs:
            raise self.error
        return self.model(
            **{k: v for k, v in inputs.items() if k not in ("attention_mask", "position_ids")}
        )


@torch.no_grad()
def whole(model, path):
    """Log-probabilities of a path's tokens, by a forward pass of prompt and path."""
    ids = torch.tensor([PROMPT + path])
    log_probs = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
    return log_probs[range(len(PROMPT) - 1, len(ids[0]) - 1), torch.tensor(path)]


def alike(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_paths_come_out_the_same_in_every_way(family, monkeypatch):
    model = pico_backbone(family).model
    wanted = [whole(model, path) for path in PATHS]
    context = Context(model, torch.tensor(PROMPT))
    alike(context.paths(PATHS), wanted)
    assert context.allows_tree(PATHS)
    alike(context.tree(PATHS), wanted)
    monkeypatch.setattr(continuation, "_TREE_TOKENS", 3)  # many small trees
    alike(context.tree(PATHS), wanted)
    alike(context.paths(PATHS), wanted)  # the prompt is what it was


@torch.no_grad()
def test_a_window_that_is_shorter_than_the_sequence_is_read_one_by_one():
    model = pico_backbone("mistral").model
    long = torch.arange(10, 10 + model.config.sliding_window - 4)
    context = Context(model, long)
    assert context.allows_tree([[1, 2, 3, 4]]) and not context.allows_tree([[1, 2, 3, 4, 5]])


@pytest.mark.parametrize("error", [None, TypeError("no mask"), RuntimeError("shape")])
@torch.no_grad()
def test_a_model_that_reads_no_trees_is_read_one_by_one(error):
    model = pico_backbone().model
    wanted = [whole(model, path) for path in PATHS]
    reader = PathReader()
    for _ in range(2):
        context = Context(Deaf(model, error), torch.tensor(PROMPT))
        alike(reader(context, PATHS), wanted)
    assert reader._tried == {Deaf: False}
    alike(reader(Context(model, torch.tensor(PROMPT)), PATHS), wanted)
    assert reader._tried[type(model)]
    reader.trees = False
    alike(reader(Context(model, torch.tensor(PROMPT)), PATHS), wanted)
    assert reader(Context(model, torch.tensor(PROMPT)), []) == []
