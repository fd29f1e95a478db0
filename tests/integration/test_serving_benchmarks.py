"""The benchmarks of the index and of batches run at pico size and report what they measured."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from reccocktail.backbone import load_backbone
from tests.adapters import random_adapter, save
from tests.domains import taste_domain
from tests.pico import pico_model, pico_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def test_the_index_is_judged_by_the_exact_product(benchmark, tmp_path):
    pytest.importorskip("usearch")
    index = benchmark("index")
    flags = ["--items", "3000", "--queries", "40", "--width", "32"]
    index.main([*flags, "--out", str(tmp_path / "index.json")])
    found = json.loads((tmp_path / "index.json").read_text())
    (row,) = found["rows"]
    assert row["items"] == 3000 and 0.8 < row["recall@10"]["mean"] <= 1
    assert row["exact"]["ms_single"] > 0 and row["graph"]["build_seconds"] > 0


def test_the_drawn_vectors_stand_in_clusters(benchmark):
    items, queries = benchmark("index").clustered(2000, 50, 32)
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), 1, rtol=1e-5)
    products = queries @ items.T
    assert products.mean() > 0.1  # a common direction
    even = np.random.default_rng(0).standard_normal(items.shape)
    even /= np.linalg.norm(even, axis=1, keepdims=True)
    without = even[:50] @ even[50:].T
    assert (products > 0.6).mean() > 0.01  # near neighbours are many
    assert (products > 0.6).mean() > 5 * (without > 0.6).mean()


def test_a_batch_is_timed_and_planned_from_its_unit_costs(benchmark, tmp_path):
    domain = taste_domain(tmp_path, users=60)
    pico_model().save_pretrained(tmp_path / "backbone")
    pico_tokenizer().save_pretrained(tmp_path / "backbone")
    backbone = load_backbone(str(tmp_path / "backbone"), device="cpu")
    adapter = save(random_adapter(backbone, domain, "adapter"), tmp_path)
    flags = ["--data", domain.path, "--adapter", adapter, "--users", 90, "--chunk", 40]
    flags += ["--device", "cpu", "--no-ray", "--out", tmp_path / "batch.json"]
    benchmark("batch_speed").main([str(flag) for flag in flags])
    found = json.loads((tmp_path / "batch.json").read_text())
    assert found["users"] == 90 and found["local"]["seconds_a_user"]["n"] == 3
    hours = 1e8 * found["local"]["seconds_a_user"]["median"] / 3600
    assert found["plan"]["machine_hours"] == pytest.approx(hours)
    assert str(tmp_path) not in json.dumps(found)
