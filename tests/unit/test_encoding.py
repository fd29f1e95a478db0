import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reccocktail.prompting.encoding import DenseEncoder, length_batches, pad
from reccocktail.prompting.template import DenseTemplate, load
from tests.pico import SPECIAL, pico_tokenizer

# The separators of this template are words that the pico tokenizer knows ("\n" leaves no token).
TEMPLATE = DenseTemplate(
    history_prefix="history :", separator=",", item_prefix="item :", item_suffix="."
)
TITLES = ["red apple", "the king of the night city", "milk", ""]


@pytest.fixture(scope="module")
def tokenizer():
    return pico_tokenizer()


@pytest.fixture(scope="module")
def encoder(tokenizer):
    return DenseEncoder(tokenizer, TEMPLATE, title_tokens=4)


def words(tokenizer, ids):
    return " ".join(tokenizer.convert_ids_to_tokens([int(token) for token in ids]))


def test_titles_are_cut(tokenizer, encoder):
    tokens = encoder.titles(TITLES)
    assert [words(tokenizer, ids) for ids in tokens] == [
        "red apple",
        "the king of the",
        "milk",
        "",
    ]
    assert encoder.titles([]) == []


@pytest.mark.parametrize("name", [s for s in SPECIAL if s != "<unk>"])
def test_special_tokens_in_titles_stay_text(tokenizer, encoder, name):
    forbidden = tokenizer.convert_tokens_to_ids(name)
    assert tokenizer(name, add_special_tokens=False)["input_ids"] == [forbidden]
    (ids,) = encoder.titles([f"red {name} apple"])
    assert forbidden not in ids
    # The tokenizer is shared with templates that do need its special tokens.
    assert tokenizer(name, add_special_tokens=False)["input_ids"] == [forbidden]


def test_an_item_is_read_at_its_last_token(tokenizer, encoder):
    batch = encoder.items_batch(encoder.titles(TITLES))
    assert batch.positions.tolist() == [[4], [6], [3], [2]]
    last = batch.input_ids.gather(1, batch.positions)[:, 0]
    assert words(tokenizer, last) == ". . . ."
    assert words(tokenizer, batch.input_ids[0]) == "item : red apple . <pad> <pad>"


def test_a_history_is_read_after_every_title(tokenizer, encoder):
    titles = encoder.titles(TITLES)
    batch = encoder.histories_batch([titles[:2], titles[2:3]], every=True)
    assert words(tokenizer, batch.input_ids[0]) == "history : red apple , the king of the ,"
    assert batch.positions.tolist() == [[4, 9], [3, -1]]
    assert words(tokenizer, batch.input_ids[1]) == "history : milk ," + " <pad>" * 6
    final = encoder.histories_batch([titles[:2], titles[2:3]], every=False)
    assert torch.equal(final.input_ids, batch.input_ids)
    assert final.positions.tolist() == [[9], [3]]


def test_a_state_sees_only_the_titles_up_to_it(encoder):
    titles = encoder.titles(TITLES)
    ids, positions = encoder.history(titles)
    for count, position in enumerate(positions, start=1):
        assert encoder.history(titles[:count])[0] == ids[: position + 1]


def test_the_shipped_template_tells_histories_from_items(tokenizer):
    template = load("titles", DenseTemplate)
    encoder = DenseEncoder(tokenizer, template, title_tokens=4)
    assert encoder.history([])[0] == tokenizer("history :")["input_ids"]
    assert encoder.item([])[: len(encoder.history([])[0])] == tokenizer("item :")["input_ids"]


@given(st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=6))
def test_pad_keeps_every_row(rows):
    padded = pad(rows, -1)
    assert padded.dtype == torch.int64
    assert padded.shape == (len(rows), max((len(row) for row in rows), default=0))
    for row, found in zip(rows, padded.tolist(), strict=True):
        assert found == row + [-1] * (len(found) - len(row))


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 120))
def test_length_batches_hold_all_once_within_budget(lengths, budget):
    batches = length_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
    # No two neighbours would fit into one batch: the batches are as few as the order allows.
    for first, second in itertools.pairwise(batches):
        assert (len(first) + 1) * lengths[second[0]] > budget
