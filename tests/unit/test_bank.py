"""The bank of item vectors: what it lends, what it forgets, and that a checkpoint holds it."""

import pytest
import torch

from reccocktail.training.bank import ItemBank


def batch(items, touched, domain=0):
    return {
        "domain": torch.tensor(domain),
        "items": torch.tensor(items),
        "touched": torch.tensor(touched),
        "log_q": torch.tensor([-float(item) for item in items]),
    }


def put(bank, *given):
    what = batch(*given)
    bank.put(what, torch.tensor([[float(item), 1.0] for item in what["items"]]))


def test_it_lends_the_vectors_of_earlier_batches_of_the_same_domain():
    bank = ItemBank(10)
    assert bank.negatives(batch([1, 2], [[1, -1]])) == {}
    put(bank, [1, 2, 3], [[1, -1]])
    found = bank.negatives(batch([3, 4], [[1, 4], [2, -1]]))
    assert found["bank_vectors"].tolist() == [[1.0, 1.0], [2.0, 1.0]]
    assert found["bank_log_q"].tolist() == [-1.0, -2.0]
    assert found["bank_known"].tolist() == [[True, False], [False, True]]
    assert bank.negatives(batch([3, 4], [[1, 4]], domain=1)) == {}


def test_the_items_kept_longest_make_room():
    bank = ItemBank(3)
    put(bank, [1, 2, 3], [[1]])
    put(bank, [1, 4], [[1]])
    found = bank.negatives(batch([9], [[9]]))
    assert found["bank_vectors"][:, 0].tolist() == [3.0, 1.0, 4.0]


def test_a_checkpoint_gives_the_same_bank():
    bank, other = ItemBank(3), ItemBank(3)
    put(bank, [5, 2, 3], [[1]])
    put(bank, [7], [[1]], 4)
    other.restore(bank.state(), torch.device("cpu"))
    for domain in (0, 4):
        wanted, found = (b.negatives(batch([9], [[3]], domain)) for b in (bank, other))
        assert wanted.keys() == found.keys() and wanted
        assert all(torch.equal(wanted[key], found[key]) for key in wanted)
    put(other, [8], [[1]])
    assert other.negatives(batch([9], [[9]]))["bank_vectors"][:, 0].tolist() == [2.0, 3.0, 8.0]
    with pytest.raises(KeyError):
        other.restore({"0.items": torch.tensor([1])}, torch.device("cpu"))
