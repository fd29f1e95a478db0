"""A result's origin: what is claimed of commit, versions, hardware and memory is so."""

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from reccocktail.environment import commit, hardware, peak_memory, versions


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file committed to a repository of its own."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)  # set by hooks, and would point to another repository
    file = tmp_path / "code" / "part.py"
    file.parent.mkdir()
    file.write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return file


def test_the_commit_is_that_of_the_tree_and_a_change_is_marked(source: Path) -> None:
    head = git(source.parent, "rev-parse", "HEAD")
    assert commit(source) == head
    (source.parent / "notes.txt").write_text("not tracked")
    assert commit(source) == head
    source.write_text("x = 2\n")
    assert commit(source) == head + "+"


def test_a_file_that_a_foreign_repository_does_not_track_has_no_commit(source: Path) -> None:
    installed = source.parent / ".venv" / "package.py"
    installed.parent.mkdir()
    installed.write_text("")
    assert commit(installed) is None


def test_without_a_repository_or_without_git_there_is_no_commit(
    source: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    lonely = tmp_path_factory.mktemp("lonely") / "part.py"
    lonely.write_text("")
    assert commit(lonely) is None
    monkeypatch.setenv("PATH", str(lonely.parent))
    assert commit(source) is None


def test_versions_are_those_that_are_installed() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == version("torch") and found["peft"] == version("peft")


def test_the_machine_is_described_in_plain_json() -> None:
    found = hardware(torch.device("cpu"))
    assert json.loads(json.dumps(found)) == found
    assert found["device"] == "cpu" and found["name"] and found["name"] == found["processor"]
    assert found["threads"] == torch.get_num_threads() and found["cores"] == os.cpu_count()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says it twice")
def test_peak_memory_is_what_the_kernel_counts_in_bytes() -> None:
    block = np.ones(2**25)  # 256 MiB that this test holds
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    found = peak_memory()
    # The two are kept apart: one forgets when it is told to, both are updated late by some pages.
    assert found is not None and found > block.nbytes
    assert 0.99 * peak < found < 100 * peak
