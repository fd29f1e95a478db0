import math

import pytest
import torch
from torch import nn

from reccocktail.errors import RecipeError
from reccocktail.prompting.encoding import DenseEncoder
from reccocktail.ranking.base import entropy_of, hidden_states
from reccocktail.ranking.dense import DenseRanker
from reccocktail.recipe import DenseSettings, PromptSettings
from tests.pico import FAMILIES, pico_backbone, pico_tokenizer

TITLES = ["red apple", "the king of the night city", "milk", "dark film 2", "tea cup", "old book"]
NO_Q = torch.zeros(len(TITLES))


def make_ranker(**dense):
    prompt = PromptSettings(title_tokens=4, max_history=3)
    return DenseRanker(pico_tokenizer(), prompt, DenseSettings(**dense))


@pytest.fixture(scope="module")
def ranker():
    return make_ranker()


@pytest.fixture(scope="module")
def tokens(ranker):
    return ranker.encoder.titles(TITLES)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def model(request):
    return pico_backbone(request.param).model


@pytest.fixture(scope="module")
def llama():
    return pico_backbone("llama").model


class TableModel(nn.Module):
    """A model whose hidden state at a token is that token's row of a table."""

    def __init__(self, vocabulary, width=5, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(vocabulary, width, generator=generator))

    def get_decoder(self):
        def decoder(input_ids, use_cache):
            assert not use_cache
            return type("Output", (), {"last_hidden_state": self.table[input_ids]})()

        return decoder


def one_word_items(*titles):
    """A ranker without a template, a table model and item tokens: an item is its title's word."""
    ranker = make_ranker(temperature=0.5)
    ranker.template = ranker.template.model_copy(
        update={"history_prefix": "", "separator": "", "item_prefix": "", "item_suffix": ""}
    )
    ranker.encoder = DenseEncoder(pico_tokenizer(), ranker.template, 4)
    return ranker, TableModel(len(pico_tokenizer())), ranker.encoder.titles(titles)


def unit(model, tokens):
    return nn.functional.normalize(model.table.detach()[[ids[-1] for ids in tokens]], dim=-1)


def test_loss_of_a_case_by_hand():
    ranker, model, tokens = one_word_items("apple", "bread", "milk", "tea")
    windows, known = [[0, 1, 2], [3, 2]], [{0, 1, 2}, {3, 2}]
    batch = ranker.training_batch(windows, known, tokens, torch.zeros(4))
    v = unit(model, tokens)
    logits = v @ v.T / 0.5
    # The catalogue of the batch is what is a target in it: bread and milk. User 0 knows both, so
    # each is alone against nothing there; user 1 saw tea, wants milk, and never touched bread.
    by_hand = [
        -torch.log_softmax(logits[0, [1]], 0)[0],
        -torch.log_softmax(logits[1, [2]], 0)[0],
        -torch.log_softmax(logits[3, [2, 1]], 0)[0],
    ]
    assert ranker.loss(model, batch).item() == pytest.approx(float(sum(by_hand) / 3), abs=1e-6)
    assert by_hand[2] > 0.01


def test_training_batch_by_hand(ranker, tokens):
    batch = ranker.training_batch(
        [[0, 1, 2], [3, 2]], [{0, 1, 2, 5}, {3, 2}], tokens, torch.arange(6) * 0.5
    )
    assert batch["targets"].tolist() == [[0, 1], [1, -1]]  # columns of the items 1 and 2
    assert batch["log_q"].tolist() == [0.5, 1.0]
    assert batch["known"].tolist() == [[True, True], [False, True]]
    assert batch["item_ids"].shape[0] == batch["item_positions"].shape[0] == 2
    assert (batch["positions"] >= 0).tolist() == (batch["targets"] >= 0).tolist()


def test_sampling_correction_takes_log_q_off_the_logits():
    plain, model, tokens = one_word_items("apple", "bread", "milk", "tea")
    windows, known = [[0, 1], [3, 2]], [{0, 1}, {3, 2}]
    log_q = torch.tensor([0.0, -1.0, -3.0, 0.0])
    v = unit(model, tokens)
    for share in (0.0, 0.5, 1.0):
        plain.dense = plain.dense.model_copy(update={"sampling_correction": share})
        batch = plain.training_batch(windows, known, tokens, log_q)
        logits = v[[0, 3]] @ v[[1, 2]].T / 0.5 - share * log_q[[1, 2]]
        by_hand = -torch.log_softmax(logits, 1).diagonal().mean()
        assert plain.loss(model, batch).item() == pytest.approx(float(by_hand), abs=1e-6)


