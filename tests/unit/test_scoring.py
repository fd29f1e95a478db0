import os

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from reccocktail.data.domain import sample_rows
from reccocktail.ranking import kept
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.scoring import Catalogue, ItemVectors, encode, positive_columns, score
from reccocktail.recipe import DenseSettings, PromptSettings
from reccocktail.training.validation import Validation
from tests.domains import taste_domain
from tests.helpers import changed
from tests.pico import pico_backbone
from tests.readouts import a_readout


@pytest.fixture(scope="module")
def backbone():
    return pico_backbone()


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory, backbone):
    domain = taste_domain(tmp_path_factory.mktemp("domains"), users=40)
    ranker = DenseRanker(backbone.tokenizer, PromptSettings(max_history=4), DenseSettings())
    return Catalogue.of(domain, ranker)


@pytest.fixture(scope="module")
def rows(catalogue):
    return catalogue.domain.rows("test_warm").head(12)


class Counting:
    """A model that counts the sequences it reads."""

    def __init__(self, model):
        self.model, self.sequences = model, 0

    def parameters(self):
        return self.model.parameters()

    def get_decoder(self):
        def decoder(input_ids, **rest):
            self.sequences += len(input_ids)
            return self.model.get_decoder()(input_ids=input_ids, **rest)

        return decoder


def test_vectors_score_as_the_ranker_does(catalogue, rows, backbone):
    (vectors,) = encode(backbone.model, ItemVectors(catalogue), catalogue, [rows], "Test")
    candidates = catalogue.candidates(rows)
    found = np.stack(vectors.scores(catalogue.ranker, candidates))
    batch = catalogue.ranker.ranking_batch(catalogue.histories(rows), candidates, catalogue.tokens)
    with torch.no_grad():
        wanted = catalogue.ranker.scores(backbone.model, batch)
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)
    assert found.dtype == np.float64


def test_items_of_one_title_tie_to_the_last_digit(catalogue, rows, backbone, monkeypatch, tmp_path):
    """A product's rounding depends on the column, so a coin would decide between them."""
    half = len(catalogue.tokens) // 2

    def repeated(items):
        titles = items["title"].to_list()
        return items.with_columns(pl.Series("title", [*titles[:-half], *titles[:half]]))

    domain = changed(catalogue.domain, tmp_path / "twins", items=repeated)
    twins = Catalogue.of(domain, catalogue.ranker)
    exact, random = DenseRanker.logits, np.random.default_rng(0)

    def rounding(self, users, items):
        found = exact(self, users, items)
        return found + torch.from_numpy(random.uniform(0, 1e-6, found.shape)).float()

    monkeypatch.setattr(DenseRanker, "logits", rounding)
    (scored,) = score(backbone.model, twins, [rows], "Test", whole_catalogue=True)
    whole = scored.catalogue(slice(0, None))
    size = len(domain.titles)
    assert np.array_equal(whole[:, size - half :], whole[:, :half])
    assert len(np.unique(whole[0])) == size - half
    pairs = 0
    for numbers, found in zip(twins.candidates(rows), scored.scores, strict=True):
        of = {}
        for number, value in zip(numbers, found, strict=True):
            of.setdefault(domain.titles[number], set()).add(value)
        pairs += len(numbers) - len(of)
        assert all(len(values) == 1 for values in of.values())
    assert pairs > 5


def test_rows_of_different_lengths_are_scored(catalogue, rows, backbone):
    (vectors,) = encode(backbone.model, ItemVectors(catalogue), catalogue, [rows], "Test")
    candidates = catalogue.candidates(rows)
    ragged = [row[: 2 + place] for place, row in enumerate(candidates)]
    whole = vectors.scores(catalogue.ranker, candidates)
    for place, scores in enumerate(vectors.scores(catalogue.ranker, ragged)):
        np.testing.assert_allclose(scores, whole[place][: 2 + place], atol=1e-5)


