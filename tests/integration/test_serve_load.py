"""The load benchmark at pico size: a real server, the real command, every cell."""

import json
import os
import subprocess
import sys
from pathlib import Path

from reccocktail.backbone import load_backbone
from tests.adapters import random_adapter, save
from tests.domains import taste_domain
from tests.pico import pico_model, pico_tokenizer

ROOT = Path(__file__).parents[2]


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