def test_items_the_user_knows_are_no_negatives():
    ranker, model, tokens = one_word_items("apple", "bread", "milk", "tea", "coffee")
    windows, known = [[0, 1], [3, 2]], [{0, 1, 2}, {3, 2}]
    batch = ranker.training_batch(windows, known, tokens, torch.zeros(5))

    def losses():
        # User 1's own part: the batch's other rows are masked out of the targets.
        rows = []
        for row in range(2):
            targets = torch.full_like(batch["targets"], -1)
            targets[row] = batch["targets"][row]
            rows.append(float(ranker.loss(model, {**batch, "targets": targets}).detach()))
        return rows

    before = losses()
    with torch.no_grad():
        model.table[tokens[2][-1]] = torch.tensor([3.0, -1.0, 2.0, 0.5, 1.0])
    after = losses()
    assert after[0] == before[0]  # user 0 has touched milk in a part of the history not shown
    assert after[1] != before[1]  # user 1 wants milk


def test_gradients_reach_histories_and_items(ranker, tokens, llama):
    model = pico_backbone("llama").model.requires_grad_(True)
    batch = ranker.training_batch([[0, 1, 2], [3, 4]], [{0, 1, 2}, {3, 4}], tokens, NO_Q)
    ranker.loss(model, batch).backward()
    gradient = model.get_decoder().embed_tokens.weight.grad
    for title in (0, 2):  # the first is read in a history only, the last as an item only
        assert gradient[tokens[title][0]].abs().sum() > 0


def test_loss_does_not_depend_on_padding(ranker, tokens, model):
    """The mean loss of a batch is the mean over its positions, whatever stands beside them."""
    windows, known = [[0, 1, 2, 3], [4, 2]], [{0, 1, 2, 3}, {4, 2}]
    batch = ranker.training_batch(windows, known, tokens, NO_Q)
    wider = {
        **batch,
        "history_ids": nn.functional.pad(batch["history_ids"], (0, 5), value=7),
        "item_ids": nn.functional.pad(batch["item_ids"], (0, 3), value=9),
    }
    assert float(ranker.loss(model, wider)) == pytest.approx(
        float(ranker.loss(model, batch)), abs=1e-5
    )


def test_a_user_alone_scores_as_in_a_batch(ranker, tokens, model):
    histories = [[tokens[0]], [tokens[1], tokens[2], tokens[3]], [tokens[4], tokens[1]]]
    candidates = [[1, 2, 3], [0, 4, 5], [5, 0, 2]]
    together = ranker.scores(model, ranker.ranking_batch(histories, candidates, tokens))
    assert together.shape == (3, 3)
    for row in range(3):
        alone = ranker.ranking_batch([histories[row]], [candidates[row]], tokens)
        torch.testing.assert_close(
            ranker.scores(model, alone)[0], together[row], atol=1e-5 / 0.05, rtol=0
        )


def test_scores_follow_the_order_of_the_candidates(ranker, tokens, llama):
    history = [[tokens[0], tokens[1]]]
    first = ranker.scores(llama, ranker.ranking_batch(history, [[2, 3, 4, 5]], tokens))
    second = ranker.scores(llama, ranker.ranking_batch(history, [[5, 3, 2, 4]], tokens))
    torch.testing.assert_close(second, first[:, [3, 1, 0, 2]])
    assert first.abs().max() <= 1 / 0.05 + 1e-4
    assert len(first.unique()) == 4


def test_only_the_recent_part_of_a_history_is_read(ranker, tokens, llama):
    candidates = [[4, 5]]
    long = ranker.ranking_batch([[tokens[i] for i in (5, 4, 0, 1, 2)]], candidates, tokens)
    short = ranker.ranking_batch([[tokens[i] for i in (0, 1, 2)]], candidates, tokens)
    torch.testing.assert_close(ranker.scores(llama, long), ranker.scores(llama, short))


def test_vectors_give_the_scores_of_a_batch(ranker, tokens, model):
    histories = [[tokens[0]], [tokens[1], tokens[2], tokens[3], tokens[4]]]
    candidates = [[1, 2, 3], [0, 4, 5]]
    wanted = ranker.scores(model, ranker.ranking_batch(histories, candidates, tokens))
    device = torch.device("cpu")
    users = ranker.user_vectors(model, histories, device)
    items = ranker.item_vectors(model, tokens, device)
    torch.testing.assert_close(users.norm(dim=1), torch.ones(2))
    found = ranker.logits(users, items[torch.tensor(candidates)])
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    every = ranker.logits(users, items)
    torch.testing.assert_close(every.gather(1, torch.tensor(candidates)), found)


def test_many_vectors_are_those_of_each_alone(ranker, tokens, llama, monkeypatch):
    device = torch.device("cpu")
    alone = torch.cat([ranker.item_vectors(llama, [title], device) for title in tokens])
    monkeypatch.setattr("reccocktail.ranking.dense.pass_tokens", lambda model: 16)
    ticks = []
    found = ranker.item_vectors(llama, tokens, device, ticks.append)
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
    assert sum(ticks) == len(tokens) and len(ticks) > 1
    assert ranker.item_vectors(llama, [], device).shape[0] == 0


def test_hidden_states_ignore_what_stands_to_the_right(model):
    ids = torch.tensor([[8, 9, 10, 11]])
    longer = torch.tensor([[8, 9, 10, 11, 1, 30, 31]])
    torch.testing.assert_close(
        hidden_states(model, longer)[:, :4], hidden_states(model, ids), atol=1e-5, rtol=0
    )