def test_every_item_is_read_once(catalogue, rows, backbone, monkeypatch):
    monkeypatch.setattr(catalogue.ranker, "tree_titles", float("inf"))  # one sequence an item
    model = Counting(backbone.model)
    items = ItemVectors(catalogue)
    needed = len({item for row in catalogue.candidates(rows) for item in row})
    encode(model, items, catalogue, [rows], "Test")
    assert model.sequences == needed + rows.height
    encode(model, items, catalogue, [rows], "Test")
    assert model.sequences == needed + 2 * rows.height
    encode(model, items, catalogue, [rows], "Test", whole_catalogue=True)
    assert model.sequences == len(catalogue.tokens) + 3 * rows.height
    assert items.all().shape == (len(catalogue.tokens), 32)


def test_the_whole_catalogue_is_in_its_order(catalogue, rows, backbone):
    items = ItemVectors(catalogue)
    encode(backbone.model, items, catalogue, [rows], "Test")
    (vectors,) = encode(backbone.model, items, catalogue, [rows], "Test", whole_catalogue=True)
    every = catalogue.ranker.logits(vectors.users, items.all()).numpy()
    for user, (row, scores) in enumerate(
        zip(
            catalogue.candidates(rows),
            vectors.scores(catalogue.ranker, catalogue.candidates(rows)),
            strict=True,
        )
    ):
        np.testing.assert_allclose(every[user, row], scores, atol=1e-4)


def test_the_cache_gives_back_the_same_vectors(catalogue, rows, backbone, cache):
    items = ItemVectors(catalogue, "a" * 64)
    encode(backbone.model, items, catalogue, [rows], "Test", whole_catalogue=True)
    model = Counting(backbone.model)
    again = ItemVectors(catalogue, "a" * 64)
    encode(model, again, catalogue, [rows], "Test", whole_catalogue=True)
    assert model.sequences == rows.height
    assert torch.equal(again.all(), items.all())
    other = ItemVectors(catalogue, "b" * 64)
    assert len(other.missing(range(5))) == 5


@pytest.mark.parametrize("what", ["depth", "pooling", "readout", "template"])
def test_the_cache_tells_ways_of_reading_apart(catalogue, rows, backbone, tmp_path, what):
    encode(backbone.model, ItemVectors(catalogue, "a" * 64), catalogue, [rows], "Test")
    kept_items = catalogue.candidates(rows)[0]
    assert not ItemVectors(catalogue, "a" * 64).missing(kept_items)
    prompt, dense, readout = catalogue.ranker.prompt, DenseSettings(), None
    if what == "depth":
        dense = DenseSettings(depth=1)
    elif what == "pooling":
        dense = DenseSettings(pooling="mean")
    elif what == "readout":
        readout = a_readout("0" * 64)
    else:
        wording = catalogue.ranker.template.model_dump() | {"item_prefix": "a song: "}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(wording))
        prompt = PromptSettings(max_history=4, template=str(tmp_path / "mine.yaml"))
    ranker = DenseRanker(backbone.tokenizer, prompt, dense, readout)
    other = ItemVectors(Catalogue.of(catalogue.domain, ranker), "a" * 64)
    assert other.missing(kept_items) == sorted(kept_items)


def test_a_damaged_cache_heals(catalogue, rows, backbone, cache):
    encode(backbone.model, ItemVectors(catalogue, "a" * 64), catalogue, [rows], "Test")
    (file,) = (cache / "vectors").iterdir()
    for damage in (b"", file.read_bytes()[:-100]):
        file.write_bytes(damage)
        items = ItemVectors(catalogue, "a" * 64)
        encode(backbone.model, items, catalogue, [rows], "Test")
        assert not ItemVectors(catalogue, "a" * 64).missing(catalogue.candidates(rows)[0])


def test_the_cache_forgets_what_was_written_first(catalogue, rows, backbone, cache, monkeypatch):
    for number, name in enumerate("abc"):
        encode(backbone.model, ItemVectors(catalogue, name * 64), catalogue, [rows], "Test")
        files = sorted((cache / "vectors").iterdir(), key=lambda file: file.stat().st_mtime_ns)
        os.utime(files[-1], (number, number))
        if number == 0:
            monkeypatch.setattr(kept, "CACHE_BYTES", 2.5 * files[0].stat().st_size)
    held = [not ItemVectors(catalogue, name * 64).missing([0]) for name in "abc"]
    assert held == [False, True, True]


