"""Training in several processes: what one process trains, within the error of float32."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reccocktail import processes
from reccocktail.backbone import choose_device
from reccocktail.cli import main
from reccocktail.data.domain import Domain
from reccocktail.errors import RunError
from reccocktail.launcher import is_first
from reccocktail.ranking.dense import DenseRanker
from reccocktail.recipe import TrainingSettings
from reccocktail.training.adapter import Adapter
from reccocktail.training.batches import DomainWindows, TrainingBatches
from reccocktail.training.log import read_log
from tests import several
from tests.domains import taste_domain
from tests.helpers import one_sentence
from tests.pico import pico_backbone
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
EQUAL = ("dense", "int8", "narrow", "title", "lonely", "choice", "generate")
LAUNCH = "--num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0 -m"
CLOSE = 1e-5


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("domains"), users=80)


@pytest.fixture(scope="module")
def alone(domain, tmp_path_factory):
    """What one process trains, by case."""
    out = tmp_path_factory.mktemp("alone")
    for case in EQUAL:
        several.run(case, domain, out)
    return out


def environment(**more):
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | more


@pytest.fixture(scope="module")
def two(domain, tmp_path_factory):
    """What two processes train, as the launcher starts them; and what they said."""
    out = tmp_path_factory.mktemp("two")
    backbone = pico_backbone()
    backbone.model.save_pretrained(out / "pico")
    backbone.tokenizer.save_pretrained(out / "pico")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launch += ["--num_processes", "2", *LAUNCH.split(), "tests.several"]
    done = subprocess.run(
        [*launch, str(domain.path), str(out), *EQUAL, "clock", "cut", "command"],
        env=environment(RECCOCKTAIL_CACHE=str(out / "cache")),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return out, done


def found(out, case):
    """The findings of both processes."""
    return [json.loads((out / f"{case}.{number}.json").read_text()) for number in range(2)]


def assert_equal_runs(one, other, case, other_case=None):
    logs = [read_log(one / f"{case}.training"), read_log(other / f"{other_case or case}.training")]
    for what in ("loss", "learning_rate", "grad_norm", "ndcg@10"):
        values = [{row["step"]: row[what] for row in log if what in row} for log in logs]
        # A number on the border of two int8 steps falls to either side, where int8 is used at all.
        tolerance = 0.1 if case == "int8" else CLOSE
        assert values[0] and values[1] == pytest.approx(values[0], abs=tolerance), what
    adapters = [Adapter.load(one / case).lora, Adapter.load(other / (other_case or case)).lora]
    for name, factors in adapters[0].items():
        assert factors.b.abs().max() > 100 * CLOSE
        for factor in ("a", "b"):
            pair = [getattr(adapter[name], factor) for adapter in adapters]
            if case == "int8":
                assert torch.cosine_similarity(*(x.flatten() for x in pair), dim=0) > 0.8
            else:
                torch.testing.assert_close(*pair, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("case", EQUAL)
def test_two_processes_train_what_one_does(alone, two, case):
    out, _ = two
    assert_equal_runs(alone, out, case)
    one, other = found(out, case)
    assert one == other and one["sha256"] == Adapter.load(out / case).sha256
    assert not list((out / f"{case}.training").glob("checkpoint-*"))
    record = json.loads((out / f"{case}.training" / "run.json").read_text())
    assert record["processes"] == 2 and record["finished"]


def test_an_interrupted_run_is_unsaved_and_resumed(alone, two):
    out, _ = two
    one, other = found(out, "cut")
    assert one["interrupted"] and other["interrupted"]
    assert (one["refused"], other["refused"]) == ("RunError", "FollowedError")
    assert_equal_runs(alone, out, "dense", "cut")


def test_one_clock_ends_the_run_of_all(two):
    """The second process's clock runs twice as fast, and still rates and ends are the first's."""
    out, _ = two
    one, other = found(out, "clock")
    assert one == other and one["steps"] >= 3


def test_the_command_line_speaks_once(two):
    out, done = two
    assert Adapter.load(out / "command").card.steps == 2
    assert done.stdout.count("Adapter:") == 1
    assert done.stderr.count("command: 2 steps in") == 1
    assert done.stderr.count("Loading backbone") == 1


def test_a_process_that_is_gone_ends_the_others(domain, alone, tmp_path):
    """No launcher that would end them: they notice. One process goes on from the checkpoint."""
    port = str(free_port())
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.several", str(domain.path), str(tmp_path), "dying"],
            env=environment(
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
                WORLD_SIZE="2",
                RANK=number,
                LOCAL_RANK=number,
            ),
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in "01"
    ]
    logs = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 1], logs
    error = json.loads((tmp_path / "dying.0.json").read_text())["error"]
    assert "lost another process" in one_sentence(error) and "--resume" in error
    assert not (tmp_path / "dying").exists()
    several.run("dying", domain, tmp_path, resume=True)
    assert_equal_runs(alone, tmp_path, "dense", "dying")


# -- in this process ----------------------------------------------------------------------------


def test_shares_are_the_batch(domain):
    """Windows, targets and items are dealt out; five processes have more hands than windows."""
    ranker = DenseRanker(pico_backbone().tokenizer, several.recipe().prompt, several.recipe().dense)
    windows = DomainWindows.build(domain, ranker)
    settings = TrainingSettings(targets_per_batch=16)
    whole = TrainingBatches([windows], ranker, settings, 3)
    for count in (2, 3, 5):
        dealt = TrainingBatches([windows], ranker, settings, 3, count)
        assert len(dealt) == 3 * count
        for step in range(3):
            batch = whole[step]
            shares = [dealt[step * count + number] for number in range(count)]
            assert len({len(share["item_ids"]) for share in shares}) == 1
            encoded = torch.stack([share["item_ids"] for share in shares], dim=1).flatten(0, 1)
            assert torch.equal(encoded[: len(batch["items"])], batch["item_ids"])
            real = [share for share in shares if share["weight"] > 0]
            rows = sorted(row.tolist() for share in real for row in share["history_ids"])
            assert rows == sorted(batch["history_ids"].tolist())
            assert sum(float(share["weight"]) for share in shares) == pytest.approx(count)
            assert all(torch.equal(share["items"], batch["items"]) for share in shares)


def test_each_domain_of_a_step_is_shared(domain):
    """Three domains a step and two processes: each batch is dealt out, one after another."""
    ranker = DenseRanker(pico_backbone().tokenizer, several.recipe().prompt, several.recipe().dense)
    windows = [DomainWindows.build(domain, ranker)]
    settings = TrainingSettings(targets_per_batch=48, domains_per_step=3)
    whole = TrainingBatches(windows, ranker, settings, 2)
    dealt = TrainingBatches(windows, ranker, settings, 2, 2)
    assert (len(whole), len(dealt)) == (6, 12)
    for number in range(6):
        both = [dealt[2 * number], dealt[2 * number + 1]]
        rows = sorted(row.tolist() for share in both for row in share["history_ids"])
        assert rows == sorted(whole[number]["history_ids"].tolist())


def test_only_training_runs_in_several_processes(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stopped:
        main(["spirits"])
    assert stopped.value.code == 2
    assert "Only `train`" in one_sentence(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("variables", "device", "message"),
    [
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}, "cpu", "FSDP"),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true"}, "cpu", "DeepSpeed"),
        ({"WORLD_SIZE": "2"}, "mps", "mps"),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "cuda:0", "--device cuda"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "cpu", "MPI"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "cpu", "--mixed_precision no"),
        ({"ACCELERATE_DYNAMO_BACKEND": "EAGER"}, "cpu", "--dynamo_backend no"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "", "MASTER_PORT": ""}, "cpu", "reach"),
    ],
)
def test_launches_that_are_refused(monkeypatch, variables, device, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes.console, "quiet", False)
    with pytest.raises(RunError, match=message) as error:
        processes.start(torch.device(device))
    one_sentence(error.value)


def test_each_process_takes_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device() == choose_device("cuda") == torch.device("cuda", 3)
    monkeypatch.delenv("WORLD_SIZE")
    assert choose_device() == choose_device("cuda") == torch.device("cuda")


def test_alone_nothing_is_shared(domain):
    assert is_first() and processes.agree(0.25) == 0.25
    assert processes.from_first(lambda: [1]) == [1]
    with pytest.raises(RuntimeError, match="gloo"), processes.together():
        raise RuntimeError("gloo")
    assert isinstance(domain, Domain)
