"""Titles compared by a sentence encoder in its true format, and by a backbone's embeddings."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from reccocktail.baselines import BASELINES, baseline_name, make_baseline
from reccocktail.baselines.backbone_similarity import BackboneSimilarity, whitened
from reccocktail.baselines.sentence_encoder import SentenceEncoder
from reccocktail.errors import RunError
from reccocktail.evaluation.evaluate import evaluate
from reccocktail.evaluation.metrics import ranks
from reccocktail.evaluation.settings import EvaluationSettings
from reccocktail.ranking.scoring import positive_columns
from tests.domains import taste_domain, taste_of
from tests.helpers import one_sentence
from tests.pico import pico_backbone, pico_model, pico_tokenizer


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory):
    return taste_domain(tmp_path_factory.mktemp("domain"), users=60)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that sentence-transformers itself wrote: a pico transformer and mean pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = tmp_path_factory.mktemp("encoder")
    pico_model().base_model.save_pretrained(folder / "raw")
    pico_tokenizer().save_pretrained(folder / "raw")
    words = Transformer(str(folder / "raw"), max_seq_length=32)
    pooling = Pooling(words.get_embedding_dimension(), pooling_mode="mean")
    SentenceTransformer(modules=[words, pooling], device="cpu").save(str(folder / "st"))
    return folder / "st"


def rows(history: list[str], candidates: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"history": [history], "candidates": [candidates]})


def test_the_encoder_loads_from_a_folder_and_knows_cold_items(domain, encoder) -> None:
    model = make_baseline(f"sentence-encoder={encoder}")
    model.fit(domain)
    assert model.chosen["model"] == str(encoder)
    cold = domain.item_ids[int(np.flatnonzero(domain.train_counts() == 0)[0])]
    found = model.scores(rows([cold], domain.item_ids))[0]
    assert found[domain.index[cold]] == pytest.approx(1.0)
    # The same noun in another colour is nearer than another noun in another colour.
    colour, noun = domain.titles[domain.index[cold]].split()
    same = [t.split()[1] == noun and t.split()[0] != colour for t in domain.titles]
    other = [t.split()[1] != noun and t.split()[0] != colour for t in domain.titles]
    assert found[same].mean() > found[other].mean() + 0.05
    again = SentenceEncoder(str(encoder)).fit(domain)
    assert (again.scores(rows([cold], domain.item_ids))[0] == found).all()


def test_the_encoders_vectors_are_the_librarys(domain, encoder) -> None:
    from sentence_transformers import SentenceTransformer

    first, second = domain.item_ids[3], domain.item_ids[70]
    found = SentenceEncoder(str(encoder)).fit(domain).scores(rows([first], [second]))[0][0]
    one, two = SentenceTransformer(str(encoder), device="cpu").encode(
        [domain.titles[3], domain.titles[70]]
    )
    assert found == pytest.approx(
        float(one @ two / np.linalg.norm(one) / np.linalg.norm(two)), abs=1e-5
    )


def test_a_missing_encoder_is_one_sentence(domain, tmp_path, monkeypatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="cannot be loaded") as error:
        SentenceEncoder(str(tmp_path / "empty")).fit(domain)
    assert "--baseline sentence-encoder=FOLDER" in str(error.value)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(RunError, match=r"package sentence-transformers .*reccocktail\[encoders\]"):
        SentenceEncoder("anything")


def embeddings_backbone(directions: dict[str, int]) -> object:
    """A pico backbone whose embeddings of these words are unit vectors with a common offset."""
    backbone = pico_backbone()
    table = backbone.model.get_input_embeddings().weight
    with torch.no_grad():
        for word, place in directions.items():
            (number,) = backbone.tokenizer(word, add_special_tokens=False)["input_ids"]
            table[number] = torch.nn.functional.one_hot(torch.tensor(place), table.shape[1])
            table[number, -1] = 3.0  # what all words share, and what whitening takes away
    return backbone


def test_the_backbones_embeddings_rank_by_the_words_they_know(domain) -> None:
    """Nouns of one taste point one way: then the target's taste comes first, cold items too."""
    nouns = {title.split()[1]: taste_of(title) for title in domain.titles}
    model = make_baseline("backbone-similarity", embeddings_backbone(nouns))
    assert isinstance(model, BackboneSimilarity)
    model.fit(domain)
    for table in ("test_warm", "test_cold"):
        test = domain.rows(table)
        scores = model.scores(test)
        assert ranks(scores, positive_columns(test)).mean() < 9
        for row, history, items in zip(scores, test["history"], test["candidates"], strict=True):
            taste = taste_of(domain.titles[domain.index[history[0]]])
            own = [taste_of(domain.titles[domain.index[item]]) == taste for item in items]
            assert row[own].mean() > row[~np.array(own)].mean() + 0.2


def test_whitened_vectors_have_the_identity_as_covariance() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 4)) @ np.diag([1.0, 2.0, 3.0, 4.0]) + 7
    found = whitened(vectors)
    values = np.linalg.eigvalsh(np.cov(vectors.T))
    expected = values / (values + 0.1 * values.mean())
    assert np.sort(np.diag(np.cov(found.T))) == pytest.approx(np.sort(expected))
    assert np.abs(np.cov(found.T) - np.diag(np.diag(np.cov(found.T)))).max() < 1e-9
    assert np.isfinite(whitened(np.ones((3, 2)))).all()
    assert whitened(np.ones((1, 2))).tolist() == [[0.0, 0.0]]


def test_titles_without_tokens_score_nothing() -> None:
    titles = ["red lamp", "", "blue shoe"]
    index = {"a": 0, "b": 1, "c": 2}
    nobody = {"valid_warm": pl.DataFrame()}
    stub = SimpleNamespace(titles=titles, index=index, name="stub", rows=nobody.__getitem__)
    model = make_baseline("backbone-similarity", pico_backbone()).fit(stub)
    found = model.scores(rows(["a"], ["a", "b", "c"]))[0]
    assert np.isfinite(found).all()
    assert found[0] == pytest.approx(1.0)


def test_names_and_their_models() -> None:
    assert baseline_name("sentence-encoder=some/folder=1") == "sentence-encoder"
    for text, reason in {
        "oracle": "No baseline 'oracle'; choose from backbone-similarity, bpr, ",
        "bpr=x": "bpr baseline takes no model",
        "sentence-encoder=": "names no model",
        "backbone-similarity": "give --backbone or --adapter",
    }.items():
        with pytest.raises(RunError, match=reason) as error:
            make_baseline(text)
        one_sentence(error.value)
    for name, found in BASELINES.items():
        assert found.name == name


def test_evaluate_takes_them_beside_a_backbone(domain, encoder, tmp_path) -> None:
    settings = EvaluationSettings(users=10, validation_users=5)
    names = ["backbone-similarity", f"sentence-encoder={encoder}", "item-knn"]
    metrics = evaluate(
        domain, [], pico_backbone(), tmp_path / "e", baselines=names, settings=settings
    )
    assert list(metrics["models"])[:3] == ["backbone-similarity", "sentence-encoder", "item-knn"]
    run = pl.read_json(tmp_path / "e" / "run.json")["models"][0]
    assert run["sentence-encoder"]["chosen"]["model"] == str(encoder)
    assert run["item-knn"]["chosen"]["neighbours"] > 0
    with pytest.raises(RunError, match="give --backbone"):
        evaluate(domain, [], None, tmp_path / "f", baselines=names, settings=settings)
    assert not (tmp_path / "f").exists()