def test_several_tables_at_once(catalogue, rows, backbone):
    first, second = rows.head(5), rows.tail(4)
    one, two = encode(backbone.model, ItemVectors(catalogue), catalogue, [first, second], "Test")
    (both,) = encode(backbone.model, ItemVectors(catalogue), catalogue, [rows], "Test")
    torch.testing.assert_close(one.users, both.users[:5], atol=1e-5, rtol=0)
    torch.testing.assert_close(two.users, both.users[-4:], atol=1e-5, rtol=0)


def test_a_table_without_rows(catalogue, rows, backbone):
    (vectors,) = encode(backbone.model, ItemVectors(catalogue), catalogue, [rows.head(0)], "Test")
    assert vectors.scores(catalogue.ranker, []) == []


def test_positive_columns(rows):
    found = positive_columns(rows)
    targets = [row[place] for row, place in zip(rows["candidates"].to_list(), found, strict=True)]
    assert targets == rows["target"].to_list()
    assert len(set(found.tolist())) > 1  # the positive's place is shuffled


def test_validation_rows_are_drawn_once(catalogue):
    table = catalogue.domain.rows("valid_warm")
    drawn = sample_rows(table, 7, seed=1)
    assert drawn.height == 7
    assert drawn.equals(sample_rows(table, 7, seed=1))
    assert not drawn.equals(sample_rows(table, 7, seed=2))
    assert drawn["user_id"].n_unique() == 7
    assert sample_rows(table, 10**6, seed=1).equals(table)


def test_validation_is_the_mean_over_domains(catalogue, backbone):
    found = Validation([catalogue], users=9, seed=0)(backbone.model)
    assert set(found) == {"ndcg@10", "ndcg@10/tastes"}
    assert found["ndcg@10"] == found["ndcg@10/tastes"]
    assert 0 <= found["ndcg@10"] <= 1
    assert Validation([catalogue], users=0, seed=0)(backbone.model) == {}


def test_what_another_process_forgets_meanwhile_fails_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "CACHE_BYTES", 0)
    monkeypatch.setenv("RECCOCKTAIL_CACHE", str(tmp_path))
    file, other = kept.place("mine"), kept.place("other")
    kept.write(other, {"vectors": torch.ones(2)})
    listed = type(file).glob

    def then_forgotten(self, pattern):
        found = list(listed(self, pattern))
        other.unlink(missing_ok=True)
        return [*found, other]

    monkeypatch.setattr(type(file), "glob", then_forgotten)
    kept.write(file, {"vectors": torch.ones(3)})
    assert kept.read(other) is None


def test_domains_of_one_name_are_validated_apart(catalogue, tmp_path, backbone):
    namesake = Catalogue.of(taste_domain(tmp_path, users=50, seed=4), catalogue.ranker)
    found = Validation([catalogue, namesake], users=9, seed=0)(backbone.model)
    alone = [Validation([one], 9, 0)(backbone.model)["ndcg@10"] for one in (catalogue, namesake)]
    assert [found["ndcg@10/tastes"], found["ndcg@10/tastes (2)"]] == alone
    assert alone[0] != alone[1] and found["ndcg@10"] == pytest.approx(sum(alone) / 2)


def test_vectors_of_a_whole_catalogue_are_kept_once(backbone, catalogue):
    items = ItemVectors(catalogue)
    backwards = list(range(len(catalogue.tokens)))[::-1]
    items.add(backbone.model, backwards, backbone.device, int)
    before = items.of([3, 0, 5])
    whole = items.all()
    assert items.all() is whole
    assert torch.equal(whole[[3, 0, 5]], before) and torch.equal(items.of([3, 0, 5]), before)
    assert items.missing(backwards) == []


def test_kept_vectors_are_named_by_who_reads(monkeypatch):
    here = kept.place(["a"])
    assert kept.place(["a"]) == here != kept.place(["b"])
    monkeypatch.setattr(kept, "READERS", kept.READERS + 1)
    assert kept.place(["a"]) != here
    monkeypatch.undo()
    monkeypatch.setattr(kept, "version", lambda name: "0")
    assert kept.place(["a"]) != here
