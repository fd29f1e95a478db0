"""The load benchmark at pico size: a real server, the real command, every cell."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reccocktail.backbone import load_backbone
from reccocktail.data.domain import Domain
from reccocktail.errors import RecipeError
from tests.adapters import random_adapter, save
from tests.benches import benchmark_modules
from tests.domains import taste_domain
from tests.pico import pico_model, pico_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench():
    with benchmark_modules() as modules:
        yield modules


def test_every_cell_is_measured(tmp_path):
    folder = tmp_path / "pico"
    pico_model().save_pretrained(folder)
    pico_tokenizer().save_pretrained(folder)
    backbone = load_backbone(str(folder), device="cpu")
    domain = taste_domain(tmp_path, users=60)
    adapter = save(random_adapter(backbone, domain, "one", seed=1), tmp_path)
    out = tmp_path / "load.json"
    command = [sys.executable, "benchmarks/serve_load.py", "--data", domain.path]
    command += ["--adapter", adapter, "--backbone", folder, "--out", out]
    command += ["--clients", "1", "4", "--seconds", "0.5", "--requests", "100"]
    command += ["--plug-in", taste_domain(tmp_path, name="other", users=40).path]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(out.read_text())["domains"]
    for cell in ("fresh/1", "fresh/4", "repeated/1", "repeated/4"):
        assert set(found[cell]["statuses"]) == {"200"} and found[cell]["broken_connections"] == 0
        assert 0 < found[cell]["p50_ms"] <= found[cell]["p95_ms"] <= found[cell]["p99_ms"]
        assert found[cell]["requests_per_second"] > 0 and found[cell]["requests_per_batch"] >= 1
    assert set(found["overload"]["statuses"]) <= {"200", "429"}
    assert found["overload"]["broken_connections"] == 0 < found["overload"]["answered"]
    assert len(found["memory"]["resident_bytes"]) == 11
    uploads = found["uploads"]
    assert uploads["failed_uploads"] == 0 and uploads["new_items_in_a_top_10_of_new_items"] > 0
    assert set(uploads["requests_meanwhile"]["statuses"]) == {"200"}
    plugged = found["plug_in"]
    assert plugged["status"] == 200 and plugged["recommended_afterwards"] == 10
    assert set(plugged["requests_meanwhile"]["statuses"]) == {"200"}


def test_a_large_domain_is_made_of_many(tmp_path, bench, capsys):
    parts = [taste_domain(tmp_path, name=name, users=40) for name in ("one", "two")]
    items = sum(len(part.item_ids) for part in parts)
    paths = [word for part in parts for word in ("--data", str(part.path))]
    main = bench("large_catalogue").main
    main([*paths, "--items", str(items), "--out", str(tmp_path / "whole")])
    whole = Domain.load(tmp_path / "whole")
    titles = dict(zip(whole.item_ids, whole.titles, strict=True))
    for part in parts:
        for item, title in zip(part.item_ids, part.titles, strict=True):
            assert titles.pop(f"{part.name}:{item}", title) == title
    assert not titles  # nothing of anywhere else
    # What a user touched comes in its order; items that are cold now are left out.
    rows = whole.rows("test_warm")
    users = dict(zip(rows["user_id"], rows["history"].to_list(), strict=True))
    ours = parts[1].rows("test_warm").row(0, named=True)
    rest = iter(f"two:{item}" for item in [*ours["history"], ours["target"]])
    history = users[f"two:{ours['user_id']}"]
    assert history and all(item in rest for item in history)

    main([*paths, "--items", str(items // 2), "--out", str(tmp_path / "few")])
    few = Domain.load(tmp_path / "few")
    longest = max(map(len, few.titles))
    assert len(few.item_ids) <= items // 2
    assert sum(len(title) < longest for part in parts for title in part.titles) <= items // 2
    with pytest.raises(RecipeError, match="lower --items"):
        main([*paths, "--items", "100000", "--out", str(tmp_path / "no")])
