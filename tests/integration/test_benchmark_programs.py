"""What all benchmarks share as programs: errors in one sentence, and results with their command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benches import BENCHMARKS, benchmark_modules

PROGRAMS = sorted(f for f in BENCHMARKS.glob("*.py") if "__main__" in f.read_text("utf-8"))
WORKING = {
    "cells", "study", "table_bench", "few_shot", "published_cost", "surface_forms",
    "explanations",
}  # fmt: skip
"""Who keeps cells, sheets and costs to go on from."""


@pytest.fixture
def bench():
    with benchmark_modules() as find:
        yield find


def ran(name, *words):
    """One program as a process of its own."""
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS.parent / "src"), "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("file", PROGRAMS, ids=lambda file: file.stem)
def test_every_program_starts_through_the_one_wrapper(file):
    start = file.read_text("utf-8").partition('if __name__ == "__main__":\n')[2].strip()
    assert start in ("program(main)", "program(lambda: sys.exit(main()))")


def test_what_the_user_can_mend_is_one_sentence_and_exit_2(bench, tmp_path):
    places = ["--data", tmp_path, "--base", tmp_path / "no", "--ingredient", tmp_path / "no"]
    done = ran("published_cost.py", *places, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and str(tmp_path / "no") in line


def test_a_mistake_of_the_program_keeps_its_traceback(bench):
    def fails():
        raise ValueError("arrays of different lengths")

    with pytest.raises(ValueError, match="different lengths"):
        bench("program").program(fails)


def test_results_hold_the_command_without_paths_of_the_machine(tmp_path):
    pytest.importorskip("usearch")
    out = tmp_path / "index.json"
    size = "--items 500 --queries 5 --width 16".split()
    done = ran("index.py", *size, "--out", out)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["command"] == "index.py --items 500 --queries 5 --width 16 --out index.json"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "/somewhere/d/films", "--users", "3"], "--data films --users 3"),
        (["--data=/somewhere/d/films/"], "--data=films"),
        (["--adapter", "one=/somewhere/my runs/one"], "--adapter one=one"),
        (["--trial", "deep: dense.readout=/somewhere/r.st lora.rank=8"],
         "--trial 'deep: dense.readout=r.st lora.rank=8'"),
        (["--trial", "files: /somewhere/a /somewhere/b"], "--trial 'files: a b'"),
        (["--base", "smollm2-135m/dense", "runs/one", "Qwen/Qwen3-0.6B"],
         "--base smollm2-135m/dense runs/one Qwen/Qwen3-0.6B"),
    ],
)  # fmt: skip
def test_of_an_absolute_path_the_last_component_stays(bench, monkeypatch, words, said):
    monkeypatch.setattr(sys, "argv", ["/somewhere/benchmarks/learning.py", *words])
    assert bench("provenance").command() == f"learning.py {said}"


def test_only_working_files_are_written_without_the_command():
    """`publish.py` is given the command of the run that it publishes."""
    writers = {file.stem for file in BENCHMARKS.glob("*.py") if "write_json(" in file.read_text()}
    assert writers == {"provenance", "publish", *WORKING}
    assert not [f for f in Path(BENCHMARKS).glob("*.py") if "json.dump(" in f.read_text("utf-8")]