def test_entropy_by_hand():
    assert entropy_of(torch.zeros(3, 4)).tolist() == pytest.approx([math.log(4)] * 3)
    p = torch.tensor([0.5, 0.25, 0.25])
    assert float(entropy_of(p.log() + 7.0)) == pytest.approx(1.5 * math.log(2))
    assert float(entropy_of(torch.tensor([0.0, 200.0, -300.0]))) == pytest.approx(0.0, abs=1e-6)
    masked = torch.tensor([0.0, float("-inf"), 0.0])
    assert float(entropy_of(masked)) == pytest.approx(math.log(2))


def test_entropy_is_that_of_the_scores_and_within_its_bounds(ranker, tokens, model):
    batch = ranker.ranking_batch([[tokens[0]], [tokens[1]]], [[1, 2, 3, 4], [0, 2, 5, 3]], tokens)
    entropy = ranker.entropy(model, batch)
    p = torch.softmax(ranker.scores(model, batch), dim=1)
    torch.testing.assert_close(entropy, -(p * p.log()).sum(1), atol=1e-5, rtol=1e-5)
    assert entropy.shape == (2,)
    assert (entropy >= 0).all() and (entropy <= math.log(4) + 1e-6).all()


def test_a_depth_gives_the_states_of_the_lowest_layers(model):
    ids = torch.tensor([[8, 9, 10, 11]])
    if not hasattr(model.get_decoder(), "layers"):  # GPT-2's
        with pytest.raises(RecipeError, match=r"leave dense\.depth out"):
            hidden_states(model, ids, 1)
        return
    states = model.get_decoder()(
        input_ids=ids, use_cache=False, output_hidden_states=True
    ).hidden_states
    wanted = model.get_decoder().norm(states[1])
    torch.testing.assert_close(hidden_states(model, ids, 1), wanted)
    assert len(model.get_decoder().layers) == 2
    torch.testing.assert_close(hidden_states(model, ids, 9), hidden_states(model, ids))


def test_a_pooled_state_is_the_mean_of_the_unit_states_after_the_prefix(llama, tokens):
    pooled = make_ranker(pooling="mean")
    device = torch.device("cpu")
    found = pooled.item_vectors(llama, tokens, device)
    for title, vector in zip(tokens, found, strict=True):
        ids = torch.tensor([pooled.encoder.item(title)])
        states = hidden_states(llama, ids)[0, pooled.encoder.item_start :]
        mean = torch.nn.functional.normalize(states, dim=-1).mean(dim=0)
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=0)
    history, positions = pooled.encoder.history(tokens[:3])
    states = hidden_states(llama, torch.tensor([history]))[0]
    states = torch.nn.functional.normalize(states, dim=-1)
    mean = states[pooled.encoder.history_start : positions[-1] + 1].mean(dim=0)
    user = pooled.user_vectors(llama, [tokens[:3]], device)[0]
    torch.testing.assert_close(user, mean / mean.norm(), atol=1e-5, rtol=0)


def test_pooled_places_of_a_packed_history_read_nothing_that_comes_later(llama, tokens):
    pooled = make_ranker(pooling="mean")
    batch = pooled.encoder.histories_batch([tokens[:3], tokens[3:5]], every=True)
    states = pooled._users(llama, batch.input_ids, batch.positions)
    for row, history in ((0, tokens[:3]), (1, tokens[3:5])):
        for place in range(len(history)):
            alone = pooled.user_vectors(llama, [history[: place + 1]], torch.device("cpu"))[0]
            torch.testing.assert_close(states[row, place], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_lent_vectors_are_further_negatives_unless_their_user_touched_them(share):
    ranker, model, tokens = one_word_items("apple", "bread", "milk", "tea")
    ranker.dense = ranker.dense.model_copy(update={"sampling_correction": share})
    windows, known = [[0, 1], [3, 2]], [{0, 1}, {3, 2}]
    log_q = torch.tensor([-2.0, -1.0, -3.0, -0.5])
    batch = ranker.training_batch(windows, known, tokens, log_q)
    assert batch["items"].tolist() == [1, 2]
    assert batch["touched"].tolist() == [[0, 1], [2, 3]]
    v = unit(model, tokens)
    lent = {
        "bank_vectors": v[[0, 3]],
        "bank_log_q": log_q[[0, 3]],
        "bank_known": torch.tensor([[True, False], [False, True]]),
    }
    logits = v @ v.T / 0.5 - share * log_q
    by_hand = [
        -torch.log_softmax(logits[0, [1, 2, 3]], 0)[0],
        -torch.log_softmax(logits[3, [2, 1, 0]], 0)[0],
    ]
    found = ranker.loss(model, batch | lent)
    assert found.item() == pytest.approx(float(sum(by_hand) / 2), abs=1e-6)
    given = set(batch)
    torch.testing.assert_close(ranker.contrast(model, batch | lent).items, v[[1, 2]])
    assert set(batch) == given
